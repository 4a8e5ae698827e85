//! `mesp bench convergence`: the same model, data and tokens for every method; the held-out loss against steps,
//! tokens, time and work.

mod chart;
mod contestant;
mod report;
mod trial;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use mesp_console::failure::usage;
use mesp_console::outputs::{self, Inputs};
use mesp_console::ui;
use mesp_formats::Error as FileError;
use mesp_formats::atomic::{create_dir_all, write_atomic};

use super::models::BuiltIn;
use super::{machine, models};
use crate::args::BenchConvergenceArgs;
use contestant::Contestant;
use trial::{Track, Trial};

/// Evaluations of a run with backward passes, and of an estimate's.
const EVALUATIONS: [usize; 2] = [20, 60];
/// Share of an estimate's steps after which its learning rate is chosen.
const SCREEN: usize = 10;
/// Shares of the reference's fall that others are asked to reach.
const SHARES: [f64; 4] = [0.25, 0.5, 0.75, 0.9];

/// A contestant with what it came to.
struct Entry {
    who: Contestant,
    /// With the learning rate that was chosen.
    best: Trial,
    /// As long, with the other rate of the last two.
    other: Option<Trial>,
    /// Every run.
    tried: Vec<Tried>,
}

/// A run in short. Losses are infinite where it failed.
struct Tried {
    rate: f64,
    steps: usize,
    /// The lowest held-out loss.
    lowest: f64,
    /// The last one.
    last: f64,
}

/// A held-out loss, and the share of the reference's fall that it is.
struct Level {
    share: f64,
    loss: f64,
}

/// Everything that was measured.
struct Contest {
    entries: Vec<Entry>,
    levels: Vec<Level>,
}

pub(super) fn run(args: &BenchConvergenceArgs, built_in: BuiltIn) -> Result<()> {
    let name = machine::name(args.results.name.as_deref())?;
    let contestants = contestant::chosen(args)?;
    for (option, count) in [
        ("--steps", args.steps),
        ("--factor", args.factor),
        ("--batch-size", args.batch_size),
        ("--rank", args.rank),
    ] {
        if count == 0 {
            return Err(usage(format!("{option} is 0, expected 1 or more"), "leave it out for the default"));
        }
    }
    if args.model.is_some() != args.data.is_some() {
        return Err(usage("--model and --data belong together", "leave out both for the built-in ones"));
    }
    if args.data.is_some() && args.eval_data.is_none() && args.eval_split.is_none() {
        let problem = "no held-out rows were given, and their loss is what is compared";
        return Err(usage(problem, "give --eval-data FILE, or --eval-split 0.05"));
    }
    outputs::files(
        &args.results.output,
        &[&format!("convergence-{name}.json"), &format!("convergence-{name}.svg")],
        &Inputs::default()
            .model(args.model.as_deref())
            .file("--data", args.data.as_deref())
            .file("--eval-data", args.eval_data.as_deref()),
        args.results.replace.overwrite,
    )?;
    create_dir_all(&args.results.output)?;
    let cache = models::cache(args.results.cache.as_deref())?;
    let track = track(args, &cache, built_in)?;

    let mut entries = Vec::new();
    for who in contestants {
        let longest = if who.estimate { args.steps.saturating_mul(args.factor) } else { args.steps };
        entries.push(compete(&track, who, longest)?);
    }
    let contest = Contest { levels: levels(&entries[0].best)?, entries };

    let document = report::json(args, &contest);
    let results = args.results.output.join(format!("convergence-{name}.json"));
    write_atomic(&results, |out| writeln!(out, "{document:#}"))?;
    let picture = args.results.output.join(format!("convergence-{name}.svg"));
    fs::write(&picture, chart::curves(&contest)).map_err(|e| FileError::io("write", &picture, e))?;
    ui::result(args.shared.json, &report::text(&contest))?;
    if args.shared.json {
        ui::json(&document)?;
    }
    ui::note(format!("results: {} and {}", results.display(), picture.display()));
    Ok(())
}

