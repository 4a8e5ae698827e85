//! The loop over optimizer steps.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mesp_device::Backend;

use super::checkpoint;
use super::descent::{Descent, Logged};
use super::evaluate::{Staging, evaluate};
use super::full::{self, History};
use super::progress::{Evaluated, Progress};
use super::replay::{self, Replay};
use super::step::{self, Micro};
use super::{Event, Notice, RunConfig, Session, Update};
use crate::data::{Batches, Examples};
use crate::method::{Bounds, Directional, Estimator};
use crate::optim::Schedule;
use crate::{Error, Result};

/// What a run came to, with what was before a resume.
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
    /// The lowest held-out loss of a trained adapter.
    pub best: Option<Evaluated>,
    /// Whether the run's adapter is the best evaluation's.
    pub best_loaded: bool,
    /// The last checkpoint that was written.
    pub checkpoint: Option<PathBuf>,
    /// Seconds of each step of this process.
    pub step_seconds: Vec<f64>,
    /// Whether it was asked to stop before its end.
    pub interrupted: bool,
    /// Whether it ended early, since evaluations did not improve.
    pub stopped: bool,
}

/// Trains until the end or until `stop` is set; then the step under way is finished and a checkpoint written.
/// `from` is the progress to go on from. The adapter is written to the output directory in any case, also
/// before an error is returned: that of the last step which was made. What cannot be written there is written to the
/// system's folder for temporary files, and the error says so.
///
/// # Errors
/// [`Error::NonFinite`] when a loss or gradient is not a number, [`Error::Spike`] where one is to end the run;
/// files that cannot be read or written.
pub fn run<B: Backend>(
    session: &mut Session<B>,
    train: &dyn Examples,
    eval: &dyn Examples,
    config: &RunConfig,
    from: Progress,
    stop: &AtomicBool,
    emit: &mut dyn FnMut(&Event),
) -> Result<Summary> {
    config.check(session.options().update)?;
    if eval.count() == 0 && (config.patience.is_some() || config.load_best) {
        let option = if config.load_best { "`load_best_at_end`" } else { "`early_stopping_patience`" };
        return Err(Error::usage(format!("{option} needs held-out rows, and there are none"))
            .hint("give them with `eval_data`"));
    }
    let mut state = Loop::new(train, config, from)?;
    if let Estimator::Directional(along) = session.options().estimator {
        state.descent = Some(state.descent(session, along, config)?);
    }
    let (a, c) = (&session.options().adapter, &session.model().config);
    let full = session.options().full.is_some();
    emit(&Event::Run {
        step: state.progress.step,
        total_steps: state.total_steps,
        rows: state.batches.rows(),
        parameters: if full { c.parameters() } else { a.parameters(c) },
        method: session.options().method_name.clone(),
    });
    let outcome = state.steps(session, eval, config, stop, emit);
    let outcome = state.keep(session, config, outcome, emit);
    let status = match (&outcome, state.summary.interrupted, state.summary.stopped) {
        (Err(_), ..) => "failed",
        (Ok(()), true, _) => "interrupted",
        (Ok(()), _, true) => "stopped",
        (Ok(()), ..) => "done",
    };
    emit(&Event::End { step: state.progress.step, status });
    outcome.map(|()| state.summarize())
}

struct Loop<'a> {
    batches: Batches<'a>,
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
}

impl<'a> Loop<'a> {
    fn new(train: &'a dyn Examples, config: &RunConfig, from: Progress) -> Result<Self> {
        let mut batches = Batches::new(train, config.micro_batch(), config.seed)?;
        let (total_steps, total_batches) = config.steps(&mut batches)?;
        // Every epoch's batches are counted here, and none while steps run.
        batches.epochs(total_batches)?;
        let warmup = (config.warmup_ratio * total_steps as f64).ceil() as usize;
        let schedule =
            Schedule { peak: config.learning_rate, warmup, total: total_steps, kind: config.schedule };
        let left = total_steps.saturating_sub(from.step);
        let summary = Summary { step_seconds: Vec::with_capacity(left), ..Summary::default() };
        Ok(Self {
            batches,
            staging: Staging::default(),
            schedule,
            total_steps,
            total_batches,
            before: from.elapsed,
            progress: from,
            started: Instant::now(),
            summary,
            descent: None,
        })
    }

