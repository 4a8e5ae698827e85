//! A choice by likelihood, as lm-evaluation-harness makes it.
//!
//! ```text
//! ll_i       = Σ log p(token | all before it)      over the tokens of choice i after the prompt
//! acc        the choice with the largest ll_i
//! acc_norm   the one with the largest ll_i / characters of choice i
//! acc_bytes  the one with the largest ll_i / bytes of choice i in UTF-8
//! ```
//!
//! The first of equals is picked. A space stands between prompt and choice unless one of them brings white space;
//! it counts as part of the choice for the likelihood, not for its length. The tokens of a choice are those that prompt
//! and choice together have beyond the prompt's own, white space at the prompt's end going to the choice.

use std::path::Path;
use std::sync::Arc;

use crate::data::{ChatFormat, Conversation, Example, Origin, TextEncoder, UNTRAINED, in_vocabulary};
use crate::{Error, ErrorKind, Result};

/// How prompts and choices become tokens.
pub struct Spelling<'a> {
    /// The model's tokenizer.
    pub encoder: &'a TextEncoder,
    /// The model's template, where prompts are turns of the user and choices the model's answers.
    pub chat: Option<&'a ChatFormat>,
    /// Tokens of the model's vocabulary.
    pub vocab_size: usize,
}

impl Spelling<'_> {
    /// A prompt and one of its choices as a row whose targets are the choice's tokens.
    ///
    /// # Errors
    /// When either has no token of its own or one beyond the vocabulary, or the template refuses the prompt.
    pub fn row(&self, prompt: &str, choice: &str, path: &Arc<Path>, line: usize) -> Result<Example> {
        let (before, whole) = if let Some(chat) = self.chat {
            let mut conversation = Conversation::default();
            conversation.push("user", prompt);
            let before = chat.render(&conversation, true)?;
            let whole = chat.encode(self.encoder, &format!("{before}{choice}"))?;
            (chat.encode(self.encoder, &before)?, whole)
        } else {
            let joined = joined(prompt, choice);
            let before = self.encoder.encode(prompt.trim_end(), true)?;
            (before, self.encoder.encode(&joined, true)?)
        };
        if before.is_empty() || whole.len() <= before.len() {
            let what = if before.is_empty() { "prompt" } else { "choice" };
            return Err(Error::usage(ErrorKind::Empty, format!("the {what}"))
                .has("no token")
                .expected("at least one"));
        }
        in_vocabulary(whole.iter().copied(), self.vocab_size)?;
        let label = |(at, id): (usize, &u32)| if at < before.len() { UNTRAINED } else { id.cast_signed() };
        let labels = whole.iter().enumerate().map(label).collect();
        Ok(Example { tokens: whole, labels, origin: Origin { path: Arc::clone(path), line } })
    }
}

/// Prompt and choice with a space between them, unless there is one.
fn joined(prompt: &str, choice: &str) -> String {
    let apart = prompt.ends_with(char::is_whitespace) || choice.starts_with(char::is_whitespace);
    format!("{prompt}{}{choice}", if apart || prompt.is_empty() { "" } else { " " })
}

/// Which choices the likelihoods pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picks {
    /// By the likelihood itself.
    pub sum: usize,
    /// Per character.
    pub characters: usize,
    /// Per byte.
    pub bytes: usize,
}

impl Picks {
    /// From the log-likelihood of each choice.
    ///
    /// # Panics
    /// When there is no choice.
    pub fn new(choices: &[String], likelihoods: &[f64]) -> Self {
        let best = |length: &dyn Fn(&str) -> usize| {
            let value = |i: usize| likelihoods[i] / length(&choices[i]) as f64;
            (1..choices.len()).fold(0, |best, i| if value(i) > value(best) { i } else { best })
        };
        Self { sum: best(&|_| 1), characters: best(&|c| c.chars().count()), bytes: best(&str::len) }
    }
}
