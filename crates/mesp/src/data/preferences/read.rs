//! Files of preferences: rows with a chosen and a rejected completion, or with one completion and a label.
//!
//! A completion becomes a row as every other one does ([`RowReader`]), with its prompt before it and only itself
//! trained; so templates, prompt styles and ends are those of fine-tuning. What is refused here is what would train
//! nothing, or the wrong thing.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::columns::Seen;
use super::super::dataset::{at_file, located};
use super::super::notes::{Tally, counted};
use super::super::remarks::Remark;
use super::super::rows::{Row, RowReader, integers};
use super::super::token_file::About;
use super::super::turns::{given, is_blank, type_of};
use super::super::{
    Example, Form, LongRows, Origin, ReadOptions, TextEncoder, TrainOn, UNTRAINED, layout, source,
};
use super::{Bits, Grouping};
use crate::{Error, ErrorKind, Result};

/// How preferences are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// `chosen` and `rejected` of each row.
    Pairs,
    /// A `completion` a row, with a `label` that says whether it is desirable (kto).
    Labeled,
}

impl Format {
    /// That of a file, by its first row.
    fn of(row: &Map<String, Value>) -> Self {
        let has = |key| given(row, key).is_some();
        let pair = ["chosen", "rejected", "chosen_input_ids", "rejected_input_ids"].into_iter().any(has);
        let one = ["completion", "completion_input_ids"].into_iter().any(has) || label(row).is_some();
        if one && !pair { Self::Labeled } else { Self::Pairs }
    }
}

const PAIRS: &str = "a row is {\"prompt\": ..., \"chosen\": ..., \"rejected\": ...}, texts or lists of messages, \
                     {\"chosen\": [...], \"rejected\": [...]}, or \
                     {\"prompt_input_ids\": [...], \"chosen_input_ids\": [...], \"rejected_input_ids\": [...]}; for kto \
                     {\"prompt\": ..., \"completion\": ..., \"label\": true}";
const LABELED: &str = "a row is {\"prompt\": ..., \"completion\": ..., \"label\": true}, texts or lists of messages, or \
                       {\"prompt_input_ids\": [...], \"completion_input_ids\": [...], \"label\": true}";
const PROMPT_IDS: &str = "prompt_input_ids";

/// Reads a file of preferences, or the files of a directory's split, and gives each completion to `keep` in the order of
/// the store; a bad row goes to `bad`, which may end it. The first row says how preferences are given.
///
/// # Errors
/// When a file cannot be read, and with its file and line when a row cannot be used: it has not the form, its
/// completions are the same, one is empty, the prompt fills the length; when all rows have the same label.
pub(in crate::data) fn each(
    path: &Path,
    encoder: Option<&TextEncoder>,
    options: &ReadOptions,
    tally: &mut Tally,
    keep: &mut dyn FnMut(Example) -> Result<()>,
    bad: &mut dyn FnMut(Error) -> Result<()>,
) -> Result<About> {
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
    let mut reader = RowReader::new(encoder, options);
    let (mut labeled, mut format) = (Labeled::new(options.max_seq_len), None);
    let files = layout::files(path, options.split)?;
    for file in &files {
        if files.len() > 1 {
            tally.file(file);
        }
        let mut reading = Reading { path: Arc::from(&**file), options, rows: &mut reader, tally, format };
        reading.file(&mut labeled, keep, bad)?;
        format = reading.format;
    }
    let named = if let [file] = files.as_slice() { file } else { path };
    let rows = tally.rows();
    if rows == 0 && format.is_none() {
        return Err(
            Error::data(named, None, ErrorKind::Empty, "the file holds no row").expected("at least one")
        );
    }
    let (grouping, what) = match format {
        Some(format) if format == Format::Labeled || options.unpair => {
            let [all, desirable] = labeled.desirable.counts();
            match labeled.finish(named, keep) {
                Ok(()) => {}
                Err(error) => bad(error)?,
            }
            let what = match format {
                Format::Labeled => format!("{rows} completions with a label, {desirable} of {all} desirable"),
                Format::Pairs => counted(rows, "pair") + ", each read as two completions with a label",
            };
            (Grouping::Labeled(labeled.desirable), what)
        }
        _ => (Grouping::Pairs, counted(rows, "pair") + " of a chosen and a rejected completion"),
    };
    let mut notes = vec![what];
    notes.extend(tally.notes(&reader, options));
    Ok(About { path: named.to_path_buf(), document: false, notes, grouping })
}