    /// The state of a run by slopes: with a new log, or with that of the run that is resumed.
    fn descent<B: Backend>(
        &self,
        session: &mut Session<B>,
        along: Directional,
        config: &RunConfig,
    ) -> Result<Logged> {
        session.bound(along.sparsity);
        let header = Replay::new(session, along, self.schedule, config);
        let (mut earlier, mut log) = (Vec::new(), None);
        if let Some(dir) = &config.output {
            mesp_formats::atomic::create_dir_all(dir)?;
            let opened = replay::Log::open(&dir.join(replay::FILE), &header, self.progress.step)?;
            session.set_bounds(Bounds::from_values(opened.bounds, session.params()));
            (log, earlier) = (Some(opened.log), opened.slopes);
        }
        if let Some(full) = session.full_mut() {
            let mut slopes = Vec::with_capacity(self.total_steps * along.directions);
            slopes.extend(earlier.iter().flatten());
            // After a resume the checkpoint's own header, which knows the start.
            let header = full.log.take().map_or(header, |log| log.header);
            full.log = Some(History { header, slopes });
        }
        let descent = Descent::new(along, config.seed, session.options().weight_decay, &earlier);
        Ok(Logged { descent, log })
    }

    fn summarize(self) -> Summary {
        let p = self.progress;
        let last = p.evaluated.filter(|e| e.step == p.step && e.step > 0 && !self.summary.interrupted);
        Summary {
            steps: p.step,
            tokens: p.tokens,
            target_tokens: p.target_tokens,
            first_loss: p.first_loss,
            last_loss: p.last_loss,
            eval_before: p.eval_before,
            eval_after: last.and_then(|e| e.loss),
            best: p.best,
            ..self.summary
        }
    }

