//! Runs configurations, each in a process of its own, and reads what they measured.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use mesp::init_model::preset;
use serde_json::{Value, json};

use super::models;
use super::parts::{Rung, Setup};
use crate::args::BenchMemoryArgs;

/// What a configuration came to. Bytes.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    /// Whether it was run; otherwise only the plan is known.
    pub(super) measured: bool,
    /// The plan; of [`Rung::Least`] that was not run, the least budget.
    pub(super) planned: u64,
    pub(super) heap: Option<u64>,
    pub(super) anonymous: Option<u64>,
    pub(super) resident: Option<u64>,
    pub(super) budget: Option<u64>,
    /// The median of its steps.
    pub(super) step_seconds: Option<f64>,
    /// The run's own words: policy, compute, ledger.
    pub(super) details: Value,
}

impl Figures {
    /// What stands beside a published figure: anonymous memory, or the plan where nothing was measured.
    pub(super) fn compared(&self) -> u64 {
        self.anonymous.unwrap_or(self.planned)
    }
}

/// Starts programs.
pub(super) struct Runner<'a> {
    args: &'a BenchMemoryArgs,
    program: PathBuf,
    cache: PathBuf,
    steps: usize,
    /// Seconds of a multiplication, from the run before.
    pace: Option<f64>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(args: &'a BenchMemoryArgs, steps: usize) -> Result<Self> {
        let (program, cache) = (models::program()?, models::cache(args.results.cache.as_deref())?);
        Ok(Self { args, program, cache, steps, pace: None })
    }

    /// Plans a configuration, and runs it unless that is not wanted or would take too long.
    pub(super) fn figures(&mut self, setup: &Setup) -> Result<Figures> {
        let shape = ["--preset".into(), setup.model.clone().into()];
        let plan = self.call("plan", &shape, &options(setup))?;
        let work = number(&plan, "/work/multiply_adds_per_step")?;
        let seconds = self.pace.map(|pace| pace * work as f64 * self.steps as f64);
        let long = self.args.limit.zip(seconds).is_some_and(|(limit, seconds)| seconds > limit);
        if self.args.plan_only || long {
            let figure =
                if setup.rung == Rung::Least { "/memory/least_bytes" } else { "/memory/planned_bytes" };
            return Ok(Figures {
                measured: false,
                planned: number(&plan, figure)?,
                heap: None,
                anonymous: None,
                resident: None,
                budget: None,
                step_seconds: None,
                details: json!({ "policy": plan["policy"], "ledger": plan["memory"]["ledger"] }),
            });
        }
        let run = self.train(setup)?;
        let memory = |key: &str| run["memory"][key].as_u64();
        let step_seconds = run["seconds"]["step_median"].as_f64();
        self.pace = step_seconds.map(|s| s / work.max(1) as f64);
        Ok(Figures {
            measured: true,
            planned: number(&run, "/memory/planned_bytes")?,
            heap: memory("heap_peak_bytes"),
            anonymous: memory("rss_anon_peak_bytes"),
            resident: memory("rss_peak_bytes"),
            budget: memory("budget_bytes"),
            step_seconds,
            details: json!({
                "policy": run["policy"],
                "compute": run["compute"],
                "threads": run["threads"],
                "base": run["model"]["base"],
                "stored": run["model"]["stored"],
                "ledger": run["memory"]["ledger"],
            }),
        })
    }

    fn train(&self, setup: &Setup) -> Result<Value> {
        let model = models::random(&self.program, &self.cache, &setup.model, &self.args.base_type)?;
        let rows = models::rows(&self.cache, preset(&setup.model)?.vocab_size, setup.tokens)?;
        let run = self.cache.join(format!("run-{}", std::process::id()));
        let files: Vec<OsString> = vec![
            "--model".into(),
            model.into(),
            "--data".into(),
            rows.into(),
            "--output".into(),
            run.clone().into(),
        ];
        let mut options = options(setup);
        options.push(format!("--steps={}", self.steps));
        if setup.rung == Rung::Least {
            let least = number(&self.call("plan", &files, &options)?, "/memory/least_bytes")?;
            options.push(format!("--memory-budget={least}"));
        }
        options.push("--overwrite".to_owned());
        let done = self.call("train", &files, &options);
        // What the run wrote is known by now; a folder that stays is no reason to end.
        let _ = fs::remove_dir_all(&run);
        done
    }

    /// A command of this program in a process of its own; its JSON document.
    fn call(&self, command: &str, files: &[OsString], options: &[String]) -> Result<Value> {
        let threads = self.args.shared.threads.map(|threads| format!("--threads={threads}"));
        let options: Vec<String> = options.iter().cloned().chain(threads).collect();
        models::call(&self.program, &self.cache, command, files, &options)
    }
}

/// The options of a configuration, for `train` and for `plan`.
fn options(setup: &Setup) -> Vec<String> {
    let own = setup.rung.options().iter().map(|o| (*o).to_owned());
    let (tokens, rank) = (setup.tokens, setup.rank);
    own.chain([
        format!("--max-seq-len={tokens}"),
        format!("--rank={rank}"),
        "--batch-size=1".to_owned(),
        "--optimizer=sgd".to_owned(),
        "--learning-rate=1e-4".to_owned(),
    ])
    .collect()
}

fn number(document: &Value, pointer: &str) -> Result<u64> {
    let found = document.pointer(pointer).and_then(Value::as_u64);
    found.ok_or_else(|| anyhow!("expected a count at {pointer} of the program's document, found none"))
}

/// Configurations with what they came to, or why they did not.
pub(super) struct Outcomes(pub(super) Vec<(Setup, Result<Figures, String>)>);

impl Outcomes {
    pub(super) fn get(&self, setup: &Setup) -> Option<&Result<Figures, String>> {
        self.0.iter().find(|(s, _)| s == setup).map(|(_, figures)| figures)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Setup, Result<Figures, String>)> {
        self.0.iter()
    }
}
