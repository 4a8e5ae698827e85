//! GGUF: llama.cpp's single-file models, read from a byte slice and written as a stream.
//!
//! A file is a header (magic, version, two counts), metadata as typed key-value pairs, a table of
//! tensors, and the tensors' bytes, each beginning at a multiple of the file's alignment. Layouts are those
//! of the GGUF specification (ggml's `docs/gguf.md`) and of `ggml-common.h`; the wording and the code here
//! are our own.
//!
//! | part | what it does |
//! |---|---|
//! | [`parse`] | header, metadata, tensor table: checked against the file's length and each other |
//! | [`Value`], [`Array`] | metadata; arrays stay where they lie in the file until they are iterated |
//! | [`TensorType`], [`dequantize_row`], [`quantize_row`] | block formats, in plain code |
//! | [`write()`] | the streaming writer |
//! | [`config`], [`model`] | metadata as a [`ModelConfig`](crate::ModelConfig) |
//! | [`tensor_name`], [`to_interleaved`], [`to_halves`] | names and row orders against Hugging Face's |
//! | [`metadata_for`], [`tokenizer_metadata`] | metadata from Hugging Face files |
//! | [`rope_tensors`] | divisors of rotary frequencies, as tensors |

use std::ops::Range;
use std::path::PathBuf;

use crate::{Error, ErrorKind, Result};

mod dequantize;
mod metadata;
mod model;
mod names;
mod quantize;
mod reader;
mod rope;
mod tensor_type;
#[cfg(test)]
mod tests;
mod value;
mod vocabulary;
mod write;

pub use dequantize::dequantize_row;
pub use metadata::{file_type, inexpressible, metadata_for};
pub use model::{GgufModel, config, end_ids, model};
pub use names::{
    ROPE_FACTORS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT, architecture, block_module, interleaved,
    tensor_name, to_halves, to_interleaved,
};
pub use quantize::{can_quantize, quantize_row};
pub use reader::parse;
pub use rope::rope_tensors;
pub use tensor_type::TensorType;
pub use value::{Array, ElementType, Scalars, Strings, Value};
pub use vocabulary::{
    ADD_BOS, CHAT_TEMPLATE, LLAMA3_PATTERN, MOST_ENDS, QWEN2_PATTERN, SpecialTokens, tokenizer_metadata,
};
pub use write::write;

/// The alignment of files that do not name one.
pub const DEFAULT_ALIGNMENT: usize = 32;
/// The metadata key of the alignment.
const ALIGNMENT_KEY: &str = "general.alignment";

/// The kind of a token, as `tokenizer.ggml.token_type` numbers them.
pub mod token_type {
    /// Text.
    pub const NORMAL: i64 = 1;
    /// What stands for text outside the vocabulary.
    pub const UNKNOWN: i64 = 2;
    /// A marker that is no text, such as the one that ends a turn.
    pub const CONTROL: i64 = 3;
    /// Text that is never split, added to the trained vocabulary.
    pub const USER_DEFINED: i64 = 4;
    /// A place without a token.
    pub const UNUSED: i64 = 5;
    /// A byte, spelled `<0x0A>`.
    pub const BYTE: i64 = 6;
}

/// One tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its sizes, outermost first as in safetensors (`[out, in]`); the file has them the other way round.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub ty: TensorType,
    /// Its bytes, counted from the start of the file.
    pub range: Range<usize>,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// The file, for error messages.
    pub path: PathBuf,
    /// The format's version: 2 or 3, which read alike.
    pub version: u32,
    /// Keys and values in the file's order; no key occurs twice.
    pub metadata: Vec<(String, Value)>,
    /// The tensors in the file's order; no name occurs twice.
    pub tensors: Vec<TensorInfo>,
    /// Every tensor begins at a multiple of this, counted from the start of the data.
    pub alignment: usize,
}

impl Gguf {
    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// A text, or none where the key is absent.
    ///
    /// # Errors
    /// When the value is of another kind.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.read(key, "a string", Value::as_str)
    }

    /// A whole number, or none where the key is absent.
    ///
    /// # Errors
    /// When the value is of another kind, negative, or too large for this machine.
    pub fn usize(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "a whole number, zero or more", |v| usize::try_from(v.as_u64()?).ok())
    }

    /// A number, or none where the key is absent.
    ///
    /// # Errors
    /// When the value is of another kind.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", Value::as_f64)
    }

    /// A number that JSON has too, or none where the key is absent.
    fn finite(&self, key: &str) -> Result<Option<f64>> {
        match self.f64(key)? {
            Some(found) if !found.is_finite() => {
                Err(self.error(key, ErrorKind::NotFinite).expected("a finite number").found(found))
            }
            other => Ok(other),
        }
    }

    /// True or false, or none where the key is absent.
    ///
    /// # Errors
    /// When the value is of another kind.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// An array, or none where the key is absent.
    ///
    /// # Errors
    /// When the value is of another kind.
    pub fn array(&self, key: &str) -> Result<Option<&Array>> {
        self.read(key, "an array", Value::as_array)
    }

    /// A value that the file must have.
    ///
    /// # Errors
    /// When `value` is none.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| {
            self.error(key, ErrorKind::Missing)
                .expected("a value")
                .found("none")
                .hint("The file is incomplete: get it again, or convert the model again.")
        })
    }

    /// An error about a key.
    pub fn error(&self, key: &str, kind: ErrorKind) -> Error {
        Error::invalid(&self.path, kind).what(format!("key {}", crate::json::quoted(key))).key(key)
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.value(key)
            .map(|v| {
                convert(v).ok_or_else(|| {
                    self.error(key, ErrorKind::WrongType)
                        .expected(expected)
                        .found(v.describe())
                        .hint("The file is damaged: get it or make it again.")
                })
            })
            .transpose()
    }
}
