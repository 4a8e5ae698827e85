//! What a data file is like, every bad row of it named.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dataset::Reading;
use super::forms::Form;
use super::notes::Tally;
use super::rows::RowReader;
use super::token_file::About;
use super::{
    ChatFormat, Example, FileRows, Grouping, ReadOptions, TextEncoder, UNTRAINED, layout, preferences, source,
};
use crate::{Error, ErrorKind, Result};

/// What was found in a file. Lines are counted from 1.
#[derive(Debug, Default)]
pub struct Checked {
    /// The file.
    pub path: PathBuf,
    /// Why rows cannot be used, each with its line.
    pub bad: Vec<Error>,
    /// Rows that can be used; of a plain text its windows.
    pub rows: usize,
    /// Rows of each form that there is.
    pub forms: Vec<(Form, usize)>,
    /// Whether it is one plain text.
    pub document: bool,
    /// Tokens of the rows as they are trained.
    pub tokens: usize,
    /// Those that are predicted and trained.
    pub trained: usize,
    /// Tokens of each row before it is cut or split, in ascending order.
    pub lengths: Vec<usize>,
    /// Rows longer than the limit.
    pub long: Vec<usize>,
    /// Rows whose tokens an earlier row has, with that row.
    pub duplicates: Vec<(usize, usize)>,
    /// Rows that train no token at which generation stops: a model does not learn from them to end.
    pub unstopped: Vec<usize>,
    /// Rows with nothing to train.
    pub bare: Vec<usize>,
    /// Rows of which the chat template leaves something out.
    pub left_out: Vec<usize>,
    /// Rows in which what is trained begins inside a token.
    pub inside: Vec<usize>,
    /// What is said of the file when it is trained on.
    pub notes: Vec<String>,
    /// Which rows belong together: with preferences [`Checked::rows`] counts pairs, or completions with a label.
    pub grouping: Grouping,
}

impl Checked {
    /// The length that a share of the rows does not exceed; `share` from 0 to 1.
    pub fn percentile(&self, share: f64) -> usize {
        let place = (share * self.lengths.len() as f64).ceil() as usize;
        self.lengths.get(place.saturating_sub(1)).copied().unwrap_or(0)
    }
}

impl FileRows {
    /// Looks at every row of a file. `stops` are tokens that end a text, beside those the tokenizer names.
    ///
    /// # Errors
    /// When the file cannot be read. Bad rows are no error here.
    pub fn check(
        path: &Path,
        encoder: Option<&TextEncoder>,
        options: &ReadOptions,
        stops: &[u32],
    ) -> Result<Checked> {
        let files = layout::files(path, options.split)?;
        let [path] = files.as_slice() else {
            return Err(Error::data(
                path,
                None,
                ErrorKind::Unsupported,
                format!("a directory with {} files; they are checked one by one", files.len()),
            )
            .hint("name one of its files"));
        };
        let path = path.clone();
        let (mut bad, mut examples) = (Vec::new(), Vec::new());
        let mut keep = |example| {
            examples.push(example);
            Ok(())
        };
        let stops = Stops::new(encoder, stops);
        if options.preferences {
            let mut tally = Tally::whole();
            let about = preferences::each(&path, encoder, options, &mut tally, &mut keep, &mut |error| {
                bad.push(error);
                Ok(())
            })?;
            return Checked::of_preferences(about, (tally, bad), examples, &stops);
        }
        let kind = source::kind(&path)?;
        let mut reading = Reading::new(&path, options, &mut keep);
        reading.tally = Tally::whole();
        let mut rows = RowReader::new(encoder, options);
        let outcome = reading.all(&mut rows, kind, None, &mut |error| {
            bad.push(error);
            Ok(())
        });
        match outcome {
            // An array that breaks off: the rows before its end were read.
            Err(error @ Error::Data { line: Some(_), .. }) => bad.push(error),
            other => other?,
        }
        let tally = reading.tally;
        let notes = tally.notes(&rows, options);
        let (document, left_out) = (tally.document.is_some(), tally.left_out());
        let mut checked = Checked {
            path,
            bad,
            rows: tally.rows(),
            forms: forms(&tally),
            document,
            tokens: examples.iter().map(|e| e.tokens.len()).sum(),
            trained: examples.iter().map(Example::targets).sum(),
            lengths: tally.lengths.unwrap_or_default(),
            long: tally.long.into_list(),
            bare: tally.bare.into_list(),
            left_out,
            inside: tally.inside.into_list(),
            notes,
            ..Checked::default()
        };
        checked.lengths.sort_unstable();
        if !document {
            checked.duplicates = duplicates(&examples);
            let mut unstopped: Vec<usize> =
                last_pieces(&examples).filter(|e| stops.missing(e)).map(|e| e.origin.line).collect();
            unstopped.dedup();
            checked.unstopped = unstopped;
        }
        Ok(checked)
    }
}

fn forms(tally: &Tally) -> Vec<(Form, usize)> {
    Form::ALL.into_iter().map(|f| (f, tally.forms[f as usize])).filter(|(_, n)| *n > 0).collect()
}

