//! κ of kto: the estimate of the divergence from the reference.

use mesp_device::Backend;

use super::Session;
use super::staging::Staging;
use crate::Result;
use crate::data::{BatchSize, Examples, Mismatched};
use crate::model::Batch;

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
            size.each_range(rows, &mut |range| {
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
        for (logp, label) in session.log_probabilities(batch).zip(&batch.preferences) {
            self.sum += if free { logp } else { logp - label.reference };
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
