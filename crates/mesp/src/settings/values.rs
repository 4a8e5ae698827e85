//! The settings of a run with the value that each of them has: what its documents show, what its checkpoints hold.

use std::collections::BTreeMap;

use mesp_device::{Dtype, Elem};
use serde_json::{Map, Value, json};

use super::adapter::{list, numbers};
use super::directional::distribution_name;
use super::numbers::{BASE, COMPUTE};
use super::{
    AdapterSettings, DirectionSettings, FoamMoment, MethodSettings, Numbers, OnNonFinite, OnSpike, Reference,
    Rounding, RunSettings, Settings, Setup, Stored, Train, TrainingSettings, UpdateWhen, rounded,
};
use crate::Result;
use crate::data::Rows;
use crate::method::{Blocks, Derivative, Directional, Estimator, Subset};
use crate::optim::OptimizerKind;
use crate::source::fingerprint;
use crate::tape::{SavedAs, Site, SiteSet};
use crate::train::{self, Action, Length, Options, Update, checkpoint};

/// The settings that change no result, or whose effect on it is compared otherwise: paths and rows by their
/// fingerprints, number types by what values are rounded to, methods of exact gradients by being bit-identical. All
/// others are the same when a run is resumed, those that are added later too.
const FREE: [&str; 24] = [
    "activations",
    "adapter",
    "base",
    "checkpoints",
    "compute",
    "early_stopping_min_delta",
    "early_stopping_patience",
    "eval_data",
    "eval_every",
    "eval_split",
    "full",
    "head_rows",
    "load_best_at_end",
    "max_seq_len",
    "memory_budget",
    "method",
    "mlp_rows",
    "on_nonfinite",
    "on_spike",
    "reference",
    "save_every",
    "save_total_limit",
    "spike_factor",
    "update",
];

impl Setup {
    /// Every setting with its value: what was chosen, what the adapter to start from brought, or the default. What the
    /// data or the system decides (the longest row, a budget) is as it was chosen.
    pub fn settings(&self) -> Settings {
        let Self { options, run, chosen, .. } = self;
        let sized = !chosen.full();
        let a = &options.adapter;
        let adapter = AdapterSettings {
            train: Some(if chosen.full() { Train::Full } else { Train::Lora }),
            rank: sized.then_some(a.rank),
            alpha: sized.then_some(a.alpha),
            rslora: a.rslora,
            dora: a.dora,
            lora_dropout: sized.then_some(a.dropout),
            rank_pattern: list(&a.ranks),
            alpha_pattern: list(&a.alphas),
            layers: a.layers.as_deref().map(numbers),
            target_modules: sized.then(|| a.targets.iter().map(|p| p.name()).collect::<Vec<_>>().join(",")),
            freeze_a: options.trained.freeze_a,
            // Estimates have no say in it.
            lora_plus_ratio: (sized && options.estimator.backpropagates()).then_some(options.trained.b_ratio),
            adapter_type: sized.then(|| stored(options.adapter_type)),
            ..chosen.adapter.clone()
        };
        let (policy, tiles) = (&options.policy, &options.policy.tiles);
        let rows = |rows: usize| (rows != usize::MAX).then_some(rows);
        let method = MethodSettings {
            method: Some(options.method_name.clone()),
            mlp_rows: rows(tiles.mlp_rows),
            head_rows: rows(tiles.head_rows),
            update: Some(match options.update {
                Update::Accumulate => UpdateWhen::Accumulate,
                Update::PerBlock => UpdateWhen::PerBlock,
                Update::PerMatrix => UpdateWhen::PerMatrix,
            }),
            // Without a backward pass nothing is kept for it.
            checkpoints: options.estimator.backpropagates().then(|| policy.inputs().name().to_owned()),
            activations: options.estimator.backpropagates().then(|| match policy.activations() {
                SavedAs::Bf16 => Stored::Bf16,
                _ => Stored::F32,
            }),
            ..chosen.method.clone()
        };
        let foam = if let OptimizerKind::Foam(foam) = options.optimizer { Some(foam) } else { None };
        let training = TrainingSettings {
            batch_size: rows(run.batch_size),
            batch_tokens: run.batch_tokens,
            grad_accum: Some(run.grad_accum),
            steps: if let Length::Steps(steps) = run.length { Some(steps) } else { None },
            epochs: if let Length::Epochs(epochs) = run.length { Some(epochs) } else { None },
            learning_rate: Some(run.learning_rate),
            lr_schedule: Some(run.lr_schedule.name().to_owned()),
            warmup_ratio: Some(run.warmup_ratio),
            optimizer: Some(options.optimizer.name().to_owned()),
            foam_level: foam.map(|foam| foam.level),
            foam_scale: foam.map(|foam| foam.scale),
            foam_second_moment: foam.map(|foam| {
                if foam.square_of_mean { FoamMoment::SquareOfMean } else { FoamMoment::MeanOfSquares }
            }),
            foam_residual: foam.map(|foam| foam.residual),
            rounding: (chosen.full() && options.estimator.backpropagates())
                .then_some(if options.compensated { Rounding::Kahan } else { Rounding::Stochastic }),
            weight_decay: options.weight_decay,
            max_grad_norm: Some(run.max_grad_norm.unwrap_or(0.0)),
            seed: run.seed,
            ..chosen.training.clone()
        };
        let kept = RunSettings {
            on_nonfinite: Some(match run.on_nonfinite {
                Action::Skip => OnNonFinite::Skip,
                Action::Report | Action::Stop => OnNonFinite::Stop,
            }),
            on_spike: Some(match run.on_spike {
                Action::Report => OnSpike::Report,
                Action::Skip => OnSpike::Skip,
                Action::Stop => OnSpike::Stop,
            }),
            spike_factor: Some(run.spike_factor),
            ..chosen.run.clone()
        };
        Settings {
            base: Some(self.base.name().to_owned()),
            max_seq_len: chosen.max_seq_len,
            objective: self.objective_settings(),
            adapter,
            method,
            directions: directions(options.estimator, chosen.full()),
            training,
            run: kept,
        }
    }