/// Whether the first row of a file is a pair of a chosen and a rejected completion.
pub fn are_pairs(path: &Path, options: &ReadOptions) -> bool {
    let Ok(files) = layout::files(path, options.split) else { return false };
    let Some((file, kind)) = files.first().and_then(|file| Some((file, source::kind(file).ok()?))) else {
        return false;
    };
    let mut pair = None;
    let _ = source::each_row(file, kind, None, &options.columns, &mut |line, raw| {
        let (value, _) = raw.value(file, line, &options.columns, &mut Seen::default())?;
        let has =
            |keys: [&str; 2]| keys.iter().all(|key| value.get(*key).is_some_and(|value| !value.is_null()));
        pair = Some(has(["chosen", "rejected"]) || has(["chosen_input_ids", "rejected_input_ids"]));
        // The others need not be read.
        Err(Error::usage(ErrorKind::State, "found"))
    });
    pair == Some(true)
}

/// Completions with a label so far, and what mismatched ones are made of: the completion before, or where that answers
/// the same prompt, the last one that answers another.
struct Labeled {
    /// The most tokens of a row.
    most: usize,
    desirable: Bits,
    first: Option<Example>,
    last: Option<Example>,
    /// The last row with another prompt than that of `last`.
    other: Option<Example>,
}

impl Labeled {
    fn new(most: Option<usize>) -> Self {
        let (most, desirable) = (most.unwrap_or(usize::MAX), Bits::default());
        Self { most, desirable, first: None, last: None, other: None }
    }

    fn row(
        &mut self,
        row: Example,
        desirable: bool,
        keep: &mut dyn FnMut(Example) -> Result<()>,
    ) -> Result<()> {
        self.desirable.push(desirable);
        keep(row.clone())?;
        let Some(before) = self.last.replace(row.clone()) else {
            self.first = Some(row);
            return Ok(());
        };
        if prompt(&before) != prompt(&row) {
            self.other = Some(before.clone());
        }
        keep(mismatched(&row, self.other.as_ref().unwrap_or(&before), self.most))
    }

    /// After the last row.
    fn finish(&mut self, path: &Path, keep: &mut dyn FnMut(Example) -> Result<()>) -> Result<()> {
        let Some((first, last)) = self.first.take().zip(self.last.take()) else { return Ok(()) };
        let [all, good] = self.desirable.counts();
        if good == 0 || good == all {
            let problem = format!("`label` is {} in all {all} rows; kto compares both kinds", good > 0);
            return Err(Error::data(path, Some(first.origin.line), ErrorKind::Empty, problem)
                .hint("add rows with the other label, or train on completions with ‘objective’ sft"));
        }
        let same = prompt(&first) == prompt(&last);
        let partner = self.other.as_ref().filter(|_| same).unwrap_or(&last);
        keep(mismatched(&first, partner, self.most))
    }
}

/// The tokens before a row's completion.
fn prompt(row: &Example) -> &[u32] {
    &row.tokens[..row.labels.iter().take_while(|label| **label == UNTRAINED).count()]
}

/// A row's prompt with the completion of another, cut as rows are.
fn mismatched(row: &Example, other: &Example, most: usize) -> Example {
    let (own, theirs) = (prompt(row).len(), prompt(other).len());
    let mut tokens = row.tokens[..own].to_vec();
    tokens.extend_from_slice(&other.tokens[theirs..]);
    tokens.truncate(most);
    let mut labels = vec![UNTRAINED; own];
    labels.extend_from_slice(&other.labels[theirs..]);
    labels.truncate(most);
    Example { tokens, labels, origin: row.origin.clone() }
}

/// The completions of a row.
enum Completions {
    Pair([Example; 2]),
    Labeled(Example, bool),
}

/// A file being read.
struct Reading<'r, 'a> {
    path: Arc<Path>,
    options: &'a ReadOptions,
    rows: &'r mut RowReader<'a>,
    tally: &'r mut Tally,
    /// How preferences are given, once there was a row.
    format: Option<Format>,
}

impl Reading<'_, '_> {
    fn file(
        &mut self,
        labeled: &mut Labeled,
        keep: &mut dyn FnMut(Example) -> Result<()>,
        bad: &mut dyn FnMut(Error) -> Result<()>,
    ) -> Result<()> {
        let path = Arc::clone(&self.path);
        let kind = source::kind(&path)?;
        if kind == source::Kind::Document {
            return Err(Error::data(&path, None, ErrorKind::WrongType, "")
                .expected("rows of preferences")
                .found("a plain text")
                .hint(PAIRS));
        }
        let columns = &self.options.columns;
        let mut seen = Seen::default();
        source::each_row(&path, kind, None, columns, &mut |line, raw| {
            let row = match raw.value(&path, line, columns, &mut seen) {
                Ok((value, _)) => self.row(&value, line),
                Err(error) => return bad(error),
            };
            match row {
                Ok(Completions::Pair([chosen, rejected])) if self.options.unpair => {
                    labeled.row(chosen, true, keep)?;
                    labeled.row(rejected, false, keep)
                }
                Ok(Completions::Pair([chosen, rejected])) => {
                    keep(chosen)?;
                    keep(rejected)
                }
                Ok(Completions::Labeled(row, desirable)) => labeled.row(row, desirable, keep),
                Err(error) => bad(located(seen.instead(error), &path, line)),
            }
        })?;
        seen.end(columns).map_err(|e| at_file(e, &path))
    }

