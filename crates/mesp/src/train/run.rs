//! The loop over optimizer steps.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mesp_device::Backend;

use super::checkpoint::{self, Progress};
use super::evaluate::{Staging, evaluate};
use super::{Event, Session, Update};
use crate::data::{Batches, Example, Origin};
use crate::optim::{Schedule, ScheduleKind};
use crate::{Error, Result};

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Optimizer steps.
    Steps(usize),
    /// Passes over the data.
    Epochs(f64),
}

/// What a run does besides what its session fixes.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the learning rate.
    pub schedule: ScheduleKind,
    /// Share of the steps that warm up.
    pub warmup_ratio: f64,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of an optimizer step.
    pub grad_accum: usize,
    /// How long.
    pub length: Length,
    /// Largest norm of the gradients; larger ones are scaled down to it.
    pub max_grad_norm: Option<f64>,
    /// Order of the rows, start of the adapter.
    pub seed: u64,
    /// Evaluate every so many steps, besides before and after.
    pub eval_every: Option<usize>,
    /// Write a checkpoint every so many steps.
    pub save_every: Option<usize>,
    /// The run directory.
    pub output: Option<PathBuf>,
    /// For the adapter's configuration.
    pub base_model: Option<String>,
}

impl RunConfig {
    /// Checks what cannot be combined.
    ///
    /// # Errors
    /// Per-block updates with clipping or accumulation: both need all gradients at once. Values out of range.
    pub fn check(&self, update: Update) -> Result<()> {
        if update == Update::PerBlock {
            if self.grad_accum > 1 {
                let n = self.grad_accum;
                return Err(Error::usage(format!("--update per-block cannot be combined with --grad-accum {n}: it keeps no gradient to add to"))
                    .hint("use a larger --batch-size, or --update accumulate"));
            }
            if let Some(norm) = self.max_grad_norm {
                return Err(Error::usage(format!("--update per-block cannot be combined with --max-grad-norm {norm}: the norm is known only after all blocks"))
                    .hint("leave --max-grad-norm out, or use --update accumulate"));
            }
        }
        let positive = |name: &str, ok: bool, found: String| {
            if ok {
                Ok(())
            } else {
                Err(Error::usage(format!("{name} is {found}, expected a positive number")))
            }
        };
        let rate = self.learning_rate;
        positive("--learning-rate", rate.is_finite() && rate >= 0.0, rate.to_string())?;
        positive("--grad-accum", self.grad_accum > 0, self.grad_accum.to_string())?;
        positive("--batch-size", self.batch_size > 0, self.batch_size.to_string())?;
        if let Some(norm) = self.max_grad_norm {
            positive("--max-grad-norm", norm > 0.0, norm.to_string())?;
        }
        match self.length {
            Length::Steps(n) => positive("--steps", n > 0, n.to_string()),
            Length::Epochs(e) => positive("--epochs", e.is_finite() && e > 0.0, e.to_string()),
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Optimizer steps done, with those before a resume.
    pub steps: usize,
    /// Tokens of this process's steps.
    pub tokens: u64,
    /// Target tokens of this process's steps.
    pub target_tokens: u64,
    /// Loss of the first step of this process.
    pub first_loss: Option<f64>,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// Held-out loss before the first step.
    pub eval_before: Option<f64>,
    /// Held-out loss after the last.
    pub eval_after: Option<f64>,
    /// Seconds of each step.
    pub step_seconds: Vec<f64>,
    /// Whether it was asked to stop before its end.
    pub interrupted: bool,
}

/// Trains until the end or until `stop` is set; then the step under way is finished and a checkpoint written.
/// `from` is the progress to go on from. The adapter is written to the output directory in any case, also
/// before an error is returned: it is the last good one.
///
/// # Errors
/// [`Error::NonFinite`] when a loss or gradient is not a number; files that cannot be written.
pub fn run<B: Backend>(
    session: &mut Session<B>,
    train: &[Example],
    eval: &[Example],
    config: &RunConfig,
    from: Progress,
    stop: &AtomicBool,
    emit: &mut dyn FnMut(&Event),
) -> Result<Summary> {
    config.check(session.options().update)?;
    let mut state = Loop::new(train, config, from)?;
    let a = &session.options().adapter;
    emit(&Event::Run {
        step: state.step,
        total_steps: state.total_steps,
        rows: state.batches.rows(),
        parameters: a.parameters(&session.model().config),
        method: session.options().method_name.clone(),
    });
    let outcome = state.steps(session, eval, config, stop, emit);
    if let Some(dir) = &config.output {
        let saved = checkpoint::save_adapter(session, dir, config.base_model.as_deref());
        // What went wrong first is what is told.
        if outcome.is_ok() {
            saved?;
        }
        if state.summary.interrupted {
            checkpoint::save(session, dir, state.progress(), config)?;
        }
    }
    state.summary.steps = state.step;
    let status = match (&outcome, state.summary.interrupted) {
        (Err(_), _) => "failed",
        (Ok(()), true) => "interrupted",
        (Ok(()), false) => "done",
    };
    emit(&Event::End { step: state.step, status: status.to_owned() });
    outcome.map(|()| state.summary)
}

struct Loop<'a> {
    batches: Batches<'a>,
    staging: Staging,
    schedule: Schedule,
    total_steps: usize,
    /// Micro-batches of the whole run; the last step may have fewer than the others.
    total_batches: usize,
    step: usize,
    tokens: u64,
    started: Instant,
    summary: Summary,
}

impl<'a> Loop<'a> {
    fn new(train: &'a [Example], config: &RunConfig, from: Progress) -> Result<Self> {
        let batches = Batches::new(train, config.batch_size, config.seed)?;
        let (total_steps, total_batches) = match config.length {
            Length::Steps(n) => (n, n * config.grad_accum),
            Length::Epochs(e) => {
                let micro = ((e * batches.per_epoch() as f64).round() as usize).max(1);
                (micro.div_ceil(config.grad_accum), micro)
            }
        };
        let warmup = (config.warmup_ratio * total_steps as f64).ceil() as usize;
        let schedule =
            Schedule { peak: config.learning_rate, warmup, total: total_steps, kind: config.schedule };
        let summary = Summary { step_seconds: Vec::with_capacity(total_steps), ..Summary::default() };
        Ok(Self {
            batches,
            staging: Staging::default(),
            schedule,
            total_steps,
            total_batches,
            step: from.step,
            tokens: from.tokens,
            started: Instant::now(),
            summary,
        })
    }

