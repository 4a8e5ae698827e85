//! `mesp bench gradients`: the gradients of every method beside the exact ones, and estimates beside theory.

mod chart;
mod compare;
mod report;
mod way;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use mesp::BatchGradient;
use mesp::adapter::{BlockPairs, matrices, matrices_mut, params};
use mesp::arch::{Module, Param};
use mesp::method::{Blocks, Direction};
use mesp::settings::Compute;
use mesp_console::failure::usage;
use mesp_console::outputs::{self, Inputs};
use mesp_console::progress::Counter;
use mesp_console::ui;
use mesp_device::{Backend as _, Cpu, Distribution, Noise, Real, View};
use mesp_formats::Error as FileError;
use mesp_formats::atomic::{create_dir_all, write_atomic};

use super::models::BuiltIn;
use super::{machine, models};
use crate::args::BenchGradientsArgs;
use compare::Comparison;
use way::Way;

/// The exact gradient.
struct Reference {
    loss: f64,
    /// Tensor by tensor, in the order of the adapters.
    gradient: Vec<Vec<f64>>,
    names: Vec<String>,
    norm: f64,
    /// Norm of the values of the adapters.
    theta_norm: f64,
}

impl Reference {
    fn values(&self) -> usize {
        self.gradient.iter().map(Vec::len).sum()
    }
}

/// A method with how it compares.
struct Entry {
    way: Way,
    compared: Comparison,
}

/// Everything that was measured.
struct Measured {
    reference: Reference,
    /// Length of the steps along gradients.
    step: f64,
    entries: Vec<Entry>,
}

pub(super) fn run(args: &BenchGradientsArgs, built_in: BuiltIn) -> Result<()> {
    let name = machine::name(args.results.name.as_deref())?;
    let ways = way::chosen(args)?;
    if args.seeds == 0 || args.rows == 0 || args.tokens < 2 {
        let BenchGradientsArgs { seeds, rows, tokens, .. } = args;
        let problem =
            format!("--seeds {seeds}, --rows {rows}, --tokens {tokens}: expected 1, 1 and 2 or more");
        return Err(usage(problem, "leave them out for the defaults"));
    }
    if !(args.step > 0.0 && args.moved >= 0.0) || args.rank == 0 {
        let BenchGradientsArgs { step, moved, rank, .. } = args;
        let problem = format!(
            "--step {step}, --moved {moved}, --rank {rank}: expected a number above 0, 0 or more, and 1 or more"
        );
        return Err(usage(problem, "leave them out for the defaults"));
    }
    outputs::files(
        &args.results.output,
        &[&format!("gradients-{name}.json"), &format!("gradients-{name}.svg")],
        &Inputs::default()
            .model(args.model.as_deref())
            .file("--data", args.data.as_deref())
            .adapter("--adapter", args.adapter.as_deref()),
        args.results.replace.overwrite,
    )?;
    create_dir_all(&args.results.output)?;
    let cache = models::cache(args.results.cache.as_deref())?;
    let files = files(args, &cache, built_in)?;
    let measured = match args.reference {
        Compute::F64 => measure::<f64>(args, ways, &files, &cache)?,
        Compute::F32 => measure::<f32>(args, ways, &files, &cache)?,
        Compute::Auto | Compute::Bf16 => {
            return Err(usage("--reference takes f64 or f32", "leave it out for f64"));
        }
    };
    let document = report::json(args, &measured);
    let results = args.results.output.join(format!("gradients-{name}.json"));
    write_atomic(&results, |out| writeln!(out, "{document:#}"))?;
    let picture = args.results.output.join(format!("gradients-{name}.svg"));
    fs::write(&picture, chart::cosines(&measured)).map_err(|e| FileError::io("write", &picture, e))?;
    ui::result(args.shared.json, &report::text(&measured))?;
    if args.shared.json {
        ui::json(&document)?;
    }
    ui::note(format!("results: {} and {}", results.display(), picture.display()));
    Ok(())
}

/// Model and rows, as options of `mesp grads`.
fn files(args: &BenchGradientsArgs, cache: &Path, built_in: BuiltIn) -> Result<Vec<OsString>> {
    let (model, data) = if let (Some(model), Some(data)) = (&args.model, &args.data) {
        (model.clone(), data.clone())
    } else if let Some(name) = &args.preset {
        let vocabulary = mesp::init_model::preset(name)?.vocab_size;
        let model = models::random(&models::program()?, cache, name, &args.base_type)?;
        (model, models::rows(cache, vocabulary, args.tokens)?)
    } else {
        let folder = cache.join("demo");
        built_in(&folder)?;
        (folder.join("model"), folder.join("eval.jsonl"))
    };
    let mut files: Vec<OsString> = vec!["--model".into(), model.into(), "--data".into(), data.into()];
    if let Some(adapter) = &args.adapter {
        files.extend([OsString::from("--adapter"), adapter.into()]);
    }
    files.push(format!("--max-seq-len={}", args.tokens).into());
    files.push("--batch-size=1".into());
    files.push(format!("--seed={}", args.seed).into());
    files.extend(args.shared.threads.map(|n| format!("--threads={n}").into()));
    if args.adapter.is_none() {
        files.push(format!("--rank={}", args.rank).into());
    }
    Ok(files)
}

