//! What a session minimizes.

use mesp_device::{Act, Backend, RowStat};

use super::staging::Staging;
use crate::data::{BatchSize, Examples, RaggedBatch, totals};
use crate::gradient::Factors;
use crate::model::{Batch, NextToken, Objective, Preferences, Room, Top};
use crate::preference::{Preference, Score, Totals};
use crate::{Error, ErrorKind, Result};

/// What a session minimizes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum ObjectiveKind {
    /// Next-token cross-entropy of the trained tokens.
    #[default]
    Sft,
    /// A preference loss.
    Preference(Preference),
}

impl ObjectiveKind {
    /// The preference loss, if it is one.
    pub fn preference(&self) -> Option<&Preference> {
        match self {
            Self::Sft => None,
            Self::Preference(preference) => Some(preference),
        }
    }

    /// Completions of a row: two of a pair.
    pub fn sequences(&self) -> usize {
        self.preference().map_or(1, |preference| preference.loss_type.completions())
    }

    /// Refuses rows that are for another objective.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the setting; when a row cannot be read.
    pub fn check_form(&self, rows: &dyn Examples) -> Result<()> {
        const PAIRS: &str = "pairs of a chosen and a rejected completion";
        const LABELED: &str = "completions with a label";
        if rows.count() == 0 {
            return Ok(());
        }
        let batch = first(rows)?;
        let found = match batch.preferences.len() {
            0 => "rows for the next-token loss",
            2 => PAIRS,
            _ => LABELED,
        };
        let file = batch.origins[0].path.display();
        let loss_type = self.preference().map(|preference| preference.loss_type);
        let (expected, hint) = match loss_type {
            None => ("rows for the next-token loss", "give ‘objective’ preference"),
            Some(_) if batch.preferences.is_empty() => (
                "rows of preferences",
                "give rows with `prompt`, `chosen` and `rejected`, or leave ‘objective’ out",
            ),
            Some(kind) if kind.is_paired() => (PAIRS, "‘loss_type’ kto takes completions with a label"),
            Some(_) => (LABELED, "the other values of ‘loss_type’ take pairs"),
        };
        if found == expected {
            return Ok(());
        }
        let name =
            loss_type.map_or("‘objective’ sft".to_owned(), |kind| format!("‘loss_type’ {}", kind.name()));
        Err(Error::usage(ErrorKind::Conflict, format!("{file}: {name} does not take these rows"))
            .expected(expected)
            .found(found)
            .hint(hint))
    }

    /// Refuses rows that are for another objective, or lack the log-probabilities of a reference that it reads.
    ///
    /// # Errors
    /// As [`ObjectiveKind::check_form`].
    pub fn check_rows(&self, rows: &dyn Examples) -> Result<()> {
        self.check_form(rows)?;
        let reads = self.preference().is_some_and(Preference::has_reference) && rows.count() > 0;
        if reads && !rows.has_reference() {
            return Err(Error::usage(ErrorKind::State, "the rows have no log-probabilities of a reference")
                .hint("compute them with `Setup::referenced`, or choose ‘reference’ none"));
        }
        Ok(())
    }

    /// Over what the mean loss of all rows is one; rows are laid out only for a share of the ordinary loss.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn total_of(&self, rows: &dyn Examples, size: BatchSize, staging: &mut Staging) -> Result<Total> {
        let Some(preference) = self.preference() else { return Ok(Total::from(totals(rows)?.0.targets)) };
        if preference.rpo_alpha == 0.0 {
            return Ok(Total::from(rows.count()));
        }
        let mut total = Total::default();
        size.each_range(rows, &mut |range| {
            staging.fill(rows, range)?;
            total += self.total(&staging.batch);
            Ok(())
        })?;
        Ok(total)
    }

    /// What a micro-batch adds to the total of its step.
    pub fn total(&self, batch: &Batch) -> Total {
        let Some(preference) = self.preference() else { return Total::from(batch.targets()) };
        let mut totals = Totals::default();
        let sizes = batch.targets_by_sequence().map(|rows| rows.len());
        totals.add(batch.preferences.iter().map(|label| label.side).zip(sizes), preference.loss_type);
        Total { count: totals.examples, chosen_tokens: totals.chosen_tokens }
    }
}

