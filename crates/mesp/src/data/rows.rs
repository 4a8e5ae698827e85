//! One row to tokens and labels. Problems are reported without a place; the caller knows file and line.

use serde_json::{Map, Value};

use super::forms::{self, FORMS, Form, Said};
use super::remarks::Remark;
use super::turns::{given, type_of};
use super::{ChatFormat, ReadOptions, TextEncoder, UNTRAINED};
use crate::{Error, ErrorKind, Result};

#[cfg(feature = "text")]
mod text;

#[cfg(not(feature = "text"))]
use super::no_text::no_encoder;
#[cfg(feature = "text")]
use text::no_encoder;

/// A row's tokens with a label beside each; of a row that will be cut only those that are left.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) form: Form,
    pub(super) tokens: Vec<u32>,
    pub(super) labels: Vec<i32>,
    /// The tokens that there are.
    pub(super) length: usize,
    pub(super) remarks: Vec<Remark>,
    /// Whether what is trained begins inside a token.
    pub(super) inside: bool,
}

pub(super) struct RowReader<'a> {
    encoder: Option<&'a TextEncoder>,
    pub(super) options: &'a ReadOptions,
    /// Prepared at the first conversation: a model whose template is broken can still read other rows.
    chat: Option<ChatFormat>,
}

impl<'a> RowReader<'a> {
    pub(super) fn new(encoder: Option<&'a TextEncoder>, options: &'a ReadOptions) -> Self {
        Self { encoder, options, chat: None }
    }

    pub(super) fn chat(&self) -> Option<&ChatFormat> {
        self.chat.as_ref()
    }

    pub(super) fn encoder(&self) -> Result<&'a TextEncoder> {
        self.encoder.ok_or_else(no_encoder)
    }

    /// What is to be told of the keys of a row of tokens, given without the lists.
    pub(super) fn unread(&self, keys: &Map<String, Value>) -> Result<Vec<Remark>> {
        forms::unread(Form::Tokens, keys, self.options.prompt_style, false)
    }

    pub(super) fn read(&mut self, row: &Value) -> Result<Row> {
        let chats = self.encoder.is_some_and(TextEncoder::has_chat_template);
        let mut remarks = Vec::new();
        let (form, said) = match row {
            Value::String(text) => (Form::Text, Said::Text(text)),
            Value::Object(row) => {
                let form = Form::of(row)?;
                let style = self.options.prompt_style;
                remarks.extend(forms::unread(form, row, style, chats)?);
                (form, forms::read(form, row, style, chats)?)
            }
            other => {
                return Err(Error::usage(ErrorKind::WrongType, "the row")
                    .is(type_of(other))
                    .expected("a JSON object")
                    .hint(FORMS));
            }
        };
        self.tokens_of(form, said, remarks)
    }
}

pub(super) const LABELS: &str = "labels";

/// A row that another program tokenized. Nothing is added to it.
pub(super) fn tokenized(row: &Map<String, Value>, vocab_size: usize, remarks: Vec<Remark>) -> Result<Row> {
    let tokens = integers("input_ids", &row["input_ids"], vocab_size)?;
    let labels = match given(row, LABELS) {
        None => None,
        Some(labels) => Some(integers(LABELS, labels, vocab_size)?),
    };
    aligned(tokens.len(), labels.as_ref().map(Vec::len))?;
    let labels = labels.unwrap_or_else(|| tokens.clone()).into_iter().map(|label| label as i32).collect();
    let padded = row
        .get("attention_mask")
        .and_then(Value::as_array)
        .and_then(|mask| mask.iter().position(|value| value.as_i64() == Some(0)));
    unpadded(padded)?;
    Ok(Row {
        form: Form::Tokens,
        length: tokens.len(),
        tokens: tokens.into_iter().map(|id| id as u32).collect(),
        labels,
        remarks,
        inside: false,
    })
}

/// Refuses labels that are not as many as tokens.
pub(super) fn aligned(tokens: usize, labels: Option<usize>) -> Result<()> {
    if tokens == 0 {
        return Err(Error::usage(ErrorKind::Empty, "`input_ids`").is("empty").expected("at least one token"));
    }
    match labels {
        Some(labels) if labels != tokens => {
            let found = format!("{labels} values and `input_ids` has {tokens}");
            Err(Error::usage(ErrorKind::Mismatch, "`labels`")
                .has(found)
                .expected("one label beside each token")
                .hint("labels align with input_ids; -100 marks a token that is not trained"))
        }
        _ => Ok(()),
    }
}

/// Refuses a row whose mask has a 0 at a place.
pub(super) fn unpadded(padded: Option<usize>) -> Result<()> {
    let Some(at) = padded else { return Ok(()) };
    Err(Error::usage(ErrorKind::Unsupported, format!("`attention_mask[{at}]` is 0: the row is padded"))
        .hint("store the row without padding; rows may differ in length"))
}

pub(super) fn integers(key: &str, list: &Value, vocab_size: usize) -> Result<Vec<i64>> {
    let Some(values) = list.as_array() else {
        return Err(Error::usage(ErrorKind::WrongType, format!("`{key}`"))
            .is(type_of(list))
            .expected("a list of integers"));
    };
    values.iter().enumerate().map(|(index, value)| integer(key, index, value, vocab_size)).collect()
}

/// A token of the vocabulary; in `labels` also the mark of what is not trained.
pub(super) fn integer(key: &str, index: usize, value: &Value, vocab_size: usize) -> Result<i64> {
    let labels = key == LABELS;
    let size = i64::from(i32::try_from(vocab_size).unwrap_or(i32::MAX));
    let allowed = |n: &i64| (0..size).contains(n) || (labels && *n == i64::from(UNTRAINED));
    value.as_i64().filter(allowed).ok_or_else(|| {
        let found = if value.is_number() { value.to_string() } else { type_of(value).to_owned() };
        let also = if labels { " or -100 (not trained)" } else { "" };
        Error::usage(ErrorKind::OutOfRange, format!("`{key}[{index}]`"))
            .is(found)
            .expected(format!(
                "an integer from 0 to {} (the model's vocabulary){also}",
                vocab_size.saturating_sub(1)
            ))
            .hint("tokenize the rows with this model's tokenizer")
    })
}

#[cfg(all(test, feature = "text"))]
mod tests;

#[cfg(all(test, feature = "text"))]
mod masks_tests;