/// Makes the reference in `R`, then all others.
fn measure<R: Real>(
    args: &BenchGradientsArgs,
    ways: Vec<Way>,
    files: &[OsString],
    cache: &Path,
) -> Result<Measured> {
    // The adapters are those of single precision, so that all gradients are taken at the same place.
    let start = start(args, files, cache)?;
    let theta_norm = norm(start.iter().flatten());
    let mut exact = way::exact(args.reference).ready::<R>(files, (cache, args.rows, true))?;
    put(&mut exact, &start);
    let loss = finite(exact.gradient(1, &mut |_| {})?)?;
    let gradient = gradient_of(&exact);
    let total = norm(gradient.iter().flatten());
    if !(total.is_finite() && total > 0.0) {
        bail!("the norm of the exact gradient is {total}: there is nothing to compare with");
    }
    let names = names(exact.session().params());
    let reference = Reference { loss, gradient, names, norm: total, theta_norm };
    let step = args.step * theta_norm;
    let mut entries = Vec::new();
    for way in ways {
        let compared = compare(args, &way, files, cache, (&reference, &start, step), &mut exact)?;
        entries.push(Entry { way, compared });
    }
    Ok(Measured { reference, step, entries })
}

/// The adapters at which gradients are taken.
fn start(args: &BenchGradientsArgs, files: &[OsString], cache: &Path) -> Result<Vec<Vec<f64>>> {
    let mut ready = way::exact(Compute::F32).ready::<f32>(files, (cache, args.rows, false))?;
    if args.adapter.is_none() {
        // Directions of estimates are of steps 1 and later.
        let distribution = Distribution::Gaussian;
        let noise =
            Noise { seed: ready.seed(), step: 0, direction: 0, tensor: 0, distribution, below: f32::MAX };
        ready.session_mut().perturb_in_place(1.0, args.moved, Direction { noise, blocks: Blocks::ALL });
    }
    Ok(values(ready.session().backend(), ready.session().params()))
}

/// Gradients of one method with all seeds.
fn compare<R: Real>(
    args: &BenchGradientsArgs,
    way: &Way,
    files: &[OsString],
    cache: &Path,
    (reference, start, step): (&Reference, &[Vec<f64>], f64),
    exact: &mut BatchGradient<R>,
) -> Result<Comparison> {
    let mut ready = way.ready::<f32>(files, (cache, args.rows, false))?;
    put(&mut ready, start);
    let estimator = ready.session().options().estimator;
    let random = way.random;
    let seeds = if random { args.seeds } else { 1 };
    let mut compared = Comparison::new(estimator, reference.gradient.iter().map(Vec::len).collect());
    let mut counter = Counter::new(way.name.clone(), seeds as u64);
    for seed in 1..=seeds {
        finite(ready.gradient(seed as u64, &mut |_| {})?)?;
        let gradient = gradient_of(&ready);
        compared.add(&reference.gradient, &gradient);
        if seed <= args.descents.max(usize::from(!random)) {
            let scale = -step / norm(gradient.iter().flatten());
            let moved = start.iter().zip(&gradient);
            let moved: Vec<Vec<f64>> =
                moved.map(|(t, g)| t.iter().zip(g).map(|(t, g)| t + scale * g).collect()).collect();
            put(exact, &moved);
            compared.gains.push(reference.loss - exact.loss()?);
        }
        counter.at(seed as u64);
    }
    drop(counter);
    put(exact, start);
    Ok(compared)
}

/// A loss that is a number.
fn finite(loss: f64) -> Result<f64> {
    if !loss.is_finite() {
        bail!("the loss is {loss}: the model or the adapter holds values that are no numbers");
    }
    Ok(loss)
}

fn norm<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// The gradient, matrix by matrix of the adapters; nothing of one that is frozen.
fn gradient_of<R: Real>(ready: &BatchGradient<R>) -> Vec<Vec<f64>> {
    let session = ready.session();
    let of = |param: Param| session.grads().get(param.place, param.tensor);
    let values = |view| read(session.backend(), view);
    params(session.params()).into_iter().map(|param| of(param).map_or_else(Vec::new, values)).collect()
}

/// Values of a view.
fn read<R: Real>(be: &Cpu<R>, view: View<'_>) -> Vec<f64> {
    let mut to = vec![0.0; view.rows() * view.cols()];
    be.store(view, &mut |i, x| to[i] = x);
    to
}

/// Values of matrices.
fn values<R: Real>(be: &Cpu<R>, blocks: &[BlockPairs]) -> Vec<Vec<f64>> {
    matrices(blocks).map(|act| read(be, act.view())).collect()
}

/// Sets the adapters.
fn put<R: Real>(ready: &mut BatchGradient<R>, values: &[Vec<f64>]) {
    let (be, params, _) = ready.session_mut().state_mut();
    for (act, values) in matrices_mut(params).zip(values) {
        be.load(act.view_mut(), &mut |i| values[i]);
    }
}

/// Names of the matrices, in their order.
fn names(blocks: &[BlockPairs]) -> Vec<String> {
    let mut names = Vec::new();
    for (block, pairs) in blocks.iter().enumerate() {
        for (p, pair) in Module::MODULES.into_iter().zip(pairs) {
            if pair.is_some() {
                let at = if p.is_outside_blocks() { String::new() } else { format!("{block}.") };
                names.extend(["lora_A", "lora_B"].map(|m| format!("{at}{}.{m}", p.name())));
            }
        }
    }
    names
}
