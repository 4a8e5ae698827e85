//! Tokens of a tokenizer held against the model's vocabulary: beyond its last row an embedding has no values.

use crate::{Error, ErrorKind, Result};

/// Refuses a token that the model has no embedding for.
///
/// # Errors
/// When there is one; it is named.
pub fn in_vocabulary(tokens: impl IntoIterator<Item = u32>, vocab_size: usize) -> Result<()> {
    match tokens.into_iter().find(|id| *id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => Err(Error::usage(
            ErrorKind::Mismatch,
            format!("the tokenizer makes token {id}; the model's vocabulary has {vocab_size} tokens"),
        )
        .hint("take tokenizer.json and config.json from the same model")),
    }
}
