//! What a run does for a preference loss beside its steps: the log-probabilities of a reference, and the estimate of kto's
//! divergence.

use std::ops::Range;

use mesp_device::Backend;

use super::Session;
use super::evaluate::{Staging, each_range};
use super::step::Micro;
use crate::Result;
use crate::data::{BatchSize, Examples, Mismatched};
use crate::model::Batch;

/// The log-probabilities of rows under a session's model with its adapters as they are, two of each row as
/// [`ReferenceFile`](crate::data::ReferenceFile) has them: `visit` gets them in the rows' order, NaN for a row that is not
/// `wanted`. A session without an adapter gives those of the base model, by the forward of training.
///
/// # Errors
/// When a row cannot be read, and those of `visit`.
pub fn log_probabilities<B: Backend>(
    session: &mut Session<B>,
    rows: &dyn Examples,
    wanted: &dyn Fn(usize) -> bool,
    size: BatchSize,
    staging: &mut Staging,
    visit: &mut dyn FnMut([f64; 2]) -> Result<()>,
) -> Result<()> {
    each_range(rows, size, &mut |range: Range<usize>| {
        if !range.clone().any(wanted) {
            return range.clone().try_for_each(|_| visit([f64::NAN; 2]));
        }
        staging.fill(rows, range.clone())?;
        let own = session.log_probabilities(&staging.batch);
        if own.len() == 2 * range.len() {
            return own.chunks_exact(2).try_for_each(|pair| visit([pair[0], pair[1]]));
        }
        let other = match Mismatched::of(rows)? {
            None => vec![f64::NAN; own.len()],
            Some(others) => {
                staging.fill(&others, range)?;
                session.log_probabilities(&staging.batch)
            }
        };
        own.into_iter().zip(other).try_for_each(|(own, other)| visit([own, other]))
    })
}

/// The mean log-ratio of mismatched completions, batch by batch.
#[derive(Debug, Default)]
pub(super) struct Divergence {
    sum: f64,
    count: usize,
}

impl Divergence {
    /// κ of rows; 0 where the session's loss does not read it.
    pub(super) fn of<B: Backend>(
        session: &mut Session<B>,
        rows: &dyn Examples,
        size: BatchSize,
        staging: &mut Staging,
    ) -> Result<f64> {
        let mut divergence = Self::default();
        let reads = session.options().objective.preference().is_some_and(|p| !p.loss_type.is_paired());
        if let Some(others) = Mismatched::of(rows)?.filter(|_| reads) {
            each_range(rows, size, &mut |range| {
                staging.fill(&others, range)?;
                divergence.take(session, &staging.batch);
                Ok(())
            })?;
        }
        Ok(divergence.estimate())
    }

    /// Takes a batch of mismatched completions.
    pub(super) fn take<B: Backend>(&mut self, session: &mut Session<B>, batch: &Batch) {
        let free = session.options().objective.preference().is_some_and(|p| p.reference_free);
        for (logp, label) in session.log_probabilities(batch).iter().zip(&batch.preferences) {
            self.sum += if free { *logp } else { logp - label.reference };
            self.count += 1;
        }
    }

    /// κ: at least 0.
    pub(super) fn estimate(&self) -> f64 {
        (self.sum / self.count.max(1) as f64).max(0.0)
    }
}

impl<B: Backend> Session<B> {
    /// Sets κ of kto from the mismatched completions of rows, where the session's loss reads it.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn estimate_divergence(
        &mut self,
        rows: &dyn Examples,
        size: BatchSize,
        staging: &mut Staging,
    ) -> Result<()> {
        let kl = Divergence::of(self, rows, size, staging)?;
        self.set_kl(kl);
        Ok(())
    }
}

impl Micro<'_> {
    /// Sets κ of kto from the mismatched completions of the step's rows, where the session's loss reads it.
    pub(super) fn estimate_divergence<B: Backend>(&mut self, session: &mut Session<B>) -> Result<()> {
        if session.options().objective.preference().is_none_or(|p| p.loss_type.is_paired()) {
            return Ok(());
        }
        let mut divergence = Divergence::default();
        for i in self.range.clone() {
            if self.batches.fill_mismatched(i, &mut self.staging.ragged)? {
                divergence.take(session, self.staging.take());
            }
        }
        session.set_kl(divergence.estimate());
        Ok(())
    }
}
