//! `run.json`: what a run was and what it came to.
//!
//! Its memory figures: `planned_bytes` is what the engine allocates, `heap_peak_bytes` the counting allocator's
//! high-water mark from the program's start to the run's end, `heap_training_peak_bytes` the same from the first
//! step's preparation on. `rss_peak_bytes` is the kernel's high-water mark of all resident memory (`VmHWM`), pages
//! of mapped weights included. `rss_anon_peak_bytes` is the largest `RssAnon` that was read: before the run, after
//! every optimizer step and evaluation, and at its end; the kernel keeps no mark of its own for it. Buffers stay
//! allocated between these points, so only transient allocations can go unseen. `anonymous_planned_bytes`, with a
//! budget, is what the budget was compared with: the plan and the process around it. `tree_anon_peak_bytes` is the
//! largest sum of this process's `RssAnon` and that of a child (one that turns text into tokens, or one that answers
//! sample prompts), read every 2 ms while a child lives, and `budget_kept` whether that stayed within the budget.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use mesp::arch::Config;
use mesp::memory::MemoryPlan;
use mesp::train::{Summary, checkpoint};
use mesp_device::{Dtype, Elem};
use mesp_formats::atomic::write_atomic;
use mesp_formats::peft::Pattern;
use serde_json::{Map, Value, json};

use crate::made_with;
use crate::memory::Marks;
use crate::run_files;
use crate::settings::estimator_json;
use mesp::settings::{Numbers, Settings, Setup, policy_json};

/// Its bytes at most: it has the time of every step.
pub(crate) const LIMIT: u64 = 32 << 20;

/// What a run is, before it begins.
pub(crate) struct About<'a> {
    pub(crate) model_path: &'a str,
    /// The commit of a model in the hub's cache.
    pub(crate) revision: Option<&'a str>,
    pub(crate) config: &'a Config,
    pub(crate) dtype: Dtype,
    pub(crate) settings: &'a Setup,
    pub(crate) numbers: Numbers,
    pub(crate) threads: usize,
    pub(crate) data: &'a str,
    pub(crate) eval: Option<&'a Path>,
}

impl About<'_> {
    /// As fields of a document.
    pub(crate) fn json(&self) -> Map<String, Value> {
        let Self { config, settings, .. } = self;
        let options = &settings.options;
        let adapter = &options.adapter;
        let targets: Vec<&str> = adapter.targets.iter().map(|p| p.name()).collect();
        let (model, rows) = made_with::json(&settings.run);
        let full = options.held.map(|elem| json!({ "type": elem.name() }));
        let fields = json!({
            "model": {
                "path": self.model_path,
                "revision": self.revision,
                "arch": config.arch,
                "parameters": config.parameters(),
                "base": options.held.map_or(settings.base.name(), Elem::name),
                "stored": self.dtype.name(),
                "fingerprint": model,
            },
            "full": full,
            "adapter": options.held.is_none().then(|| json!({
                "rank": adapter.rank,
                "alpha": adapter.alpha,
                "rslora": adapter.rslora,
                "dora": adapter.dora,
                "dropout": adapter.dropout,
                "targets": targets,
                "rank_pattern": pattern(&adapter.ranks),
                "alpha_pattern": pattern(&adapter.alphas),
                "layers": adapter.layers,
                "parameters": adapter.parameters(config),
                "type": settings.options.adapter_type.name(),
                "freeze_a": options.trained.freeze_a,
            })),
            "method": options.method_name,
            "estimator": estimator_json(options.estimator),
            "preference": settings.options.objective.preference().map(|_| preference_json(settings)),
            "policy": policy_json(options),
            "update": options.update.name(),
            "compute": self.numbers.name(),
            "threads": self.threads,
            "data": self.data,
            "eval_data": self.eval.map(|p| p.display().to_string()),
            "data_fingerprint": rows,
        });
        let all = settings.settings().by_name();
        let mut fields = if let Value::Object(map) = fields { map } else { Map::new() };
        for name in SHOWN {
            fields.insert(name.to_owned(), all.get(name).cloned().unwrap_or_default());
        }
        fields
    }
}

/// A preference loss: its name, its numbers, its reference.
fn preference_json(settings: &Setup) -> Map<String, Value> {
    let chosen = serde_json::to_value(settings.settings().objective).unwrap_or_default();
    let all = if let Value::Object(all) = chosen { all } else { Map::new() };
    all.into_iter().filter(|(name, value)| name != "objective" && !value.is_null()).collect()
}

/// Settings that stand in the document itself, beside the list of all.
const SHOWN: [&str; 15] = [
    "optimizer",
    "learning_rate",
    "lora_plus_ratio",
    "lr_schedule",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "batch_size",
    "batch_tokens",
    "grad_accum",
    "seed",
    "eval_every",
    "save_every",
    "early_stopping_patience",
    "memory_budget",
];

