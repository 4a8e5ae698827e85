//! What a run does for a preference loss beside its steps: the reference's log-probabilities, the estimate of kto's
//! divergence, and the evaluation of held-out rows.

use mesp_device::Backend;

use super::evaluate::Staging;
use super::step::Micro;
use super::{Session, Total};
use crate::Result;
use crate::data::{BatchSize, Examples, JudgedRows};
use crate::model::Batch;
use crate::preference::Score;

/// The log-probability of each completion of a store of rows under a session's model with its adapters as they are: the
/// reference's, for [`JudgedRows::with_reference`]. A session without an adapter gives those of the base model, by the
/// forward of training.
///
/// # Errors
/// When a row cannot be read.
pub fn log_probabilities<B: Backend>(
    session: &mut Session<B>,
    rows: &JudgedRows,
    size: impl Into<BatchSize>,
    staging: &mut Staging,
) -> Result<Vec<f64>> {
    let (size, completions) = (size.into(), rows.completions());
    let mut all = Vec::with_capacity(completions.count());
    each_batch(&**completions, size, staging, &mut |batch| all.extend(session.log_probabilities(batch)))?;
    Ok(all)
}

/// What held-out rows come to under the session's preference loss, as many at a time as `size` allows; none where it has
/// another objective.
///
/// # Errors
/// When a row cannot be read.
pub fn evaluate_preferences<B: Backend>(
    session: &mut Session<B>,
    rows: &dyn Examples,
    size: impl Into<BatchSize>,
    staging: &mut Staging,
) -> Result<Option<Score>> {
    let size = size.into();
    let kind = session.options().objective;
    let Some(preference) = kind.preference() else { return Ok(None) };
    let mut total = Total::default();
    if preference.rpo_alpha == 0.0 {
        total.count = rows.count();
    } else {
        each_batch(rows, size, staging, &mut |batch| total += kind.total(batch))?;
    }
    let mut sum = Score::default();
    each_batch(rows, size, staging, &mut |batch| {
        if let Some(score) = session.compare(batch, total) {
            sum.add(&score);
        }
    })?;
    Ok(Some(sum))
}

/// Lays out rows in their order.
fn each_batch(
    rows: &dyn Examples,
    size: BatchSize,
    staging: &mut Staging,
    visit: &mut dyn FnMut(&Batch),
) -> Result<()> {
    let (mut first, count) = (0, rows.count());
    while first < count {
        let end = size.end(first, count, |row| Ok(rows.size(row)?.tokens))?;
        staging.fill(rows, first..end)?;
        visit(&staging.batch);
        first = end;
    }
    Ok(())
}

impl Micro<'_> {
    /// Sets κ of kto from the mismatched completions of the step's rows, where the session's loss reads it.
    pub(super) fn estimate_divergence<B: Backend>(&mut self, session: &mut Session<B>) -> Result<()> {
        let kind = session.options().objective;
        if kind.preference().is_none_or(|preference| preference.loss_type.is_paired()) {
            return Ok(());
        }
        let (mut sum, mut count) = (0.0, 0usize);
        for i in self.range.clone() {
            if !self.batches.fill_mismatched(i, &mut self.staging.ragged)? {
                continue;
            }
            let batch = self.staging.take();
            for (logp, judged) in session.log_probabilities(batch).iter().zip(&batch.judged) {
                sum += logp - judged.reference;
                count += 1;
            }
        }
        session.set_kl(sum / count.max(1) as f64);
        Ok(())
    }
}
