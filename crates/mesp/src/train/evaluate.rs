//! Evaluation: losses of rows, forward pass only.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use mesp_device::{Backend, RowStat};

use super::divergence::Divergence;
use super::staging::Staging;
use super::{Session, Total};
use crate::Result;
use crate::data::{BatchSize, Example, Examples, RaggedBatch, RowSize};
use crate::model::Batch;
use crate::preference::{self, Completion, Preference, Side, Totals};

/// The losses of some rows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Sum of the losses of target tokens, in nats.
    pub nats: f64,
    /// Target tokens.
    pub targets: usize,
    /// The number of target tokens that had the largest logit.
    pub correct: usize,
    /// What completions came to, where the session's objective is a preference loss.
    pub preferences: Option<preference::Score>,
}

impl Score {
    /// Mean loss: of pairs or completions under a preference loss, else of target tokens in nats.
    pub fn loss(&self) -> f64 {
        self.preferences.as_ref().map_or(self.nats / self.targets as f64, preference::Score::mean_loss)
    }

    /// Share of target tokens that had the largest logit, 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.targets as f64
    }

    fn add(&mut self, other: Self) {
        self.nats += other.nats;
        self.targets += other.targets;
        self.correct += other.correct;
        if let Some(other) = &other.preferences {
            self.preferences.get_or_insert_default().add(other);
        }
    }
}

/// Evaluates rows in order, as many at a time as `size` allows, and calls `row(index, score)` for each.
///
/// # Errors
/// When a row cannot be read.
pub fn evaluate<B: Backend>(
    session: &mut Session<B>,
    examples: &dyn Examples,
    size: impl Into<BatchSize>,
    staging: &mut Staging,
    row: &mut dyn FnMut(usize, Score),
) -> Result<Score> {
    let size = size.into();
    let mut total = Score::default();
    let kind = session.options().objective;
    let mut compared =
        kind.preference().map(|p| Compared::new(session, *p, examples, size, staging)).transpose()?;
    size.each_range(examples, &mut |range| {
        staging.fill(examples, range.clone())?;
        let batch = &staging.batch;
        let stats: &[RowStat] = if batch.targets() > 0 { session.evaluate(batch) } else { &[] };
        if let Some(compared) = &mut compared {
            compared.take(batch, stats);
        }
        let each = kind.sequences();
        let mut next = 0;
        for (r, ends) in batch.offsets[1..].chunks(each).enumerate() {
            let mut score = Score::default();
            while next < stats.len() && (batch.target_rows[next] as usize) < ends[ends.len() - 1] {
                let correct = stats[next].best == batch.target_labels[next];
                score.nats += stats[next].nats();
                score.targets += 1;
                score.correct += usize::from(correct);
                next += 1;
            }
            score.preferences = compared.as_mut().map(|compared| compared.row(r, each));
            row(range.start + r, score);
            total.add(score);
        }
        Ok(())
    })?;
    Ok(total)
}

/// What the rows of an evaluation come to under a preference loss.
struct Compared {
    preference: Preference,
    totals: Totals,
    /// κ of kto, of all rows.
    kl: f64,
    completions: Vec<Completion>,
}

impl Compared {
    fn new<B: Backend>(
        session: &mut Session<B>,
        preference: Preference,
        rows: &dyn Examples,
        size: BatchSize,
        staging: &mut Staging,
    ) -> Result<Self> {
        let Total { count, chosen_tokens } = session.options().objective.total_of(rows, size, staging)?;
        let totals = Totals { examples: count, chosen_tokens };
        let kl = Divergence::of(session, rows, size, staging)?;
        Ok(Self { preference, totals, kl, completions: Vec::new() })
    }

    /// Takes the statistics of a batch.
    fn take(&mut self, batch: &Batch, stats: &[RowStat]) {
        self.completions.clear();
        self.completions.extend(self.preference.completions(batch, stats));
    }

    /// What a row of the batch came to.
    fn row(&self, row: usize, each: usize) -> preference::Score {
        let completions = &self.completions[row * each..(row + 1) * each];
        self.preference.score(completions, self.totals, self.kl, &mut [0.0; 2][..each])
    }
}

