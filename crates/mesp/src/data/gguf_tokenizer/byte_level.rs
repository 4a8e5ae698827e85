//! Byte-level BPE: text is cut into words by patterns, words are spelled in bytes, bytes merged.

use mesp_formats::gguf::{Gguf, LLAMA3_PATTERN, QWEN2_PATTERN};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use super::{Places, damaged, refused, texts_of, wrong};
use crate::{Error, ErrorKind, Result};

const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";
/// What GPT-2's pattern is preceded by for files without a named one.
const DEFAULT_PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";

/// Pre-tokenizers that differ in what they do, not only in name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pre {
    Gpt2,
    Qwen2,
    /// Words that are tokens are not merged anew, and a text begins with the begin token.
    Llama3,
    /// Llama 3's pattern alone.
    Llama3Pattern,
    /// Digits one by one, then GPT-2.
    Smollm,
    Default,
}

/// The names that llama.cpp has for them.
const NAMES: [(Pre, &[&str]); 6] = [
    (Pre::Gpt2, &["gpt-2", "phi-2", "gigachat", "roberta-bpe", "mpt", "olmo", "jais", "trillion"]),
    (Pre::Qwen2, &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2"]),
    (Pre::Llama3, &["llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral"]),
    (Pre::Llama3Pattern, &["dbrx", "smaug-bpe"]),
    (Pre::Smollm, &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"]),
    (Pre::Default, &["default"]),
];

impl Pre {
    fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, names)| names.contains(&name)).map(|(pre, _)| *pre)
    }

    fn steps(self) -> tokenizers::Result<Vec<PreTokenizerWrapper>> {
        let split = |pattern: &str| -> tokenizers::Result<PreTokenizerWrapper> {
            let pattern = SplitPattern::Regex(pattern.to_string());
            Ok(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into())
        };
        // Spells bytes; with its own pattern, GPT-2's, it cuts into words before.
        let gpt2 = || ByteLevel::new(false, false, true).into();
        let spell = || ByteLevel::new(false, false, false).into();
        Ok(match self {
            Self::Gpt2 => vec![gpt2()],
            Self::Qwen2 => vec![split(QWEN2_PATTERN)?, spell()],
            Self::Llama3 | Self::Llama3Pattern => vec![split(LLAMA3_PATTERN)?, spell()],
            Self::Smollm => vec![Digits::new(true).into(), gpt2()],
            // The patterns speak of characters, so the bytes are spelled last.
            Self::Default => vec![
                split(DEFAULT_PUNCTUATION)?,
                split(GPT2_PATTERN)?,
                split(r"\p{N}+")?,
                split("[0-9][0-9][0-9]")?,
                spell(),
            ],
        })
    }
}

/// GPT-2's pattern, for the case where more cuts follow before bytes are spelled.
const GPT2_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The tokenizer, and whether a text begins with the begin token where the file does not say.
pub(super) fn build(gguf: &Gguf, bytes: &[u8], places: &Places) -> Result<(Tokenizer, bool)> {
    let pre = pre(gguf)?;
    let array = gguf.required(MERGES, gguf.array(MERGES)?)?;
    let mut merges = Vec::new();
    for merge in texts_of(gguf, MERGES, array, bytes)? {
        // A token may begin with a space, but not with an empty left side.
        let space = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let pair = space.map(|at| (&merge[..at], &merge[at + 1..]));
        let known = |token: &str| places.ids.contains_key(token);
        match pair {
            Some((a, b)) if known(a) && known(b) && known(&format!("{a}{b}")) => {
                merges.push((a.to_string(), b.to_string()));
            }
            _ => {
                return Err(damaged(gguf, MERGES, ErrorKind::Malformed)
                    .expected("pairs of tokens that make a token")
                    .found(format!("{merge:?}")));
            }
        }
    }
    let failed = |e: tokenizers::Error| -> Error { refused(gguf, MERGES, &e) };
    let model = places.model(merges).ignore_merges(pre == Pre::Llama3).build().map_err(failed)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(pre.steps().map_err(failed)?)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok((tokenizer, pre == Pre::Llama3))
}

fn pre(gguf: &Gguf) -> Result<Pre> {
    let Some(name) = gguf.str(PRE)? else {
        // Files from before the key: of these families there has been one pre-tokenizer only.
        let arch = gguf.str("general.architecture")?;
        return Ok(if matches!(arch, Some("qwen2" | "qwen3")) { Pre::Qwen2 } else { Pre::Default });
    };
    Pre::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = NAMES.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let hint = "use the original model's folder, which has a tokenizer.json, or rows with input_ids";
        wrong(gguf, PRE, ErrorKind::Unsupported, hint)
            .expected(format!("a known pre-tokenizer ({})", names.join(", ")))
            .found(format!("{name:?}"))
    })
}