impl Checked {
    /// What was found in a file of preferences, whose completions lie in `store`.
    fn of_preferences(
        about: About,
        (tally, bad): (Tally, Vec<Error>),
        store: Vec<Example>,
        stops: &Stops<'_>,
    ) -> Result<Self> {
        let About { path, notes, grouping, .. } = about;
        let mut checked = Self {
            path,
            bad,
            rows: tally.rows(),
            forms: forms(&tally),
            notes,
            left_out: tally.left_out(),
            lengths: tally.lengths.unwrap_or_default(),
            long: tally.long.into_list(),
            inside: tally.inside.into_list(),
            ..Self::default()
        };
        checked.lengths.sort_unstable();
        // Without mismatched completions, which are those of other rows.
        let own = |at: &usize| !matches!(grouping, Grouping::Labeled(_)) || *at == 0 || at % 2 == 1;
        for completion in (0..store.len()).filter(own).map(|at| &store[at]) {
            checked.tokens += completion.tokens.len();
            checked.trained += completion.targets();
            if stops.missing(completion) {
                checked.unstopped.push(completion.origin.line);
            }
        }
        checked.unstopped.dedup();
        // A file of one kind of labels is incomplete: it is among the bad.
        let rows = grouping.of(Arc::new(store));
        let rows = rows.map(|rows| (0..rows.count()).map(|row| rows.read(row)).collect::<Result<Vec<_>>>());
        checked.duplicates = duplicates(&rows.transpose()?.unwrap_or_default());
        checked.grouping = grouping;
        Ok(checked)
    }
}

/// The last piece of each row.
fn last_pieces(examples: &[Example]) -> impl Iterator<Item = &Example> {
    let next = examples.iter().skip(1).map(Some).chain([None]);
    examples
        .iter()
        .zip(next)
        .filter(|(e, next)| next.is_none_or(|next| !next.origin.same(&e.origin)))
        .map(|(e, _)| e)
}

fn duplicates(examples: &[Example]) -> Vec<(usize, usize)> {
    let mut first: HashMap<&[u32], usize> = HashMap::with_capacity(examples.len());
    let mut found = Vec::new();
    for example in examples {
        let line = example.origin.line;
        let earlier = *first.entry(&example.tokens).or_insert(line);
        if earlier != line && found.last() != Some(&(line, earlier)) {
            found.push((line, earlier));
        }
    }
    found
}

/// The tokens at which generation stops.
pub(super) struct Stops<'a> {
    encoder: Option<&'a TextEncoder>,
    ids: Vec<u32>,
}

/// White space that templates write after a stop token, in tokens at most.
const TRAILING: usize = 3;

impl<'a> Stops<'a> {
    pub(super) fn new(encoder: Option<&'a TextEncoder>, more: &[u32]) -> Self {
        // A template that cannot be read ends no turn.
        let known = |encoder: &TextEncoder| {
            ChatFormat::for_encoder(encoder)
                .map_or_else(|_| encoder.end_ids().to_vec(), |chat| chat.stop_ids(encoder))
        };
        let mut ids = encoder.map(known).unwrap_or_default();
        ids.extend(more);
        Self { encoder, ids }
    }

    /// Whether what a row trains does not end with one.
    fn missing(&self, example: &Example) -> bool {
        let trained = example.labels.iter().skip(1).rev().filter(|label| **label != UNTRAINED);
        let mut last = trained.map(|label| label.cast_unsigned()).take(TRAILING + 1).peekable();
        if self.ids.is_empty() || last.peek().is_none() {
            return false;
        }
        let blank = |id: &u32| {
            let text = self.encoder.and_then(|encoder| encoder.decode(&[*id], false).ok());
            text.is_some_and(|text| !text.is_empty() && text.trim().is_empty())
        };
        !last.find(|id| !blank(id)).is_some_and(|id| self.ids.contains(&id))
    }
}

/// Whether any row ends what is trained with a token at which generation stops, while rows are read.
#[derive(Default)]
pub(super) struct Ends<'a> {
    stops: Option<Stops<'a>>,
    /// Whether there was a row, and one with such an end.
    some: bool,
    stopped: bool,
}

impl<'a> Ends<'a> {
    /// Takes the tokenizer of the rows.
    pub(super) fn know(&mut self, encoder: &'a TextEncoder) {
        self.stops.get_or_insert_with(|| Stops::new(Some(encoder), &[]));
    }

    /// Takes the last piece of a row.
    pub(super) fn row(&mut self, example: &Example) {
        self.some = true;
        self.stopped = self.stopped || self.stops.as_ref().is_none_or(|stops| !stops.missing(example));
    }

    /// What to say where no row has such an end.
    pub(super) fn never(&self) -> Option<String> {
        let stops = self.stops.as_ref().filter(|_| self.some && !self.stopped)?;
        let encoder = stops.encoder?;
        let named = |id: &u32| encoder.decode(&[*id], false).ok().map(|text| format!("`{}`", text.trim()));
        let names: Vec<String> = stops.ids.iter().take(3).filter_map(named).collect();
        Some(format!(
            "no row ends what is trained with a token at which generation stops ({}): the model does not learn to end",
            names.join(", ")
        ))
    }
}

#[cfg(all(test, feature = "text"))]
mod tests;
