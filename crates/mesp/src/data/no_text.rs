//! What stands for tokenizers and chat formats in a build without the feature `text`: types without a value, so that what
//! takes one where there is one is the same code, and rows of text are refused.

use super::Token;
use super::forms::{Form, Said};
use super::remarks::Remark;
use super::rows::{Row, RowReader, tokenized};
use crate::{Error, ErrorKind, Result};

/// A tokenizer. There is none in a build without the feature `text`.
#[derive(Debug)]
pub enum TextEncoder {}

/// How a model spells conversations. There is none in a build without the feature `text`.
#[derive(Debug)]
pub enum ChatFormat {}

impl TextEncoder {
    pub(super) fn decode(&self, _: &[u32], _: bool) -> Result<String> {
        match *self {}
    }

    pub(super) fn eos_id(&self) -> Option<u32> {
        match *self {}
    }

    pub(super) fn end_ids(&self) -> &[u32] {
        match *self {}
    }

    pub(super) fn has_chat_template(&self) -> bool {
        match *self {}
    }
}

impl ChatFormat {
    pub(super) fn for_encoder(encoder: &TextEncoder) -> Result<Self> {
        match *encoder {}
    }

    pub(super) fn has_template(&self) -> bool {
        match *self {}
    }

    pub(super) fn spells_markers(&self, _: &TextEncoder) -> bool {
        match *self {}
    }

    pub(super) fn stop_ids(&self, _: &TextEncoder) -> Vec<u32> {
        match *self {}
    }
}

impl RowReader<'_> {
    /// The tokens of what a row says.
    pub(super) fn tokens_of(&mut self, _: Form, said: Said<'_>, remarks: Vec<Remark>) -> Result<Row> {
        match said {
            Said::Tokens(row) => tokenized(row, self.options.vocab_size, remarks),
            _ => self.encoder().map(|encoder| match *encoder {}),
        }
    }

    /// The whole of a plain text file, token by token.
    pub(super) fn document(&self, _: &str, _: &mut dyn FnMut(Token) -> Result<()>) -> Result<()> {
        self.encoder().map(|encoder| match *encoder {})
    }
}

/// What a text is answered.
pub(super) fn no_encoder() -> Error {
    let found = "text, which this build of the library does not read";
    Error::usage(ErrorKind::Unsupported, "").expected("a tokenized row").found(found).hint(
        "give rows as {\"input_ids\": [...], \"labels\": [...]}, or enable the feature `text` of the crate mesp",
    )
}
