//! What was typed, as what it means: every default and every rule that ties options together.

mod adapter;
mod directional;
mod full;

pub(crate) use directional::{SURROGATE, estimator_json};

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use mesp::ByteSize;
use mesp::adapter::AdapterConfig;
use mesp::arch::Config;
use mesp::memory::{self, Decision, Request, Workload};
use mesp::method::{Estimator, Method};
use mesp::model::ModelWeights;
use mesp::optim::{OptimizerKind, ScheduleKind, Trained};
use mesp::source::Base;
use mesp::tape::{Policy, SavedAs, Tiles};
use mesp::train::{Action, Length, MadeWith, Options, RunConfig, Update};
use mesp_device::Elem;
use serde_json::{Value, json};

use crate::args::{CommonArgs, MethodArgs, UpdateArg};
use crate::failure::usage;

/// The meaning of the common options.
pub(crate) struct Settings {
    pub(crate) options: Options,
    pub(crate) run: RunConfig,
    pub(crate) base: Base,
    /// Whether a budget may change the policy: nothing that fixes it was asked for.
    pub(crate) auto: bool,
    /// Whether checkpoints may go to a file although that was not asked for.
    pub(crate) may_spill: bool,
    trains: Trains,
}

/// What is trained.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trains {
    /// An adapter whose settings were typed.
    NewAdapter,
    /// An adapter that was there.
    Adapter,
    /// All weights.
    Model,
}

