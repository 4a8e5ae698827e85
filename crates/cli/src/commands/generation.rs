//! Prompts to tokens, tokens to text.

mod answer;
pub(crate) mod interrupt;
mod pieces;
pub(crate) mod typed;

use std::path::Path;

use anyhow::Result;
use mesp::arch::Config;
use mesp::data::{ChatFormat, Conversation, TextEncoder, in_vocabulary};

pub(crate) use answer::{End, Request, answer, greedy};

use crate::args::SamplingArgs;
use crate::failure::usage;
use crate::inputs;
use crate::ui;

/// A model's tokenizer and how it spells conversations.
pub(crate) struct Language {
    pub(crate) encoder: TextEncoder,
    chat: ChatFormat,
    /// Tokens that end an answer, whatever the configuration says.
    ends: Vec<u32>,
    /// Tokens that the model has.
    vocab_size: usize,
}

/// How a prompt becomes text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// A turn of the user where the model has a chat template, else as it stands.
    Auto,
    /// As it stands.
    Raw,
    /// A turn of the user, in `ChatML` where the model has no template.
    Chat,
}

impl Language {
    /// Reads the tokenizer of a model with a vocabulary of this size.
    pub(crate) fn open(model: &Path, vocab_size: usize) -> Result<Self> {
        let encoder = inputs::encoder(model)?;
        let chat = ChatFormat::for_encoder(&encoder)?;
        let ends = chat.stop_ids(&encoder);
        Ok(Self { encoder, chat, ends, vocab_size })
    }

    /// Whether the model has a chat template.
    pub(crate) fn chats(&self) -> bool {
        self.chat.has_template()
    }

    /// How it spells conversations.
    pub(crate) fn chat(&self) -> &ChatFormat {
        &self.chat
    }

    /// Whether turns are spelled in markers that the vocabulary does not have.
    pub(crate) fn spells_markers(&self) -> bool {
        self.chat.spells_markers(&self.encoder)
    }

    /// The tokens of a prompt.
    pub(crate) fn prompt(&self, text: &str, spelling: Spelling, system: Option<&str>) -> Result<Vec<u32>> {
        let chats = spelling == Spelling::Chat || (spelling == Spelling::Auto && self.chats());
        let tokens = if chats {
            let mut conversation = Conversation::default();
            if let Some(system) = system {
                conversation.push("system", system);
            }
            conversation.push("user", text);
            self.turn(&conversation)?
        } else {
            self.encoder.encode(text, true)?
        };
        if tokens.is_empty() {
            return Err(usage("the prompt has no token, expected at least one", "give --prompt a text"));
        }
        in_vocabulary(tokens.iter().copied(), self.vocab_size)?;
        Ok(tokens)
    }

    /// The tokens of a conversation up to where the model's next turn begins.
    pub(crate) fn turn(&self, conversation: &Conversation) -> Result<Vec<u32>> {
        let tokens = self.chat.prompt_tokens(&self.encoder, conversation)?;
        in_vocabulary(tokens.iter().copied(), self.vocab_size)?;
        Ok(tokens)
    }

    /// The tokens that end an answer: the configuration's, the tokenizer's and the template's.
    pub(crate) fn stops(&self, configured: &[u32]) -> Vec<u32> {
        let mut stops = [configured, &self.ends].concat();
        stops.sort_unstable();
        stops.dedup();
        stops
    }
}

/// Refuses a scale or texts that mean nothing.
pub(crate) fn check(args: &SamplingArgs) -> Result<()> {
    args.sampling().check()?;
    if let Some(scale) = args.adapter_scale.filter(|scale| !(*scale as f32).is_finite()) {
        let problem = format!("--adapter-scale is {scale}, expected a number that f32 can hold");
        return Err(usage(problem, "leave it out for 1"));
    }
    if args.stop.iter().any(String::is_empty) {
        return Err(usage(
            "a text of --stop is empty",
            "leave it out, or give the text that ends the answer",
        ));
    }
    Ok(())
}

/// Says when a prompt and what may follow it are longer than the model was made for.
pub(crate) fn note_of_context(prompt: usize, more: usize, config: &Config) {
    let (made, all) = (config.max_positions, prompt.saturating_add(more));
    if room(prompt, more, config) < all {
        let there = room(prompt, more, config);
        ui::note(format!(
            "the prompt's {prompt} tokens and {more} more are {all}; there is room for {there}, the model was made for {made}"
        ));
    } else if all > made {
        ui::note(format!(
            "the prompt's {prompt} tokens and {more} more are {all}; the model was made for {made}: \
             expect worse text beyond"
        ));
    }
}

/// Tokens that no model's text is asked for in earnest: such a number stands for all that the model was made for.
const LONGEST: usize = 1 << 17;

/// Tokens of a prompt, and of what follows it at most, that there has to be room for.
pub(crate) fn room(prompt: usize, more: usize, config: &Config) -> usize {
    let all = prompt.saturating_add(more);
    let made = config.max_positions.min(1 << 24);
    if all <= LONGEST.max(made) { all } else { made.max(prompt + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_is_asked_for_or_the_models() {
        let shape = mesp::init_model::preset("tiny").expect("tiny");
        let config = Config::new(&shape).expect("known");
        let made = config.max_positions;
        assert_eq!(room(5, 600, &config), 605);
        assert_eq!(room(5, made + 100, &config), made + 105, "beyond what it was made for, as asked");
        for more in [LONGEST, 1 << 40, (1 << 63) - 1, usize::MAX] {
            assert_eq!(room(5, more, &config), made);
            assert_eq!(room(made + 9, more, &config), made + 10, "at least one token more");
        }
    }
}
