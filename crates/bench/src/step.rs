//! `mesp bench step`.

mod engine;
mod peer;
mod product;
mod report;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use mesp_formats::atomic::{create_dir_all, write_atomic};

use super::{machine, models};
use crate::args::BenchStepArgs;

pub(super) use engine::median;
use engine::{Anatomy, Engine, Timing};
use mesp::Model;
use mesp::settings::{Numbers, Settings, Setup, TrainingSettings, held, thread_count};
use mesp_console::failure::usage;
use mesp_console::outputs::{self, Inputs};
use mesp_console::{memory, ui};
use peer::Beside;

/// Everything that was measured.
struct Measured {
    anatomy: Anatomy,
    /// Tokens per second by length and threads.
    sweep: Vec<Timing>,
    beside: Option<Beside>,
}

pub(super) fn run(args: &BenchStepArgs) -> Result<()> {
    let name = checked(args)?;
    outputs::files(
        &args.results.output,
        &[&format!("step-{name}.json")],
        &Inputs::default()
            .model(args.model.model.as_deref())
            .adapter("--adapter", args.adapter.adapter.as_deref()),
        args.results.replace.overwrite,
    )?;
    create_dir_all(&args.results.output)?;
    let cache = models::cache(args.results.cache.as_deref())?;
    let path = model(args, &cache)?;
    let asked = settings(args);
    let mut setup = resolved(&asked)?;
    let opened = Model::open_as(&path, setup.base)?;
    ui::note_once(opened.notes());
    setup.fit(opened.config())?;
    let numbers = Numbers::single(args.method.compute, held(setup.base, opened.dtype()))?;
    let all = thread_count(args.shared.threads)?;
    let engine = Engine { model: opened.weights(), asked: &asked, setup: &setup, numbers, cache: &cache };

    let step = engine.plan(args.tokens, all)?;
    ui::note(format!("taking a step of {} tokens apart, {all} threads", args.tokens));
    let anatomy = engine.take_apart(step, args.steps)?;
    let mut sweep = Vec::new();
    for (threads, tokens) in grid(args, all) {
        let timing = engine.time(engine.plan(tokens, threads)?, args.steps)?;
        ui::note(format!(
            "{tokens} tokens, {threads} threads: {:.3} s a step, {:.1} tokens/s",
            timing.median(),
            timing.tokens_per_second()
        ));
        sweep.push(timing);
    }
    let beside = match &args.peer {
        Some(command) => Some(peer::compare(args, &engine, command, &path, all)?),
        None => None,
    };
    let measured = Measured { anatomy, sweep, beside };

    let document = report::json(args, &engine, &opened.config().arch, &measured, memory::marks());
    let results = args.results.output.join(format!("step-{name}.json"));
    write_atomic(&results, |out| writeln!(out, "{document:#}"))?;
    ui::result(args.shared.json, &report::text(&engine, &measured))?;
    if args.shared.json {
        ui::json(&document)?;
    }
    ui::note(format!("results: {}", results.display()));
    Ok(())
}

/// Refuses what cannot be measured, before a model is written; the name of the results.
fn checked(args: &BenchStepArgs) -> Result<String> {
    for (option, count) in [("--steps", args.steps), ("--rounds", args.rounds)] {
        if count == 0 {
            return Err(usage(format!("{option} is 0, expected 1 or more"), "leave it out for the default"));
        }
    }
    if let Some(tokens) = args.rows.iter().chain([&args.tokens]).find(|n| **n < 2) {
        let problem = format!("a step of {tokens} tokens has nothing to predict, expected 2 or more");
        return Err(usage(problem, "--tokens and --rows take numbers of tokens"));
    }
    if args.thread_counts.contains(&0) {
        return Err(usage("--thread-counts has 0, expected 1 or more", "leave it out for 1 and all"));
    }
    machine::name(args.results.name.as_deref())
}

/// The model: the one named, or random weights.
fn model(args: &BenchStepArgs, cache: &std::path::Path) -> Result<PathBuf> {
    if let Some(path) = &args.model.model {
        return Ok(path.clone());
    }
    let preset = args.preset.as_deref().unwrap_or("qwen2.5-0.5b");
    mesp::init_model::preset(preset)?;
    models::random(&models::program()?, cache, preset, args.base_type.as_deref().unwrap_or("bf16"))
}

/// What a training run with these options would have been given.
fn settings(args: &BenchStepArgs) -> Settings {
    Settings {
        base: Some(args.model.base.clone()),
        adapter: args.adapter.clone(),
        method: args.method.clone(),
        training: TrainingSettings {
            optimizer: args.optimizer.clone(),
            steps: Some(args.steps),
            max_grad_norm: Some(0.0),
            ..TrainingSettings::default()
        },
        ..Settings::default()
    }
}

/// What settings mean, and what is told of them.
fn resolved(settings: &Settings) -> Result<Setup> {
    let setup = settings.resolve()?;
    setup.notes.iter().for_each(ui::note);
    Ok(setup.of_adapters()?)
}

/// Threads and tokens of each measured speed.
fn grid(args: &BenchStepArgs, all: usize) -> Vec<(usize, usize)> {
    if args.quick {
        return Vec::new();
    }
    let rows = if args.rows.is_empty() { &[64, 256, 1024] } else { args.rows.as_slice() };
    let mut threads = if args.thread_counts.is_empty() { vec![1, all] } else { args.thread_counts.clone() };
    threads.dedup();
    threads.iter().flat_map(|t| rows.iter().map(|r| (*t, *r))).collect()
}
