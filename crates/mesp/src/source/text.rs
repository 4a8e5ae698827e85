//! The tokenizer of a model.

use std::path::Path;

use mesp_formats::regular;

use super::{Base, GgufSource, Kind, tokenizer_info};
use crate::data::{TextEncoder, TokenizerInfo, from_gguf};
use crate::{Error, ErrorKind, Result};

/// The tokenizer of a directory or a GGUF file. A GGUF file without one may have a `tokenizer.json` beside it.
///
/// # Errors
/// When it is of a kind that is not supported, or damaged.
pub fn text_encoder(path: &Path) -> Result<Option<TextEncoder>> {
    match Kind::of(path) {
        Kind::Directory => encoder_in(path),
        Kind::Gguf => match GgufSource::open(path, Base::Mapped)?.text_encoder()? {
            Some(encoder) => Ok(Some(encoder)),
            None => path.parent().map_or(Ok(None), encoder_in),
        },
    }
}

fn encoder_in(dir: &Path) -> Result<Option<TextEncoder>> {
    let path = dir.join("tokenizer.json");
    if !path.is_file() {
        return Ok(None);
    }
    TextEncoder::from_file(&path, tokenizer_info(dir)?).map(Some)
}

/// What text is answered where the model at a path has no tokenizer.
pub fn no_tokenizer(model: &Path) -> Error {
    let found = regular::other_than_file(&model.join("tokenizer.json")).unwrap_or("none");
    let error = mesp_formats::Error::invalid(model, ErrorKind::Missing);
    error
        .expected("the model's tokenizer.json")
        .found(found)
        .hint("put the model's tokenizer.json there, or use rows with input_ids and labels")
        .into()
}

impl GgufSource {
    /// The tokenizer in the file, if there is one.
    ///
    /// # Errors
    /// When it is of a kind that is not supported, or damaged.
    pub fn text_encoder(&self) -> Result<Option<TextEncoder>> {
        if !self.has_tokenizer() {
            return Ok(None);
        }
        let (tokenizer, info) = from_gguf(self.header(), self.file_bytes())?;
        TextEncoder::from_tokenizer(&self.header().path, tokenizer, info).map(Some)
    }

    /// The tokenizer in the file, as it is made, and what belongs to it.
    pub(crate) fn tokenizer(&self) -> Result<Option<(tokenizers::Tokenizer, TokenizerInfo)>> {
        if !self.has_tokenizer() {
            return Ok(None);
        }
        from_gguf(self.header(), self.file_bytes()).map(Some)
    }
}
