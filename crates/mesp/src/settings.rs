//! Settings: the one description of a training run. The program's options, its configuration files and the builder of
//! [`Trainer`](crate::Trainer) are made from it.
//!
//! [`Settings`] holds what was chosen, with `None` for what was not. [`Settings::resolve`] fills in defaults, checks
//! the rules between settings and returns a [`Setup`]. Error messages name settings between ‘ and ’.

mod adapter;
mod directional;
mod full;
mod groups;
mod numbers;
mod objective;
mod optimizer;
mod session;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use mesp_device::Elem;
use serde::{Deserialize, Serialize};

pub use groups::{
    AdapterSettings, Compute, DirectionSettings, FoamMoment, MethodSettings, Objective, ObjectiveSettings,
    OnNonFinite, OnSpike, Rounding, RunSettings, Stored, Train, TrainingSettings, UpdateWhen,
};

pub use directional::distribution_name;
pub use numbers::{Numbers, held, rounded};
pub use objective::Reference;
pub use session::{thread_count, threads};
pub use values::policy_json;

use crate::adapter::AdapterConfig;
use crate::arch::{Config, Selection};
use crate::memory::{self, ByteSize, Decision, Request, Workload};
use crate::method::{Estimator, Method};
use crate::model::ModelWeights;
use crate::optim::{OptimizerKind, ScheduleKind, Trained};
use crate::source::Base;
use crate::tape::{Policy, SavedAs, Tiles};
use crate::train::{Action, Length, MadeWith, Options, RunConfig, Update};
use crate::{Error, ErrorKind, Result};

/// The choices for a training run. [`Settings::default`] chooses nothing: every setting then has its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Storage of the frozen base weights: auto, mapped (in their file, in their type), or copied into memory as f32, bf16
    /// or f16 [default: auto, which is mapped].
    pub base: Option<String>,
    /// The most tokens of a row [default: 512, or the model's maximum length if that is shorter].
    pub max_seq_len: Option<usize>,
    /// What is minimized.
    #[serde(flatten)]
    pub objective: ObjectiveSettings,
    /// What is trained.
    #[serde(flatten)]
    pub adapter: AdapterSettings,
    /// How gradients are computed, and the memory budget.
    #[serde(flatten)]
    pub method: MethodSettings,
    /// Random directions of gradient estimates, and blocks left out of the backward.
    #[serde(flatten)]
    pub directions: DirectionSettings,
    /// Batches, steps, optimizer.
    #[serde(flatten)]
    pub training: TrainingSettings,
    /// Evaluations and checkpoints during the run, and what happens when a step goes wrong.
    #[serde(flatten)]
    pub run: RunSettings,
}

/// Resolved settings: defaults filled in, every rule between settings checked.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The options that determine a session's buffers.
    pub options: Options,
    /// The other options of the training loop.
    pub run: RunConfig,
    /// The reference of a preference loss.
    pub reference: Reference,
    /// How the base weights are held.
    pub base: Base,
    /// Whether the memory budget may choose the policy: no setting fixes it.
    pub auto: bool,
    /// Whether activation checkpoints may go to a file although no setting asks for that.
    pub may_spill: bool,
    /// Whether a norm was chosen that gradients are scaled down to.
    clips: bool,
    /// Notes for the user: settings that have no effect.
    pub notes: Vec<String>,
    trains: Trains,
    /// The settings as they were chosen.
    chosen: Settings,
}

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trains {
    /// An adapter whose settings were typed.
    NewAdapter,
    /// An adapter that was there.
    Adapter,
    /// All weights.
    Model,
}

impl Settings {
    /// Whether this is full fine-tuning: all weights of the model are trained, and there is no adapter.
    pub fn full(&self) -> bool {
        self.directions.full || self.adapter.train == Some(Train::Full)
    }