    fn row(&mut self, value: &Value, line: usize) -> Result<Completions> {
        let row = &settled(value.as_object().ok_or_else(|| {
            Error::usage(ErrorKind::WrongType, "the row")
                .is(type_of(value))
                .expected("a JSON object")
                .hint(PAIRS)
        })?);
        match *self.format.get_or_insert_with(|| Format::of(row)) {
            Format::Pairs => self.pair(row, line).map(Completions::Pair),
            Format::Labeled => {
                self.labeled(row, line).map(|(row, desirable)| Completions::Labeled(row, desirable))
            }
        }
    }

    fn pair(&mut self, row: &Map<String, Value>, line: usize) -> Result<[Example; 2]> {
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
            let answer = answer(row);
            [self.text(chosen, answer, keys[0])?, self.text(rejected, answer, keys[1])?]
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

    fn labeled(&mut self, row: &Map<String, Value>, line: usize) -> Result<(Example, bool)> {
        let tokenized = given(row, PROMPT_IDS).is_some() || given(row, "completion_input_ids").is_some();
        let key = if tokenized { "completion_input_ids" } else { answer(row) };
        required(row, key, LABELED)?;
        let label = label(row).map_or_else(|| required(row, "label", LABELED), Ok)?;
        let desirable = match label {
            Value::Bool(label) => *label,
            Value::Number(n) if n.as_f64() == Some(1.0) => true,
            Value::Number(n) if n.as_f64() == Some(0.0) => false,
            other => {
                let found = if other.is_number() { other.to_string() } else { type_of(other).to_owned() };
                return Err(Error::usage(ErrorKind::WrongType, "`label`")
                    .is(found)
                    .expected("true or false")
                    .hint(LABELED));
            }
        };
        let read = if tokenized {
            self.tokens(row, key)?
        } else {
            let mut row = row.clone();
            row.retain(|key, _| !LABELS.contains(&&**key));
            self.text(row, key, key)?
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

    /// A row with its completion under the key `answer`; the file has it under `key`.
    fn text(&mut self, row: Map<String, Value>, answer: &str, key: &str) -> Result<Row> {
        let blank = |message: &Value| match message {
            Value::Object(turn) => {
                let says =
                    ["content", "value"].iter().any(|key| turn.get(*key).is_some_and(|text| !is_blank(text)));
                !says && !turn.contains_key("tool_calls")
            }
            other => is_blank(other),
        };
        let empty = match &row[answer] {
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

/// Keys that say whether a completion is desirable: TRL's, and LLaMA-Factory's.
const LABELS: [&str; 2] = ["label", "kto_tag"];

fn label(row: &Map<String, Value>) -> Option<&Value> {
    LABELS.iter().find_map(|key| row.get(*key).filter(|value| !value.is_null()))
}

/// The key of the completion beside what a row asks.
fn answer(row: &Map<String, Value>) -> &'static str {
    let has = |key| given(row, key).is_some();
    match () {
        () if has("prompt") => "completion",
        () if has("instruction") => "output",
        () if has("question") => "answer",
        () => "completion",
    }
}

/// A row as TRL writes it, where LLaMA-Factory's gives the prompt as `conversations` or `messages`, and a completion as a
/// turn or as the last of these.
fn settled(row: &Map<String, Value>) -> Map<String, Value> {
    let mut row = row.clone();
    for key in ["chosen", "rejected"] {
        if let Some(turn @ Value::Object(_)) = row.get(key) {
            let turn = turn.clone();
            row.insert(key.to_owned(), vec![turn].into());
        }
    }
    let turns =
        ["messages", "conversations"].into_iter().find(|key| row.get(*key).is_some_and(Value::is_array));
    let Some(key) = turns.filter(|_| given(&row, "prompt").is_none()) else { return row };
    let Some(Value::Array(mut turns)) = row.remove(key) else { return row };
    if label(&row).is_some() && given(&row, "chosen").is_none() && given(&row, "completion").is_none() {
        let last = turns.pop();
        row.insert("completion".to_owned(), last.into_iter().collect());
    }
    row.insert("prompt".to_owned(), turns.into());
    row
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
    let answer = answer(row);
    if answer != "completion" {
        return Ok([chosen, rejected].map(|completion| {
            let mut row = rest.clone();
            row.insert(answer.to_owned(), completion);
            row
        }));
    }
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
