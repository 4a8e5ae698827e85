//! Runs configurations, each in a process of its own, and reads what they measured.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};
use mesp::init_model::preset;
use mesp_formats::Error as FileError;
use mesp_formats::atomic::{create_dir_all, write_atomic};
use serde_json::{Value, json};

use super::parts::{Rung, Setup};
use crate::args::BenchMemoryArgs;
use crate::ui;

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
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let cache = args.cache.clone().unwrap_or_else(|| std::env::temp_dir().join("mesp-bench"));
        create_dir_all(&cache)?;
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
        let (model, rows) = (self.model(&setup.model)?, self.rows(setup)?);
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

    /// A model of random weights, made once.
    fn model(&self, name: &str) -> Result<PathBuf> {
        let dtype = &self.args.base_type;
        let suffix = if dtype.starts_with('q') { ".gguf" } else { "" };
        let path = self.cache.join(format!("{name}-{dtype}{suffix}"));
        if !path.exists() {
            ui::note(format!("writing {name} in {dtype} with random weights"));
            // Under another name until it is whole.
            let part = self.cache.join(format!("part-{}-{name}-{dtype}{suffix}", std::process::id()));
            let to: [OsString; 2] = ["--output".into(), part.clone().into()];
            self.call("init-model", &to, &[format!("--preset={name}"), format!("--type={dtype}")])?;
            fs::rename(&part, &path).map_err(|e| FileError::io("rename", &part, e))?;
        }
        Ok(path)
    }

    /// Rows of the wanted length, of tokens that mean nothing.
    fn rows(&self, setup: &Setup) -> Result<PathBuf> {
        let vocabulary = preset(&setup.model)?.vocab_size;
        let path = self.cache.join(format!("rows-{vocabulary}-{}.jsonl", setup.tokens));
        write_atomic(&path, |out| {
            for row in 1..=4 {
                let tokens: Vec<usize> =
                    (0..setup.tokens).map(|t| (row * 7919 + t * 104_729) % vocabulary).collect();
                writeln!(out, "{}", json!({ "input_ids": tokens, "labels": tokens }))?;
            }
            Ok(())
        })?;
        Ok(path)
    }

    /// A command of this program in a process of its own; its JSON document.
    fn call(&self, command: &str, files: &[OsString], options: &[String]) -> Result<Value> {
        let mut process = Command::new(&self.program);
        process.arg(command).args(files).args(options).arg("--json");
        if let Some(threads) = self.args.shared.threads {
            process.args(["--threads", &threads.to_string()]);
        }
        let done = process.output().with_context(|| format!("cannot start mesp {command}"))?;
        if !done.status.success() {
            bail!("mesp {command} {}: {}", options.join(" "), last_words(&done.stderr, &self.cache));
        }
        serde_json::from_slice(&done.stdout)
            .map_err(|e| anyhow!("mesp {command}: expected JSON on its standard output: {e}"))
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

/// The error at the end of what a program said, without this machine's folders.
fn last_words(stderr: &[u8], cache: &Path) -> String {
    let text = String::from_utf8_lossy(stderr);
    let at = text.find("error: ").map_or(0, |at| at + "error: ".len());
    text[at..].trim().replace(&*cache.to_string_lossy(), "[cache]")
}

fn number(document: &Value, pointer: &str) -> Result<u64> {
    let found = document.pointer(pointer).and_then(Value::as_u64);
    found.ok_or_else(|| anyhow!("expected a count at {pointer} of the program's document, found none"))
}
