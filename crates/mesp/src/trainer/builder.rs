//! The settings of a run, and the run.

use std::path::{Path, PathBuf};

use super::{Dataset, Model, Trainer};
use crate::Result;
use crate::memory::{ByteSize, MemoryPlan, Workload};
use crate::preference::LossType;
use crate::settings::{Numbers, Objective, Settings, Setup, held, thread_count, threads};
use crate::source::{Base, check_adapter};
use crate::train::{Cancel, Progress, Run};

/// The settings of a run. What is not set has the default of `mesp train`; [`Settings`] lists the defaults. Setters
/// only store values: [`TrainerBuilder::plan`] and [`TrainerBuilder::build`] check them.
#[derive(Debug, Clone)]
pub struct TrainerBuilder<'a> {
    model: &'a Model,
    data: &'a Dataset,
    settings: Settings,
    threads: Option<usize>,
    output: Option<PathBuf>,
}

/// What was decided before anything is allocated.
struct Planned {
    setup: Setup,
    work: Workload,
    numbers: Numbers,
    plan: MemoryPlan,
}

impl<'a> TrainerBuilder<'a> {
    pub(super) fn new(model: &'a Model, data: &'a Dataset) -> Self {
        Self { model, data, settings: Settings::default(), threads: None, output: None }
    }

    /// Replaces all settings, those set before included.
    #[must_use]
    pub fn settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// The settings so far.
    pub fn chosen(&self) -> &Settings {
        &self.settings
    }

    /// Rank of the adapter's matrices [default: 8].
    #[must_use]
    pub fn rank(mut self, rank: usize) -> Self {
        self.settings.adapter.rank = Some(rank);
        self
    }