    fn steps<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        eval: &dyn Examples,
        config: &RunConfig,
        stop: &AtomicBool,
        emit: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        if self.progress.step == 0 && self.progress.evaluated.is_none() {
            self.evaluate(session, eval, config, emit)?;
        }
        while self.progress.step < self.total_steps && !self.exhausted(config) {
            if stop.load(Ordering::Relaxed) {
                self.summary.interrupted = true;
                return Ok(());
            }
            self.one_step(session, config, emit)?;
            self.see_folder(session, config, emit)?;
            let step = self.progress.step;
            let due = |every: Option<usize>| {
                every.is_some_and(|n| n > 0 && step.is_multiple_of(n)) && step != self.total_steps
            };
            let (eval_due, save_due) = (due(config.eval_every), due(config.save_every));
            let best = eval_due && self.evaluate_on_the_way(session, eval, config, emit)?;
            if save_due || best {
                self.save(session, config, best, emit)?;
            }
        }
        if self.progress.step < self.total_steps {
            self.summary.stopped = true;
            if let Some(Evaluated { step, loss: Some(loss) }) = self.progress.best {
                self.tell(Notice::EarlyStop { best_step: step, best_loss: loss }, emit);
            }
        }
        let evaluated = self.progress.evaluated.is_some_and(|e| e.step == self.progress.step);
        if !evaluated && self.evaluate(session, eval, config, emit)? && config.eval_every.is_some() {
            self.save(session, config, true, emit)?;
        }
        Ok(())
    }

    /// Whether evaluations have not improved for as long as they may.
    fn exhausted(&self, config: &RunConfig) -> bool {
        config.patience.is_some_and(|n| self.progress.patience.used >= n)
    }

    fn one_step<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        config: &RunConfig,
        emit: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        let begun = Instant::now();
        let first = self.progress.step * config.grad_accum;
        let micro = first..(first + config.grad_accum).min(self.total_batches);
        let end = micro.end;
        let rate = self.schedule.rate(self.progress.step);
        let mut source = Micro { batches: &mut self.batches, staging: &mut self.staging, range: micro };
        let descent = self.descent.as_mut();
        let step = step::step(session, &mut source, descent, config, rate, &mut self.progress, emit)?;
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
        });
        Ok(())
    }

    /// Evaluates between steps; true when the loss is the best so far.
    fn evaluate_on_the_way<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        eval: &dyn Examples,
        config: &RunConfig,
        emit: &mut dyn FnMut(&Event),
    ) -> Result<bool> {
        let adapter_at_eval = config.adapter_at_eval && session.options().full.is_none();
        if let (true, Some(dir)) = (adapter_at_eval, &config.output) {
            checkpoint::save_adapter(session, dir, config.base_model.as_deref())?;
        }
        self.evaluate(session, eval, config, emit)
    }

    fn evaluate<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        eval: &dyn Examples,
        config: &RunConfig,
        emit: &mut dyn FnMut(&Event),
    ) -> Result<bool> {
        if eval.count() == 0 {
            return Ok(false);
        }
        let score = evaluate(session, eval, config.micro_batch(), &mut self.staging, &mut |_, _| {})?;
        let best = self.progress.evaluate(score.loss(), config.min_delta);
        emit(&Event::Eval {
            step: self.progress.step,
            eval_loss: score.loss(),
            eval_accuracy: score.accuracy(),
            target_tokens: score.targets,
            best,
            patience_left: config.patience.map(|n| n.saturating_sub(self.progress.patience.used)),
        });
        Ok(best)
    }

    fn tell(&self, what: Notice, emit: &mut dyn FnMut(&Event)) {
        let step = self.progress.step;
        emit(&Event::Event { step, message: what.message(step), what });
    }

    /// Writes a checkpoint, and removes those that are too many.
    fn save<B: Backend>(
        &mut self,
        session: &Session<B>,
        config: &RunConfig,
        best: bool,
        emit: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        let Some(dir) = &config.output else { return Ok(()) };
        let path = checkpoint::save(session, dir, &self.progress, config)?;
        self.summary.checkpoint = Some(path);
        let path = checkpoint::name(self.progress.step);
        self.tell(Notice::Checkpoint { path, best }, emit);
        if let Some(limit) = config.save_limit {
            let best = self.progress.best.map(|b| b.step);
            for step in checkpoint::prune(dir, limit, best)? {
                self.tell(Notice::Removed { path: checkpoint::name(step) }, emit);
            }
        }
        Ok(())
    }

    /// Makes the run directory again when it has vanished, and writes a checkpoint, as the others went with it.
    fn see_folder<B: Backend>(
        &mut self,
        session: &Session<B>,
        config: &RunConfig,
        emit: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        let Some(dir) = config.output.as_ref().filter(|dir| !dir.is_dir()) else { return Ok(()) };
        mesp_formats::atomic::create_dir_all(dir)?;
        self.tell(Notice::FolderMadeAgain, emit);
        self.save(session, config, false, emit)
    }

    /// Writes what the run came to, however it ended. Where that fails, the state goes to another folder.
    fn keep<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        config: &RunConfig,
        outcome: Result<()>,
        emit: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        let Some(dir) = &config.output else { return outcome };
        let written = self.write(session, config, dir, &outcome, emit);
        let cause = match (outcome, written) {
            (Ok(()), Ok(())) => return Ok(()),
            (Err(e), Ok(())) if !matches!(e, Error::File(_)) => return Err(e),
            (Err(e), _) | (Ok(()), Err(e)) => e,
        };
        let left = self.rescue(session, config, dir);
        Err(Error::Ended { cause: Box::new(cause), left })
    }

    fn write<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        config: &RunConfig,
        dir: &Path,
        outcome: &Result<()>,
        emit: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        let best = self.progress.best.filter(|_| config.load_best && outcome.is_ok());
        if let (false, Some(Evaluated { step, loss: Some(loss) })) = (self.summary.interrupted, best) {
            self.summary.best_loaded = true;
            if step != self.progress.step {
                // The last adapter is kept too: as a checkpoint.
                self.save(session, config, false, emit)?;
                checkpoint::load_trained(session, &dir.join(checkpoint::name(step)))?;
            }
            self.tell(Notice::BestLoaded { best_step: step, best_loss: loss }, emit);
        }
        if session.options().full.is_none() {
            checkpoint::save_adapter(session, dir, config.base_model.as_deref())?;
        } else if outcome.is_ok() && !self.summary.interrupted {
            // Of a run that goes on, or failed, the log is the model: it is written once.
            let base = config.base_model.as_deref().unwrap_or_default();
            full::save(session, Path::new(base), &dir.join(checkpoint::MODEL))?;
        }
        // A step that was refused before it was used can be tried again, in another way.
        let accumulates = session.options().update == Update::Accumulate && self.progress.step > 0;
        let refused = accumulates && matches!(outcome, Err(Error::NonFinite { .. } | Error::Spike { .. }));
        if self.summary.interrupted || refused {
            self.summary.checkpoint = Some(checkpoint::save(session, dir, &self.progress, config)?);
        }
        Ok(())
    }

    /// After a file could not be written: says what there is, and writes a checkpoint elsewhere.
    fn rescue<B: Backend>(&self, session: &Session<B>, config: &RunConfig, dir: &Path) -> String {
        let step = self.progress.step;
        let mut left = match checkpoint::latest(dir) {
            Ok(path) => format!("step {step} was reached; the last checkpoint is {}", path.display()),
            Err(_) => format!("step {step} was reached; there is no checkpoint in {}", dir.display()),
        };
        let there = checkpoint::latest(dir).is_ok_and(|path| path.ends_with(checkpoint::name(step)));
        // The session may hold the best adapter by now, which is a checkpoint already.
        if there || step == 0 || self.summary.best_loaded {
            return left;
        }
        let elsewhere = std::env::temp_dir().join(format!("mesp-rescued-{}", std::process::id()));
        match checkpoint::save(session, &elsewhere, &self.progress, config) {
            Ok(path) => {
                let _ = write!(
                    left,
                    "; the state of step {step} was written to {}: `resume` with this folder goes on from it",
                    path.display()
                );
            }
            Err(e) => {
                let _ = std::fs::remove_dir_all(&elsewhere);
                let _ = write!(left, "; the state of step {step} could not be written elsewhere either: {e}");
            }
        }
        left
    }
}