/// The largest batch that `batch_size` rows of `examples` can make, for a plan: the most tokens, the most
/// targets and the most probabilities that any of them together have.
///
/// # Errors
/// When a row cannot be read.
pub fn largest_batch(examples: &dyn Examples, batch_size: usize) -> Result<Batch> {
    let most = batch_size.clamp(1, examples.count().max(1));
    let (mut lengths, mut targets, mut squares) = (Top::new(most), Top::new(most), Top::new(most));
    let mut sequences = 1;
    examples.each_size(&mut |_, size| {
        lengths.take(size.tokens);
        targets.take(size.targets);
        squares.take(size.squares);
        sequences = sequences.max(size.sequences);
    })?;
    let (lengths, targets) = (lengths.descending(), targets.descending());
    let mut offsets = vec![0];
    for length in &lengths {
        add_row(&mut offsets, *length, sequences);
    }
    let probs = squares.descending().iter().sum();
    Ok(Batch::for_plan(offsets[offsets.len() - 1], targets.iter().sum(), probs, &offsets))
}

/// Adds a row of so many tokens, which are shared among its sequences.
fn add_row(offsets: &mut Vec<usize>, tokens: usize, sequences: usize) {
    let start = offsets.last().copied().unwrap_or(0);
    offsets.extend((1..=sequences).map(|s| start + tokens * s / sequences));
}

/// The largest of many numbers.
struct Top {
    most: usize,
    heap: BinaryHeap<Reverse<usize>>,
}

impl Top {
    fn new(most: usize) -> Self {
        Self { most, heap: BinaryHeap::new() }
    }

    fn take(&mut self, number: usize) {
        if self.heap.len() < self.most {
            self.heap.push(Reverse(number));
        } else if let Some(mut least) = self.heap.peek_mut()
            && least.0 < number
        {
            *least = Reverse(number);
        }
    }

    fn descending(self) -> Vec<usize> {
        // Sorted by what is reversed: the largest number first.
        self.heap.into_sorted_vec().into_iter().map(|Reverse(number)| number).collect()
    }
}

/// A fingerprint of the rows, their order and their labels (FNV-1a, 64 bits), to check that a resumed run uses the same
/// data.
///
/// # Errors
/// When a row cannot be read.
pub fn fingerprint(examples: &dyn Examples) -> Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |value: u64| hash = (hash ^ value).wrapping_mul(0x0100_0000_01b3);
    let (mut batch, mut preferences) = (RaggedBatch::default(), true);
    for row in 0..examples.count() {
        let Example { tokens, labels, .. } = examples.read(row)?;
        take(tokens.len() as u64);
        for token in &tokens {
            take(u64::from(*token));
        }
        for label in &labels {
            take(u64::from(label.cast_unsigned()) | 1 << 40);
        }
        // Where one completion ends, and which is to be preferred.
        batch.clear();
        if preferences {
            examples.append(row, &mut batch)?;
            preferences = !batch.preferences.is_empty();
        }
        for (label, end) in batch.preferences.iter().zip(&batch.offsets[1..]) {
            take(*end as u64 | u64::from(label.side == Side::Chosen) << 41 | 1 << 42);
        }
    }
    Ok(format!("{hash:016x}"))
}

/// A batch as large in each respect as the largest of several, for a plan.
#[derive(Debug, Default)]
pub struct Largest {
    targets: usize,
    probs: usize,
    sequences: usize,
    /// Where the sequences begin in the batch with the most tokens, and where they end.
    offsets: Vec<usize>,
    scratch: Vec<usize>,
}

impl Largest {
    /// Takes a batch into account.
    pub fn add(&mut self, rows: impl IntoIterator<Item = RowSize>) {
        self.scratch.clear();
        self.scratch.push(0);
        let mut sum = RowSize::default();
        for row in rows {
            add_row(&mut self.scratch, row.tokens, row.sequences);
            sum += row;
        }
        self.targets = self.targets.max(sum.targets);
        self.probs = self.probs.max(sum.squares);
        self.sequences = self.sequences.max(self.scratch.len());
        if self.scratch.last() > self.offsets.last() {
            self.offsets.clone_from(&self.scratch);
        }
    }

    /// The batch.
    pub fn batch(mut self) -> Batch {
        // Sequences without a token: room for their places, and no work.
        let tokens = self.offsets.last().copied().unwrap_or(0);
        self.offsets.resize(self.sequences.max(1), tokens);
        Batch::for_plan(tokens, self.targets, self.probs, &self.offsets)
    }
}