/// A pattern as an object; none where it says nothing.
pub(crate) fn pattern<T: Copy + Into<Value>>(pattern: &Pattern<T>) -> Option<Map<String, Value>> {
    let entries = pattern.entries().iter().map(|(name, number)| (name.clone(), (*number).into()));
    (!pattern.is_empty()).then(|| entries.collect())
}

/// What is known of a finished run.
pub(crate) struct Report<'a> {
    pub(crate) about: Map<String, Value>,
    /// Every setting with its value.
    pub(crate) settings: Settings,
    /// How often an optimizer step goes through the model with a micro-batch.
    pub(crate) passes: usize,
    pub(crate) summary: &'a Summary,
    pub(crate) footprint: &'a MemoryPlan,
    pub(crate) budget: Option<u64>,
    pub(crate) marks: Marks,
    /// Seconds before the first step and in all.
    pub(crate) prepare: f64,
    pub(crate) total: f64,
}

impl Report<'_> {
    /// The document.
    pub(crate) fn json(&self, dir: &Path) -> Value {
        let Self { summary, footprint, marks, .. } = self;
        let command: Vec<String> =
            std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
        let rounded: Vec<f64> = summary.step_seconds.iter().copied().map(milliseconds).collect();
        let status = match (summary.interrupted, summary.stopped) {
            (true, _) => "interrupted",
            (_, true) => "stopped",
            _ => "done",
        };
        let best = summary.best.map(|best| {
            json!({
                "step": best.step,
                "eval_loss": best.loss,
                "checkpoint": Some(checkpoint::name(best.step)).filter(|name| dir.join(name).is_dir()),
                "loaded": summary.best_loaded,
            })
        });
        let mut document = json!({
            "schema": 1,
            "mesp": env!("CARGO_PKG_VERSION"),
            "command": command,
            "status": status,
        });
        let outcome = json!({
            "steps": summary.steps,
            "tokens": summary.tokens,
            "target_tokens": summary.target_tokens,
            "loss": {
                "first": summary.first_loss,
                "last": summary.last_loss,
                "eval_before": summary.eval_before,
                "eval_after": summary.eval_after,
            },
            "rewards": summary.preference_after.or(summary.preference_before).map(|_| json!({
                "before": summary.preference_before,
                "after": summary.preference_after,
            })),
            "best": best,
            "seconds": {
                "total": milliseconds(self.total),
                "prepare": milliseconds(self.prepare),
                "step_median": median(&summary.step_seconds).map(milliseconds),
                "steps": rounded,
            },
            "memory": {
                "budget_bytes": self.budget,
                "planned_bytes": footprint.planned(),
                "anonymous_planned_bytes": footprint.anonymous,
                "heap_peak_bytes": marks.heap,
                "heap_training_peak_bytes": marks.heap_training,
                "rss_anon_peak_bytes": marks.rss_anonymous,
                "tree_anon_peak_bytes": marks.tree(),
                "budget_kept": self.budget.zip(marks.tree()).map(|(budget, most)| most <= budget),
                "rss_peak_bytes": marks.rss,
                "base_mapped_bytes": footprint.mapped,
                "ledger": ledger_json(footprint),
            },
            "work": { "multiply_adds_per_step": step_work(footprint, self.passes) },
        });
        if let (Value::Object(all), Value::Object(outcome)) = (&mut document, outcome) {
            all.extend(self.about.clone());
            let settings = self.settings.by_name().into_iter().filter(|(_, value)| !value.is_null());
            all.insert("settings".to_owned(), settings.collect::<Map<_, _>>().into());
            all.extend(outcome);
        }
        document
    }

    /// Writes the document into the run directory.
    pub(crate) fn write(&self, dir: &Path) -> Result<Value> {
        let json = self.json(dir);
        write_atomic(&dir.join(run_files::DOCUMENT), |out| writeln!(out, "{json:#}"))?;
        Ok(json)
    }
}

/// Multiplications with additions of the largest optimizer step.
pub(crate) fn step_work(footprint: &MemoryPlan, passes: usize) -> u64 {
    footprint.multiply_adds.saturating_mul(passes as u64)
}

/// Seconds to the tenth of a millisecond.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e4).round() / 1e4
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len();
    (n > 0).then(|| f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]))
}

/// Planned bytes by what they are for, as JSON.
pub(crate) fn ledger_json(plan: &MemoryPlan) -> Map<String, Value> {
    plan.ledger.iter().map(|(class, n)| (class.name().to_owned(), Value::from(*n))).collect()
}
