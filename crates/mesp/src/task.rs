//! Questions with known answers, from a file: a choice by likelihood, or a text that has to be given.
//!
//! A row has `prompt` (or `question`) and `answer`. With `choices`, `answer` is one of them or its number from 0, and
//! the model picks the choice that it finds likeliest ([`choice`]). Without, the model's own text is compared with
//! the answer ([`exact`]); `extract` says which part of both counts.

pub mod choice;
pub mod exact;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::data::source::{Kind, each_row, kind};
use crate::data::{Columns, Seen, type_of};
use crate::{Error, ErrorKind, Result};
use exact::Extract;

/// A question.
#[derive(Debug, Clone)]
pub struct Item {
    /// Where it was read.
    pub line: usize,
    /// What the model is given.
    pub prompt: String,
    /// What is right.
    pub answer: Answer,
}

/// What is right.
#[derive(Debug, Clone)]
pub enum Answer {
    /// One of several texts.
    Choice {
        /// All of them, none empty.
        choices: Vec<String>,
        /// Which is right.
        right: usize,
    },
    /// A text, in one of several forms.
    Text {
        /// Each is right.
        texts: Vec<String>,
        /// Which part counts.
        extract: Option<Extract>,
    },
}

/// A file of questions.
#[derive(Debug, Clone)]
pub struct Task {
    /// The file.
    pub path: Arc<Path>,
    /// In the file's order; at least one.
    pub items: Vec<Item>,
}

impl Task {
    /// Reads JSON lines, a JSON array, or a table. `extract` is for rows that have none of their own.
    ///
    /// # Errors
    /// When the file cannot be read, or a row cannot be used, with its line.
    pub fn read(path: &Path, extract: Option<&str>) -> Result<Self> {
        let extract = extract.map(Extract::new).transpose()?;
        let kind = kind(path)?;
        if kind == Kind::Document {
            return Err(Error::data(path, None, ErrorKind::WrongType, "")
                .expected("JSON lines or a JSON array")
                .found("a plain text")
                .hint(SHAPE));
        }
        let mut items = Vec::new();
        let columns = Columns::default();
        each_row(path, kind, None, &columns, &mut |line, row| {
            let row = row.value(path, line, &columns, &mut Seen::default());
            let item = row.and_then(|(row, _)| item(&row, line, extract.as_ref()));
            items.push(item.map_err(|e| at(path, line, e))?);
            Ok(())
        })?;
        if items.is_empty() {
            return Err(Error::data(path, None, ErrorKind::Empty, "")
                .expected("at least one question")
                .found("none")
                .hint(SHAPE));
        }
        Ok(Self { path: path.into(), items })
    }

    /// An error about an item, with its place.
    pub fn error(&self, item: &Item, error: Error) -> Error {
        at(&self.path, item.line, error)
    }
}

const SHAPE: &str = r#"a row is {"prompt": "text", "choices": ["text", ...], "answer": 0} or {"prompt": "text", "answer": "text"}"#;

fn at(path: &Path, line: usize, error: Error) -> Error {
    error.at(path, Some(line))
}

fn item(row: &Value, line: usize, extract: Option<&Extract>) -> Result<Item> {
    let Some(row) = row.as_object() else {
        return Err(Error::usage(ErrorKind::WrongType, "the row")
            .is(type_of(row))
            .expected("an object")
            .hint(SHAPE));
    };
    let prompt = match (row.get("prompt"), row.get("question")) {
        (Some(prompt), None) | (None, Some(prompt)) => prompt.as_str().ok_or_else(|| {
            Error::usage(ErrorKind::WrongType, "the prompt")
                .is(type_of(prompt))
                .expected("a text")
                .hint(SHAPE)
        })?,
        (None, None) => {
            return Err(Error::usage(ErrorKind::Missing, "")
                .expected("`prompt` or `question`")
                .found("neither")
                .hint(SHAPE));
        }
        _ => {
            return Err(Error::usage(ErrorKind::Conflict, "")
                .expected("`prompt` or `question`")
                .found("both")
                .hint(SHAPE));
        }
    };
    let Some(answer) = row.get("answer") else {
        return Err(Error::usage(ErrorKind::Missing, "").expected("`answer`").found("none").hint(SHAPE));
    };
    let answer = match row.get("choices").filter(|choices| !choices.is_null()) {
        Some(choices) => choice(row, choices, answer)?,
        None => Answer::Text { texts: texts(answer)?, extract: own_extract(row)?.or(extract.cloned()) },
    };
    Ok(Item { line, prompt: prompt.to_owned(), answer })
}

fn choice(row: &Map<String, Value>, choices: &Value, answer: &Value) -> Result<Answer> {
    if row.contains_key("extract") {
        return Err(Error::usage(
            ErrorKind::Conflict,
            "`extract` is for rows without `choices`; this one has both",
        ));
    }
    let list = choices.as_array().filter(|list| list.len() > 1).ok_or_else(|| {
        let found = choices
            .as_array()
            .map_or_else(|| type_of(choices).to_owned(), |l| format!("a list of {}", l.len()));
        Error::usage(ErrorKind::WrongType, "`choices`")
            .is(found)
            .expected("a list of two texts or more")
            .hint(SHAPE)
    })?;
    let text = |(i, value): (usize, &Value)| {
        let text = value.as_str().filter(|text| !text.trim().is_empty());
        text.map(str::to_owned).ok_or_else(|| {
            Error::usage(ErrorKind::WrongType, format!("choices[{i}]"))
                .is(type_of(value))
                .expected("a text that is not empty")
        })
    };
    let choices: Vec<String> = list.iter().enumerate().map(text).collect::<Result<_>>()?;
    let (right, found) = match answer {
        Value::String(text) => (choices.iter().position(|c| c == text), format!("{text:?}")),
        Value::Number(n) => {
            let right = n.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n < choices.len());
            (right, n.to_string())
        }
        other => (None, type_of(other).to_owned()),
    };
    let last = choices.len() - 1;
    let right = right.ok_or_else(|| {
        Error::usage(ErrorKind::Unknown, "`answer`")
            .is(found)
            .expected(format!("one of the choices, or its number from 0 to {last}"))
    })?;
    Ok(Answer::Choice { choices, right })
}

/// The answer as a text, a number, or several of them.
fn texts(answer: &Value) -> Result<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
        Value::Number(n) => Ok(n.to_string()),
        other => Err(Error::usage(ErrorKind::WrongType, "`answer`")
            .is(type_of(other))
            .expected("a text or a number, or a list of these")
            .hint(SHAPE)),
    };
    match answer {
        Value::Array(list) if !list.is_empty() => list.iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

fn own_extract(row: &Map<String, Value>) -> Result<Option<Extract>> {
    match row.get("extract") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(rule)) => Extract::new(rule).map(Some),
        Some(other) => Err(Error::usage(ErrorKind::WrongType, "`extract`")
            .is(type_of(other))
            .expected("a regular expression")),
    }
}

/// The standard error of a share that `n` questions gave; of one question there is none.
pub fn standard_error(share: f64, n: usize) -> Option<f64> {
    (n > 1).then(|| (share * (1.0 - share) / (n - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests;
