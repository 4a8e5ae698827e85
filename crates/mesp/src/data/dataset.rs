//! A data file as a whole: every row read, what is worth knowing counted.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::check::Stops;
use super::columns::{Columns, Seen};
use super::notes::{Tally, counted};
use super::remarks::Remark;
use super::rows::{Row, RowReader};
use super::source::Raw;
use super::{Example, Form, Origin, TextEncoder, layout, source};
use crate::{Error, Result};

/// How rows with `prompt` and `completion` become one text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PromptStyle {
    /// Prompt and completion are joined as they stand; questions and instructions are turns where the model has a
    /// chat template, and stand under headings where it has none.
    #[default]
    Auto,
    /// The two are joined as they stand, or under headings.
    Raw,
    /// A turn of the user and one of the assistant, in the model's chat format.
    Chat,
}

/// Which tokens are trained. Rows that bring their own labels, and texts, are not asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrainOn {
    /// Completions, and every turn of the assistant.
    #[default]
    Assistant,
    /// Completions, and the assistant's last turn.
    Last,
    /// Everything: prompts, and the turns of users, too.
    All,
}

/// What becomes of rows that are longer than [`ReadOptions::max_seq_len`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LongRows {
    /// They lose their end.
    #[default]
    Truncate,
    /// They become several rows, each beginning with the last token of the one before.
    Split,
    /// They are refused.
    Error,
}

/// How a data file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// The model's vocabulary; tokens and labels must lie below it.
    pub vocab_size: usize,
    /// The most tokens of a row. A plain text is divided into windows of so many.
    pub max_seq_len: Option<usize>,
    /// What becomes of longer rows.
    pub long_rows: LongRows,
    /// Which tokens are trained.
    pub train_on: TrainOn,
    /// Whether a text ends with the model's end-of-text token.
    pub append_eos: bool,
    /// How rows with `prompt` and `completion` become one text.
    pub prompt_style: PromptStyle,
    /// The names of columns in the file.
    pub columns: Columns,
    /// The split that is meant when a directory is given.
    pub split: &'static str,
}

impl ReadOptions {
    /// The defaults for a model with so many tokens in its vocabulary.
    pub fn new(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            max_seq_len: None,
            long_rows: LongRows::Truncate,
            train_on: TrainOn::Assistant,
            append_eos: true,
            prompt_style: PromptStyle::Auto,
            columns: Columns::default(),
            split: "train",
        }
    }
}

/// The rows of a file, in the order of the file.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The file that was read, or the directory of several.
    pub path: PathBuf,
    /// Its rows. A row may have nothing to train; [`Batches`](super::Batches) passes over it.
    pub examples: Vec<Example>,
    /// What a reader of the log should know: forms found, rows cut, rows with nothing to train.
    pub notes: Vec<String>,
    /// Whether the file is one plain text, and its rows are windows of it.
    pub document: bool,
}

impl Dataset {
    /// Whether a file is one plain text; false also where it cannot be read.
    pub fn is_document(path: &Path) -> bool {
        source::kind(path).is_ok_and(|kind| kind == source::Kind::Document)
    }

    /// Reads a file, or in a directory the files of the split `options.split` ([`files`](super::files)).
    ///
    /// # Errors
    /// When the file cannot be read, when a row cannot be used (with its line), when there is no row, or
    /// when no row has anything to train.
    pub fn read(path: &Path, encoder: Option<&TextEncoder>, options: &ReadOptions) -> Result<Self> {
        let mut rows = RowReader::new(encoder, options);
        let files = layout::files(path, options.split)?;
        let mut reading = Reading::new(files.first().map_or(path, |file| file), options);
        for file in &files {
            reading.file(file, files.len() > 1);
            reading.all(&mut rows, source::kind(file)?, None, &mut Err)?;
        }
        let named = if let [file] = files.as_slice() { file } else { path };
        Self::finished(named, reading, &rows)
    }

