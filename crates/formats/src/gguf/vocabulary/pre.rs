//! Which of GGUF's named pre-tokenizers a `tokenizer.json` has.

use std::path::Path;

use serde_json::Value as Json;

use crate::json::shown;
use crate::{Error, ErrorKind, Result};

/// How Qwen2 and later split text into words: digits one by one.
pub const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Llama 3 splits text into words: digits in threes.
pub const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The value of `tokenizer.ggml.pre`.
pub(super) fn name(path: &Path, tokenizer: &Json) -> Result<&'static str> {
    let null = Json::Null;
    let pre = tokenizer.get("pre_tokenizer").unwrap_or(&null);
    let steps = match kind(pre) {
        "Sequence" => pre.get("pretokenizers").and_then(Json::as_array).map_or(&[][..], Vec::as_slice),
        _ => std::slice::from_ref(pre),
    };
    let flag =
        |step: &Json, key: &str, default: bool| step.get(key).and_then(Json::as_bool).unwrap_or(default);
    // The step that spells bytes: whether it splits words by itself, as GPT-2 does.
    let bytes = |step: &Json, splits: bool| {
        kind(step) == "ByteLevel"
            && !flag(step, "add_prefix_space", true)
            && flag(step, "use_regex", true) == splits
    };
    let found = match steps {
        [last] if bytes(last, true) => Some("gpt-2"),
        [digits, last]
            if kind(digits) == "Digits" && flag(digits, "individual_digits", false) && bytes(last, true) =>
        {
            Some("smollm")
        }
        [split, last] if kind(split) == "Split" && bytes(last, false) => {
            match split.get("pattern").and_then(|p| p.get("Regex")).and_then(Json::as_str) {
                Some(QWEN2_PATTERN) => Some("qwen2"),
                Some(LLAMA3_PATTERN) => Some("llama-bpe"),
                _ => None,
            }
        }
        _ => None,
    };
    found.ok_or_else(|| {
        Error::invalid(path, ErrorKind::Unsupported)
            .what("pre_tokenizer")
            .expected("that of GPT-2, Qwen2, Llama 3 or SmolLM")
            .found(shown(pre))
    })
}

/// Whether a text gets a space in front.
pub(super) fn has_space_prefix(tokenizer: &Json) -> bool {
    let steps = |part: &str, list: &str| -> Vec<Json> {
        let part = tokenizer.get(part).unwrap_or(&Json::Null);
        part.get(list).and_then(Json::as_array).cloned().unwrap_or_else(|| vec![part.clone()])
    };
    steps("normalizer", "normalizers").iter().any(|s| kind(s) == "Prepend")
        || steps("pre_tokenizer", "pretokenizers").iter().any(|s| {
            kind(s) == "Metaspace"
                && s.get("prepend_scheme").and_then(Json::as_str).unwrap_or("always") != "never"
        })
}

fn kind(step: &Json) -> &str {
    step.get("type").and_then(Json::as_str).unwrap_or_default()
}