    /// States what a resumed run has in common with this one: the settings that fix the result, the rows, the number
    /// types. `stored` is how the model's weights are stored.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn fix(&mut self, rows: &Rows, stored: Dtype, numbers: Numbers) -> Result<()> {
        self.run.settings = Value::from(self.fixed()).to_string();
        self.run.identity = self.identity(rows, stored, numbers)?;
        Ok(())
    }

    /// The settings that fix the result, by name.
    fn fixed(&self) -> Map<String, Value> {
        let mut all = self.settings().by_name();
        all.retain(|name, _| !FREE.contains(&name.as_str()));
        if self.options.estimator != Estimator::Exact {
            all.insert("method".to_owned(), self.options.method_name.clone().into());
        }
        if self.options.trains_model() && self.options.backpropagates() {
            // The head's table is gone through once or twice, which sums in another order.
            all.insert("update".to_owned(), self.options.update.name().into());
        }
        if let Some(places) = &self.options.adapter.places {
            all.insert("places".to_owned(), places.to_string().into());
        }
        all
    }

    fn identity(&self, rows: &Rows, stored: Dtype, numbers: Numbers) -> Result<BTreeMap<String, String>> {
        let policy = &self.options.policy;
        let waiting = if policy.inputs() == SavedAs::Bf16 { "bf16" } else { "exact" };
        let all = [
            (checkpoint::DATA, train::fingerprint(&*rows.train)?),
            (checkpoint::EVAL_DATA, train::fingerprint(&*rows.eval)?),
            (BASE, self.options.held.map_or(rounded(self.base, stored), Elem::name).to_owned()),
            (COMPUTE, numbers.name().to_owned()),
            ("checkpoints", waiting.to_owned()),
            ("activations", policy.activations().name().to_owned()),
        ];
        let mut all: BTreeMap<_, _> = all.map(|(name, value)| (name.to_owned(), value)).into();
        if self.reference != Reference::None {
            let adapter = self.reference_adapter().map(fingerprint::adapter).transpose()?;
            all.insert("reference".to_owned(), adapter.unwrap_or_else(|| "base".to_owned()));
        }
        Ok(all)
    }
}

impl Settings {
    /// The settings of a list by name; what names no setting is passed over.
    ///
    /// # Errors
    /// When a value is not one that the setting can have.
    pub fn from_names(list: &Map<String, Value>) -> serde_json::Result<Self> {
        serde_json::from_value(list.clone().into())
    }

    /// The settings in one list, by name.
    pub fn by_name(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }
}