/// What all runs share.
fn track(args: &BenchConvergenceArgs, cache: &Path, built_in: BuiltIn) -> Result<Track> {
    let mut files: Vec<OsString> = Vec::new();
    let mut add = |option: &str, path: &Path| files.extend([OsString::from(option), path.into()]);
    if let (Some(model), Some(data)) = (&args.model, &args.data) {
        add("--model", model);
        add("--data", data);
        if let Some(eval) = &args.eval_data {
            add("--eval-data", eval);
        }
    } else {
        let folder = cache.join("demo");
        built_in(&folder)?;
        add("--model", &folder.join("model"));
        add("--data", &folder.join("train.jsonl"));
        add("--eval-data", &folder.join("eval.jsonl"));
    }
    let mut options = vec![
        format!("--batch-size={}", args.batch_size),
        format!("--rank={}", args.rank),
        format!("--seed={}", args.seed),
        "--lr-schedule=constant".to_owned(),
        "--samples=0".to_owned(),
    ];
    options.extend(args.max_seq_len.map(|n| format!("--max-seq-len={n}")));
    options.extend(args.eval_split.filter(|_| args.eval_data.is_none()).map(|s| format!("--eval-split={s}")));
    options.extend(args.shared.threads.map(|n| format!("--threads={n}")));
    Ok(Track { program: models::program()?, cache: cache.to_path_buf(), files, options })
}

/// Chooses a learning rate, and runs with it. An estimate's is chosen after a part of its steps, and a rate that is
/// best there may be too high for the rest: the next lower one runs to the end as well, and what ends lower counts.
fn compete(track: &Track, who: Contestant, longest: usize) -> Result<Entry> {
    let evaluations = EVALUATIONS[usize::from(who.estimate)];
    let every = (longest / evaluations).max(1);
    let first = if who.estimate && who.rates.len() > 1 { (longest / SCREEN).max(1) } else { longest };
    let mut tried: Vec<Tried> = Vec::new();
    let mut attempt = |rate: f64, steps: usize| {
        let (name, trial) = (&who.name, trial::run(track, &who, rate, steps, every.min(steps)));
        let (lowest, last) = match &trial {
            Ok(trial) => (trial.best(), trial.last()),
            Err(_) => (f64::INFINITY, f64::INFINITY),
        };
        match &trial {
            Ok(_) => {
                let losses = format!("held-out loss {lowest:.4}, {last:.4} in the end");
                ui::note(format!("{name}, rate {rate}, {steps} steps: {losses}"));
            }
            // A rate that is too high ends a run; others may do.
            Err(e) => ui::note(format!("{name}, rate {rate}, {steps} steps: {e:#}")),
        }
        tried.push(Tried { rate, steps, lowest, last });
        trial.ok()
    };
    let failed = || anyhow!("{}: every learning rate failed", who.name);
    let lower = |a: f64, b: f64| a.total_cmp(&b);
    let all = who.rates.iter().filter_map(|rate| attempt(*rate, first)).collect::<Vec<_>>();
    let mut best = all.into_iter().min_by(|a, b| lower(a.best(), b.best())).ok_or_else(failed)?;
    let mut other = None;
    if first < longest {
        let below = who.rates.iter().copied().filter(|rate| *rate < best.rate).max_by(f64::total_cmp);
        let rates = [Some(best.rate), below].into_iter().flatten();
        let mut whole: Vec<Trial> = rates.filter_map(|rate| attempt(rate, longest)).collect();
        whole.sort_by(|a, b| lower(a.last(), b.last()));
        let mut whole = whole.into_iter();
        best = whole.next().ok_or_else(failed)?;
        other = whole.next();
    }
    Ok(Entry { who, best, other, tried })
}

/// Shares of the fall of a run's held-out loss.
fn levels(reference: &Trial) -> Result<Vec<Level>> {
    let before = reference.points.first().map_or(f64::NAN, |p| p.loss);
    let fall = before - reference.best();
    if !(fall.is_finite() && fall > 0.0) {
        bail!(
            "the held-out loss of the first method did not fall from {before}: there is nothing to compare"
        );
    }
    Ok(SHARES.map(|share| Level { share, loss: before - share * fall }).into())
}
