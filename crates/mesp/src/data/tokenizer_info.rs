//! What files say about a tokenizer, and the tokens it makes; read also where no text is.

use std::ops::Range;

use mesp_formats::gguf::Gguf;

/// What kind of tokenizer a GGUF file has.
pub(super) const MODEL: &str = "tokenizer.ggml.model";
/// The text of a `tokenizer.json`, as the GGUF specification has it, in files whose tokenizer the keys of llama.cpp
/// cannot say.
pub(crate) const JSON: &str = "tokenizer.huggingface.json";

/// What `tokenizer_config.json` and its companions say about a tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerInfo {
    /// The token that begins a text.
    pub bos_token: Option<String>,
    /// The token that ends a text.
    pub eos_token: Option<String>,
    /// The chat template, a Jinja program.
    pub chat_template: Option<String>,
    /// Another one for conversations with tools, where the model has two.
    pub tool_template: Option<String>,
    /// Whether a text gets `bos_token`; `None` leaves it to `tokenizer.json`.
    pub add_bos_token: Option<bool>,
    /// Special tokens by name, such as `pad_token`, as chat templates read them.
    pub named_tokens: Vec<(String, String)>,
    /// The texts of all tokens that the model's files name as special. Those of the vocabulary are found in a text.
    pub special_tokens: Vec<String>,
    /// More tokens that end a text, by their texts.
    pub end_tokens: Vec<String>,
    /// The same by number, as a model's configuration names them.
    pub end_ids: Vec<u32>,
    /// Where words get a space in front, in place of what `tokenizer.json` says.
    pub prefix: Option<Prefix>,
}

/// Where tokenizers that spell a space as `▁` put one in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// Before the text and after every marker in it.
    Always,
    /// Before the text.
    First,
    /// Nowhere.
    Never,
}

/// A token and the bytes of the text it stands for; `None` where the text has no such bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The token's number.
    pub id: u32,
    /// Byte range in the text; `None` for a token that was added, such as the one that begins a text.
    pub bytes: Option<Range<usize>>,
}

/// Whether a file has a tokenizer.
pub(crate) fn has_tokenizer(gguf: &Gguf) -> bool {
    [MODEL, JSON].iter().any(|key| gguf.value(key).is_some())
}
