//! A data file as a whole: every row read, what is worth knowing counted.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::check::Ends;
use super::columns::{Columns, Seen};
use super::long_row::{self, LongRow};
use super::notes::{Tally, counted};
use super::remarks::Remark;
use super::rows::{Row, RowReader};
use super::source::Raw;
use super::token_file::About;
use super::{Example, Form, Grouping, Origin, TextEncoder, layout, preferences, source};
use crate::arch::Config;
use crate::{Error, ErrorKind, Result};

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
    /// Whether rows are preferences: a chosen and a rejected completion, or a completion with a label.
    pub preferences: bool,
    /// Whether a pair is read as two completions with a label, for kto.
    pub unpair: bool,
    /// The split that is meant when a directory is given.
    pub split: &'static str,
}

impl ReadOptions {
    /// The longest rows of a training run, unless told otherwise.
    pub const TRAINING_LENGTH: usize = 512;

    /// The defaults for training a model: rows of at most [`ReadOptions::TRAINING_LENGTH`] tokens, or as many as the model
    /// was made for.
    pub fn for_training(config: &Config) -> Self {
        let longest = Self::TRAINING_LENGTH.min(config.max_positions);
        Self { max_seq_len: Some(longest), ..Self::new(config.vocab_size) }
    }

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
            preferences: false,
            unpair: false,
            split: "train",
        }
    }
}

/// The rows of a file, in the order of the file.
#[derive(Debug, Clone)]
pub struct FileRows {
    /// The file that was read, or the directory of several.
    pub path: PathBuf,
    /// Its rows. A row may have nothing to train; [`Batches`](super::Batches) passes over it.
    pub examples: Vec<Example>,
    /// What a reader of the log should know: forms found, rows cut, rows with nothing to train.
    pub notes: Vec<String>,
    /// Whether the file is one plain text, and its rows are windows of it.
    pub document: bool,
}

impl FileRows {
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
        if options.preferences {
            return Err(Error::usage(ErrorKind::State, "rows of preferences belong together")
                .hint("read them with `Gathered::read`, which keeps them so"));
        }
        let mut examples = Vec::new();
        let about = Self::each(path, encoder, options, &mut |example| {
            examples.push(example);
            Ok(())
        })?;
        Ok(Self::new(about, examples))
    }

    /// Reads rows as [`read`](Self::read) does, and gives each to `keep` as it comes; none but it is in memory.
    ///
    /// # Errors
    /// As [`read`](Self::read), and those of `keep`. Where nothing can be trained the rows were given away already.
    pub fn each(
        path: &Path,
        encoder: Option<&TextEncoder>,
        options: &ReadOptions,
        keep: &mut dyn FnMut(Example) -> Result<()>,
    ) -> Result<About> {
        if options.preferences {
            return preferences::each(path, encoder, options, &mut Tally::default(), keep, &mut Err);
        }
        let mut rows = RowReader::new(encoder, options);
        let files = layout::files(path, options.split)?;
        let mut reading = Reading::new(files.first().map_or(path, |file| file), options, keep);
        for file in &files {
            reading.file(file, files.len() > 1);
            reading.all(&mut rows, source::kind(file)?, None, &mut Err)?;
        }
        let named = if let [file] = files.as_slice() { file } else { path };
        reading.finished(named, &rows)
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
        let mut examples = Vec::new();
        let mut keep = |example| {
            examples.push(example);
            Ok(())
        };
        let (mut rows, mut reading) =
            (RowReader::new(encoder, options), Reading::new(name, options, &mut keep));
        reading.all(&mut rows, kind, Some(content), &mut Err)?;
        let about = reading.finished(name, &rows)?;
        Ok(Self::new(about, examples))
    }

    fn new(about: About, mut examples: Vec<Example>) -> Self {
        let About { path, document, notes, .. } = about;
        // Rows are planned by their number.
        examples.shrink_to_fit();
        Self { path, examples, notes, document }
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
                if needed { Err(Error::usage(ErrorKind::State, "found")) } else { Ok(()) }
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
        /// Of preferences.
        prompt_input_ids: Option<serde::de::IgnoredAny>,
    }
    match row {
        Raw::Tokens(_) => false,
        Raw::Json(text) if columns.is_empty() => {
            text.starts_with('"')
                || source::json::<Tokenized>(text)
                    .is_ok_and(|(row, _)| row.input_ids.is_none() && row.prompt_input_ids.is_none())
        }
        row => row.value(path, line, columns, &mut Seen::default()).is_ok_and(|(row, _)| {
            ["input_ids", "prompt_input_ids"].map(|key| row.get(key).is_none_or(Value::is_null)) == [true; 2]
        }),
    }
}