/// A batch of the first row.
fn first(rows: &dyn Examples) -> Result<RaggedBatch> {
    let mut batch = RaggedBatch::default();
    rows.append(0, &mut batch)?;
    Ok(batch)
}

/// Over what the loss of an optimizer step is a mean, of all of its micro-batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Total {
    /// Trained tokens; of a preference loss pairs, or completions with a label.
    pub count: usize,
    /// Of a preference loss with a share of the ordinary one: trained tokens of its chosen completions.
    pub chosen_tokens: usize,
}

impl From<usize> for Total {
    fn from(count: usize) -> Self {
        Self { count, chosen_tokens: 0 }
    }
}

impl std::ops::AddAssign for Total {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.chosen_tokens += other.chosen_tokens;
    }
}

/// The outcome of an optimizer step or a gradient.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Sum of the losses of trained rows, in nats; of a preference loss that of its pairs.
    pub nats: f64,
    /// Trained rows.
    pub targets: usize,
    /// By what the sum is divided in the mean: trained rows, pairs, or completions with a label.
    pub count: usize,
}

impl Outcome {
    /// Mean loss.
    pub fn loss(&self) -> f64 {
        self.nats / self.count as f64
    }
}

/// What a session holds for its objective.
#[derive(Debug, Default)]
pub(super) struct PreferenceState {
    room: Room,
    /// κ of kto, for the steps from here on.
    pub(super) kl: f64,
    /// That of the step whose losses are probed.
    pub(super) total: Option<Total>,
    /// What the micro-batches of the step came to so far.
    pub(super) score: Score,
}

/// The objective of a micro-batch.
pub(super) enum Target<'a> {
    NextToken(NextToken<'a>),
    Preference(Preferences<'a>, &'a mut Score),
}

impl<'a> Target<'a> {
    pub(super) fn new(
        kind: &ObjectiveKind,
        total: Total,
        stats: &'a mut [RowStat],
        state: &'a mut PreferenceState,
    ) -> Self {
        let Some(&preference) = kind.preference() else {
            return Self::NextToken(NextToken { scale: 1.0 / total.count as f64, stats });
        };
        let PreferenceState { room, kl, score, .. } = state;
        let totals = Totals { examples: total.count, chosen_tokens: total.chosen_tokens };
        let of_batch = Score::default();
        Self::Preference(Preferences { preference, totals, kl: *kl, stats, room, score: of_batch }, score)
    }

    /// What the micro-batch came to; it is added to what the step did.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::NextToken(NextToken { stats, .. }) => {
                let nats = stats.iter().map(RowStat::loss).sum();
                Outcome { nats, targets: stats.len(), count: stats.len() }
            }
            Self::Preference(Preferences { stats, score, .. }, sum) => {
                sum.add(&score);
                Outcome { nats: score.loss, targets: stats.len(), count: score.examples }
            }
        }
    }
}

impl<B: Backend> Objective<B> for Target<'_> {
    fn losses(&mut self, be: &mut B, top: Top<'_>, x: &mut Act) {
        match self {
            Self::NextToken(objective) => objective.losses(be, top, x),
            Self::Preference(objective, _) => objective.losses(be, top, x),
        }
    }

    fn gradient(&mut self, be: &mut B, top: Top<'_>, x: &mut Act, factors: &mut impl Factors<B>) {
        match self {
            Self::NextToken(objective) => objective.gradient(be, top, x, factors),
            Self::Preference(objective, _) => objective.gradient(be, top, x, factors),
        }
    }

    fn of_logits(&self) -> Option<(f64, &[RowStat])> {
        match self {
            Self::NextToken(objective) => Objective::<B>::of_logits(objective),
            Self::Preference(objective, _) => Objective::<B>::of_logits(objective),
        }
    }
}