    /// Fills in defaults and rejects combinations that are not possible. The only file it reads is the configuration of
    /// the adapter to start from.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the setting; [`Error::File`] when the adapter's configuration cannot be read.
    pub fn resolve(&self) -> Result<Setup> {
        let s = &self.training;
        let estimator = directional::estimator(self)?;
        let full = self.full();
        if full {
            full::refuse(self)?;
        }
        let exact = estimator.backpropagates();
        let optimizer = optimizer::choose(s, exact, full)?;
        let update = optimizer::update(&self.method, s, optimizer);
        let run = self.run_config(exact, optimizer, update)?;
        run.check(update)?;
        share("‘warmup_ratio’", run.warmup_ratio)?;
        share("‘momentum’", s.momentum)?;
        if let Some(share) = s.eval_split.filter(|share| !(*share > 0.0 && *share < 1.0)) {
            return Err(Error::usage(ErrorKind::OutOfRange, "‘eval_split’")
                .is(share)
                .expected("a share of the rows: more than 0 and less than 1")
                .hint("give ‘eval_split’ 0.05 to hold out one row of twenty"));
        }
        if let Some(length) = self.max_seq_len.filter(|length| *length < 2) {
            return Err(Error::usage(
                ErrorKind::OutOfRange,
                format!("‘max_seq_len’ is {length}, which leaves nothing to predict"),
            )
            .expected("2 or more")
            .hint("leave it out for the default"));
        }
        if !((s.weight_decay as f32).is_finite() && s.weight_decay >= 0.0) {
            return Err(Error::usage(ErrorKind::OutOfRange, "‘weight_decay’")
                .is(s.weight_decay)
                .expected("0 or more")
                .hint("0 is none"));
        }
        let mut adapter = if full { AdapterConfig::none() } else { adapter::config(&self.adapter)? };
        let notes = adapter::dropout(&self.adapter, &mut adapter, exact)?.into_iter().collect();
        let (objective, reference) = self.objective.resolve()?;
        let m = &self.method;
        let name = m.method.as_deref().unwrap_or("auto");
        let method = if estimator == Estimator::Exact { Method::parse(name)? } else { Method::Mesp };
        let options = Options {
            adapter,
            adapter_type: self.adapter.adapter_type.map_or(Elem::Full, Into::into),
            method_name: if estimator == Estimator::Exact { method.name() } else { name }.to_owned(),
            estimator,
            policy: policy(method, &self.method, full && update == Update::PerMatrix)?,
            update,
            optimizer,
            weight_decay: s.weight_decay,
            trained: trained(&self.adapter, exact)?,
            seed: s.seed,
            gradients: false,
            objective,
            base: Selection::default(),
            held: None,
            compensated: s.rounding == Some(Rounding::Kahan),
            training: true,
        };
        let clips = s.max_grad_norm.is_some_and(|norm| norm != 0.0);
        let auto = name == "auto" && m.mlp_rows.is_none() && m.head_rows.is_none();
        let base = Base::parse(self.base.as_deref().unwrap_or("auto"))?;
        let trains = match (full, &self.adapter.adapter) {
            (true, _) => Trains::Model,
            (false, Some(_)) => Trains::Adapter,
            (false, None) => Trains::NewAdapter,
        };
        Ok(Setup {
            options,
            run,
            reference,
            base,
            auto,
            may_spill: m.checkpoints.is_none(),
            clips,
            notes,
            trains,
            chosen: self.clone(),
        })
    }

    /// Batches, steps and rates, with their defaults; `exact` where there is a backward pass.
    fn run_config(&self, exact: bool, optimizer: OptimizerKind, update: Update) -> Result<RunConfig> {
        let (s, r) = (&self.training, &self.run);
        let default_norm = if exact && !update.is_fused() { 1.0 } else { 0.0 };
        Ok(RunConfig {
            learning_rate: s.learning_rate.unwrap_or(match (exact, self.full()) {
                (true, false) => optimizer.adapter_rate(),
                (true, true) => optimizer.model_rate(),
                (false, false) => 5e-5,
                (false, true) => 1e-6,
            }),
            lr_schedule: ScheduleKind::parse(s.lr_schedule.as_deref().unwrap_or(if exact {
                "cosine"
            } else {
                "constant"
            }))?,
            warmup_ratio: s.warmup_ratio.unwrap_or(0.03),
            batch_size: s.batch_size.unwrap_or(if s.batch_tokens.is_some() { usize::MAX } else { 1 }),
            batch_tokens: s.batch_tokens,
            grad_accum: s.grad_accum.unwrap_or(1),
            length: s.steps.map_or(Length::Epochs(s.epochs.unwrap_or(1.0)), Length::Steps),
            max_grad_norm: Some(s.max_grad_norm.unwrap_or(default_norm)).filter(|norm| *norm != 0.0),
            seed: s.seed,
            eval_every: r.eval_every,
            save_every: r.save_every,
            save_total_limit: r.save_total_limit,
            early_stopping_patience: r.early_stopping_patience,
            early_stopping_min_delta: r.early_stopping_min_delta,
            load_best_at_end: r.load_best_at_end,
            on_nonfinite: r.on_nonfinite.map_or(Action::Stop, Into::into),
            on_spike: r.on_spike.map_or(Action::Report, Into::into),
            spike_factor: r.spike_factor.unwrap_or(10.0),
            output: None,
            adapter_at_eval: false,
            settings: String::new(),
            identity: BTreeMap::new(),
            made_with: MadeWith::default(),
            base_model: None,
        })
    }
}

