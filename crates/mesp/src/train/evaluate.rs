//! Losses of rows, forward only.

use mesp_device::Backend;

use super::Session;
use crate::data::{BatchSize, Example, RaggedBatch};
use crate::model::Batch;

/// What some rows came to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Sum of the losses of target tokens, in nats.
    pub nats: f64,
    /// Target tokens.
    pub targets: usize,
    /// Those that were the likeliest.
    pub correct: usize,
}

impl Score {
    /// Mean loss, in nats per target token.
    pub fn loss(&self) -> f64 {
        self.nats / self.targets as f64
    }

    /// Share of target tokens that were the likeliest.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.targets as f64
    }

    fn add(&mut self, other: Self) {
        self.nats += other.nats;
        self.targets += other.targets;
        self.correct += other.correct;
    }
}

/// Buffers of host memory that batches are laid out in, sized once.
#[derive(Debug, Default)]
pub struct Staging {
    /// Rows end to end.
    pub ragged: RaggedBatch,
    /// As the engine reads them.
    pub batch: Batch,
}

impl Staging {
    /// Takes these rows in place of the old ones.
    pub fn fill<'a>(&mut self, rows: impl IntoIterator<Item = &'a Example>) {
        self.ragged.refill(rows);
        self.batch.fill(&self.ragged.tokens, &self.ragged.labels, &self.ragged.offsets);
    }
}

/// Evaluates rows in their order, as many at a time as `size` allows; `row(index, score)` is called for each.
pub fn evaluate<B: Backend>(
    session: &mut Session<B>,
    examples: &[Example],
    size: impl Into<BatchSize>,
    staging: &mut Staging,
    row: &mut dyn FnMut(usize, Score),
) -> Score {
    let size = size.into();
    let (mut total, mut first) = (Score::default(), 0);
    while first < examples.len() {
        let chunk = &examples[first..][..size.first(examples[first..].iter().map(|e| e.tokens.len()))];
        staging.fill(chunk);
        let batch = &staging.batch;
        let stats = if batch.targets() > 0 { session.evaluate(batch) } else { &[] };
        let mut next = 0;
        for (r, end) in batch.offsets[1..].iter().enumerate() {
            let mut score = Score::default();
            while next < stats.len() && (batch.target_rows[next] as usize) < *end {
                let correct = stats[next].best == batch.target_labels[next];
                score.add(Score { nats: stats[next].nats(), targets: 1, correct: usize::from(correct) });
                next += 1;
            }
            row(first + r, score);
            total.add(score);
        }
        first += chunk.len();
    }
    total
}

/// The largest batch that `batch_size` rows of `examples` can make, for a plan: the most tokens, the most
/// targets and the most probabilities that any of them together have.
pub fn largest_batch(examples: &[Example], batch_size: usize) -> Batch {
    let top = |mut values: Vec<usize>| {
        values.sort_unstable_by(|a, b| b.cmp(a));
        values.truncate(batch_size.max(1));
        values
    };
    let lengths = top(examples.iter().map(|e| e.tokens.len()).collect());
    let targets: usize = top(examples.iter().map(Example::targets).collect()).iter().sum();
    let mut offsets = vec![0];
    for length in &lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    let probs = lengths.iter().map(|l| l * l).sum();
    Batch::for_plan(offsets[offsets.len() - 1], targets, probs, &offsets)
}

/// A number that changes with the rows, their order, and what of them is trained, for telling whether a run goes
/// on with the data that it began with (FNV-1a, 64 bits).
pub fn fingerprint(examples: &[Example]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |value: u64| hash = (hash ^ value).wrapping_mul(0x0100_0000_01b3);
    for row in examples {
        take(row.tokens.len() as u64);
        row.tokens.iter().for_each(|t| take(u64::from(*t)));
        row.labels.iter().for_each(|l| take(u64::from(l.cast_unsigned()) | 1 << 40));
    }
    format!("{hash:016x}")
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
    pub fn add<'a>(&mut self, rows: impl IntoIterator<Item = &'a Example>) {
        self.scratch.clear();
        self.scratch.push(0);
        let (mut targets, mut end) = (0, 0);
        for row in rows {
            end += row.tokens.len();
            self.scratch.push(end);
            targets += row.targets();
        }
        self.targets = self.targets.max(targets);
        self.probs = self.probs.max(mesp_device::probs_len(&self.scratch));
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
