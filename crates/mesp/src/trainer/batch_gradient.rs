//! Gradients of rows as one batch, at an adapter as it is.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp_device::{Cpu, Real, Threads};
use mesp_formats::Error as FileError;

use super::Model;
use crate::data::{BatchSize, Examples, Part, Rows, Subset, totals};
use crate::memory::Workload;
use crate::optim::OptimizerKind;
use crate::settings::{Compute, Numbers, Settings, Setup, UpdateWhen, held};
use crate::train::{Length, Outcome, Session, Staging, evaluate};
use crate::{Error, ErrorKind, Result};

/// Rows as one batch, and the gradient of their mean loss or an estimate of it; nothing is stepped. `R` is the precision
/// of the whole computation.
#[allow(missing_debug_implementations, reason = "what holds the rows has none")]
pub struct BatchGradient<R: Real> {
    session: Session<Cpu<R>>,
    rows: Arc<dyn Examples>,
    batch_size: usize,
    seed: u64,
    /// Where checkpoints in a file go.
    beside: PathBuf,
    /// Buffers of a batch that is evaluated.
    staging: Staging,
}

impl Settings {
    /// What the settings mean for gradients alone: [`BatchGradient`].
    ///
    /// # Errors
    /// As [`Settings::resolve`]; when an update by block is asked for, which keeps no gradients.
    pub fn for_gradients(&self) -> Result<Setup> {
        let mut settings = self.clone();
        // Whatever the optimizer's own way is: nothing is stepped.
        settings.method.update.get_or_insert(UpdateWhen::Accumulate);
        let mut setup = settings.resolve()?.of_gradients()?;
        if setup.options.update.is_fused() {
            let problem = "‘update’ per-block and per-matrix keep no gradients, and they are wanted here";
            return Err(Error::usage(ErrorKind::Conflict, problem).hint("leave ‘update’ out"));
        }
        setup.options.gradients = true;
        // What an adapter was trained with is no part of its loss; what is asked for here is.
        setup.options.adapter.dropout = self.adapter.lora_dropout.unwrap_or(0.0);
        // Nothing is stepped.
        setup.options.optimizer = OptimizerKind::sgd(0.0);
        Ok(setup)
    }
}

impl<R: Real> BatchGradient<R> {
    /// Plans gradients of the first `limit` rows; with `evaluates` their losses too. `setup` is what
    /// [`Settings::for_gradients`] gave, and fits the model ([`Setup::fit`]). Checkpoints that go to a file lie in the
    /// folder `beside`.
    ///
    /// # Errors
    /// When the settings cannot be carried out, a row or the adapter cannot be read, or there is no memory.
    pub fn new(
        settings: &Settings,
        mut setup: Setup,
        model: &Model,
        mut rows: Rows,
        (beside, limit, evaluates): (&Path, usize, bool),
        pool: &Arc<Threads>,
    ) -> Result<Self> {
        setup.differentiable(model.dtype())?;
        let asked = settings.method.compute.unwrap_or(Compute::F32);
        let numbers = Numbers::new(Some(asked), held(setup.base, model.dtype()));
        let count = rows.train.count();
        if limit < count {
            let chosen = Subset::first(limit, count);
            rows.train = Arc::new(Part { all: rows.train, chosen });
        }
        // All rows are one batch; a smaller batch size divides it, which changes memory and not the result.
        let batch_size = settings.training.batch_size.unwrap_or_else(|| rows.train.count());
        if let Some(tokens) = setup.run.batch_tokens {
            let problem = format!("‘batch_tokens’ {tokens} has no meaning here: all rows are one batch");
            return Err(Error::usage(ErrorKind::Conflict, problem).hint("give ‘batch_size’ to divide it"));
        }
        setup.options.objective.check_form(&*rows.train)?;
        // Every row once, whatever the length of a run would be.
        (setup.run.batch_size, setup.run.length) = (batch_size, Length::Epochs(1.0));
        if evaluates {
            rows.eval = Arc::clone(&rows.train);
        }
        let work = Workload {
            held: 0,
            value_bytes: size_of::<R>(),
            ..Workload::training(&rows, &setup.run, setup.base, pool.count())?
        };
        // Gradients are kept whole, so an update by block is no way out.
        let budget = settings.method.memory_budget;
        let memory = setup.decide(model.weights(), &work, budget, false)?.allowed()?;
        let arena = memory.arena();
        let rows = setup.referenced::<R>(
            rows,
            (model.weights(), arena),
            numbers,
            pool,
            (None, beside),
            &mut |_, _| {},
        )?;
        let mut session = setup.session::<R>(model.weights(), &work, memory.plan, numbers, (pool, beside))?;
        session.start_adapters(settings.adapter.adapter.as_deref(), setup.run.seed)?;
        let (rows, beside) = (rows.train, beside.to_path_buf());
        Ok(Self { session, rows, batch_size, seed: setup.run.seed, beside, staging: Staging::default() })
    }

    /// The adapters, and what computes with them.
    pub fn session(&self) -> &Session<Cpu<R>> {
        &self.session
    }

    /// The same, to change the adapters.
    pub fn session_mut(&mut self) -> &mut Session<Cpu<R>> {
        &mut self.session
    }

    /// Seed of new adapters and of directions.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Target tokens of all rows.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn targets(&self) -> Result<usize> {
        Ok(totals(&*self.rows)?.0.targets)
    }

    /// Makes the gradient, or an estimate of it with the random numbers of a step; gives the mean loss, in nats,
    /// which is no number where the model or the adapter holds values that are none. `done` is
    /// told how many rows were read on.
    ///
    /// # Errors
    /// When a row cannot be read, or a checkpoint written.
    pub fn gradient(&mut self, step: u64, done: &mut dyn FnMut(usize)) -> Result<f64> {
        let Self { session, rows, batch_size, seed, beside, staging } = self;
        let size = BatchSize::rows(*batch_size);
        let total = session.options().objective.total_of(&**rows, size, staging)?;
        session.estimate_divergence(&**rows, size, staging)?;
        let mut read = Ok(());
        let Outcome { nats, .. } = session.gradient((*seed, step), total, &mut |each| {
            for chunk in chunks(rows.count(), *batch_size) {
                match staging.fill(&**rows, chunk.clone()) {
                    Ok(()) => each(&staging.batch),
                    Err(e) => read = Err(e),
                }
                done(chunk.len());
            }
        });
        read?;
        if let Some(e) = session.take_fault() {
            return Err(FileError::io("keep checkpoints in a file in", beside.as_path(), e).into());
        }
        Ok(nats / total.count as f64)
    }

    /// The mean loss of the adapters as they are; for who asked for losses too.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn loss(&mut self) -> Result<f64> {
        let Self { session, rows, batch_size, staging, .. } = self;
        Ok(evaluate(session, &**rows, *batch_size, staging, &mut |_, _| {})?.loss())
    }

    /// Rows, times the passes that an estimate makes over each.
    pub fn passes(&self) -> usize {
        self.session.options().estimator.passes() * self.rows.count()
    }
}

/// So many rows in chunks.
fn chunks(rows: usize, of: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(of).map(move |start| start..rows.min(start.saturating_add(of)))
}
