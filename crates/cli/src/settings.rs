//! What was typed, as what it means: every default and every rule that ties options together.

mod directional;

pub(crate) use directional::{SURROGATE, estimator_json};

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use mesp::adapter::{AdapterConfig, Projection, peft};
use mesp::method::{Estimator, Method};
use mesp::optim::{OptimizerKind, ScheduleKind};
use mesp::source::Base;
use mesp::tape::{Policy, Residency, Tiles};
use mesp::train::{Length, Options, Reaction, RunConfig, Update};
use mesp_device::Elem;
use serde_json::{Value, json};

use crate::args::{AdapterArgs, CommonArgs, MethodArgs, UpdateArg};
use crate::inputs::usage;

/// The meaning of the common options.
pub(crate) struct Settings {
    pub(crate) options: Options,
    pub(crate) run: RunConfig,
    pub(crate) base: Base,
    /// Whether a budget may change the policy: nothing that fixes it was asked for.
    pub(crate) auto: bool,
    /// Whether checkpoints may go to a file although that was not asked for.
    pub(crate) may_spill: bool,
}

impl Settings {
    /// Reads the options. `per_block` and what it excludes are refused here, before any file is read.
    pub(crate) fn new(args: &CommonArgs) -> Result<Self> {
        let (s, r) = (&args.schedule, &args.run);
        let update = update(&args.method);
        let estimator = directional::estimator(args)?;
        let exact = estimator.backpropagates();
        let default_norm = if exact && update == Update::Accumulate { 1.0 } else { 0.0 };
        let run = RunConfig {
            learning_rate: s.learning_rate.unwrap_or(if exact { 2e-4 } else { 5e-5 }),
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
            on_non_finite: r.on_nonfinite.map_or(Reaction::Stop, Into::into),
            on_spike: r.on_spike.map_or(Reaction::Report, Into::into),
            spike_factor: r.spike_factor.unwrap_or(10.0),
            output: None,
            adapter_at_eval: !r.sample_prompt.is_empty(),
            identity: BTreeMap::new(),
            base_model: args.model.model.as_ref().map(|dir| dir.display().to_string()),
        };
        run.check(update)?;
        share("--warmup-ratio", run.warmup_ratio)?;
        share("--momentum", s.momentum)?;
        if !(s.weight_decay.is_finite() && s.weight_decay >= 0.0) {
            return Err(usage(
                format!("--weight-decay is {}, expected 0 or more", s.weight_decay),
                "0 is none",
            ));
        }
        let m = &args.method;
        let name = m.method.as_deref().unwrap_or("auto");
        let method = if estimator == Estimator::Exact { Method::parse(name)? } else { Method::Mesp };
        let options = Options {
            adapter: adapter(&args.adapter)?,
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
            seed: s.seed,
            gradients: false,
            training: true,
        };
        let auto = name == "auto" && m.mlp_rows.is_none() && m.head_rows.is_none();
        let base = Base::parse(&args.model.base)?;
        Ok(Self { options, run, base, auto, may_spill: m.checkpoints.is_none() })
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
    let residency = args.checkpoints.as_deref().map_or(Ok(policy.residency), Residency::parse)?;
    let activations = args.activations.map_or(policy.activations, Into::into);
    Ok(Policy { tiles, residency, activations, ..policy })
}

/// The adapter's settings: those of the adapter to start from, or new ones.
fn adapter(args: &AdapterArgs) -> Result<AdapterConfig> {
    let targets = args.target_modules.as_deref().map(AdapterConfig::parse_targets).transpose()?;
    if let Some(dir) = &args.adapter {
        let config = peft::load_config(dir)?;
        return same_or_unsaid(args, targets.as_ref(), dir, &config).map(|()| config);
    }
    let rank = args.rank.unwrap_or(8);
    let alpha = args.alpha.unwrap_or(2.0 * rank as f64);
    if rank == 0 {
        return Err(usage("--rank is 0, expected 1 or more", "leave it out for rank 8"));
    }
    if !alpha.is_finite() {
        let problem = format!("--alpha is {alpha}, expected a number");
        return Err(usage(problem, "leave it out for twice the rank"));
    }
    let targets = targets.map_or_else(|| AdapterConfig::parse_targets("all-linear"), Ok)?;
    Ok(AdapterConfig { rank, alpha, rslora: args.rslora, targets })
}

/// Refuses options that contradict the adapter to start from.
fn same_or_unsaid(
    args: &AdapterArgs,
    targets: Option<&Vec<Projection>>,
    dir: &Path,
    config: &AdapterConfig,
) -> Result<()> {
    let names = |list: &[Projection]| list.iter().map(|p| p.name()).collect::<Vec<_>>().join(",");
    let typed_and_found = if let Some(rank) = args.rank.filter(|rank| *rank != config.rank) {
        (format!("--rank {rank}"), config.rank.to_string())
    } else if let Some(alpha) = args.alpha.filter(|alpha| (alpha - config.alpha).abs() > 0.0) {
        (format!("--alpha {alpha}"), config.alpha.to_string())
    } else if let Some(list) = targets.filter(|list| **list != config.targets) {
        (format!("--target-modules {}", names(list)), names(&config.targets))
    } else if args.rslora && !config.rslora {
        ("--rslora".to_owned(), "the scale alpha/rank".to_owned())
    } else {
        return Ok(());
    };
    let (typed, found) = typed_and_found;
    let problem = format!("{typed} was given, and the adapter in {} has {found}", dir.display());
    Err(usage(problem, "an adapter to start from brings its own; leave the option out"))
}

/// The settings of an adapter to compute with, or none.
pub(crate) fn given_adapter(dir: Option<&Path>) -> Result<AdapterConfig> {
    Ok(dir.map_or_else(|| Ok(AdapterConfig::none()), peft::load_config)?)
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
        "residency": policy.residency.name(),
        "activations": policy.activations.name(),
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