    /// The adapter's output is multiplied by `alpha / rank` [default: twice the rank].
    #[must_use]
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.settings.adapter.alpha = Some(alpha);
        self
    }

    /// Modules that get an adapter: `all-linear`, or a list such as `q_proj,v_proj` [default: `all-linear`].
    #[must_use]
    pub fn target_modules(mut self, modules: &str) -> Self {
        self.settings.adapter.target_modules = Some(modules.to_owned());
        self
    }

    /// Starts from this adapter, in PEFT's or mlx-lm's layout or a GGUF file [default: a new one].
    #[must_use]
    pub fn adapter(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.adapter.adapter = Some(path.into());
        self
    }

    /// Trains on preferences with this loss: the rows are those of [`Dataset::read_preferences`] [default: the next-token
    /// loss]. Other settings of it are [`Settings::objective`].
    #[must_use]
    pub fn preference(mut self, loss_type: LossType) -> Self {
        self.settings.objective.objective = Some(Objective::Preference);
        self.settings.objective.loss_type = Some(loss_type);
        self
    }

    /// What is kept for the backward pass (`mesp`, `mebp`, `store-all`, …), or how the gradient is estimated (`mezo`,
    /// `forward`) [default: `auto`, the fastest exact method that fits the memory budget].
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.settings.method.method = Some(method.to_owned());
        self
    }

    /// The most anonymous memory that the whole process may use, mapped model weights not counted [default: no limit].
    /// A budget changes how long a step takes, not its result.
    #[must_use]
    pub fn memory_budget(mut self, budget: ByteSize) -> Self {
        self.settings.method.memory_budget = Some(budget);
        self
    }

    /// Rows in a micro-batch [default: 1].
    #[must_use]
    pub fn batch_size(mut self, rows: usize) -> Self {
        self.settings.training.batch_size = Some(rows);
        self
    }

    /// Micro-batches per optimizer step: gradient accumulation [default: 1].
    #[must_use]
    pub fn grad_accum(mut self, batches: usize) -> Self {
        self.settings.training.grad_accum = Some(batches);
        self
    }

    /// The number of optimizer steps, in place of epochs.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.settings.training.steps = Some(steps);
        self
    }

    /// Passes over the data [default: 1].
    #[must_use]
    pub fn epochs(mut self, epochs: f64) -> Self {
        self.settings.training.epochs = Some(epochs);
        self
    }

    /// Peak learning rate of the schedule [default: 2e-4].
    #[must_use]
    pub fn learning_rate(mut self, rate: f64) -> Self {
        self.settings.training.learning_rate = Some(rate);
        self
    }

    /// `sgd` or `adamw` [default: `adamw`].
    #[must_use]
    pub fn optimizer(mut self, name: &str) -> Self {
        self.settings.training.optimizer = Some(name.to_owned());
        self
    }

    /// Seed of the adapter's initialization and of the order of rows [default: 0].
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.training.seed = seed;
        self
    }

    /// Threads to compute with [default: the processor cores available].
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The directory for checkpoints and the adapter, written during and after [`Trainer::run`] [default: none are
    /// written].
    #[must_use]
    pub fn output(mut self, dir: impl Into<PathBuf>) -> Self {
        self.output = Some(dir.into());
        self
    }

    /// Plans the run's memory without allocating it. Unlike [`TrainerBuilder::build`] it also returns a plan that
    /// exceeds the budget.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) when settings cannot be combined or do not fit the model;
    /// [`Error::Data`](crate::Error::Data) or [`Error::File`](crate::Error::File) when a row or a file cannot be read.
    pub fn plan(&self) -> Result<MemoryPlan> {
        self.decide(|decision| Ok(decision.plan)).map(|planned| planned.plan)
    }

    /// Plans the run, allocates its memory, and initializes or loads the adapter.
    ///
    /// # Errors
    /// [`Error::OverBudget`](crate::Error::OverBudget) when the run does not fit the budget or the machine's free memory,
    /// else as [`TrainerBuilder::plan`].
    pub fn build(self) -> Result<Trainer> {
        let Planned { mut setup, work, numbers, mut plan } = self.decide(crate::memory::Decision::allowed)?;
        setup.fix(self.data.rows(), self.model.dtype(), numbers)?;
        setup.run.output.clone_from(&self.output);
        setup.run.base_model = Some(self.model.path().display().to_string());
        let model = match setup.base {
            Base::Mapped => self.model.clone(),
            base @ Base::Resident(_) => Model::open_as(self.model.path(), base)?,
        };
        let weights = model.weights();
        let temporary = std::env::temp_dir();
        let beside: &Path = self.output.as_deref().unwrap_or(&temporary);
        if self.output.is_some() {
            setup.room(&plan, &work, beside)?;
            mesp_formats::atomic::create_dir_all(beside)?;
        }
        let pool = threads(self.threads)?;
        let rows = self.data.rows().clone();
        let rows = setup.referenced::<f32>(
            rows,
            (weights, plan.arena()),
            numbers,
            &pool,
            (None, beside),
            &mut |_, _| {},
        )?;
        let mut session =
            setup.session::<f32>(weights, &work, std::mem::take(&mut plan.plan), numbers, (&pool, beside))?;
        session.start_adapters(self.settings.adapter.adapter.as_deref(), setup.run.seed)?;
        let run = Run::new(session, &rows, setup.run, Progress::default(), Cancel::new())?;
        Ok(Trainer::from_run(run, plan))
    }

    fn decide(&self, allow: impl FnOnce(crate::memory::Decision) -> Result<MemoryPlan>) -> Result<Planned> {
        let Self { model, data, settings, .. } = self;
        let mut setup = settings.resolve()?;
        setup.fit(model.config())?;
        if let Some(path) = &settings.adapter.adapter {
            check_adapter(path, model.weights())?;
        }
        let numbers = Numbers::single(settings.method.compute, held(setup.base, model.dtype()))?;
        setup.hold(Some(model.path()), model.dtype(), model.config().parameters())?;
        let threads = thread_count(self.threads)?;
        setup.options.objective.check_form(&*data.rows().train)?;
        let work = Workload::training(data.rows(), &setup.run, setup.base, threads)?;
        let may_step_blocks = setup.may_step_blocks();
        let budget = settings.method.memory_budget;
        let plan = allow(setup.decide(model.weights(), &work, budget, may_step_blocks)?)?;
        Ok(Planned { setup, work, numbers, plan })
    }
}
