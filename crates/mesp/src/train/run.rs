//! The loop over optimizer steps.

mod kept;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mesp_device::Backend;

use super::checkpoint;
use super::descent::{Descent, Logged};
use super::evaluate::{Score, evaluate};
use super::full::History;
use super::progress::{Evaluated, Progress};
use super::replay::{self, Replay};
use super::staging::Staging;
use super::step::{self, Micro, Stepped};
use super::{Event, Notice, RunConfig, Session, Update};
use crate::data::{Batches, Examples, Rows};
use crate::method::{Bounds, Directional, Estimator};
use crate::optim::Schedule;
use crate::preference::Metrics;
use crate::{Error, ErrorKind, Result};

/// Totals of a run, those before a resume included.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Optimizer steps done.
    pub steps: usize,
    /// Tokens of all steps.
    pub tokens: u64,
    /// Target tokens of all steps.
    pub target_tokens: u64,
    /// Loss of the first step.
    pub first_loss: Option<f64>,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// Held-out loss before the first step.
    pub eval_before: Option<f64>,
    /// Held-out loss after the last.
    pub eval_after: Option<f64>,
    /// Of a preference loss: rewards and log-probabilities of held-out rows before the first step.
    pub preference_before: Option<Metrics>,
    /// The same after the last.
    pub preference_after: Option<Metrics>,
    /// The lowest held-out loss of a trained adapter.
    pub best: Option<Evaluated>,
    /// Whether the adapter of the best evaluation was loaded.
    pub best_loaded: bool,
    /// The last checkpoint that was written.
    pub checkpoint: Option<PathBuf>,
    /// Seconds of each step of this process.
    pub step_seconds: Vec<f64>,
    /// Whether the run was cancelled.
    pub interrupted: bool,
    /// Whether early stopping ended the run.
    pub stopped: bool,
}

/// Stops a run from another thread or a signal handler; the current step is finished first. Clones share one flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag; returns whether it was set before.
    pub fn cancel(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The result of an optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Counted from 1.
    pub number: usize,
    /// Mean loss per target token, in nats.
    pub loss: f64,
    /// L2 norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Its learning rate.
    pub learning_rate: f64,
    /// Whether the update was skipped, because a value was not finite or the gradient norm spiked.
    pub skipped: bool,
}

/// A training run: a session, its rows and its progress.
#[derive(Debug)]
pub struct Run<B> {
    session: Session<B>,
    eval: Arc<dyn Examples>,
    config: RunConfig,
    cancel: Cancel,
    batches: Batches<Arc<dyn Examples>>,
    staging: Staging,
    schedule: Schedule,
    total_steps: usize,
    /// Micro-batches of the whole run; the last step may have fewer than the others.
    total_batches: usize,
    progress: Progress,
    /// Seconds before this process.
    before: f64,
    started: Instant,
    summary: Summary,
    /// The state of a run that descends along random directions.
    descent: Option<Logged>,
    stage: Stage,
}

/// Where a run stands in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Running,
    Over,
}

impl<B: Backend> Run<B> {
    /// A run of a session on rows, from `progress` on. The session's adapters must be initialized or loaded.
    ///
    /// # Errors
    /// When settings cannot be combined, or need held-out rows and there are none; when a row cannot be read.
    pub fn new(
        mut session: Session<B>,
        rows: &Rows,
        config: RunConfig,
        from: Progress,
        cancel: Cancel,
    ) -> Result<Self> {
        config.check(session.options().update)?;
        let (train, eval) = (Arc::clone(&rows.train), Arc::clone(&rows.eval));
        session.options().objective.check_rows(&*train)?;
        session.options().objective.check_rows(&*eval)?;
        if eval.count() == 0 && (config.early_stopping_patience.is_some() || config.load_best_at_end) {
            let option = if config.load_best_at_end {
                "‘load_best_at_end’"
            } else {
                "‘early_stopping_patience’"
            };
            return Err(Error::usage(
                ErrorKind::Missing,
                format!("{option} needs held-out rows, and there are none"),
            )
            .hint("give them with ‘eval_data’"));
        }
        let mut batches = Batches::new(train, config.micro_batch(), config.seed)?;
        let (total_steps, total_batches) = config.steps(&mut batches)?;
        // Every epoch's batches are counted here, and none while steps run.
        batches.epochs(total_batches)?;
        let warmup = (config.warmup_ratio * total_steps as f64).ceil() as usize;
        let schedule =
            Schedule { peak: config.learning_rate, warmup, total: total_steps, kind: config.lr_schedule };
        let left = total_steps.saturating_sub(from.step);
        let summary = Summary { step_seconds: Vec::with_capacity(left), ..Summary::default() };
        let descent = match session.options().estimator {
            Estimator::Directional(along) => {
                Some(descent(&mut session, along, &config, schedule, (from.step, total_steps))?)
            }
            Estimator::Exact | Estimator::Subset(_) => None,
        };
        Ok(Self {
            session,
            eval,
            config,
            cancel,
            batches,
            staging: Staging::default(),
            schedule,
            total_steps,
            total_batches,
            before: from.elapsed,
            progress: from,
            started: Instant::now(),
            summary,
            descent,
            stage: Stage::New,
        })
    }