/// What an estimator was made from.
fn directions(estimator: Estimator, full: bool) -> DirectionSettings {
    let blocks = |blocks: Blocks| (blocks != Blocks::ALL).then(|| blocks.to_string());
    let none = DirectionSettings { full, ..DirectionSettings::default() };
    match estimator {
        Estimator::Exact => none,
        Estimator::Subset(Subset::Share(share)) => DirectionSettings { block_share: Some(share), ..none },
        Estimator::Subset(Subset::Fixed(fixed)) => {
            DirectionSettings { blocks: Some(fixed.to_string()), ..none }
        }
        Estimator::Directional(Directional {
            derivative,
            distribution,
            directions,
            blocks: some,
            sparsity,
            ..
        }) => {
            let (eps, one_sided) = match derivative {
                Derivative::Difference { eps, one_sided } => (Some(eps), one_sided),
                Derivative::Tangent => (None, false),
            };
            DirectionSettings {
                full,
                eps,
                directions: Some(directions),
                noise: Some(distribution_name(distribution).to_owned()),
                one_sided,
                sparsity: (!full).then_some(sparsity),
                block_share: None,
                blocks: blocks(some),
            }
        }
    }
}

fn stored(elem: Elem) -> Stored {
    match elem {
        Elem::Bf16 => Stored::Bf16,
        // No adapter is stored in bytes.
        Elem::Full | Elem::Byte => Stored::F32,
    }
}

/// A policy as JSON: names of what is kept, sizes of tiles (null for all rows at once).
pub fn policy_json(options: &Options) -> Value {
    let policy = &options.policy;
    let rows = |n: usize| (n != usize::MAX).then_some(n);
    let names = |set: SiteSet| set.iter().map(Site::name).collect::<Vec<_>>();
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
            "weight_rows": rows(policy.tiles.weight_rows),
        },
        "update": options.update.name(),
        "adapter_type": options.adapter_type.name(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Objective;
    use super::*;
    use crate::preference::LossType;

    fn chosen(edit: impl FnOnce(&mut Settings)) -> Settings {
        let mut settings = Settings::default();
        edit(&mut settings);
        settings
    }

    /// What a run shows as its settings is a run with the same settings.
    #[test]
    fn values_resolve_to_themselves() {
        let all = [
            Settings::default(),
            chosen(|s| {
                s.adapter.rank = Some(3);
                s.adapter.rank_pattern = Some("q_proj=2,[kv]_proj=4".to_owned());
                s.adapter.alpha_pattern = Some("q_proj=2.5".to_owned());
                s.adapter.layers = Some("0-2,5".to_owned());
                s.adapter.target_modules = Some("q_proj,lm_head".to_owned());
                s.adapter.lora_plus_ratio = Some(16.0);
                s.training.batch_tokens = Some(512);
                s.training.steps = Some(7);
                s.training.max_grad_norm = Some(0.0);
                s.method.checkpoints = Some("bf16".to_owned());
                s.run.on_spike = Some(OnSpike::Skip);
            }),
            chosen(|s| {
                s.method.method = Some("mezo".to_owned());
                s.directions.one_sided = true;
                s.directions.blocks = Some("1-2".to_owned());
                s.training.momentum = 0.5;
            }),
            chosen(|s| {
                s.method.method = Some("mezo".to_owned());
                s.directions.full = true;
            }),
            chosen(|s| {
                s.objective.objective = Some(Objective::Preference);
                s.objective.loss_type = Some(LossType::Simpo);
                s.objective.label_smoothing = Some(0.1);
            }),
            chosen(|s| {
                s.objective.objective = Some(Objective::Preference);
                s.objective.reference = Some("none".to_owned());
                s.objective.rpo_alpha = Some(0.5);
            }),
            chosen(|s| {
                s.method.method = Some("forward".to_owned());
                s.directions.noise = Some("rademacher".to_owned());
            }),
            chosen(|s| {
                s.method.method = Some("lcsb".to_owned());
                s.directions.block_share = Some(0.25);
            }),
        ];
        for settings in all {
            let setup = settings.resolve().expect("settings");
            let values = setup.settings();
            let again = values.resolve().expect("the same settings");
            assert_eq!(again.settings(), values);
            assert_eq!(again.fixed(), setup.fixed());
            assert_eq!(Settings::from_names(&values.by_name()).expect("a list"), values);
        }
    }

    #[test]
    fn what_may_change_is_a_setting() {
        let names = Settings::default().by_name();
        assert!(FREE.iter().all(|name| names.contains_key(*name)) && FREE.is_sorted());
        let setup = chosen(|s| s.method.method = Some("mezo".to_owned())).resolve().expect("settings");
        assert_eq!(setup.fixed()["method"], "mezo");
        assert_eq!(setup.fixed()["learning_rate"], 5e-5);
        assert!(!Settings::default().resolve().expect("settings").fixed().contains_key("method"));
    }
}
