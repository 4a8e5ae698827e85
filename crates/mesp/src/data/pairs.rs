//! Files of preferences: rows with a chosen and a rejected completion, or with one completion and a label.
//!
//! A completion becomes a row as every other one does ([`RowReader`]), with its prompt before it and only itself
//! trained; so templates, prompt styles and ends are those of fine-tuning. What is refused here is what would train
//! nothing, or the wrong thing.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::columns::Seen;
use super::dataset::{at_file, located};
use super::judged::Bits;
use super::notes::Tally;
use super::remarks::Remark;
use super::rows::{Row, RowReader, integers};
use super::token_file::About;
use super::turns::{given, is_blank, type_of};
use super::{
    Example, Form, Gathered, JudgedRows, LongRows, Origin, ReadOptions, TextEncoder, TrainOn, UNTRAINED,
    layout, source,
};
use crate::{Error, ErrorKind, Result};

/// How preferences are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judging {
    /// `chosen` and `rejected` of each row.
    Pairs,
    /// A `completion` a row, with a `label` that says whether it is desirable (kto).
    Marks,
}

const PAIRS: &str = "a row is {\"prompt\": ..., \"chosen\": ..., \"rejected\": ...}, texts or lists of messages, \
                     {\"chosen\": [...], \"rejected\": [...]}, or \
                     {\"prompt_input_ids\": [...], \"chosen_input_ids\": [...], \"rejected_input_ids\": [...]}";
const MARKS: &str = "a row is {\"prompt\": ..., \"completion\": ..., \"label\": true}, texts or lists of messages, or \
                     {\"prompt_input_ids\": [...], \"completion_input_ids\": [...], \"label\": true}";
const PROMPT_IDS: &str = "prompt_input_ids";

/// Reads a file of preferences, or the files of a directory's split. Rows are kept as [`Gathered::read`] keeps them.
///
/// # Errors
/// When a file cannot be read, and with its file and line when a row cannot be used: it has not the form, its
/// completions are the same, one is empty, the prompt fills the length; when all rows have the same label.
pub fn read_judged(
    path: &Path,
    encoder: Option<&TextEncoder>,
    options: &ReadOptions,
    judging: Judging,
    beside: &Path,
) -> Result<(JudgedRows, About)> {
    if options.train_on == TrainOn::All {
        return Err(Error::usage(
            ErrorKind::Conflict,
            "‘train_on’ all has no meaning for preferences: completions alone are compared",
        )
        .hint("leave out ‘train_on’"));
    }
    if options.long_rows == LongRows::Split {
        return Err(Error::usage(
            ErrorKind::Conflict,
            "‘long_rows’ split has no meaning for preferences: a completion is compared whole",
        )
        .hint("choose ‘long_rows’ truncate or error"));
    }
    let mut marks = Marks::default();
    let Gathered { about, rows } = Gathered::each(path, options.vocab_size, beside, |keep| {
        let mut reader = RowReader::new(encoder, options);
        let mut tally = Tally::default();
        let files = layout::files(path, options.split)?;
        for file in &files {
            if files.len() > 1 {
                tally.file(file);
            }
            let mut reading =
                Reading { path: Arc::from(&**file), options, rows: &mut reader, tally: &mut tally };
            reading.file(judging, &mut marks, keep)?;
        }
        let named = if let [file] = files.as_slice() { file } else { path };
        if tally.rows() == 0 {
            return Err(
                Error::data(named, None, ErrorKind::Empty, "the file holds no row").expected("at least one")
            );
        }
        if judging == Judging::Marks {
            marks.finish(named, keep)?;
        }
        let notes = tally.notes(&reader, options);
        Ok(About { path: named.to_path_buf(), document: false, notes })
    })?;
    let rows = match judging {
        Judging::Pairs => JudgedRows::pairs(rows),
        Judging::Marks => JudgedRows::marked(rows, marks.bits),
    };
    Ok((rows, about))
}

/// Marked rows so far, and what mismatched ones are made of.
#[derive(Default)]
struct Marks {
    bits: Bits,
    first: Option<Example>,
    last: Option<Example>,
}

impl Marks {
    fn row(
        &mut self,
        row: Example,
        desirable: bool,
        keep: &mut dyn FnMut(Example) -> Result<()>,
    ) -> Result<()> {
        self.bits.push(desirable);
        keep(row.clone())?;
        if let Some(before) = self.last.replace(row.clone()) {
            keep(mismatched(&row, &before))?;
        } else {
            self.first = Some(row);
        }
        Ok(())
    }

