//! Which rows a step sees, and how they are laid out.

use super::{Example, Origin, UNTRAINED};
use crate::{Error, Result};

/// The order of rows over epochs.
///
/// The order of an epoch follows from the seed and the epoch alone, so a resumed run finds its place by
/// counting. Rows with nothing to train are passed over; the last batch of an epoch may be smaller.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    examples: &'a [Example],
    batch_size: usize,
    seed: u64,
    /// The rows with targets, in the order of `epoch`.
    order: Vec<usize>,
    epoch: Option<usize>,
}

impl<'a> Batches<'a> {
    /// Prepares batches of `batch_size` rows.
    ///
    /// # Errors
    /// When `batch_size` is 0, or no example has anything to train.
    pub fn new(examples: &'a [Example], batch_size: usize, seed: u64) -> Result<Self> {
        if batch_size == 0 {
            return Err(Error::usage("a batch of 0 rows trains nothing").hint("give --batch-size 1 or more"));
        }
        let order: Vec<usize> = (0..examples.len()).filter(|&i| examples[i].targets() > 0).collect();
        if order.is_empty() {
            return Err(Error::usage(format!("none of {} rows has a trainable token", examples.len())));
        }
        Ok(Self { examples, batch_size, seed, order, epoch: None })
    }

    /// The number of rows that are trained in an epoch.
    pub fn rows(&self) -> usize {
        self.order.len()
    }

    /// The number of batches in an epoch.
    pub fn per_epoch(&self) -> usize {
        self.order.len().div_ceil(self.batch_size)
    }

    /// The most rows and the most tokens that one batch can hold, in any epoch.
    pub fn largest(&self) -> (usize, usize) {
        let mut lengths: Vec<usize> = self.order.iter().map(|&i| self.examples[i].tokens.len()).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let rows = self.batch_size.min(lengths.len());
        (rows, lengths[..rows].iter().sum())
    }

    /// The examples of a batch, as places in the list; `index` counts from 0 within the epoch.
    ///
    /// # Panics
    /// When `index` is not below [`per_epoch`](Self::per_epoch).
    pub fn indices(&mut self, epoch: usize, index: usize) -> &[usize] {
        if self.epoch != Some(epoch) {
            self.shuffle(epoch);
        }
        let start = index * self.batch_size;
        assert!(start < self.order.len(), "batch {index} of {}", self.per_epoch());
        &self.order[start..self.order.len().min(start + self.batch_size)]
    }

    /// Fills `batch` with the rows of the batch that is `step` batches after the start of training.
    pub fn fill(&mut self, step: usize, batch: &mut RaggedBatch) {
        let (epoch, index) = (step / self.per_epoch(), step % self.per_epoch());
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

fn mix(mut z: u64) -> u64 {
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