/// A file, or several, being read.
pub(super) struct Reading<'a> {
    pub(super) path: Arc<Path>,
    options: &'a ReadOptions,
    pub(super) tally: Tally,
    /// Takes every row.
    keep: &'a mut dyn FnMut(Example) -> Result<()>,
    /// Rows that it was given, their targets, and whether one ends with a token that ends a text.
    kept: usize,
    targets: usize,
    ends: Ends<'a>,
    /// The named columns that there are.
    seen: Seen,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        path: &Path,
        options: &'a ReadOptions,
        keep: &'a mut dyn FnMut(Example) -> Result<()>,
    ) -> Self {
        Self {
            path: Arc::from(path),
            options,
            tally: Tally::default(),
            keep,
            kept: 0,
            targets: 0,
            ends: Ends::default(),
            seen: Seen::default(),
        }
    }

    /// Goes on to a file; its lines are named with it where it is one of several.
    pub(super) fn file(&mut self, path: &Path, several: bool) {
        self.path = Arc::from(path);
        if several {
            self.tally.file(path);
        }
    }

    /// What is to be said of the rows.
    fn finished(self, path: &Path, rows: &RowReader<'_>) -> Result<About> {
        let Self { options, tally, kept, targets, ends, .. } = self;
        if kept == 0 {
            return Err(
                Error::data(path, None, ErrorKind::Empty, "the file holds no row").expected("at least one")
            );
        }
        let (mut notes, why) = (tally.notes(rows, options), tally.why_nothing());
        let document = tally.document.is_some();
        // Rows of tokens are as their maker wanted them.
        if !document && tally.forms[Form::Tokens as usize] < tally.rows() {
            notes.extend(ends.never());
        }
        if targets == 0 {
            return Err(Error::data(
                path,
                None,
                ErrorKind::Empty,
                format!("no trainable token in {}", counted(kept, "row")),
            )
            .hint(why));
        }
        Ok(About { path: path.to_path_buf(), document, notes, grouping: Grouping::Single })
    }

    /// Reads every row; a bad one goes to `bad`, which may end it.
    pub(super) fn all(
        &mut self,
        rows: &mut RowReader<'a>,
        kind: source::Kind,
        content: Option<&[u8]>,
        bad: &mut dyn FnMut(Error) -> Result<()>,
    ) -> Result<()> {
        if let Some(length @ ..2) = self.options.max_seq_len {
            return Err(Error::usage(
                ErrorKind::OutOfRange,
                format!("‘max_seq_len’ is {length}, which leaves nothing to predict"),
            )
            .hint("give ‘max_seq_len’ 2 or more"));
        }
        let path = Arc::clone(&self.path);
        if let Ok(encoder) = rows.encoder() {
            self.ends.know(encoder);
        }
        if kind == source::Kind::Document {
            return self.document(rows, source::text(&path, content)?.as_str(&path)?);
        }
        let columns = &self.options.columns;
        source::each_row(&path, kind, content, columns, &mut |line, row| match self.row(rows, line, row) {
            Ok(()) => Ok(()),
            Err(error) => bad(error),
        })?;
        self.seen.end(columns).map_err(|e| at_file(e, &path))
    }

    fn row(&mut self, rows: &mut RowReader<'_>, line: usize, row: Raw<'_>) -> Result<()> {
        if let Raw::Tokens(content) = row {
            let long = long_row::read(content, self.options).map_err(|e| located(e, &self.path, line))?;
            let remarks = rows.unread(&long.others).map_err(|e| located(e, &self.path, line))?;
            let read = Read { form: Form::Tokens, length: long.tokens.count, remarks, inside: false };
            return self.place(line, read, Content::Long(long));
        }
        let (value, odd) = row.value(&self.path, line, &self.options.columns, &mut self.seen)?;
        let Row { form, tokens, labels, length, mut remarks, inside } =
            rows.read(&value).map_err(|e| located(self.seen.instead(e), &self.path, line))?;
        remarks.extend(odd.then_some(Remark::NotANumber));
        self.place(line, Read { form, length, remarks, inside }, Content::Lists(tokens, labels))
    }

    /// Counts a row and gives it away, cut or in pieces where it is too long.
    fn place(&mut self, line: usize, read: Read, mut content: Content) -> Result<()> {
        let Read { form, length, remarks, inside } = read;
        if length == 0 {
            return Err(Error::data(&self.path, Some(line), ErrorKind::Empty, "the row")
                .has("no token")
                .expected("at least one"));
        }
        let limit = self.options.max_seq_len.unwrap_or(usize::MAX);
        let longer = length > limit;
        if longer && self.options.long_rows == LongRows::Error {
            return Err(Error::data(&self.path, Some(line), ErrorKind::OutOfRange, "the row")
                .has(format!("{length} tokens"))
                .expected(format!("at most {limit}"))
                .hint("raise ‘max_seq_len’, shorten the row, or choose ‘long_rows’ truncate or split"));
        }
        let place = self.tally.place(line);
        self.tally.row(form, length, longer, remarks, place);
        if inside {
            self.tally.inside.add(place);
        }
        let (first, targets) = (self.kept, self.targets);
        if longer && self.options.long_rows == LongRows::Split {
            let mut carried = None;
            for piece in pieces(length, limit) {
                let last = piece.end == length;
                let (tokens, labels) = content.next(piece, &mut carried)?;
                self.keep(tokens, labels, line, last)?;
            }
        } else {
            let (tokens, labels) = content.next(0..length.min(limit), &mut None)?;
            self.keep(tokens, labels, line, true)?;
        }
        self.tally.pieces += self.kept - first - 1;
        if self.targets == targets {
            self.tally.bare.add(place);
        }
        Ok(())
    }

    /// Gives a row away, or a piece of one.
    fn keep(&mut self, tokens: Vec<u32>, labels: Vec<i32>, line: usize, last: bool) -> Result<()> {
        let origin = Origin { path: Arc::clone(&self.path), line };
        let example = Example { tokens, labels, origin };
        let targets = example.targets();
        self.kept += 1;
        self.targets += targets;
        if last && targets > 0 {
            self.ends.row(&example);
        }
        (self.keep)(example)
    }

    /// Divides a text into windows. Each begins with the last token of the one before, so that every
    /// token but the first of the text is predicted exactly once.
    fn document(&mut self, rows: &RowReader<'_>, text: &str) -> Result<()> {
        if text.trim().is_empty() {
            return Ok(());
        }
        let length = self.options.max_seq_len.unwrap_or(usize::MAX);
        let path = Arc::clone(&self.path);
        let mut window = Window::default();
        let (mut all, mut line, mut counted) = (0, 1, 0);
        // The line of a window: that of its first token which has bytes.
        let mut line_of = |start: Option<usize>| {
            if let Some(start) = start {
                line += source::newlines(&text.as_bytes()[counted..start.max(counted)]);
                counted = counted.max(start);
            }
            line
        };
        rows.document(text, &mut |token| {
            if window.ids.len() == length {
                let full = std::mem::take(&mut window);
                window.push(full.last);
                self.window(full.ids, line_of(full.first))?;
            }
            all += 1;
            window.push(Some((token.id, token.bytes.map(|bytes| bytes.start))));
            Ok(())
        })
        .map_err(|e| located(e, &path, 1))?;
        if !window.ids.is_empty() {
            self.window(window.ids, line_of(window.first))?;
        }
        let before = self.tally.document.map_or(0, |(tokens, _)| tokens);
        self.tally.document = Some((before + all, self.kept));
        if let Some((objects, lines)) = source::objects_in(text) {
            let (earlier, of) = self.tally.objects.unwrap_or_default();
            self.tally.objects = Some((earlier + objects, of + lines));
        }
        Ok(())
    }

    fn window(&mut self, ids: Vec<u32>, line: usize) -> Result<()> {
        let labels = ids.iter().map(|&id| id.cast_signed()).collect();
        if let Some(lengths) = &mut self.tally.lengths {
            lengths.push(ids.len());
        }
        self.keep(ids, labels, line, false)
    }
}

