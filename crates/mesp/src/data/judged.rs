//! Rows for preference losses: pairs of completions, or completions that are marked one by one.
//!
//! Completions lie as rows of their own, with their prompt before them, wherever rows lie: one after the other the
//! chosen and the rejected one of a pair. So a pair is read, shuffled and laid out as one row. Of marked ones the store
//! holds the prompt of each row with the completion of the row before it too, for the estimate of the divergence:
//!
//! ```text
//! pairs     c0 r0 c1 r1 …
//! marked    m0 m1 x1 m2 x2 … x0      x_i: prompt i, completion i − 1; x0 has the last completion
//! ```

use std::sync::Arc;

use super::{Example, Examples, RaggedBatch, RowSize};
use crate::preference::{Judged, Side};
use crate::{Error, ErrorKind, Result};

/// Rows for preference losses.
#[derive(Debug, Clone)]
pub struct JudgedRows {
    completions: Arc<dyn Examples>,
    /// Of marked rows a bit each: whether it is desirable. None for pairs.
    desirable: Option<Bits>,
    /// Log-probability of each completion of the store under the reference; empty without one.
    reference: Vec<f64>,
}

impl JudgedRows {
    /// Pairs from a store of completions, the chosen one before the rejected one.
    pub(super) fn pairs(completions: Arc<dyn Examples>) -> Self {
        Self { completions, desirable: None, reference: Vec::new() }
    }

    /// Marked completions, each but the first followed by its mismatched one.
    pub(super) fn marked(completions: Arc<dyn Examples>, desirable: Bits) -> Self {
        Self { completions, desirable: Some(desirable), reference: Vec::new() }
    }

    /// Whether rows are pairs.
    pub fn is_paired(&self) -> bool {
        self.desirable.is_none()
    }

    /// The store of completions, mismatched ones included: what the reference is to be asked of, in this order.
    pub fn completions(&self) -> &Arc<dyn Examples> {
        &self.completions
    }

    /// Takes the log-probability of each completion of the store under the reference.
    ///
    /// # Errors
    /// When there are not as many, or one is no number.
    pub fn with_reference(self, reference: Vec<f64>) -> Result<Self> {
        let expected = self.completions.count();
        if reference.len() != expected {
            return Err(Error::usage(ErrorKind::Mismatch, "the reference")
                .has(format!("{} log-probabilities", reference.len()))
                .expected(format!("one for each of {expected} completions"))
                .hint("compute them anew from these rows"));
        }
        if let Some(at) = reference.iter().position(|logp| !logp.is_finite()) {
            let (row, logp) = (self.completions.read(at)?, reference[at]);
            let problem = format!("{}: the reference's log-probability is {logp}", row.origin);
            return Err(
                Error::usage(ErrorKind::NotFinite, problem).hint("look at the reference model's weights")
            );
        }
        Ok(Self { reference, ..self })
    }

    /// Places in the store of a row's completions.
    fn places(&self, row: usize) -> std::ops::Range<usize> {
        match &self.desirable {
            None => 2 * row..2 * row + 2,
            Some(_) => (2 * row).saturating_sub(1)..(2 * row).saturating_sub(1) + 1,
        }
    }

    /// The place of a marked row's mismatched completion.
    fn mismatched(&self, row: usize) -> Option<usize> {
        self.desirable.as_ref()?;
        Some(if row == 0 { self.completions.count() - 1 } else { 2 * row })
    }

    fn judged(&self, row: usize, place: usize, second: bool) -> Judged {
        let good = self.desirable.as_ref().map_or(!second, |bits| bits.get(row));
        let side = if good { Side::Chosen } else { Side::Rejected };
        Judged { side, reference: self.reference.get(place).copied().unwrap_or(0.0) }
    }
}

impl Examples for JudgedRows {
    fn count(&self) -> usize {
        // Of either kind the store has two for each row.
        self.completions.count() / 2
    }

    fn size(&self, row: usize) -> Result<RowSize> {
        let mut sum = RowSize::default();
        for place in self.places(row) {
            let size = self.completions.size(place)?;
            sum.tokens += size.tokens;
            sum.targets += size.targets;
        }
        Ok(sum)
    }

    fn append(&self, row: usize, batch: &mut RaggedBatch) -> Result<()> {
        for (i, place) in self.places(row).enumerate() {
            self.completions.append(place, batch)?;
            batch.judged.push(self.judged(row, place, i > 0));
        }
        Ok(())
    }

    fn append_mismatched(&self, row: usize, batch: &mut RaggedBatch) -> Result<bool> {
        let Some(place) = self.mismatched(row) else { return Ok(false) };
        self.completions.append(place, batch)?;
        batch.judged.push(self.judged(row, place, false));
        Ok(true)
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
        self.completions.heap_bytes()
            + self.desirable.as_ref().map_or(0, |bits| 8 * bits.words.capacity())
            + 8 * self.reference.capacity()
    }
}

/// A truth value a row.
#[derive(Debug, Clone, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    len: usize,
    ones: usize,
}

impl Bits {
    pub(super) fn push(&mut self, bit: bool) {
        if self.len.is_multiple_of(64) {
            self.words.push(0);
        }
        self.words[self.len / 64] |= u64::from(bit) << (self.len % 64);
        self.len += 1;
        self.ones += usize::from(bit);
    }

    fn get(&self, at: usize) -> bool {
        self.words[at / 64] >> (at % 64) & 1 == 1
    }

    /// How many there are, and how many are true.
    pub(super) fn counts(&self) -> [usize; 2] {
        [self.len, self.ones]
    }
}