impl Settings {
    /// Reads the options. `per_block` and what it excludes are refused here, before any file is read.
    pub(crate) fn new(args: &CommonArgs) -> Result<Self> {
        let (s, r) = (&args.schedule, &args.run);
        let update = update(&args.method);
        let estimator = directional::estimator(args)?;
        let full = args.full();
        if full {
            full::refuse(args)?;
        }
        let exact = estimator.backpropagates();
        let default_norm = if exact && update == Update::Accumulate { 1.0 } else { 0.0 };
        let run = RunConfig {
            learning_rate: s.learning_rate.unwrap_or(match (exact, full) {
                (true, _) => 2e-4,
                (false, false) => 5e-5,
                (false, true) => 1e-6,
            }),
            schedule: ScheduleKind::parse(s.lr_schedule.as_deref().unwrap_or(if exact {
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
            save_limit: r.save_total_limit,
            patience: r.early_stopping_patience,
            min_delta: r.early_stopping_min_delta,
            load_best: r.load_best_at_end,
            on_non_finite: r.on_nonfinite.map_or(Action::Stop, Into::into),
            on_spike: r.on_spike.map_or(Action::Report, Into::into),
            spike_factor: r.spike_factor.unwrap_or(10.0),
            output: None,
            adapter_at_eval: !r.sample_prompt.is_empty(),
            identity: BTreeMap::new(),
            made_with: MadeWith::default(),
            base_model: args.model.name(),
        };
        run.check(update)?;
        share("--warmup-ratio", run.warmup_ratio)?;
        share("--momentum", s.momentum)?;
        if let Some(share) = s.eval_split.filter(|share| !(*share > 0.0 && *share < 1.0)) {
            let problem =
                format!("--eval-split is {share}, expected a share of the rows: more than 0 and less than 1");
            return Err(usage(problem, "give --eval-split 0.05 to hold out one row of twenty"));
        }
        if r.sample_tokens == Some(0) {
            return Err(usage("--sample-tokens is 0, expected 1 or more", "leave it out for 64"));
        }
        if let Some(length) = args.data.max_seq_len.filter(|length| *length < 2) {
            let problem =
                format!("--max-seq-len is {length}, which leaves nothing to predict, expected 2 or more");
            return Err(usage(problem, "leave it out for the default"));
        }
        if !((s.weight_decay as f32).is_finite() && s.weight_decay >= 0.0) {
            return Err(usage(
                format!("--weight-decay is {}, expected 0 or more", s.weight_decay),
                "0 is none",
            ));
        }
        let mut adapter = if full { AdapterConfig::none() } else { adapter::config(&args.adapter)? };
        adapter::dropout(&args.adapter, &mut adapter, exact)?;
        let m = &args.method;
        let name = m.method.as_deref().unwrap_or("auto");
        let method = if estimator == Estimator::Exact { Method::parse(name)? } else { Method::Mesp };
        let options = Options {
            adapter,
            adapter_type: args.adapter.adapter_type.map_or(Elem::Full, Into::into),
            method_name: if estimator == Estimator::Exact { method.name() } else { name }.to_owned(),
            estimator,
            policy: policy(method, &args.method)?,
            update,
            optimizer: OptimizerKind::parse(
                s.optimizer.as_deref().unwrap_or(if exact { "adamw" } else { "sgd" }),
                s.momentum,
            )?,
            weight_decay: s.weight_decay,
            trained: trained(args, exact)?,
            seed: s.seed,
            gradients: false,
            base_gradients: false,
            full: None,
            training: true,
        };
        let auto = name == "auto" && m.mlp_rows.is_none() && m.head_rows.is_none();
        let base = Base::parse(&args.model.base)?;
        let trains = match (full, &args.adapter.adapter) {
            (true, _) => Trains::Model,
            (false, Some(_)) => Trains::Adapter,
            (false, None) => Trains::NewAdapter,
        };
        Ok(Self { options, run, base, auto, may_spill: m.checkpoints.is_none(), trains })
    }

    /// Refuses an adapter that does not fit the model, and names of modules that mean nothing on it.
    pub(crate) fn fit(&mut self, config: &Config) -> Result<()> {
        if self.trains == Trains::Adapter {
            self.options.adapter = self.options.adapter.clone().on(config)?;
        }
        let adapter = &self.options.adapter;
        adapter.fits(config)?;
        // Of an adapter from elsewhere, names that mean nothing do no harm.
        let Some(name) = adapter.unused(config).filter(|_| self.trains == Trains::NewAdapter) else {
            return Ok(());
        };
        let problem = format!("a pattern names {name:?}, and no module with an adapter is called that");
        Err(usage(problem, format!("name modules as in {}", adapter.paths(config).first().map_or("", |p| p))))
    }
}

impl Settings {
    /// Whether an update by block may be advised: nothing that was typed excludes it.
    pub(crate) fn may_step_blocks(&self, args: &CommonArgs) -> bool {
        let run = &self.run;
        let skips = [run.on_non_finite, run.on_spike].contains(&Action::Skip);
        let clips = args.schedule.max_grad_norm.is_some_and(|norm| norm != 0.0);
        run.grad_accum == 1 && !skips && !clips
    }

    /// What is asked for, and what a budget may change of it.
    pub(crate) fn request(&self, may_step_blocks: bool) -> Request {
        let Self { options, auto, may_spill, .. } = self;
        Request { options: options.clone(), auto: *auto, may_spill: *may_spill, may_step_blocks }
    }

    /// Decides the policy, and plans it.
    pub(crate) fn decide(
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

/// An update by its name on the command line.
pub(crate) fn update_name(update: Update) -> &'static str {
    match update {
        Update::Accumulate => "accumulate",
        Update::PerBlock => "per-block",
    }
}

fn share(name: &str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(usage(format!("{name} is {value}, expected a number from 0 to 1"), "leave it out for the default"))
}

fn update(args: &MethodArgs) -> Update {
    match args.update {
        Some(UpdateArg::PerBlock) => Update::PerBlock,
        Some(UpdateArg::Accumulate) | None => Update::Accumulate,
    }
}

fn policy(method: Method, args: &MethodArgs) -> Result<Policy> {
    let policy = method.policy();
    let rows = |name: &str, rows: Option<usize>, default| match rows {
        Some(0) => {
            Err(usage(format!("{name} is 0, expected 1 or more"), "leave it out for the method's own"))
        }
        Some(n) => Ok(n),
        None => Ok(default),
    };
    let tiles = Tiles {
        mlp_rows: rows("--mlp-rows", args.mlp_rows, policy.tiles.mlp_rows)?,
        head_rows: rows("--head-rows", args.head_rows, policy.tiles.head_rows)?,
        ..policy.tiles
    };
    let inputs = args.checkpoints.as_deref().map_or(Ok(policy.inputs()), SavedAs::parse)?;
    let activations = args.activations.map_or(policy.activations(), |stored| Elem::from(stored).into());
    Ok(Policy { tiles, ..policy }.with_inputs(inputs).with_activations(activations))
}

/// Which parts of the adapter are trained.
fn trained(args: &CommonArgs, exact: bool) -> Result<Trained> {
    let a = &args.adapter;
    if !exact && (a.freeze_a || a.lora_plus_ratio.is_some()) {
        let name = if a.freeze_a { "--freeze-a" } else { "--lora-plus-ratio" };
        let problem = format!("{name} cannot be combined with an estimate");
        return Err(usage(problem, "leave it out: --method mezo and forward move A and B together"));
    }
    let b_ratio = a.lora_plus_ratio.unwrap_or(Trained::ALIKE.b_ratio);
    if !(b_ratio.is_finite() && b_ratio > 0.0) {
        let problem = format!("--lora-plus-ratio is {b_ratio}, expected a positive number");
        return Err(usage(problem, "leave it out for one learning rate"));
    }
    Ok(Trained { freeze_a: a.freeze_a, b_ratio })
}

/// What an adapter to compute with is on a model; without one, none.
pub(crate) fn given_adapter(adapter: Option<&Path>, config: &Config) -> Result<AdapterConfig> {
    Ok(adapter.map_or_else(
        || Ok(AdapterConfig::none()),
        |path| mesp::source::load_adapter_config(path)?.on(config),
    )?)
}

/// A policy as JSON: names of what is kept, sizes of tiles (null for all rows at once).
pub(crate) fn policy_json(options: &Options) -> Value {
    let policy = &options.policy;
    let rows = |n: usize| (n != usize::MAX).then_some(n);
    let names = |set: mesp::tape::SiteSet| set.iter().map(mesp::tape::Site::name).collect::<Vec<_>>();
    json!({
        "across": names(policy.across),
        "within": names(policy.within),
        "keep_last": policy.keep_last,
        "residency": policy.inputs().name(),
        "activations": policy.activations().name(),
        "tiles": {
            "mlp_rows": rows(policy.tiles.mlp_rows),
            "head_rows": rows(policy.tiles.head_rows),
            "head_vocab": rows(policy.tiles.head_vocab),
            "keys": rows(policy.tiles.keys),
        },
        "update": update_name(options.update),
        "adapter_type": options.adapter_type.name(),
    })
}
