//! Rows for preference losses: pairs of completions, or completions with a label.
//!
//! Completions lie as rows of their own, with their prompt before them, wherever rows lie: one after the other the
//! chosen and the rejected one of a pair. So a pair is read, shuffled and laid out as one row. Of completions with a
//! label the store holds the prompt of each row with the completion of the row before it too, for the estimate of the
//! divergence:
//!
//! ```text
//! pairs        c0 r0 c1 r1 …
//! with labels  m0 m1 x1 m2 x2 … x0      x_i: prompt i, completion i − 1; x0 has the last completion
//! ```

mod read;

use std::ops::Range;
use std::sync::Arc;

pub use self::read::are_pairs;
pub(super) use self::read::each;
use super::{Example, Examples, RaggedBatch, RowSize};
use crate::Result;
use crate::preference::{PreferenceLabel, Side};

/// Which rows of a store belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Grouping {
    /// None: each stands alone.
    #[default]
    Single,
    /// Two are a pair, the chosen completion and the rejected one.
    Pairs,
    /// Completions with a label, each but the first followed by its mismatched one; whether each is desirable.
    Labeled(Bits),
}

impl Grouping {
    /// Rows of a store as they belong together; none where it has not as many as the grouping says.
    pub(super) fn of(&self, store: Arc<dyn Examples>) -> Option<Arc<dyn Examples>> {
        let count = store.count();
        let fits = match self {
            Self::Single => return Some(store),
            Self::Pairs => count.is_multiple_of(2),
            Self::Labeled(bits) => count == 2 * bits.len,
        };
        fits.then(|| Arc::new(PreferenceRows { completions: store, grouping: self.clone() }) as _)
    }
}

/// Rows for preference losses. The reference's log-probabilities are not there yet
/// ([`ReferencedRows`](super::ReferencedRows) has them).
#[derive(Debug, Clone)]
pub(super) struct PreferenceRows {
    completions: Arc<dyn Examples>,
    grouping: Grouping,
}

impl PreferenceRows {
    /// Places in the store of a row's completions.
    fn places(&self, row: usize) -> Range<usize> {
        match &self.grouping {
            Grouping::Labeled(_) => (2 * row).saturating_sub(1)..(2 * row).saturating_sub(1) + 1,
            Grouping::Pairs | Grouping::Single => 2 * row..2 * row + 2,
        }
    }

    /// The place of a row's mismatched completion.
    fn mismatched(&self, row: usize) -> Option<usize> {
        let labeled = matches!(self.grouping, Grouping::Labeled(_));
        labeled.then(|| if row == 0 { self.completions.count() - 1 } else { 2 * row })
    }

    fn label(&self, row: usize, second: bool) -> PreferenceLabel {
        let good = match &self.grouping {
            Grouping::Labeled(bits) => bits.get(row),
            Grouping::Pairs | Grouping::Single => !second,
        };
        PreferenceLabel::new(if good { Side::Chosen } else { Side::Rejected })
    }
}

impl Examples for PreferenceRows {
    fn count(&self) -> usize {
        // Of either kind the store has two for each row.
        self.completions.count() / 2
    }

    fn size(&self, row: usize) -> Result<RowSize> {
        let mut sum = RowSize::default();
        for place in self.places(row) {
            sum += self.completions.size(place)?;
        }
        Ok(sum)
    }

    fn append(&self, row: usize, batch: &mut RaggedBatch) -> Result<()> {
        for (i, place) in self.places(row).enumerate() {
            self.completions.append(place, batch)?;
            batch.preferences.push(self.label(row, i > 0));
        }
        Ok(())
    }

    fn append_mismatched(&self, row: usize, batch: &mut RaggedBatch) -> Result<bool> {
        let Some(place) = self.mismatched(row) else { return Ok(false) };
        self.completions.append(place, batch)?;
        batch.preferences.push(self.label(row, false));
        Ok(true)
    }

    fn mismatched_size(&self, row: usize) -> Result<Option<RowSize>> {
        self.mismatched(row).map(|place| self.completions.size(place)).transpose()
    }

    /// Both completions of a pair, one behind the other.
    fn read(&self, row: usize) -> Result<Example> {
        let places = self.places(row);
        let mut all = self.completions.read(places.start)?;
        for place in places.skip(1) {
            let other = self.completions.read(place)?;
            all.tokens.extend(other.tokens);
            all.labels.extend(other.labels);
        }
        Ok(all)
    }

    fn heap_bytes(&self) -> usize {
        let bits = if let Grouping::Labeled(bits) = &self.grouping { 8 * bits.words.capacity() } else { 0 };
        self.completions.heap_bytes() + bits
    }
}

/// A truth value a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    len: usize,
    ones: usize,
}

impl Bits {
    /// Adds a value at the end.
    pub(super) fn push(&mut self, bit: bool) {
        if self.len.is_multiple_of(64) {
            self.words.push(0);
        }
        self.words[self.len / 64] |= u64::from(bit) << (self.len % 64);
        self.len += 1;
        self.ones += usize::from(bit);
    }

    /// The value of a row.
    pub(super) fn get(&self, at: usize) -> bool {
        self.words[at / 64] >> (at % 64) & 1 == 1
    }

    /// 64 values a word, the first in its lowest bit.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// How many there are, and how many are true.
    pub fn counts(&self) -> [usize; 2] {
        [self.len, self.ones]
    }
}

#[cfg(all(test, feature = "text"))]
mod tests;
