//! `tokenizer.ggml.*` from a Hugging Face `tokenizer.json`.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;

use super::{Array, Value, token_type};
use crate::json::{quoted, shown};
use crate::{Error, ErrorKind, Result};

mod pre;

pub use pre::{LLAMA3_PATTERN, QWEN2_PATTERN};

/// What `tokenizer.json` does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// The token a text begins with.
    pub bos: Option<u32>,
    /// Tokens that end a text or a turn, the most usual first: see [`MOST_ENDS`].
    pub ends: Vec<u32>,
    /// Whether a text begins with `bos`; none leaves it to the reader.
    pub add_bos: Option<bool>,
    /// The chat template, a Jinja program.
    pub chat_template: Option<String>,
}

/// The key of whether a text begins with the first token.
pub const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";

/// The key of the chat template.
pub const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// The keys of tokens that end a text, a turn, or a message to a tool, in the order in which they are given.
/// llama.cpp ends a text at each of them, whatever its name.
pub(super) const END_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// How many tokens that end something a file can name.
pub const MOST_ENDS: usize = END_KEYS.len();

impl SpecialTokens {
    /// Keys and numbers of the tokens that begin and end a text: of the latter the first [`MOST_ENDS`].
    pub fn ids(&self) -> Vec<(String, u32)> {
        let begins = self.bos.map(|id| ("tokenizer.ggml.bos_token_id".to_string(), id));
        let ends = END_KEYS.iter().zip(&self.ends).map(|(key, id)| ((*key).to_string(), *id));
        begins.into_iter().chain(ends).collect()
    }
}

/// The metadata of a vocabulary with `vocab_size` places, those without a token filled up. Byte-level BPE with a
/// known pre-tokenizer becomes `gpt2`, BPE with byte fallback (`SentencePiece`'s) becomes `llama`, its scores made
/// from the order of the merges.
///
/// # Errors
/// When the tokenizer is of another kind, or its tokens do not fit; `path` names it in messages.
pub fn tokenizer_metadata(
    path: &Path,
    tokenizer_json: &Json,
    vocab_size: usize,
    special: &SpecialTokens,
) -> Result<Vec<(String, Value)>> {
    let model = tokenizer_json.get("model").unwrap_or(&Json::Null);
    let kind = model.get("type").and_then(Json::as_str);
    let (Some(vocab), Some(merges), "BPE") = (
        model.get("vocab").and_then(Json::as_object),
        model.get("merges").and_then(Json::as_array),
        kind.unwrap_or("BPE"),
    ) else {
        return Err(Error::invalid(path, ErrorKind::Unsupported)
            .expected("a BPE tokenizer with vocab and merges")
            .found(kind.unwrap_or("none"))
            .hint("Use a model of another family."));
    };
    let sentencepiece = model.get("byte_fallback").and_then(Json::as_bool) == Some(true);
    let mut places = Places { path, tokens: vec![None; vocab_size] };
    for (token, id) in vocab {
        let byte = sentencepiece && is_byte(token);
        places.put(token, id, if byte { token_type::BYTE } else { token_type::NORMAL })?;
    }
    let unknown = model.get("unk_token").and_then(Json::as_str);
    for added in tokenizer_json.get("added_tokens").and_then(Json::as_array).into_iter().flatten() {
        let (Some(content), Some(id)) = (added.get("content").and_then(Json::as_str), added.get("id")) else {
            return Err(Error::invalid(path, ErrorKind::Malformed)
                .expected("added tokens with id and content")
                .found(shown(added)));
        };
        let special = added.get("special").and_then(Json::as_bool) == Some(true);
        let ty = match () {
            () if Some(content) == unknown => token_type::UNKNOWN,
            () if special => token_type::CONTROL,
            () => token_type::USER_DEFINED,
        };
        places.put(content, id, ty)?;
    }
    let pairs = merges.iter().map(|m| pair(path, m)).collect::<Result<Vec<_>>>()?;

    let mut out: Vec<(String, Value)> = Vec::new();
    let mut put = |key: &str, value: Value| out.push((format!("tokenizer.ggml.{key}"), value));
    if sentencepiece {
        put("model", "llama".into());
        put("pre", "default".into());
        put("scores", Value::Array(Array::f32s(&scores(&places.tokens, &pairs))));
        put("add_space_prefix", Value::Bool(pre::has_space_prefix(tokenizer_json)));
        let id = unknown.and_then(|u| vocab.get(u)).and_then(Json::as_u64);
        if let Some(id) = id.and_then(|id| u32::try_from(id).ok()) {
            put("unknown_token_id", Value::U32(id));
        }
    } else {
        put("model", "gpt2".into());
        put("pre", pre::name(path, tokenizer_json)?.into());
        let merges: Vec<String> = pairs.iter().map(|(a, b)| format!("{a} {b}")).collect();
        put("merges", Value::Array(Array::strings(merges.iter().map(String::as_str))));
    }
    let (texts, types): (Vec<String>, Vec<i32>) = places.finish().into_iter().unzip();
    put("tokens", Value::Array(Array::strings(texts.iter().map(String::as_str))));
    put("token_type", Value::Array(Array::i32s(&types)));
    for (key, id) in special.ids() {
        if id as usize >= vocab_size {
            return Err(Error::invalid(path, ErrorKind::OutOfRange)
                .what(key)
                .expected(format!("a token below {vocab_size}"))
                .found(id));
        }
        out.push((key, Value::U32(id)));
    }
    if let Some(add) = special.add_bos {
        out.push((ADD_BOS.to_string(), Value::Bool(add)));
    }
    if let Some(template) = &special.chat_template {
        out.push((CHAT_TEMPLATE.to_string(), template.as_str().into()));
    }
    Ok(out)
}