    /// After the last row.
    fn finish(&mut self, path: &Path, keep: &mut dyn FnMut(Example) -> Result<()>) -> Result<()> {
        let Some((first, last)) = self.first.take().zip(self.last.take()) else { return Ok(()) };
        let [all, good] = self.bits.counts();
        if good == 0 || good == all {
            let problem = format!("`label` is {} in all {all} rows; kto compares both kinds", good > 0);
            return Err(Error::data(path, Some(first.origin.line), ErrorKind::Empty, problem)
                .hint("add rows with the other label, or train on completions with ‘objective’ sft"));
        }
        keep(mismatched(&first, &last))
    }
}

/// A row's prompt with the completion of another, no longer than the longer of both rows.
fn mismatched(row: &Example, other: &Example) -> Example {
    let prompt = |of: &Example| of.labels.iter().take_while(|label| **label == UNTRAINED).count();
    let (own, theirs) = (prompt(row), prompt(other));
    let most = row.tokens.len().max(other.tokens.len());
    let mut tokens = row.tokens[..own].to_vec();
    tokens.extend_from_slice(&other.tokens[theirs..]);
    tokens.truncate(most);
    let mut labels = vec![UNTRAINED; own];
    labels.extend_from_slice(&other.labels[theirs..]);
    labels.truncate(most);
    Example { tokens, labels, origin: row.origin.clone() }
}

/// A file being read.
struct Reading<'r, 'a> {
    path: Arc<Path>,
    options: &'a ReadOptions,
    rows: &'r mut RowReader<'a>,
    tally: &'r mut Tally,
}

impl Reading<'_, '_> {
    fn file(
        &mut self,
        judging: Judging,
        marks: &mut Marks,
        keep: &mut dyn FnMut(Example) -> Result<()>,
    ) -> Result<()> {
        let path = Arc::clone(&self.path);
        let kind = source::kind(&path)?;
        if kind == source::Kind::Document {
            let hint = if judging == Judging::Pairs { PAIRS } else { MARKS };
            return Err(Error::data(&path, None, ErrorKind::WrongType, "")
                .expected("rows of preferences")
                .found("a plain text")
                .hint(hint));
        }
        let columns = &self.options.columns;
        let mut seen = Seen::default();
        source::each_row(&path, kind, None, columns, &mut |line, raw| {
            let (value, _) = raw.value(&path, line, columns, &mut seen)?;
            let place = |e: Error, seen: &mut Seen| located(seen.instead(e), &path, line);
            match judging {
                Judging::Pairs => {
                    let [chosen, rejected] = self.pair(&value, line).map_err(|e| place(e, &mut seen))?;
                    keep(chosen)?;
                    keep(rejected)
                }
                Judging::Marks => {
                    let (row, desirable) = self.marked(&value, line).map_err(|e| place(e, &mut seen))?;
                    marks.row(row, desirable, keep)
                }
            }
        })?;
        seen.end(columns).map_err(|e| at_file(e, &path))
    }

    fn pair(&mut self, value: &Value, line: usize) -> Result<[Example; 2]> {
        let row = object(value, PAIRS)?;
        let tokenized = given(row, PROMPT_IDS).is_some() || given(row, "chosen_input_ids").is_some();
        let keys =
            if tokenized { ["chosen_input_ids", "rejected_input_ids"] } else { ["chosen", "rejected"] };
        for key in keys {
            required(row, key, PAIRS)?;
        }
        if row[keys[0]] == row[keys[1]] {
            return Err(same(keys));
        }
        let read = if tokenized {
            [self.tokens(row, keys[0])?, self.tokens(row, keys[1])?]
        } else {
            let [chosen, rejected] = split(row)?;
            [self.text(chosen, keys[0])?, self.text(rejected, keys[1])?]
        };
        if read[0].tokens == read[1].tokens {
            let cut = read.iter().all(|row| row.length > row.tokens.len());
            let problem = "`chosen` and `rejected` are the same tokens";
            let cut_at = "`chosen` and `rejected` are the same up to ‘max_seq_len’";
            return Err(Error::usage(ErrorKind::Conflict, if cut { cut_at } else { problem })
                .hint("leave out the pair, or raise ‘max_seq_len’"));
        }
        let longest = read.iter().map(|row| row.length).max().unwrap_or(0);
        let place = self.tally.place(line);
        let cut = read.iter().any(|row| row.length > row.tokens.len());
        let [chosen, rejected] = read;
        let Row { form, remarks, .. } = chosen;
        self.tally.row(form, longest, cut, remarks, place);
        let example = |tokens, labels| Example { tokens, labels, origin: self.origin(line) };
        Ok([example(chosen.tokens, chosen.labels), example(rejected.tokens, rejected.labels)])
    }

