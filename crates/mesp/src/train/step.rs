//! One optimizer step, and what is done when it goes wrong.

use std::ops::Range;
use std::sync::Arc;

use mesp_device::Backend;

use super::descent::Logged;
use super::divergence::Divergence;
use super::progress::Progress;
use super::staging::Staging;
use super::{Action, Event, Notice, ObjectiveKind, Outcome, Probed, RunConfig, Session, Total, Update};
use crate::data::{Batches, Examples, Origin};
use crate::model::Batch;
use crate::preference::{Metrics, Score};
use crate::{Error, Result};

/// Steps in a row that may be left out for a number that is none: the adapter itself is broken then, or the rate
/// far too high.
const SKIPS: usize = 20;

/// Rows that are named at most.
const NAMED: usize = 16;

/// The micro-batches of a step.
pub(super) struct Micro<'a> {
    pub(super) batches: &'a mut Batches<Arc<dyn Examples>>,
    pub(super) staging: &'a mut Staging,
    pub(super) range: Range<usize>,
}

/// What a step came to.
pub(super) struct Stepped {
    pub(super) loss: f64,
    pub(super) norm: f64,
    pub(super) tokens: u64,
    pub(super) targets: usize,
    /// What is told of a preference loss.
    pub(super) metrics: Option<Metrics>,
    /// Whether the adapter is as before.
    pub(super) skipped: bool,
}

/// How large a step is.
struct Sizes {
    /// Trained tokens.
    targets: usize,
    /// Over what its loss is a mean.
    total: Total,
}

/// What the micro-batches of a step came to, before it is known to be sound.
struct Measured {
    nats: f64,
    norm: f64,
    tokens: u64,
    /// Rows without a loss.
    no_numbers: Vec<String>,
    /// Directional derivatives of a step that has them.
    derivatives: Vec<f32>,
}

/// Makes a step and counts it in `progress`.
pub(super) fn step<B: Backend>(
    session: &mut Session<B>,
    source: &mut Micro<'_>,
    descent: Option<&mut Logged>,
    config: &RunConfig,
    rate: f64,
    progress: &mut Progress,
    emit: &mut dyn FnMut(&Event),
) -> Result<Stepped> {
    let accumulates = descent.is_none() && session.options().update == Update::Accumulate;
    let Sizes { targets, total } = source.sizes(session.options().objective)?;
    source.estimate_divergence(session)?;
    let measured = match &descent {
        Some(logged) => source.probe(session, logged, total),
        None if accumulates => source.accumulate(session, total),
        None => source
            .backpropagate(session, |session, batch| session.step_fused(batch, rate, config.max_grad_norm)),
    };
    if measured.is_err() {
        session.zero_grads();
    }
    let Measured { nats, mut norm, tokens, no_numbers, derivatives } = measured?;
    if let Some(e) = session.take_fault() {
        session.zero_grads();
        let dir = config.output.clone().unwrap_or_default();
        return Err(mesp_formats::Error::io("keep checkpoints in a file in", dir, e).into());
    }
    let loss = nats / total.count as f64;
    let metrics = session.score().map(Score::metrics);
    if accumulates {
        norm = session.grad_norm();
    }
    let step = progress.step + 1;
    let mut skipped = false;
    if loss.is_finite() && norm.is_finite() {
        let before = progress.norms;
        if let Some(mean) = progress.norms.spike(norm, config.spike_factor) {
            let (rows, action) = (source.origins()?, config.on_spike);
            let shown = rows.join(", ");
            let what = Notice::Spike { grad_norm: norm, mean, rows, action };
            emit(&Event::Notice { step, message: what.message(step), what });
            if action == Action::Stop {
                session.zero_grads();
                progress.norms = before;
                return Err(Error::Spike { step, norm, mean, rows: shown });
            }
            skipped = action == Action::Skip;
        }
        progress.skipped = 0;
    } else {
        let (what, value) = if loss.is_finite() { ("gradient norm", norm) } else { ("loss", loss) };
        let rows = if no_numbers.is_empty() { source.origins()? } else { few(no_numbers) };
        let shown = rows.join(", ");
        progress.skipped += 1;
        let too_many = progress.skipped > SKIPS;
        let action = if too_many { Action::Stop } else { config.on_nonfinite };
        let happened = Notice::NonFinite { what, value: value.to_string(), rows, action };
        emit(&Event::Notice { step, message: happened.message(step), what: happened });
        if action != Action::Skip {
            session.zero_grads();
            let whole_steps = descent.is_some() || session.options().update == Update::Accumulate;
            return Err(Error::NonFinite { step, what, value, rows: shown, whole_steps });
        }
        skipped = true;
    }
    if let Some(logged) = descent {
        logged.descend(session, (!skipped).then_some(&*derivatives), rate)?;
    } else if skipped {
        session.zero_grads();
    } else if accumulates {
        session.apply(rate, config.clip(norm));
    }
    progress.step = step;
    progress.updates = session.steps();
    Ok(Stepped { loss, norm, tokens, targets, metrics, skipped })
}