/// Tokens by number.
struct Places<'a> {
    path: &'a Path,
    tokens: Vec<Option<(&'a str, i64)>>,
}

impl<'a> Places<'a> {
    fn put(&mut self, token: &'a str, id: &Json, ty: i64) -> Result<()> {
        let len = self.tokens.len();
        let place =
            id.as_u64().and_then(|id| usize::try_from(id).ok()).and_then(|id| self.tokens.get_mut(id));
        let Some(place) = place else {
            return Err(Error::invalid(self.path, ErrorKind::OutOfRange)
                .what(format!("token {}", quoted(token)))
                .expected(format!("a number below {len}"))
                .found(shown(id))
                .hint("The model's embedding has no such row: take both from the same model."));
        };
        *place = Some((token, ty));
        Ok(())
    }

    /// Texts and kinds, with a text of its own for every place without a token, as readers want them unique.
    fn finish(self) -> Vec<(String, i32)> {
        let padded = |(i, t): (usize, Option<(&str, i64)>)| match t {
            Some((text, ty)) => (text.to_string(), ty as i32),
            None => (format!("[PAD{i}]"), token_type::UNUSED as i32),
        };
        self.tokens.into_iter().enumerate().map(padded).collect()
    }
}

/// A byte as `SentencePiece` spells it.
fn is_byte(token: &str) -> bool {
    token
        .strip_prefix("<0x")
        .and_then(|t| t.strip_suffix('>'))
        .is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A merge, in the older form `"a b"` or the newer `["a", "b"]`.
fn pair<'a>(path: &Path, merge: &'a Json) -> Result<(&'a str, &'a str)> {
    let both = match merge {
        Json::String(text) => text.split_once(' '),
        Json::Array(two) => match two.as_slice() {
            [Json::String(a), Json::String(b)] => Some((a.as_str(), b.as_str())),
            _ => None,
        },
        _ => None,
    };
    // A space would make the written form ambiguous; byte-level alphabets have none.
    both.filter(|(a, b)| !a.is_empty() && !b.is_empty() && !a.contains(' ') && !b.contains(' ')).ok_or_else(
        || {
            Error::invalid(path, ErrorKind::Unsupported)
                .expected("a merge of two tokens without spaces")
                .found(shown(merge))
        },
    )
}

/// Scores that order merges as the list does: a token's is minus the place of the first merge that makes it.
fn scores(tokens: &[Option<(&str, i64)>], pairs: &[(&str, &str)]) -> Vec<f32> {
    let mut first = HashMap::new();
    for (i, (a, b)) in pairs.iter().enumerate() {
        first.entry(format!("{a}{b}")).or_insert(i);
    }
    let score = |(id, token): (usize, &Option<(&str, i64)>)| match token {
        Some((text, token_type::NORMAL)) => -(first.get(*text).copied().unwrap_or(pairs.len() + id) as f32),
        _ => 0.0,
    };
    tokens.iter().enumerate().map(score).collect()
}
