//! A data file as a whole: every row read, what is worth knowing counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::notes::{Tally, counted};
use super::rows::RowReader;
use super::{Example, Origin, TextEncoder, source};
use crate::{Error, Result};

/// How rows with `prompt` and `completion` become one text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PromptStyle {
    /// The two are joined as they stand.
    #[default]
    Raw,
    /// A turn of the user and one of the assistant, in the model's chat format.
    Chat,
}

/// How a data file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// The model's vocabulary; tokens and labels must lie below it.
    pub vocab_size: usize,
    /// Rows are cut to so many tokens, and a plain text is divided into windows of so many.
    pub max_seq_len: Option<usize>,
    /// Whether prompts, and the turns of users, are trained too.
    pub train_on_prompt: bool,
    /// Whether a text ends with the model's end-of-text token.
    pub append_eos: bool,
    /// How rows with `prompt` and `completion` become one text.
    pub prompt_style: PromptStyle,
    /// The file that is meant when a directory is given.
    pub in_directory: &'static str,
}

impl ReadOptions {
    /// The defaults for a model with so many tokens in its vocabulary.
    pub fn new(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            max_seq_len: None,
            train_on_prompt: false,
            append_eos: true,
            prompt_style: PromptStyle::Raw,
            in_directory: "train.jsonl",
        }
    }
}

/// The rows of a file, in the order of the file.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The file that was read.
    pub path: PathBuf,
    /// Its rows. A row may have nothing to train; [`Batches`](super::Batches) passes over it.
    pub examples: Vec<Example>,
    /// What a reader of the log should know: forms found, rows cut, rows with nothing to train.
    pub notes: Vec<String>,
}

impl Dataset {
    /// Reads a file, or in a directory the file `options.in_directory`.
    ///
    /// # Errors
    /// When the file cannot be read, when a row cannot be used (with its line), when there is no row, or
    /// when no row has anything to train.
    pub fn read(path: &Path, encoder: Option<&TextEncoder>, options: &ReadOptions) -> Result<Self> {
        if let Some(length @ ..2) = options.max_seq_len {
            let problem = format!("a maximum sequence length of {length} leaves nothing to predict");
            return Err(Error::usage(problem).hint("give --max-seq-len 2 or more"));
        }
        let path = source::locate(path, options.in_directory)?;
        let kind = source::kind(&path)?;
        let mut reading = Reading {
            path: Arc::from(path.as_path()),
            options,
            tally: Tally::default(),
            examples: Vec::new(),
        };
        let mut rows = RowReader::new(encoder, options);
        if kind == source::Kind::Document {
            reading.document(&rows)?;
        } else {
            source::each_row(&path, kind, |line, text| reading.row(&mut rows, line, text))?;
        }
        let Reading { examples, tally, .. } = reading;
        if examples.is_empty() {
            return Err(Error::data(&path, None, "the file holds no row; expected at least one"));
        }
        let notes = tally.notes(examples.len(), &rows, options);
        let data = Self { path, examples, notes };
        if data.targets() == 0 {
            let problem = format!("no trainable token in {}", counted(data.examples.len(), "row"));
            return Err(Error::data(&data.path, None, problem).hint(
                "every label is -100, stands first in its row, or was cut off by --max-seq-len; expected at least one \
                 token to predict",
            ));
        }
        Ok(data)
    }

    /// Whether any row is text. A tokenizer costs more memory than a small training run, so a file of
    /// tokenized rows should be read without one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn needs_tokenizer(path: &Path, options: &ReadOptions) -> Result<bool> {
        #[derive(serde::Deserialize)]
        struct Tokenized {
            input_ids: Option<serde::de::IgnoredAny>,
        }
        let path = source::locate(path, options.in_directory)?;
        let kind = source::kind(&path)?;
        if kind == source::Kind::Document {
            return Ok(true);
        }
        let mut needed = false;
        source::each_row(&path, kind, |_, text| {
            // A row that is no JSON is reported by `read`.
            needed |= serde_json::from_str::<Tokenized>(text).is_ok_and(|row| row.input_ids.is_none());
            Ok(())
        })?;
        Ok(needed)
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

struct Reading<'a> {
    path: Arc<Path>,
    options: &'a ReadOptions,
    tally: Tally,
    examples: Vec<Example>,
}

impl Reading<'_> {
    fn row(&mut self, rows: &mut RowReader<'_>, line: usize, text: &str) -> Result<()> {
        let value: Value = serde_json::from_str(text).map_err(|e| self.not_json(line, &e))?;
        let mut row = rows.read(&value).map_err(|e| located(e, &self.path, line))?;
        if row.tokens.is_empty() {
            return Err(Error::data(&self.path, Some(line), "the row has no token; expected at least one"));
        }
        self.tally.forms[row.form as usize] += 1;
        let limit = self.options.max_seq_len.unwrap_or(usize::MAX);
        if row.tokens.len() > limit {
            self.tally.cut += 1;
            self.tally.longest = self.tally.longest.max(row.tokens.len());
            row.tokens.truncate(limit);
            row.labels.truncate(limit);
            row.labels.shrink_to_fit();
        }
        row.tokens.shrink_to_fit();
        self.keep(row.tokens, row.labels, line);
        Ok(())
    }

    fn keep(&mut self, tokens: Vec<u32>, labels: Vec<i32>, line: usize) {
        let example = Example { tokens, labels, origin: Origin { path: Arc::clone(&self.path), line } };
        if example.targets() == 0 {
            self.tally.bare.push(line);
        }
        self.examples.push(example);
    }

    /// Divides a text into windows. Each begins with the last token of the one before, so that every
    /// token but the first of the text is predicted exactly once.
    fn document(&mut self, rows: &RowReader<'_>) -> Result<()> {
        let text = source::text(&self.path)?;
        if text.trim().is_empty() {
            return Ok(());
        }
        let tokens = rows.document(&text).map_err(|e| located(e, &self.path, 1))?;
        let length = self.options.max_seq_len.unwrap_or(tokens.len());
        let (mut start, mut line, mut counted) = (0, 1, 0);
        loop {
            let end = tokens.len().min(start + length);
            let window = &tokens[start..end];
            if let Some(bytes) = window.iter().find_map(|token| token.bytes.clone()) {
                line += source::newlines(&text.as_bytes()[counted..bytes.start.max(counted)]);
                counted = counted.max(bytes.start);
            }
            let ids: Vec<u32> = window.iter().map(|token| token.id).collect();
            let labels = ids.iter().map(|&id| id.cast_signed()).collect();
            self.keep(ids, labels, line);
            if end == tokens.len() {
                break;
            }
            start = end - 1;
        }
        self.tally.document = Some(tokens.len());
        Ok(())
    }

    fn not_json(&self, line: usize, error: &serde_json::Error) -> Error {
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
        let problem = format!("not valid JSON at column {}: {reason}", error.column());
        // An element of an array may run over several lines.
        Error::data(&self.path, Some(line + error.line().saturating_sub(1)), problem)
            .hint("expected one JSON object on each line, or in a .json file one array of objects")
    }
}

/// Says where a row's problem is.
fn located(error: Error, path: &Path, line: usize) -> Error {
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