/// The rows of a batch that have a loss which is not a number.
fn without_loss<B: Backend>(session: &Session<B>, batch: &Batch) -> impl Iterator<Item = usize> {
    let bad: Vec<u32> = session
        .stats(batch)
        .iter()
        .zip(&batch.target_rows)
        .filter(|(stat, _)| !stat.nats().is_finite())
        .map(|(_, row)| *row)
        .collect();
    let mut rows: Vec<usize> =
        bad.iter().map(|at| batch.offsets.partition_point(|o| *o <= *at as usize) - 1).collect();
    rows.dedup();
    rows.into_iter()
}

impl Micro<'_> {
    /// Gradients in a session that keeps them; the losses in all, and over what they are a mean.
    pub(super) fn gradients<B: Backend>(&mut self, session: &mut Session<B>) -> Result<(f64, usize)> {
        let Sizes { total, .. } = self.sizes(session.options().objective)?;
        self.estimate_divergence(session)?;
        Ok((self.accumulate(session, total)?.nats, total.count))
    }

    /// Target tokens, and over what the loss is a mean.
    fn sizes(&mut self, objective: ObjectiveKind) -> Result<Sizes> {
        let mut sizes = Sizes { targets: 0, total: Total::default() };
        for i in self.range.clone() {
            self.batches.fill(i, &mut self.staging.ragged)?;
            sizes.targets += self.staging.ragged.targets;
            if objective.preference().is_some() {
                sizes.total += objective.total(self.staging.take());
            }
        }
        if objective.preference().is_none() {
            sizes.total = Total::from(sizes.targets);
        }
        Ok(sizes)
    }

    /// Lays out a micro-batch.
    fn stage(&mut self, i: usize) -> Result<&Batch> {
        self.batches.fill(i, &mut self.staging.ragged)?;
        Ok(self.staging.take())
    }

    /// Forward and backward of all micro-batches, whose gradients are added up.
    fn accumulate<B: Backend>(&mut self, session: &mut Session<B>, total: Total) -> Result<Measured> {
        self.backpropagate(session, |session, batch| (session.accumulate(batch, total), 0.0))
    }

    /// Forward and backward, by what gives a micro-batch's losses and the norm of the gradients, where it is known.
    fn backpropagate<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        mut each: impl FnMut(&mut Session<B>, &Batch) -> (Outcome, f64),
    ) -> Result<Measured> {
        let mut all = Measured { nats: 0.0, norm: 0.0, tokens: 0, no_numbers: vec![], derivatives: vec![] };
        for i in self.range.clone() {
            let batch = self.stage(i)?;
            all.tokens += batch.rows() as u64;
            let (outcome, norm) = each(session, batch);
            all.norm = norm;
            all.nats += outcome.nats;
            if !outcome.nats.is_finite() {
                let Staging { ragged, batch } = &*self.staging;
                all.no_numbers
                    .extend(without_loss(session, batch).map(|row| ragged.origins[row].to_string()));
            }
        }
        Ok(all)
    }

    /// Derivatives along random directions. The step's norm is their root mean square.
    fn probe<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        logged: &Logged,
        total: Total,
    ) -> Result<Measured> {
        let Logged { descent, .. } = logged;
        let at = (descent.seed(), session.steps() + 1);
        let mut read = Ok(());
        let probed = session.derivatives(descent.along(), at, total, &mut |each| {
            for i in self.range.clone() {
                match self.stage(i) {
                    Ok(batch) => each(batch),
                    Err(e) => read = Err(e),
                }
            }
        });
        read?;
        let norm = probed.norm();
        let Probed { nats, tokens, derivatives, .. } = probed;
        Ok(Measured { nats, norm, tokens, no_numbers: vec![], derivatives })
    }

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

    /// Where the step's rows were read.
    fn origins(&mut self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for i in self.range.clone() {
            self.batches.fill(i, &mut self.staging.ragged)?;
            names.extend(self.staging.ragged.origins.iter().map(Origin::to_string));
        }
        Ok(few(names))
    }
}

/// The first of many names.
fn few(mut names: Vec<String>) -> Vec<String> {
    if names.len() > NAMED {
        let more = names.len() - NAMED;
        names.truncate(NAMED);
        names.push(format!("and {more} more"));
    }
    names
}