    /// Reads a file's content; its name says what kind of file it is.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(
        name: &Path,
        content: &[u8],
        encoder: Option<&TextEncoder>,
        options: &ReadOptions,
    ) -> Result<Self> {
        let kind = source::kind_of(name, content)?;
        let (mut rows, mut reading) = (RowReader::new(encoder, options), Reading::new(name, options));
        reading.all(&mut rows, kind, Some(content), &mut Err)?;
        Self::finished(name, reading, &rows)
    }

    fn finished(path: &Path, reading: Reading<'_>, rows: &RowReader<'_>) -> Result<Self> {
        let Reading { options, examples, tally, .. } = reading;
        if examples.is_empty() {
            return Err(Error::data(path, None, "the file holds no row; expected at least one"));
        }
        let (mut notes, why) = (tally.notes(rows, options), tally.why_nothing());
        // Rows of tokens are as their maker wanted them.
        if tally.document.is_none() && tally.forms[Form::Tokens as usize] < tally.rows() {
            notes.extend(Stops::new(rows.encoder().ok(), &[]).never(&examples));
        }
        let data = Self { path: path.to_path_buf(), examples, notes, document: tally.document.is_some() };
        if data.targets() == 0 {
            let problem = format!("no trainable token in {}", counted(data.examples.len(), "row"));
            return Err(Error::data(&data.path, None, problem).hint(why));
        }
        Ok(data)
    }

    /// Whether any row is text. A tokenizer costs more memory than a small training run, so a file of
    /// tokenized rows should be read without one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn needs_tokenizer(path: &Path, options: &ReadOptions) -> Result<bool> {
        // The rest of a file that has text need not be read.
        let mut needed = false;
        for file in layout::files(path, options.split)? {
            let kind = source::kind(&file)?;
            if kind == source::Kind::Document {
                return Ok(true);
            }
            let outcome = source::each_row(&file, kind, None, &options.columns, &mut |line, row| {
                // A row that cannot be read is reported by `read`.
                needed |= is_text(row, &file, line, &options.columns);
                if needed { Err(Error::usage("found")) } else { Ok(()) }
            });
            if needed {
                return Ok(true);
            }
            outcome?;
        }
        Ok(false)
    }

    /// The number of tokens in all rows.
    pub fn tokens(&self) -> usize {
        self.examples.iter().map(|example| example.tokens.len()).sum()
    }

    /// The number of trained positions in all rows.
    pub fn targets(&self) -> usize {
        self.examples.iter().map(Example::targets).sum()
    }
}

/// Whether a row has no tokens of its own.
fn is_text(row: Raw<'_>, path: &Path, line: usize, columns: &Columns) -> bool {
    #[derive(serde::Deserialize)]
    struct Tokenized {
        input_ids: Option<serde::de::IgnoredAny>,
    }
    match row {
        Raw::Json(text) if columns.is_empty() => {
            text.starts_with('"')
                || source::json::<Tokenized>(text).is_ok_and(|(row, _)| row.input_ids.is_none())
        }
        row => row
            .value(path, line, columns, &mut Seen::default())
            .is_ok_and(|(row, _)| row.get("input_ids").is_none_or(Value::is_null)),
    }
}

/// A file, or several, being read.
pub(super) struct Reading<'a> {
    pub(super) path: Arc<Path>,
    options: &'a ReadOptions,
    pub(super) tally: Tally,
    pub(super) examples: Vec<Example>,
    /// The named columns that there are.
    seen: Seen,
}

impl<'a> Reading<'a> {
    pub(super) fn new(path: &Path, options: &'a ReadOptions) -> Self {
        let tally = Tally::default();
        Self { path: Arc::from(path), options, tally, examples: Vec::new(), seen: Seen::default() }
    }

    /// Goes on to a file; its lines are named with it where it is one of several.
    pub(super) fn file(&mut self, path: &Path, several: bool) {
        self.path = Arc::from(path);
        if several {
            self.tally.file(path);
        }
    }

    /// Reads every row; a bad one goes to `bad`, which may end it.
    pub(super) fn all(
        &mut self,
        rows: &mut RowReader<'_>,
        kind: source::Kind,
        content: Option<&[u8]>,
        bad: &mut dyn FnMut(Error) -> Result<()>,
    ) -> Result<()> {
        if let Some(length @ ..2) = self.options.max_seq_len {
            let problem = format!("a maximum sequence length of {length} leaves nothing to predict");
            return Err(Error::usage(problem).hint("give --max-seq-len 2 or more"));
        }
        let path = Arc::clone(&self.path);
        if kind == source::Kind::Document {
            return self.document(rows, &source::text(&path, content)?);
        }
        let columns = &self.options.columns;
        source::each_row(&path, kind, content, columns, &mut |line, row| match self.row(rows, line, row) {
            Ok(()) => Ok(()),
            Err(error) => bad(error),
        })?;
        self.seen.end(columns).map_err(|e| at_file(e, &path))
    }

