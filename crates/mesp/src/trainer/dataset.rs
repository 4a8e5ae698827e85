//! Training and evaluation rows.

use std::path::Path;
use std::sync::Arc;

use super::Model;
#[cfg(feature = "text")]
use super::text::encoder_for;
use crate::Result;
use crate::data::{Example, Examples, Gathered, Origin, Part, ReadOptions, Rows, split};

/// Tokenized rows to train on, and held-out rows to evaluate. They are in memory, or in a temporary file where they
/// take more than 1 MB, so memory does not grow with the number of rows.
#[derive(Debug, Clone)]
pub struct Dataset {
    rows: Rows,
    /// Whether the rows are windows of one text.
    document: bool,
    notes: Vec<String>,
}

impl Dataset {
    /// Reads and tokenizes rows in any format that `mesp train` takes: JSON lines, a JSON array, CSV, TSV, Parquet,
    /// plain text, or a directory of these. Rows are truncated to 512 tokens, or to the model's maximum length if that
    /// is shorter.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) with the line of a row that cannot be used;
    /// [`Error::File`](crate::Error::File) when a file cannot be read; [`Error::Usage`](crate::Error::Usage) when the
    /// rows are text and the model, or the library's build, has no tokenizer.
    pub fn read(path: impl AsRef<Path>, model: &Model) -> Result<Self> {
        Self::read_with(path, model, &ReadOptions::for_training(model.config()))
    }

    /// Reads preferences, for [`TrainerBuilder::preference`](super::TrainerBuilder::preference): rows with `prompt`, `chosen`
    /// and `rejected`, or for kto with `prompt`, `completion` and `label` ([`ReadOptions::unpair`] makes these of pairs).
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn read_preferences(path: impl AsRef<Path>, model: &Model) -> Result<Self> {
        let options = ReadOptions { preferences: true, ..ReadOptions::for_training(model.config()) };
        Self::read_with(path, model, &options)
    }

    /// [`Dataset::read`] with other options: maximum length, columns, which turns are trained.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn read_with(path: impl AsRef<Path>, model: &Model, options: &ReadOptions) -> Result<Self> {
        let path = path.as_ref();
        let encoder = encoder_for(model, path, options)?;
        let gathered = Gathered::read(path, encoder.as_ref(), options, &std::env::temp_dir())?;
        Ok(Self {
            document: gathered.about.document,
            notes: gathered.about.notes.clone(),
            ..Self::of(gathered.rows)
        })
    }

    /// From rows that are tokenized already. Error messages name them `rows:1`, `rows:2` and so on.
    pub fn from_examples(mut examples: Vec<Example>) -> Self {
        let path: Arc<Path> = Arc::from(Path::new("rows"));
        for (i, example) in examples.iter_mut().enumerate() {
            example.origin = Origin { path: Arc::clone(&path), line: i + 1 };
        }
        Self::of(Arc::new(examples))
    }

    /// From any source of tokenized rows.
    pub fn of(train: Arc<dyn Examples>) -> Self {
        Self { rows: Rows::of(train), document: false, notes: Vec::new() }
    }

    /// Uses the rows of another dataset as held-out rows: they are evaluated and never trained.
    #[must_use]
    pub fn with_eval(mut self, held_out: &Self) -> Self {
        self.rows.heap += held_out.rows.train.heap_bytes();
        self.rows.eval = Arc::clone(&held_out.rows.train);
        self
    }

    /// Holds out a share of the rows, chosen at random by `seed`. Equal rows stay on one side; for a plain text the end
    /// of the text is held out.
    ///
    /// # Errors
    /// When the share is not between 0 and 1, or leaves no row on one side; when a row cannot be read.
    pub fn hold_out(self, share: f64, seed: u64) -> Result<Self> {
        let rows = self.rows.train;
        let chosen = split(&*rows, self.document, share, seed)?;
        let mut others = chosen.clone();
        others.invert();
        let eval = Part { all: Arc::clone(&rows), chosen };
        let train = Part { all: rows, chosen: others };
        let heap = self.rows.heap + eval.heap_bytes() + train.heap_bytes();
        Ok(Self { rows: Rows { train: Arc::new(train), eval: Arc::new(eval), heap }, ..self })
    }

    /// The rows.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Notes for the user about the files, such as truncated rows and parts of rows that are not used.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// There is none; rows of text are refused with their line.
#[cfg(not(feature = "text"))]
#[expect(clippy::unnecessary_wraps, reason = "as the one that reads a tokenizer")]
fn encoder_for(_: &Model, _: &Path, _: &ReadOptions) -> Result<Option<crate::data::TextEncoder>> {
    Ok(None)
}