/// What is known of a row that was read.
struct Read {
    form: Form,
    length: usize,
    remarks: Vec<Remark>,
    inside: bool,
}

/// A row's tokens and labels.
enum Content {
    Lists(Vec<u32>, Vec<i32>),
    Long(LongRow),
}

impl Content {
    /// Those of the next piece, which begins with the last place of the one before: `carried`.
    fn next(
        &mut self,
        piece: Range<usize>,
        carried: &mut Option<(u32, i32)>,
    ) -> Result<(Vec<u32>, Vec<i32>)> {
        let row = match self {
            Self::Lists(tokens, labels) => {
                return Ok((tokens[piece.clone()].to_vec(), labels[piece].to_vec()));
            }
            Self::Long(row) => row,
        };
        let (mut tokens, mut labels) = row.next(piece.len() - usize::from(carried.is_some()))?;
        if let Some((token, label)) = *carried {
            tokens.insert(0, token);
            labels.insert(0, label);
        }
        *carried = tokens.last().copied().zip(labels.last().copied());
        Ok((tokens, labels))
    }
}

/// Tokens of a plain text that become a row.
#[derive(Default)]
struct Window {
    ids: Vec<u32>,
    /// Where the first token begins that has bytes.
    first: Option<usize>,
    last: Option<(u32, Option<usize>)>,
}

impl Window {
    fn push(&mut self, token: Option<(u32, Option<usize>)>) {
        let Some((id, start)) = token else { return };
        self.ids.push(id);
        self.first = self.first.or(start);
        self.last = token;
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
    error.at(path, None)
}

/// Says where a row's problem is.
pub(super) fn located(error: Error, path: &Path, line: usize) -> Error {
    error.at(path, Some(line))
}

#[cfg(all(test, feature = "text"))]
mod tests;