    fn marked(&mut self, value: &Value, line: usize) -> Result<(Example, bool)> {
        let row = object(value, MARKS)?;
        let tokenized = given(row, PROMPT_IDS).is_some() || given(row, "completion_input_ids").is_some();
        let key = if tokenized { "completion_input_ids" } else { "completion" };
        required(row, key, MARKS)?;
        let label = required(row, "label", MARKS)?;
        let desirable = match label {
            Value::Bool(label) => *label,
            Value::Number(n) if n.as_f64() == Some(1.0) => true,
            Value::Number(n) if n.as_f64() == Some(0.0) => false,
            other => {
                let found = if other.is_number() { other.to_string() } else { type_of(other).to_owned() };
                return Err(Error::usage(ErrorKind::WrongType, "`label`")
                    .is(found)
                    .expected("true or false")
                    .hint(MARKS));
            }
        };
        let read = if tokenized {
            self.tokens(row, key)?
        } else {
            let mut row = row.clone();
            row.remove("label");
            self.text(row, key)?
        };
        let place = self.tally.place(line);
        let Row { form, tokens, labels, length, remarks, .. } = read;
        self.tally.row(form, length, length > tokens.len(), remarks, place);
        Ok((Example { tokens, labels, origin: self.origin(line) }, desirable))
    }

    fn origin(&self, line: usize) -> Origin {
        Origin { path: Arc::clone(&self.path), line }
    }

    /// A prompt and a completion of tokens.
    fn tokens(&self, row: &Map<String, Value>, key: &str) -> Result<Row> {
        let list = |key: &str| -> Result<Vec<u32>> {
            let value = row.get(key).unwrap_or(&Value::Null);
            Ok(integers(key, value, self.options.vocab_size)?.into_iter().map(|id| id as u32).collect())
        };
        let (mut tokens, completion) = (list(PROMPT_IDS)?, list(key)?);
        let empty = if tokens.is_empty() {
            Some((PROMPT_IDS, "nothing predicts the completion's first token"))
        } else if completion.is_empty() {
            Some((key, "it has no token to compare"))
        } else {
            None
        };
        if let Some((key, why)) = empty {
            return Err(Error::usage(ErrorKind::Empty, format!("`{key}` is empty: {why}"))
                .key(key)
                .hint("leave out the row"));
        }
        let mut labels = vec![UNTRAINED; tokens.len()];
        labels.extend(completion.iter().map(|id| id.cast_signed()));
        tokens.extend(completion);
        let length = tokens.len();
        let most = self.options.max_seq_len.unwrap_or(usize::MAX);
        tokens.truncate(most);
        labels.truncate(most);
        self.whole(
            Row { form: Form::Tokens, tokens, labels, length, remarks: Vec::new(), inside: false },
            key,
        )
    }

    /// A row of `prompt` and `completion`, which the file has under `key`.
    fn text(&mut self, row: Map<String, Value>, key: &str) -> Result<Row> {
        let blank = |message: &Value| match message {
            Value::Object(turn) => {
                turn.get("content").is_none_or(is_blank) && !turn.contains_key("tool_calls")
            }
            other => is_blank(other),
        };
        let empty = match &row["completion"] {
            Value::String(text) => text.trim().is_empty(),
            Value::Array(turns) => turns.iter().all(blank),
            _ => false,
        };
        if empty {
            return Err(Error::usage(
                ErrorKind::Empty,
                format!("`{key}` is empty: it has no token to compare"),
            )
            .key(key)
            .hint("leave out the row"));
        }
        let row = self.rows.read(&Value::Object(row))?;
        if row.remarks.contains(&Remark::EmptyAnswer) {
            return Err(Error::usage(
                ErrorKind::Empty,
                format!("`{key}` is empty: it has no token to compare"),
            )
            .key(key)
            .hint("leave out the row"));
        }
        self.whole(row, key)
    }