    fn progress(&self) -> Progress {
        Progress { step: self.step, tokens: self.tokens }
    }

    fn steps<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        eval: &[Example],
        config: &RunConfig,
        stop: &AtomicBool,
        emit: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        if self.step == 0 {
            self.summary.eval_before = self.evaluate(session, eval, config, emit);
        }
        while self.step < self.total_steps {
            if stop.load(Ordering::Relaxed) {
                self.summary.interrupted = true;
                return Ok(());
            }
            self.one_step(session, config, emit)?;
            let last = self.step == self.total_steps;
            let due =
                |every: Option<usize>| every.is_some_and(|n| n > 0 && self.step.is_multiple_of(n)) && !last;
            let (eval_due, save_due) = (due(config.eval_every), due(config.save_every));
            if eval_due {
                self.evaluate(session, eval, config, emit);
            }
            if let (true, Some(dir)) = (save_due, &config.output) {
                checkpoint::save(session, dir, self.progress(), config)?;
                emit(&Event::Event {
                    step: self.step,
                    message: format!("checkpoint of step {} written", self.step),
                });
            }
        }
        self.summary.eval_after = self.evaluate(session, eval, config, emit);
        Ok(())
    }

    fn one_step<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        config: &RunConfig,
        emit: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        let begun = Instant::now();
        let first = self.step * config.grad_accum;
        let micro = first..(first + config.grad_accum).min(self.total_batches);
        let rate = self.schedule.rate(self.step);
        let mut targets = 0;
        for i in micro.clone() {
            self.batches.fill(i, &mut self.staging.ragged);
            targets += self.staging.ragged.targets;
        }
        let (mut nats, mut tokens, mut norm) = (0.0, 0, 0.0);
        for i in micro.clone() {
            let Staging { ragged, batch } = &mut self.staging;
            self.batches.fill(i, ragged);
            batch.fill(&ragged.tokens, &ragged.labels, &ragged.offsets);
            tokens += batch.rows() as u64;
            let outcome = match session.options().update {
                Update::Accumulate => session.accumulate(batch, targets),
                Update::PerBlock => {
                    let (outcome, n) = session.step_per_block(batch, rate);
                    norm = n;
                    outcome
                }
            };
            nats += outcome.nats;
        }
        if let Some(e) = session.take_fault() {
            session.zero_grads();
            let dir = config.output.clone().unwrap_or_default();
            return Err(mesp_formats::Error::io("keep checkpoints in a file in", dir, e).into());
        }
        let loss = nats / targets as f64;
        if session.options().update == Update::Accumulate {
            norm = session.grad_norm();
        }
        if !(loss.is_finite() && norm.is_finite()) {
            session.zero_grads();
            let (what, value) = if loss.is_finite() { ("gradient norm", norm) } else { ("loss", loss) };
            return Err(Error::NonFinite { step: self.step + 1, what, value, rows: self.origins(micro) });
        }
        if session.options().update == Update::Accumulate {
            // PyTorch's clip_grad_norm_, with its 1e-6.
            let clip = config.max_grad_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
            session.apply(rate, clip);
        }
        self.step += 1;
        self.tokens += tokens;
        let seconds = begun.elapsed().as_secs_f64();
        self.summary.step_seconds.push(seconds);
        self.summary.tokens += tokens;
        self.summary.target_tokens += targets as u64;
        self.summary.first_loss.get_or_insert(loss);
        self.summary.last_loss = Some(loss);
        let recent = &self.summary.step_seconds[self.summary.step_seconds.len().saturating_sub(20)..];
        let mean = recent.iter().sum::<f64>() / recent.len() as f64;
        emit(&Event::Train {
            step: self.step,
            epoch: micro.end as f64 / self.batches.per_epoch() as f64,
            loss,
            learning_rate: rate,
            grad_norm: norm,
            num_tokens: self.tokens,
            tokens_per_second: tokens as f64 / seconds,
            elapsed: self.started.elapsed().as_secs_f64(),
            eta: mean * (self.total_steps - self.step) as f64,
        });
        Ok(())
    }

    fn evaluate<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        eval: &[Example],
        config: &RunConfig,
        emit: &mut dyn FnMut(&Event),
    ) -> Option<f64> {
        if eval.is_empty() {
            return None;
        }
        let score = evaluate(session, eval, config.batch_size, &mut self.staging, &mut |_, _| {});
        emit(&Event::Eval {
            step: self.step,
            eval_loss: score.loss(),
            eval_accuracy: score.accuracy(),
            target_tokens: score.targets,
        });
        Some(score.loss())
    }

    /// Where the rows of some micro-batches were read, for a message.
    fn origins(&mut self, micro: std::ops::Range<usize>) -> String {
        let mut names = Vec::new();
        for i in micro {
            self.batches.fill(i, &mut self.staging.ragged);
            names.extend(self.staging.ragged.origins.iter().map(Origin::to_string));
        }
        names.join(", ")
    }
}
