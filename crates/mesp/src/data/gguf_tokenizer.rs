//! A tokenizer from the metadata of a GGUF file, so that the one file is enough to train on.
//!
//! Byte-level BPE (`gpt2`) with the named pre-tokenizers, and `SentencePiece`'s BPE (`llama`). The meaning of the
//! keys, the names and the patterns are those of llama.cpp's `llama-vocab.cpp`. What a file does not record is
//! not done, as there: Qwen's Unicode normalization (NFC) is such a step, and matters for decomposed text only.

use std::collections::HashMap;

use mesp_formats::gguf::{ADD_BOS, Array, CHAT_TEMPLATE, Gguf, Value, end_ids, token_type};
use tokenizers::models::bpe::{BpeBuilder, Merges, Vocab};
use tokenizers::{AddedToken, Tokenizer};

use super::TokenizerInfo;
use super::tokenizer_info::{JSON, MODEL};
use crate::{Error, ErrorKind, Result};

mod byte_level;
mod sentencepiece;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";

/// Texts that end a turn or a text. llama.cpp takes them for markers whatever kind a file gives them, since
/// conversions have got that wrong.
const ENDS: [&str; 8] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
];

/// The tokenizer of a file and what belongs to it; `bytes` is the whole file.
///
/// # Errors
/// When the file has no tokenizer, one of a kind that is not supported, or one that contradicts itself.
pub fn from_gguf(gguf: &Gguf, bytes: &[u8]) -> Result<(Tokenizer, TokenizerInfo)> {
    super::tokenizer::within(&gguf.path, "reading this file's tokenizer", || read(gguf, bytes))
}

fn read(gguf: &Gguf, bytes: &[u8]) -> Result<(Tokenizer, TokenizerInfo)> {
    if let (None, Some(text)) = (gguf.value(MODEL), gguf.str(JSON)?) {
        return from_json(gguf, text);
    }
    let model = gguf.required(MODEL, gguf.str(MODEL)?)?;
    let sentencepiece = match model {
        "gpt2" => false,
        "llama" => true,
        other => {
            let hint = "use the original model's folder, which has a tokenizer.json, or rows with input_ids";
            return Err(wrong(gguf, MODEL, ErrorKind::Unsupported, hint)
                .expected("\"gpt2\" (byte-level BPE) or \"llama\" (SentencePiece)")
                .found(format!("{other:?}")));
        }
    };
    let places = Places::read(gguf, bytes)?;
    // SentencePiece's own numbers stand in for keys that old files lack.
    let id = |key: &str, usual: usize| -> Result<Option<usize>> {
        let key = format!("tokenizer.ggml.{key}");
        // Some converters put down -1, in 32 bits, for none.
        let id = gguf.usize(&key)?.filter(|id| *id != u32::MAX as usize);
        if let Some(id) = id.filter(|id| *id >= places.texts.len()) {
            return Err(damaged(gguf, &key, ErrorKind::OutOfRange)
                .expected(format!("a token below {}", places.texts.len()))
                .found(id));
        }
        Ok(id.or((sentencepiece && usual < places.texts.len()).then_some(usual)))
    };
    let (bos, eos, unknown) = (id("bos_token_id", 1)?, id("eos_token_id", 2)?, id("unknown_token_id", 0)?);

    let mut tokenizer;
    let begins;
    if sentencepiece {
        tokenizer = sentencepiece::build(gguf, bytes, &places, unknown)?;
        begins = true;
    } else {
        (tokenizer, begins) = byte_level::build(gguf, bytes, &places)?;
    }
    let markers = [bos, eos];
    let added = places.texts.iter().zip(&places.types).enumerate().filter_map(|(id, (text, ty))| {
        let marker = matches!(*ty, token_type::CONTROL | token_type::UNKNOWN)
            || markers.contains(&Some(id))
            || ENDS.contains(&text.as_str());
        (marker || *ty == token_type::USER_DEFINED)
            .then(|| AddedToken::from(text.as_str(), marker).normalized(false))
    });
    tokenizer.add_tokens(added).map_err(|e| refused(gguf, TOKENS, &e))?;

    let add_bos = gguf.bool(ADD_BOS)?;
    if add_bos == Some(true) && bos.is_none() {
        return Err(damaged(gguf, ADD_BOS, ErrorKind::Missing)
            .expected("a bos_token_id beside it")
            .found("none"));
    }
    let text = |id: Option<usize>| id.and_then(|id| places.texts.get(id).cloned());
    let info = TokenizerInfo {
        bos_token: text(bos),
        eos_token: text(eos),
        chat_template: gguf.str(CHAT_TEMPLATE)?.map(str::to_string),
        tool_template: gguf.str("tokenizer.chat_template.tool_use")?.map(str::to_string),
        add_bos_token: Some(add_bos.unwrap_or(begins && bos.is_some())),
        end_tokens: ends(&tokenizer),
        end_ids: end_ids(gguf)?,
        ..TokenizerInfo::default()
    };
    Ok((tokenizer, info))
}