    fn row(&mut self, rows: &mut RowReader<'_>, line: usize, row: Raw<'_>) -> Result<()> {
        let (value, odd) = row.value(&self.path, line, &self.options.columns, &mut self.seen)?;
        let Row { form, mut tokens, mut labels, mut remarks, inside } =
            rows.read(&value).map_err(|e| located(self.seen.instead(e), &self.path, line))?;
        remarks.extend(odd.then_some(Remark::NotANumber));
        if tokens.is_empty() {
            return Err(Error::data(&self.path, Some(line), "the row has no token; expected at least one"));
        }
        let limit = self.options.max_seq_len.unwrap_or(usize::MAX);
        let (length, longer) = (tokens.len(), tokens.len() > limit);
        if longer && self.options.long_rows == LongRows::Error {
            let problem = format!("the row has {length} tokens; expected at most {limit}");
            return Err(Error::data(&self.path, Some(line), problem)
                .hint("raise --max-seq-len, shorten the row, or choose --long-rows truncate or split"));
        }
        let place = self.tally.place(line);
        self.tally.row(form, length, longer, remarks, place);
        if inside {
            self.tally.inside.push(place);
        }
        let first = self.examples.len();
        if longer && self.options.long_rows == LongRows::Split {
            for piece in pieces(length, limit) {
                self.keep(tokens[piece.clone()].to_vec(), labels[piece].to_vec(), line);
            }
        } else {
            if longer {
                tokens.truncate(limit);
                labels.truncate(limit);
                labels.shrink_to_fit();
            }
            tokens.shrink_to_fit();
            self.keep(tokens, labels, line);
        }
        self.tally.pieces += self.examples.len() - first - 1;
        if self.examples[first..].iter().all(|example| example.targets() == 0) {
            self.tally.bare.push(place);
        }
        Ok(())
    }

    fn keep(&mut self, tokens: Vec<u32>, labels: Vec<i32>, line: usize) {
        let origin = Origin { path: Arc::clone(&self.path), line };
        self.examples.push(Example { tokens, labels, origin });
    }

    /// Divides a text into windows. Each begins with the last token of the one before, so that every
    /// token but the first of the text is predicted exactly once.
    fn document(&mut self, rows: &RowReader<'_>, text: &str) -> Result<()> {
        if text.trim().is_empty() {
            return Ok(());
        }
        let tokens = rows.document(text).map_err(|e| located(e, &self.path, 1))?;
        let length = self.options.max_seq_len.unwrap_or(tokens.len());
        let (mut line, mut counted) = (1, 0);
        for piece in pieces(tokens.len(), length) {
            let window = &tokens[piece];
            if let Some(bytes) = window.iter().find_map(|token| token.bytes.clone()) {
                line += source::newlines(&text.as_bytes()[counted..bytes.start.max(counted)]);
                counted = counted.max(bytes.start);
            }
            let ids: Vec<u32> = window.iter().map(|token| token.id).collect();
            let labels = ids.iter().map(|&id| id.cast_signed()).collect();
            if let Some(lengths) = &mut self.tally.lengths {
                lengths.push(ids.len());
            }
            self.keep(ids, labels, line);
        }
        let before = self.tally.document.map_or(0, |(tokens, _)| tokens);
        self.tally.document = Some((before + tokens.len(), self.examples.len()));
        if let Some((objects, lines)) = source::objects_in(text) {
            let (earlier, of) = self.tally.objects.unwrap_or_default();
            self.tally.objects = Some((earlier + objects, of + lines));
        }
        Ok(())
    }
}

/// Ranges of at most `limit` places that cover `length` of them, each beginning with the last of the one before.
fn pieces(length: usize, limit: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = Some(0);
    std::iter::from_fn(move || {
        let begin = start?;
        let end = length.min(begin + limit);
        start = (end < length).then(|| end - 1);
        Some(begin..end)
    })
}

/// Says which file has a problem.
pub(super) fn at_file(error: Error, path: &Path) -> Error {
    match error {
        Error::Usage { problem, hint } => Error::Data { path: path.to_path_buf(), line: None, problem, hint },
        other => other,
    }
}

/// Says where a row's problem is.
pub(super) fn located(error: Error, path: &Path, line: usize) -> Error {
    match error {
        Error::Usage { problem, hint } => {
            Error::Data { path: path.to_path_buf(), line: Some(line), problem, hint }
        }
        other => other,
    }
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
