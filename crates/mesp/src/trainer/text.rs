//! Text at the front door: rows that are text, and texts from a model.

use std::path::Path;

use super::{Generator, Model};
use crate::Result;
use crate::data::{ChatFormat, Conversation, FileRows, ReadOptions, TextEncoder, files, unpacks};
use crate::generate::Sampling;
use crate::source::{no_tokenizer, text_encoder};

impl Model {
    /// Loads the model's tokenizer, if it has one. A tokenizer may take more memory than training does, so it is not
    /// kept.
    ///
    /// # Errors
    /// When the tokenizer is damaged or of a kind that is not supported.
    pub fn tokenizer(&self) -> Result<Option<TextEncoder>> {
        text_encoder(self.path())
    }
}

/// The tokenizer for the rows at a path, where some of them are text: it may take more memory than training.
pub(super) fn encoder_for(model: &Model, path: &Path, options: &ReadOptions) -> Result<Option<TextEncoder>> {
    let text = files(path, options.split)?.iter().any(|file| unpacks(file))
        || FileRows::needs_tokenizer(path, options)?;
    if !text {
        return Ok(None);
    }
    model.tokenizer()?.ok_or_else(|| no_tokenizer(model.path())).map(Some)
}

/// How a model's texts become tokens; nothing where it has no tokenizer.
pub(super) struct Writer {
    parts: Option<(TextEncoder, ChatFormat)>,
    model: Model,
}

impl Writer {
    pub(super) fn new(model: &Model) -> Result<Self> {
        let with_chat = |encoder| ChatFormat::for_encoder(&encoder).map(|chat| (encoder, chat));
        Ok(Self { parts: model.tokenizer()?.map(with_chat).transpose()?, model: model.clone() })
    }

    /// The tokens that end a text or a turn.
    pub(super) fn stops(&self) -> Vec<u32> {
        self.parts.as_ref().map_or_else(Vec::new, |(encoder, chat)| chat.stop_ids(encoder))
    }

    fn parts(&self) -> Result<&(TextEncoder, ChatFormat)> {
        self.parts.as_ref().ok_or_else(|| no_tokenizer(self.model.path()))
    }
}

impl Generator {
    /// The model's answer to `prompt` as a user turn, where the model has a chat template; otherwise the continuation
    /// of `prompt`. At most `max_tokens` tokens.
    ///
    /// # Errors
    /// When the model has no tokenizer, and as [`Generator::generate`].
    pub fn answer(&mut self, prompt: &str, max_tokens: usize, sampling: Sampling) -> Result<String> {
        let (encoder, chat) = self.writer.parts()?;
        let tokens = if chat.has_template() {
            let mut conversation = Conversation::default();
            conversation.push("user", prompt);
            chat.prompt_tokens(encoder, &conversation)?
        } else {
            encoder.encode(prompt, true)?
        };
        let answer = self.generate(&tokens, max_tokens, sampling)?;
        let (encoder, _) = self.writer.parts()?;
        encoder.decode(&answer, true)
    }
}