    /// The session.
    pub fn session(&self) -> &Session<B> {
        &self.session
    }

    /// The session, mutable.
    pub fn session_mut(&mut self) -> &mut Session<B> {
        &mut self.session
    }

    /// Returns the session.
    pub fn into_session(self) -> Session<B> {
        self.session
    }

    /// The options of the training loop.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// The number of optimizer steps of the run.
    pub fn total_steps(&self) -> usize {
        self.total_steps
    }

    /// Steps, tokens and losses so far.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The flag that stops the run.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Trains to the end, or until it is cancelled; then the current step is finished and a checkpoint is written. The
    /// adapter is written to the output directory, if there is one, even when an error is returned: that of the last
    /// completed step. If the output directory cannot be written, the system's temporary directory is used and the
    /// error says so.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when a loss or a gradient norm is not finite, [`Error::Spike`] when a spike of the gradient
    /// norm is to end the run; when a file cannot be read or written.
    pub fn run(&mut self, emit: &mut dyn FnMut(&Event)) -> Result<Summary> {
        let outcome = loop {
            match self.advance(emit) {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        let outcome = self.keep(outcome, emit);
        let status = match (&outcome, self.summary.interrupted, self.summary.stopped) {
            (Err(_), ..) => "failed",
            (Ok(()), true, _) => "interrupted",
            (Ok(()), _, true) => "stopped",
            (Ok(()), ..) => "done",
        };
        emit(&Event::End { step: self.progress.step, status });
        let summary = std::mem::take(&mut self.summary);
        outcome.map(|()| self.summarized(summary))
    }

    /// Makes one optimizer step, with the evaluations and checkpoints that are due before and after it. Returns `None`
    /// when the run is over: all steps are done, early stopping applies, or it was cancelled.
    ///
    /// # Errors
    /// As [`Run::run`].
    pub fn advance(&mut self, emit: &mut dyn FnMut(&Event)) -> Result<Option<Step>> {
        if self.stage == Stage::New {
            self.begin(emit)?;
        }
        if self.stage == Stage::Over {
            return Ok(None);
        }
        if self.progress.step >= self.total_steps || self.exhausted() {
            self.stage = Stage::Over;
            return self.finish(emit).map(|()| None);
        }
        if self.cancel.is_cancelled() {
            self.stage = Stage::Over;
            self.summary.interrupted = true;
            return Ok(None);
        }
        let made = self.one_step(emit)?;
        self.see_folder(emit)?;
        let step = self.progress.step;
        let due = |every: Option<usize>| {
            every.is_some_and(|n| n > 0 && step.is_multiple_of(n)) && step != self.total_steps
        };
        let (eval_due, save_due) = (due(self.config.eval_every), due(self.config.save_every));
        let best = eval_due && self.evaluate_on_the_way(emit)?;
        if save_due || best {
            self.checkpoint(best, emit)?;
        }
        Ok(Some(made))
    }

    /// Evaluates the held-out rows with the current adapter.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn evaluate(&mut self) -> Result<Score> {
        let size = self.config.micro_batch();
        evaluate(&mut self.session, &*self.eval, size, &mut self.staging, &mut |_, _| {})
    }

    /// Computes the gradient for the next optimizer step's rows, replacing the previous one; parameters do not change.
    /// Returns the mean loss per target token in nats. [`Session::grads`] reads the gradient; [`Run::apply`] makes the
    /// step with whatever it holds by then.
    ///
    /// # Errors
    /// [`Error::Usage`] when the session keeps no gradients or all steps are done; when a row cannot be read.
    pub fn backward(&mut self) -> Result<f64> {
        let options = self.session.options();
        if !(options.backpropagates() && options.update == Update::Accumulate) {
            return Err(Error::usage(ErrorKind::State, "this run keeps no gradients to step along")
                .hint("use ‘update’ accumulate, and a ‘method’ with a backward pass"));
        }
        if self.progress.step >= self.total_steps {
            return Err(Error::usage(
                ErrorKind::State,
                format!("the run has {} steps, and all of them were made", self.total_steps),
            )
            .hint("give more ‘steps’ or ‘epochs’"));
        }
        self.session.zero_grads();
        let range = self.next_batches();
        let mut source = Micro { batches: &mut self.batches, staging: &mut self.staging, range };
        let (nats, targets) = source.gradients(&mut self.session)?;
        Ok(nats / targets as f64)
    }

    /// Makes the run's next optimizer step with the current gradients, clipped to `max_grad_norm`, at the schedule's
    /// learning rate. Returns their L2 norm before clipping.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when the norm is not finite; no parameter has changed then.
    pub fn apply(&mut self) -> Result<f64> {
        let norm = self.session.grad_norm();
        let step = self.progress.step + 1;
        if !norm.is_finite() {
            self.session.zero_grads();
            let (what, rows) = ("gradient norm", String::new());
            return Err(Error::NonFinite { step, what, value: norm, rows, whole_steps: true });
        }
        let rate = self.schedule.rate(self.progress.step);
        self.session.apply(rate, self.config.clip(norm));
        self.progress.step = step;
        self.progress.updates = self.session.steps();
        Ok(norm)
    }

    /// Writes a checkpoint to `dir/checkpoints/step-N`; returns that path.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_state(&self, dir: &Path) -> Result<PathBuf> {
        checkpoint::save(&self.session, dir, &self.progress, &self.config)
    }

