//! One answer: tokens to text as they come, what ends it, and how long it took.

use std::time::Instant;

use anyhow::{Error, Result};
use mesp::generate::{CHUNK, Finish, Generator, Sampler, Sampling};
use mesp_device::Cpu;
use serde_json::{Value, json};

use super::pieces::{Pieces, Until};
use super::{Language, interrupt};
use crate::progress::Counter;
use crate::sizes::duration;

/// What is asked for.
pub(crate) struct Request<'a> {
    pub(crate) prompt: &'a [u32],
    pub(crate) max_tokens: usize,
    /// Tokens that end the answer.
    pub(crate) stops: &'a [u32],
    /// Texts that do.
    pub(crate) texts: &'a [String],
}

/// What ended an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The generator, for its reason.
    Tokens(Finish),
    /// A text of `--stop`.
    Text,
    /// Ctrl-C.
    Interrupted,
    /// Nobody reads it any more.
    Closed,
}

impl End {
    /// In documents.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tokens(finish) => finish.name(),
            Self::Text => "stop-text",
            Self::Interrupted => "interrupted",
            Self::Closed => "closed",
        }
    }
}

/// An answer.
pub(crate) struct Answer {
    /// Without the text that ended it.
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    pub(crate) end: End,
    prompt_tokens: usize,
    /// Tokens of the prompt whose keys and values were there.
    kept: usize,
    /// Until the first token.
    prompt_seconds: f64,
    seconds: f64,
}

impl Answer {
    /// Tokens a second, the first aside: it comes from the prompt.
    pub(crate) fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.seconds - self.prompt_seconds;
        (self.ids.len() > 1 && seconds > 0.0).then(|| (self.ids.len() - 1) as f64 / seconds)
    }

    /// Sizes and speed in a line.
    pub(crate) fn line(&self) -> String {
        let speed = self.tokens_per_second().map_or_else(String::new, |s| format!(", {s:.1} tokens/s"));
        let kept = if self.kept > 0 { format!(", {} of them kept", self.kept) } else { String::new() };
        let (n, prompt, seconds) = (self.ids.len(), self.prompt_tokens, duration(self.prompt_seconds));
        format!("{n} tokens{speed}; prompt of {prompt} tokens{kept} in {seconds}")
    }

    /// Adds what it came to to a document.
    pub(crate) fn describe(&self, document: &mut Value) {
        document["text"] = json!(self.text);
        document["token_ids"] = json!(self.ids);
        document["seconds"] = json!(self.seconds);
        document["finish"] = json!(self.end.name());
        document["prompt_tokens"] = json!(self.prompt_tokens);
        document["kept_tokens"] = json!(self.kept);
        document["prompt_seconds"] = json!(self.prompt_seconds);
        document["tokens_per_second"] = json!(self.tokens_per_second());
    }
}

/// Answers; each piece of text is handed to `say` as soon as it is known, which gives false when nobody reads on.
pub(crate) fn answer(
    generator: &mut Generator<Cpu<f32>>,
    language: &Language,
    request: &Request<'_>,
    sampler: &mut Sampler,
    say: &mut dyn FnMut(&str) -> Result<bool>,
) -> Result<Answer> {
    let started = Instant::now();
    let mut pieces = Pieces::after(&language.encoder, request.prompt);
    let mut until = Until::new(request.texts);
    let (mut ids, mut text, mut trouble, mut prompt_seconds) = (Vec::new(), String::new(), None, 0.0);
    let mut end = None;
    let kept = generator.keep_common(request.prompt);
    let interrupted = !read(generator, &request.prompt[kept..]);
    let mut take = |id: u32| -> Result<()> {
        if ids.is_empty() {
            prompt_seconds = started.elapsed().as_secs_f64();
        }
        ids.push(id);
        let (piece, ended) = until.push(&pieces.push(id)?);
        text.push_str(&piece);
        let read = piece.is_empty() || say(&piece)?;
        end = match (ended, read) {
            _ if interrupt::stopped() => Some(End::Interrupted),
            (_, false) => Some(End::Closed),
            (true, true) => Some(End::Text),
            (false, true) => None,
        };
        if end.is_some() { Err(Error::msg("enough")) } else { Ok(()) }
    };
    let finish = if interrupted {
        Finish::Told
    } else {
        let Request { prompt, max_tokens, stops, .. } = *request;
        generator.generate(prompt, max_tokens, sampler, stops, &mut |id| {
            trouble = take(id).err();
            trouble.is_none()
        })?
    };
    let end = match (end, trouble) {
        _ if interrupted => End::Interrupted,
        (Some(end), _) => end,
        (None, Some(trouble)) => return Err(trouble),
        (None, None) => End::Tokens(finish),
    };
    if matches!(end, End::Tokens(_) | End::Interrupted) {
        // Characters that were not whole, and what looked like the beginning of an end.
        let (mut rest, ended) = until.push(&pieces.rest()?);
        if !ended {
            rest += &until.rest();
        }
        text += &rest;
        if !rest.is_empty() {
            say(&rest)?;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    if ids.is_empty() {
        prompt_seconds = seconds;
    }
    Ok(Answer { text, ids, end, prompt_tokens: request.prompt.len(), kept, prompt_seconds, seconds })
}

/// Reads a prompt but for its last part, which has to give the first token; false when that was interrupted.
fn read(generator: &mut Generator<Cpu<f32>>, prompt: &[u32]) -> bool {
    let mut counter = Counter::new("reading the prompt", prompt.len() as u64);
    let before = prompt.len().saturating_sub(1) / CHUNK * CHUNK;
    for (i, chunk) in prompt[..before].chunks(CHUNK).enumerate() {
        generator.read(chunk);
        counter.at(((i + 1) * CHUNK) as u64);
        if interrupt::stopped() {
            return false;
        }
    }
    true
}

/// The likeliest answer, unseen until it is whole.
pub(crate) fn greedy(
    generator: &mut Generator<Cpu<f32>>,
    language: &Language,
    request: &Request<'_>,
) -> Result<Answer> {
    answer(generator, language, request, &mut Sampler::new(Sampling::GREEDY), &mut |_| Ok(true))
}
