//! Which rows a step sees, and how they are laid out.

use super::{Example, Origin, UNTRAINED};
use crate::{Error, Result};

/// How much a batch holds: as many rows as stay within both limits, and always at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize {
    /// The most rows.
    pub rows: usize,
    /// The most tokens. A row that is longer is a batch of its own.
    pub tokens: usize,
}

impl BatchSize {
    /// So many rows, however long they are.
    pub fn rows(rows: usize) -> Self {
        Self { rows, tokens: usize::MAX }
    }

    /// As many rows as fit in so many tokens.
    pub fn tokens(tokens: usize) -> Self {
        Self { rows: usize::MAX, tokens }
    }

    /// Cuts rows, given by their lengths, into batches in their order; gives each batch's end.
    pub fn ends(self, lengths: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut ends = Vec::new();
        self.cut(lengths, &mut ends);
        ends
    }

    fn cut(self, lengths: impl IntoIterator<Item = usize>, ends: &mut Vec<usize>) {
        ends.clear();
        let (mut at, mut rows, mut tokens) = (0, 0, 0usize);
        for length in lengths {
            if rows > 0 && (rows >= self.rows || tokens.saturating_add(length) > self.tokens) {
                ends.push(at);
                (rows, tokens) = (0, 0);
            }
            (at, rows, tokens) = (at + 1, rows + 1, tokens.saturating_add(length));
        }
        ends.extend((rows > 0).then_some(at));
    }

    /// How many of the first rows, given by their lengths, are one batch.
    pub fn first(self, lengths: impl IntoIterator<Item = usize>) -> usize {
        let mut tokens = 0usize;
        let fits = |(i, length): &(usize, usize)| {
            tokens = tokens.saturating_add(*length);
            *i == 0 || (*i < self.rows && tokens <= self.tokens)
        };
        lengths.into_iter().enumerate().take_while(fits).count()
    }

    /// Whether a batch's rows depend on how long they are.
    fn packs(self) -> bool {
        self.tokens != usize::MAX
    }

    /// What is wrong with it, if anything.
    fn check(self) -> Result<()> {
        if self.rows == 0 {
            return Err(Error::usage("a batch of 0 rows trains nothing").hint("give --batch-size 1 or more"));
        }
        if self.tokens == 0 {
            return Err(
                Error::usage("a batch of 0 tokens trains nothing").hint("give --batch-tokens 1 or more")
            );
        }
        Ok(())
    }
}

impl From<usize> for BatchSize {
    fn from(rows: usize) -> Self {
        Self::rows(rows)
    }
}

/// The order of rows over epochs.
///
/// The order of an epoch follows from the seed and the epoch alone, so a resumed run finds its place by
/// counting. Rows with nothing to train are passed over; the last batch of an epoch may be smaller. Where tokens
/// limit a batch, an epoch's number of batches depends on its order.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    examples: &'a [Example],
    size: BatchSize,
    seed: u64,
    /// The rows with targets, in the order of `epoch`.
    order: Vec<usize>,
    epoch: Option<usize>,
    /// Where each batch of `epoch` ends in `order`, if tokens limit it.
    ends: Vec<usize>,
    /// How many batches there are up to the end of each epoch that was looked at.
    counts: Vec<usize>,
}

impl<'a> Batches<'a> {
    /// Prepares batches.
    ///
    /// # Errors
    /// When `size` leaves no room for a row, or no example has anything to train.
    pub fn new(examples: &'a [Example], size: impl Into<BatchSize>, seed: u64) -> Result<Self> {
        let size = size.into();
        size.check()?;
        let order: Vec<usize> = (0..examples.len()).filter(|&i| examples[i].targets() > 0).collect();
        if order.is_empty() {
            return Err(Error::usage(format!("none of {} rows has a trainable token", examples.len())));
        }
        // Room for the most batches there can be: an epoch that begins later allocates nothing.
        let ends = Vec::with_capacity(if size.packs() { order.len() } else { 0 });
        Ok(Self { examples, size, seed, order, epoch: None, ends, counts: Vec::new() })
    }

    /// The number of rows that are trained in an epoch.
    pub fn rows(&self) -> usize {
        self.order.len()
    }

    /// The number of batches in so many epochs; at least one.
    pub fn in_epochs(&mut self, epochs: f64) -> usize {
        let (whole, part) = (epochs.floor(), epochs.fract());
        let before = self.through(whole as usize);
        let rest = if part > 0.0 { self.in_epoch(whole as usize) } else { 0 };
        (before + (part * rest as f64).round() as usize).max(1)
    }

    /// How many epochs so many batches are.
    pub fn epochs(&mut self, batches: usize) -> f64 {
        let (epoch, index) = self.place(batches);
        epoch as f64 + index as f64 / self.in_epoch(epoch) as f64
    }

    /// The number of batches in the first epoch; where rows alone limit a batch, in every epoch.
    pub fn per_epoch(&mut self) -> usize {
        self.in_epoch(0)
    }

    /// The batches of an epoch.
    pub fn in_epoch(&mut self, epoch: usize) -> usize {
        self.through(epoch + 1) - self.through(epoch)
    }

    /// The batches of the first epochs.
    fn through(&mut self, epochs: usize) -> usize {
        if !self.size.packs() {
            return epochs.saturating_mul(self.order.len().div_ceil(self.size.rows));
        }
        while self.counts.len() < epochs {
            let epoch = self.counts.len();
            self.shuffle(epoch);
            let before = self.counts.last().copied().unwrap_or(0);
            self.counts.push(before + self.ends.len());
        }
        epochs.checked_sub(1).map_or(0, |last| self.counts[last])
    }

