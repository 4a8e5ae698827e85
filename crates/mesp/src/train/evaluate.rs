//! Evaluation: losses of rows, forward pass only.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use mesp_device::Backend;

use super::Session;
use crate::Result;
use crate::data::{BatchSize, Examples, RaggedBatch, RowSize};
use crate::model::Batch;

/// The losses of some rows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Sum of the losses of target tokens, in nats.
    pub nats: f64,
    /// Target tokens.
    pub targets: usize,
    /// The number of target tokens that had the largest logit.
    pub correct: usize,
}

impl Score {
    /// Mean loss, in nats per target token.
    pub fn loss(&self) -> f64 {
        self.nats / self.targets as f64
    }

    /// Share of target tokens that had the largest logit, 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.targets as f64
    }

    fn add(&mut self, other: Self) {
        self.nats += other.nats;
        self.targets += other.targets;
        self.correct += other.correct;
    }
}

/// Host buffers in which batches are assembled, allocated once.
#[derive(Debug, Default)]
pub struct Staging {
    /// Rows end to end.
    pub ragged: RaggedBatch,
    /// The batch as the model reads it.
    pub batch: Batch,
}

impl Staging {
    /// Replaces the batch by the rows of a range.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn fill(&mut self, examples: &dyn Examples, rows: Range<usize>) -> Result<()> {
        self.ragged.clear();
        for row in rows {
            examples.append(row, &mut self.ragged)?;
        }
        self.take();
        Ok(())
    }

    /// The rows end to end as the engine reads them.
    pub(super) fn take(&mut self) -> &Batch {
        let Self { ragged, batch } = self;
        batch.fill(&ragged.tokens, &ragged.labels, &ragged.offsets);
        if !ragged.judged.is_empty() {
            batch.judge(&ragged.judged);
        }
        batch
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
    let (size, count) = (size.into(), examples.count());
    let (mut total, mut first) = (Score::default(), 0);
    while first < count {
        let end = size.end(first, count, |row| Ok(examples.size(row)?.tokens))?;
        staging.fill(examples, first..end)?;
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
        first = end;
    }
    Ok(total)
}

/// The largest batch that `batch_size` rows of `examples` can make, for a plan: the most tokens, the most
/// targets and the most probabilities that any of them together have.
///
/// # Errors
/// When a row cannot be read.
pub fn largest_batch(examples: &dyn Examples, batch_size: usize) -> Result<Batch> {
    let most = batch_size.clamp(1, examples.count().max(1));
    let (mut lengths, mut targets) = (Top::new(most), Top::new(most));
    examples.each_size(&mut |_, size| {
        lengths.take(size.tokens);
        targets.take(size.targets);
    })?;
    let (lengths, targets) = (lengths.descending(), targets.descending());
    let mut offsets = vec![0];
    for length in &lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    let probs = lengths.iter().map(|l| l * l).sum();
    Ok(Batch::for_plan(offsets[offsets.len() - 1], targets.iter().sum(), probs, &offsets))
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
    for row in 0..examples.count() {
        let row = examples.read(row)?;
        take(row.tokens.len() as u64);
        row.tokens.iter().for_each(|t| take(u64::from(*t)));
        row.labels.iter().for_each(|l| take(u64::from(l.cast_unsigned()) | 1 << 40));
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
        let (mut targets, mut end) = (0, 0);
        for row in rows {
            end += row.tokens;
            self.scratch.push(end);
            targets += row.targets;
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