    /// Resumes from a checkpoint of a run with the same settings.
    ///
    /// # Errors
    /// When the checkpoint is of another run, or cannot be read.
    pub fn load_state(&mut self, checkpoint: &Path) -> Result<()> {
        self.progress = checkpoint::load(&mut self.session, checkpoint, &self.config)?;
        (self.before, self.started) = (self.progress.elapsed, Instant::now());
        // A run that has told of its beginning does not begin a second time.
        if self.stage == Stage::Over {
            self.stage = Stage::Running;
        }
        Ok(())
    }

    /// Writes the adapter in PEFT's layout.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        checkpoint::save_adapter(&self.session, dir, self.config.base_model.as_deref())
    }

    fn begin(&mut self, emit: &mut dyn FnMut(&Event)) -> Result<()> {
        self.stage = Stage::Running;
        let (options, c) = (self.session.options(), &self.session.model().config);
        emit(&Event::Run {
            step: self.progress.step,
            total_steps: self.total_steps,
            rows: self.batches.rows(),
            parameters: options.parameters(c),
            method: options.method_name.clone(),
        });
        if self.progress.step == 0 && self.progress.evaluated.is_none() {
            self.evaluate_and_tell(emit)?;
        }
        Ok(())
    }

    /// After the last step.
    fn finish(&mut self, emit: &mut dyn FnMut(&Event)) -> Result<()> {
        if self.progress.step < self.total_steps {
            self.summary.stopped = true;
            if let Some(Evaluated { step, loss: Some(loss), .. }) = self.progress.best {
                self.tell(Notice::EarlyStop { best_step: step, best_loss: loss }, emit);
            }
        }
        let evaluated = self.progress.evaluated.is_some_and(|e| e.step == self.progress.step);
        if !evaluated && self.evaluate_and_tell(emit)? && self.config.eval_every.is_some() {
            self.checkpoint(true, emit)?;
        }
        Ok(())
    }

    /// The micro-batches of the next step.
    fn next_batches(&self) -> Range<usize> {
        let first = self.progress.step * self.config.grad_accum;
        first..(first + self.config.grad_accum).min(self.total_batches)
    }

    /// Totals so far, those before a resume included.
    pub fn summary(&self) -> Summary {
        self.summarized(self.summary.clone())
    }

    fn summarized(&self, summary: Summary) -> Summary {
        let p = &self.progress;
        let last = p.evaluated.filter(|e| e.step == p.step && e.step > 0 && !summary.interrupted);
        Summary {
            steps: p.step,
            tokens: p.tokens,
            target_tokens: p.target_tokens,
            first_loss: p.first_loss,
            last_loss: p.last_loss,
            eval_before: p.eval_before,
            eval_after: last.and_then(|e| e.loss),
            preference_before: p.preference_before,
            preference_after: last.and_then(|e| e.preference),
            best: p.best,
            ..summary
        }
    }

    /// Whether evaluations have not improved for as long as they may.
    fn exhausted(&self) -> bool {
        self.config.early_stopping_patience.is_some_and(|n| self.progress.patience.used >= n)
    }

    fn one_step(&mut self, emit: &mut dyn FnMut(&Event)) -> Result<Step> {
        let begun = Instant::now();
        let micro = self.next_batches();
        let end = micro.end;
        let rate = self.schedule.rate(self.progress.step);
        let mut source = Micro { batches: &mut self.batches, staging: &mut self.staging, range: micro };
        let descent = self.descent.as_mut();
        let (session, config, progress) = (&mut self.session, &self.config, &mut self.progress);
        let step = step::step(session, &mut source, descent, config, rate, progress, emit)?;
        let seconds = begun.elapsed().as_secs_f64();
        let p = &mut self.progress;
        p.tokens += step.tokens;
        p.target_tokens += step.targets as u64;
        p.elapsed = self.before + self.started.elapsed().as_secs_f64();
        if step.loss.is_finite() {
            p.first_loss.get_or_insert(step.loss);
            p.last_loss = Some(step.loss);
        }
        self.summary.step_seconds.push(seconds);
        let recent = &self.summary.step_seconds[self.summary.step_seconds.len().saturating_sub(20)..];
        let mean = recent.iter().sum::<f64>() / recent.len() as f64;
        emit(&Event::Train {
            step: p.step,
            epoch: self.batches.epochs(end)?,
            loss: step.loss,
            learning_rate: rate,
            grad_norm: step.norm,
            num_tokens: p.tokens,
            tokens_per_second: step.tokens as f64 / seconds,
            elapsed: p.elapsed,
            eta: mean * (self.total_steps - p.step) as f64,
            skipped: step.skipped,
            preference: step.metrics,
        });
        let Stepped { loss, norm: grad_norm, skipped, .. } = step;
        Ok(Step { number: self.progress.step, loss, grad_norm, learning_rate: rate, skipped })
    }

    /// Evaluates between steps; true when the loss is the best so far.
    fn evaluate_on_the_way(&mut self, emit: &mut dyn FnMut(&Event)) -> Result<bool> {
        let Self { session, config, .. } = &*self;
        let adapter_at_eval = config.adapter_at_eval && session.options().held.is_none();
        if let (true, Some(dir)) = (adapter_at_eval, &config.output) {
            self.save(dir)?;
        }
        self.evaluate_and_tell(emit)
    }

    fn evaluate_and_tell(&mut self, emit: &mut dyn FnMut(&Event)) -> Result<bool> {
        if self.eval.count() == 0 {
            return Ok(false);
        }
        let score = self.evaluate()?;
        let (loss, preference) = (score.loss(), score.preferences.map(|score| score.metrics()));
        let best = self.progress.evaluate(loss, preference, self.config.early_stopping_min_delta);
        emit(&Event::Eval {
            step: self.progress.step,
            eval_loss: loss,
            eval_accuracy: score.accuracy(),
            target_tokens: score.targets,
            best,
            patience_left: self
                .config
                .early_stopping_patience
                .map(|n| n.saturating_sub(self.progress.patience.used)),
            preference,
        });
        Ok(best)
    }

    fn tell(&self, what: Notice, emit: &mut dyn FnMut(&Event)) {
        let step = self.progress.step;
        emit(&Event::Notice { step, message: what.message(step), what });
    }
}

/// The state of a run along random directions: with a new log, or with that of the run that is resumed.
fn descent<B: Backend>(
    session: &mut Session<B>,
    along: Directional,
    config: &RunConfig,
    schedule: Schedule,
    (step, total_steps): (usize, usize),
) -> Result<Logged> {
    session.bound(along.sparsity);
    let header = Replay::new(session, along.directions, schedule, config);
    let (mut earlier, mut log) = (Vec::new(), None);
    if let Some(dir) = &config.output {
        mesp_formats::atomic::create_dir_all(dir)?;
        let opened = replay::Log::open(&dir.join(replay::FILE), &header, step)?;
        session.set_bounds(Bounds::from_values(opened.bounds, session.params()));
        (log, earlier) = (Some(opened.log), opened.derivatives);
    }
    if let Some(full) = session.moved_mut() {
        let mut derivatives = Vec::with_capacity(total_steps * along.directions);
        derivatives.extend(earlier.iter().flatten());
        // After a resume the checkpoint's own header, which knows the start.
        let header = full.log.take().map_or(header, |log| log.header);
        full.log = Some(History { header, derivatives });
    }
    let descent = Descent::new(along, config.seed, session.options().weight_decay, &earlier);
    Ok(Logged { descent, log })
}