/// A `tokenizer.json` in a file, with the tokens that the file names beside it.
fn from_json(gguf: &Gguf, text: &str) -> Result<(Tokenizer, TokenizerInfo)> {
    let tokenizer = Tokenizer::from_bytes(text.as_bytes()).map_err(|e| refused(gguf, JSON, &e))?;
    let named = |key: &str| -> Result<Option<String>> {
        let Some(id) = gguf.usize(key)?.filter(|id| *id != u32::MAX as usize) else { return Ok(None) };
        let text = u32::try_from(id).ok().and_then(|id| tokenizer.id_to_token(id));
        text.map(Some).ok_or_else(|| {
            damaged(gguf, key, ErrorKind::OutOfRange).expected(format!("a token of {JSON}")).found(id)
        })
    };
    let info = TokenizerInfo {
        bos_token: named("tokenizer.ggml.bos_token_id")?,
        eos_token: named("tokenizer.ggml.eos_token_id")?,
        chat_template: gguf.str(CHAT_TEMPLATE)?.map(str::to_string),
        tool_template: gguf.str("tokenizer.chat_template.tool_use")?.map(str::to_string),
        add_bos_token: gguf.bool(ADD_BOS)?,
        end_tokens: ends(&tokenizer),
        end_ids: end_ids(gguf)?,
        ..TokenizerInfo::default()
    };
    Ok((tokenizer, info))
}

/// Texts of a tokenizer that end a turn or a text.
fn ends(tokenizer: &Tokenizer) -> Vec<String> {
    ENDS.iter().filter(|text| tokenizer.token_to_id(text).is_some()).map(ToString::to_string).collect()
}

/// Tokens by number.
struct Places {
    texts: Vec<String>,
    /// As [`token_type`] numbers them.
    types: Vec<i64>,
    ids: Vocab,
}

impl Places {
    fn read(gguf: &Gguf, bytes: &[u8]) -> Result<Self> {
        let array = gguf.required(TOKENS, gguf.array(TOKENS)?)?;
        let mut texts: Vec<String> = Vec::new();
        let mut ids = HashMap::new();
        for (id, text) in texts_of(gguf, TOKENS, array, bytes)?.enumerate() {
            let text = if text.is_empty() { format!("[EMPTY_{id}]") } else { text.to_string() };
            if let Some(other) = ids.insert(text.clone(), id as u32) {
                return Err(damaged(gguf, TOKENS, ErrorKind::Conflict)
                    .expected("every token once")
                    .found(format!("{text:?} at {other} and at {id}")));
            }
            texts.push(text);
        }
        let types = match gguf.array(TYPES)? {
            Some(array) => numbers_of(gguf, TYPES, array, bytes, texts.len(), Value::as_i64)?,
            None => vec![token_type::NORMAL; texts.len()],
        };
        Ok(Self { texts, types, ids: ids.into_iter().collect() })
    }

    /// A model; every merge is known to make a token, which the builder needs.
    fn model(&self, merges: Merges) -> BpeBuilder {
        BpeBuilder::new().vocab_and_merges(self.ids.clone(), merges)
    }
}

fn texts_of<'a>(
    gguf: &Gguf,
    key: &str,
    array: &'a Array,
    bytes: &'a [u8],
) -> Result<impl Iterator<Item = &'a str> + use<'a>> {
    array.iter_str(bytes).ok_or_else(|| {
        let found = format!("one of {}", array.ty.name());
        damaged(gguf, key, ErrorKind::WrongType).expected("an array of strings").found(found)
    })
}

fn numbers_of<T>(
    gguf: &Gguf,
    key: &str,
    array: &Array,
    bytes: &[u8],
    len: usize,
    convert: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<T>> {
    let numbers: Option<Vec<T>> = array.iter_scalars(bytes).and_then(|n| n.map(|v| convert(&v)).collect());
    numbers.filter(|n| n.len() == len).ok_or_else(|| {
        let found = format!("{} of {}", array.len, array.ty.name());
        let expected = format!("{len} numbers, one for each token");
        damaged(gguf, key, ErrorKind::Mismatch).expected(expected).found(found)
    })
}

fn wrong(gguf: &Gguf, key: &str, kind: ErrorKind, hint: &str) -> Error {
    Error::from(gguf.error(key, kind)).hint(hint)
}

fn damaged(gguf: &Gguf, key: &str, kind: ErrorKind) -> Error {
    let hint = "the file's tokenizer is damaged: get the file again, or convert the model again";
    wrong(gguf, key, kind, hint)
}

/// A part of the file's tokenizer that the tokenizers' library refuses.
fn refused(gguf: &Gguf, key: &str, error: &tokenizers::Error) -> Error {
    damaged(gguf, key, ErrorKind::Malformed).with(|problem| problem.what(error))
}

#[cfg(test)]
mod tests;