impl Setup {
    /// Checks that the adapter fits the model, and that every module name matches a module of it.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the module.
    pub fn fit(&mut self, config: &Config) -> Result<()> {
        if self.trains == Trains::Adapter {
            self.options.adapter = self.options.adapter.clone().on(config)?;
        }
        let adapter = &self.options.adapter;
        adapter.fits(config)?;
        // Of an adapter from elsewhere, names that mean nothing do no harm.
        let Some(name) = adapter.unused(config).filter(|_| self.trains == Trains::NewAdapter) else {
            return Ok(());
        };
        Err(Error::usage(
            ErrorKind::Unknown,
            format!("a pattern names {name:?}, and no module with an adapter is called that"),
        )
        .hint(format!("name modules as in {}", adapter.paths(config).first().map_or("", |p| p))))
    }
}

impl Setup {
    /// Whether per-block updates may be suggested to the user: no setting excludes them.
    pub fn may_step_blocks(&self) -> bool {
        let run = &self.run;
        let skips = [run.on_nonfinite, run.on_spike].contains(&Action::Skip);
        run.grad_accum == 1 && !skips && !self.clips
    }

    /// The request for the budget search: the options, and what the budget may change.
    pub fn request(&self, may_step_blocks: bool) -> Request {
        let Self { options, auto, may_spill, .. } = self;
        Request { options: options.clone(), auto: *auto, may_spill: *may_spill, may_step_blocks }
    }

    /// Chooses the policy and plans its memory: [`memory::decide`].
    ///
    /// # Errors
    /// When the options cannot be planned.
    pub fn decide(
        &mut self,
        model: &Arc<ModelWeights>,
        work: &Workload,
        budget: Option<ByteSize>,
        may_step_blocks: bool,
    ) -> Result<Decision> {
        let mut request = self.request(may_step_blocks);
        let decision = memory::decide(model, &mut request, work, budget)?;
        self.options = request.options;
        Ok(decision)
    }
}

fn share(name: &str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::usage(ErrorKind::OutOfRange, name)
        .is(value)
        .expected("a number from 0 to 1")
        .hint("leave it out for the default"))
}

/// The policy of a method; with `whole` all rows of the MLP at once, as updates by matrix need them.
fn policy(method: Method, settings: &MethodSettings, whole: bool) -> Result<Policy> {
    let policy = method.policy();
    let rows = |name: &str, rows: Option<usize>, default| match rows {
        Some(0) => Err(Error::usage(ErrorKind::OutOfRange, name)
            .is("0")
            .expected("1 or more")
            .hint("leave it out for the method's own")),
        Some(n) => Ok(n),
        None => Ok(default),
    };
    let tiles = Tiles {
        mlp_rows: match (whole, settings.mlp_rows) {
            (true, None) => usize::MAX,
            (true, Some(rows)) => {
                return Err(Error::usage(
                    ErrorKind::Conflict,
                    format!("‘mlp_rows’ {rows} cannot be combined with ‘update’ per-matrix: a matrix's gradient is of all rows"),
                )
                .hint("leave ‘mlp_rows’ out, or use ‘update’ per-block"));
            }
            (false, asked) => rows("‘mlp_rows’", asked, policy.tiles.mlp_rows)?,
        },
        head_rows: rows("‘head_rows’", settings.head_rows, policy.tiles.head_rows)?,
        ..policy.tiles
    };
    let inputs = settings.checkpoints.as_deref().map_or(Ok(policy.inputs()), SavedAs::parse)?;
    let activations = settings.activations.map_or(policy.activations(), |stored| Elem::from(stored).into());
    Ok(Policy { tiles, ..policy }.with_inputs(inputs).with_activations(activations))
}

/// Which parts of the adapter are trained.
fn trained(a: &AdapterSettings, exact: bool) -> Result<Trained> {
    if !exact && (a.freeze_a || a.lora_plus_ratio.is_some()) {
        let name = if a.freeze_a { "‘freeze_a’" } else { "‘lora_plus_ratio’" };
        return Err(Error::usage(ErrorKind::Conflict, format!("{name} cannot be combined with an estimate"))
            .hint("leave it out: ‘method’ mezo and forward move A and B together"));
    }
    let b_ratio = a.lora_plus_ratio.unwrap_or(Trained::ALIKE.b_ratio);
    if !(b_ratio.is_finite() && b_ratio > 0.0) {
        return Err(Error::usage(ErrorKind::OutOfRange, "‘lora_plus_ratio’")
            .is(b_ratio)
            .expected("a positive number")
            .hint("leave it out for one learning rate"));
    }
    Ok(Trained { freeze_a: a.freeze_a, b_ratio })
}
