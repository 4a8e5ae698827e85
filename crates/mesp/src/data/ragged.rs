//! A batch of rows end to end.

use super::{Example, Origin, UNTRAINED};
use crate::preference::PreferenceLabel;

/// Rows end to end, without padding.
///
/// Row r is `offsets[r]..offsets[r + 1]`. Beside each token stands the label that is predicted *from*
/// it, the example's label one place further on; the last place of a row predicts nothing.
#[derive(Debug, Clone, PartialEq)]
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
    /// What each row is to a preference loss; nothing where rows are for another.
    pub preferences: Vec<PreferenceLabel>,
}

impl Default for RaggedBatch {
    fn default() -> Self {
        Self::with_capacity(0, 0)
    }
}

impl RaggedBatch {
    /// An empty batch with room for so many rows and tokens, see [`Batches::largest`](super::Batches::largest).
    pub fn with_capacity(rows: usize, tokens: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self {
            tokens: Vec::with_capacity(tokens),
            labels: Vec::with_capacity(tokens),
            offsets,
            origins: Vec::with_capacity(rows),
            targets: 0,
            preferences: Vec::new(),
        }
    }

    /// A batch of these rows.
    pub fn from_examples(examples: &[&Example]) -> Self {
        let tokens = examples.iter().map(|example| example.tokens.len()).sum();
        let mut batch = Self::with_capacity(examples.len(), tokens);
        for example in examples {
            batch.push(example);
        }
        batch
    }

    /// Takes all rows out and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.labels.clear();
        self.offsets.clear();
        self.offsets.push(0);
        self.origins.clear();
        self.targets = 0;
        self.preferences.clear();
    }

    /// Adds a row; allocates only where it does not fit.
    ///
    /// # Panics
    /// When the example has not as many labels as tokens.
    pub fn push(&mut self, example: &Example) {
        let Example { tokens, labels, origin } = example;
        self.tokens.extend_from_slice(tokens);
        self.labels.extend_from_slice(labels);
        self.close(origin.clone());
    }

    /// Makes a row of the tokens and labels that were added at the end, each label beside its token.
    ///
    /// # Panics
    /// When there are not as many labels as tokens.
    pub(super) fn close(&mut self, origin: Origin) {
        assert_eq!(self.tokens.len(), self.labels.len(), "{origin}: tokens and labels");
        let start = self.offsets.last().copied().unwrap_or(0);
        let labels = &mut self.labels[start..];
        labels.rotate_left(usize::from(!labels.is_empty()));
        if let Some(last) = labels.last_mut() {
            *last = UNTRAINED;
        }
        self.targets += labels.iter().filter(|label| **label != UNTRAINED).count();
        self.offsets.push(self.tokens.len());
        self.origins.push(origin);
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.origins.len()
    }
}