    /// Refuses a row of which no completion is left, and a long one where long ones are errors.
    fn whole(&self, row: Row, key: &str) -> Result<Row> {
        let limit = self.options.max_seq_len.unwrap_or(usize::MAX);
        if row.length > limit && self.options.long_rows == LongRows::Error {
            return Err(Error::usage(ErrorKind::OutOfRange, format!("prompt and `{key}`"))
                .found(format!("{} tokens", row.length))
                .expected(format!("at most {limit}"))
                .key(key)
                .hint("raise ‘max_seq_len’, shorten the row, or choose ‘long_rows’ truncate"));
        }
        if row.labels.iter().skip(1).any(|label| *label != UNTRAINED) {
            return Ok(row);
        }
        if row.length > limit {
            let problem = format!(
                "the prompt fills the length of {limit} tokens: nothing of `{key}` is left, of {} tokens in all",
                row.length
            );
            return Err(Error::usage(ErrorKind::OutOfRange, problem)
                .hint("raise ‘max_seq_len’, or shorten the prompt"));
        }
        Err(Error::usage(ErrorKind::Empty, format!("`{key}` has no token to compare"))
            .key(key)
            .hint("leave out the row"))
    }
}

fn object<'a>(value: &'a Value, forms: &str) -> Result<&'a Map<String, Value>> {
    value.as_object().ok_or_else(|| {
        Error::usage(ErrorKind::WrongType, "the row").is(type_of(value)).expected("a JSON object").hint(forms)
    })
}

fn required<'a>(row: &'a Map<String, Value>, key: &str, forms: &str) -> Result<&'a Value> {
    match row.get(key).filter(|value| !value.is_null()) {
        Some(value) if !is_blank(value) => Ok(value),
        Some(_) => {
            Err(Error::usage(ErrorKind::Empty, format!("`{key}` is empty: it has no token to compare"))
                .key(key)
                .hint("leave out the row"))
        }
        None => {
            let found: Vec<String> = row.keys().take(8).map(|key| format!("`{key}`")).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            Err(Error::usage(ErrorKind::Missing, format!("the row has no `{key}`"))
                .key(key)
                .found(format!("the keys {found}"))
                .hint(forms))
        }
    }
}

fn same([chosen, rejected]: [&str; 2]) -> Error {
    Error::usage(
        ErrorKind::Conflict,
        format!("`{chosen}` and `{rejected}` are the same: there is nothing to prefer"),
    )
    .hint("leave out the pair")
}

/// A pair of texts or conversations as two rows of a prompt and a completion.
fn split(row: &Map<String, Value>) -> Result<[Map<String, Value>; 2]> {
    let mut rest = row.clone();
    let [chosen, rejected] = ["chosen", "rejected"].map(|key| rest.remove(key).unwrap_or_default());
    let part = |prompt: Value, completion: Value| {
        let mut row = rest.clone();
        row.insert("prompt".to_owned(), prompt);
        row.insert("completion".to_owned(), completion);
        row
    };
    let prompt = given(row, "prompt");
    let (Value::Array(good), Value::Array(bad)) = (&chosen, &rejected) else {
        let Some(prompt) = prompt else {
            return Err(Error::usage(
                ErrorKind::Missing,
                "the row has no `prompt`, and `chosen` and `rejected` are no lists of messages",
            )
            .hint(PAIRS));
        };
        return Ok([chosen, rejected].map(|completion| part(prompt.clone(), completion)));
    };
    match prompt {
        Some(prompt @ Value::Array(_)) => {
            Ok([chosen.clone(), rejected.clone()].map(|completion| part(prompt.clone(), completion)))
        }
        // The prompt is the last turn of the user, and the lists have it too (UltraFeedback).
        Some(Value::String(text)) if !has_turn(good, text) || !has_turn(bad, text) => Err(Error::usage(
            ErrorKind::Mismatch,
            "`prompt` is a text, and `chosen` and `rejected` are lists of messages in which it is no turn",
        )
        .hint("give all three as texts or as lists of messages")),
        _ => {
            let shared = good.iter().zip(bad).take_while(|(a, b)| a == b).count();
            if shared == 0 {
                return Err(Error::usage(
                    ErrorKind::Mismatch,
                    "`chosen` and `rejected` do not begin with the same turn, and there is no `prompt`",
                )
                .hint("give the turns that both answer as `prompt`"));
            }
            for (key, list) in [("chosen", good), ("rejected", bad)] {
                if list.len() == shared {
                    let problem = format!("`{key}` is empty after the {shared} turns that both have");
                    return Err(Error::usage(ErrorKind::Empty, problem).key(key).hint("leave out the pair"));
                }
            }
            let prompt = || Value::Array(good[..shared].to_vec());
            Ok([good, bad].map(|list| part(prompt(), Value::Array(list[shared..].to_vec()))))
        }
    }
}

fn has_turn(turns: &[Value], text: &str) -> bool {
    turns.iter().any(|turn| turn.get("content").and_then(Value::as_str) == Some(text))
}

#[cfg(test)]
mod tests;