    /// The epoch and the place in it of a batch, counted from the start of training.
    fn place(&mut self, batch: usize) -> (usize, usize) {
        let mut epoch = if self.size.packs() {
            self.counts.partition_point(|through| *through <= batch)
        } else {
            batch / self.through(1)
        };
        while self.through(epoch + 1) <= batch {
            epoch += 1;
        }
        (epoch, batch - self.through(epoch))
    }

    /// The most rows and the most tokens that one batch can hold, in any epoch.
    pub fn largest(&self) -> (usize, usize) {
        let mut lengths: Vec<usize> = self.order.iter().map(|&i| self.examples[i].tokens.len()).collect();
        lengths.sort_unstable();
        let longest = lengths.last().copied().unwrap_or(0);
        let fits = |(rows, sum): (usize, usize), length: &usize| {
            let sum = sum.saturating_add(*length);
            (sum <= self.size.tokens).then_some((rows + 1, sum))
        };
        let shortest = lengths.iter().try_fold((0, 0), |fit, length| fits(fit, length).ok_or(fit));
        let (Ok((rows, _)) | Err((rows, _))) = shortest;
        let rows = rows.max(1).min(self.size.rows);
        let sum = lengths.iter().rev().take(rows).sum::<usize>();
        (rows, sum.min(self.size.tokens).max(longest))
    }

    /// The examples of a batch, as places in the list; `index` counts from 0 within the epoch.
    ///
    /// # Panics
    /// When `index` is not below [`in_epoch`](Self::in_epoch).
    pub fn indices(&mut self, epoch: usize, index: usize) -> &[usize] {
        if self.epoch != Some(epoch) {
            self.shuffle(epoch);
        }
        if !self.size.packs() {
            let start = index * self.size.rows;
            assert!(start < self.order.len(), "batch {index} of {}", self.through(1));
            return &self.order[start..self.order.len().min(start + self.size.rows)];
        }
        assert!(index < self.ends.len(), "batch {index} of {}", self.ends.len());
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.order[start..self.ends[index]]
    }

    /// Fills `batch` with the rows of the batch that is `step` batches after the start of training.
    pub fn fill(&mut self, step: usize, batch: &mut RaggedBatch) {
        let (epoch, index) = self.place(step);
        let examples = self.examples;
        batch.refill(self.indices(epoch, index).iter().map(|&i| &examples[i]));
    }

    /// Fisher and Yates' shuffle, from the rows' own order: what an earlier epoch left does not matter.
    fn shuffle(&mut self, epoch: usize) {
        self.order.sort_unstable();
        let mut random = SplitMix64::new(self.seed, epoch as u64);
        for last in (1..self.order.len()).rev() {
            let other = random.below(last as u64 + 1) as usize;
            self.order.swap(last, other);
        }
        self.epoch = Some(epoch);
        if self.size.packs() {
            let lengths = self.order.iter().map(|&i| self.examples[i].tokens.len());
            self.size.cut(lengths, &mut self.ends);
        }
    }
}

/// `SplitMix64` (Steele, Lea and Flood, 2014): a counter through a mixing function.
struct SplitMix64(u64);

impl SplitMix64 {
    fn new(seed: u64, stream: u64) -> Self {
        // Mixed apart, so that neighbouring seeds and epochs do not walk the same counter.
        Self(mix(mix(seed).wrapping_add(stream)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`: the high half of a product, which a remainder by `bound` would not
    /// spread as evenly. The bias, `bound`/2⁶⁴, is far below what rows could show.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Rows end to end, without padding.
///
/// Row r is `offsets[r]..offsets[r + 1]`. Beside each token stands the label that is predicted *from*
/// it, the example's label one place further on; the last place of a row predicts nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaggedBatch {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// What each position is to predict, or [`UNTRAINED`].
    pub labels: Vec<i32>,
    /// Where each row begins, and at last where the batch ends.
    pub offsets: Vec<usize>,
    /// Where each row was read.
    pub origins: Vec<Origin>,
    /// The number of positions that predict something.
    pub targets: usize,
}

impl Default for RaggedBatch {
    fn default() -> Self {
        Self::with_capacity(0, 0)
    }
}

impl RaggedBatch {
    /// An empty batch with room for so many rows and tokens, see [`Batches::largest`].
    pub fn with_capacity(rows: usize, tokens: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self {
            tokens: Vec::with_capacity(tokens),
            labels: Vec::with_capacity(tokens),
            offsets,
            origins: Vec::with_capacity(rows),
            targets: 0,
        }
    }

    /// A batch of these rows.
    pub fn from_examples(examples: &[&Example]) -> Self {
        let tokens = examples.iter().map(|example| example.tokens.len()).sum();
        let mut batch = Self::with_capacity(examples.len(), tokens);
        batch.reuse(examples);
        batch
    }

    /// Takes these rows in place of the old ones, and allocates only if they do not fit.
    pub fn reuse(&mut self, examples: &[&Example]) {
        self.refill(examples.iter().copied());
    }

    /// As [`reuse`](Self::reuse), from wherever the rows come.
    ///
    /// # Panics
    /// When an example has not as many labels as tokens.
    pub fn refill<'a>(&mut self, examples: impl IntoIterator<Item = &'a Example>) {
        self.tokens.clear();
        self.labels.clear();
        self.offsets.clear();
        self.offsets.push(0);
        self.origins.clear();
        self.targets = 0;
        for example in examples {
            let Example { tokens, labels, origin } = example;
            assert_eq!(tokens.len(), labels.len(), "{origin}: tokens and labels");
            self.tokens.extend_from_slice(tokens);
            self.labels.extend_from_slice(labels.get(1..).unwrap_or_default());
            if !tokens.is_empty() {
                self.labels.push(UNTRAINED);
            }
            self.offsets.push(self.tokens.len());
            self.origins.push(origin.clone());
            self.targets += example.targets();
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.origins.len()
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
