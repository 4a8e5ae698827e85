//! `mesp grads`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use mesp::adapter::peft;
use mesp::data::Example;
use mesp::method::{Estimator, Zeroth};
use mesp::optim::OptimizerKind;
use mesp::train::{Outcome, RunConfig, Session, Staging, Update};
use mesp_device::{Cpu, Real};
use mesp_formats::Error as FileError;
use rayon::ThreadPool;
use serde_json::json;

use crate::args::{CommonArgs, Compute, GradsArgs};
use crate::budget::{self, Decision};
use crate::footprint::{self, Work};
use crate::inputs::{self, Held, Loaded, usage};
use crate::numbers::{Numbers, held};
use crate::progress::Counter;
use crate::settings::Settings;
use crate::ui;

pub(crate) fn run(args: &GradsArgs) -> Result<()> {
    match args.common.method.compute {
        Some(Compute::F64) => grads::<f64>(&args.common),
        _ => grads::<f32>(&args.common),
    }
}

fn grads<R: Real>(args: &CommonArgs) -> Result<()> {
    let mut settings = Settings::new(args)?;
    if settings.options.update == Update::PerBlock {
        let problem = "--update per-block keeps no gradients, and grads writes them";
        return Err(usage(problem, "leave --update out"));
    }
    // Nothing is stepped.
    settings.options.optimizer = OptimizerKind::Sgd { momentum: 0.0 };
    let Some(output) = &args.output.output else {
        return Err(usage("no output was given", "give --output FILE.safetensors"));
    };
    if output.is_dir() {
        let problem = format!("{}: expected a file to write gradients to, found a folder", output.display());
        return Err(usage(problem, "give --output FILE.safetensors"));
    }
    let dir = inputs::model_path(&args.model)?;
    let data = inputs::data_file(&args.data)?;
    let pool = inputs::pool(args.shared.threads)?;
    let Loaded { model, dtype, .. } = inputs::load_model(dir, settings.base)?;
    let asked = args.method.compute.unwrap_or(Compute::F32);
    let numbers = Numbers::new(Some(asked), held(settings.base, dtype));
    let read = inputs::read_options(&args.data, &model.config, false);
    let rows = inputs::read_rows(dir, data, &Held::None, &read, None)?;

    // All rows are one batch; a smaller --batch-size divides it, which changes memory and not the result.
    let batch_size = args.schedule.batch_size.unwrap_or(rows.train.len());
    if let Some(tokens) = settings.run.batch_tokens {
        let problem = format!("--batch-tokens {tokens} has no meaning here: all rows are one batch");
        return Err(inputs::usage(problem, "give --batch-size to divide it"));
    }
    let run = RunConfig { batch_size, ..settings.run.clone() };
    let work = Work {
        held: 0,
        value_bytes: size_of::<R>(),
        ..Work::training(&rows, &run, settings.base, pool.current_num_threads())?
    };
    // Gradients are kept whole, so an update by block is no way out.
    let budget = args.method.memory_budget;
    let Decision { footprint, refused } = budget::decide(&model, &mut settings, &work, budget, false)?;
    if let Some(refused) = refused {
        return Err(refused.into());
    }
    let beside = output.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let spill = footprint::spill(&model, &settings.options, &work, beside)?;
    let mut be = Cpu::<R>::new(footprint.plan, Arc::clone(&pool))
        .with_compute(numbers.compute())
        .with_advice(budget.is_some());
    if let Some(spill) = spill {
        be = be.with_spill(spill);
    }
    let mut session = Session::new(be, model, settings.options, work.shapes.targets());
    if let Some(adapter) = &args.adapter.adapter {
        let config = session.model().config.clone();
        let (be, params, _) = session.state_mut();
        peft::read_tensors(be, &adapter.join(mesp_formats::peft::MODEL_FILE), params, &config)?;
    } else {
        session.init_adapters(run.seed);
    }
    let Outcome { nats, targets } = match session.options().estimator {
        Estimator::Exact => accumulate(&mut session, &rows.train, batch_size, &pool),
        Estimator::Zeroth(zeroth) => {
            pool.install(|| estimate(&mut session, zeroth, &rows.train, batch_size, run.seed))
        }
    };
    if let Some(e) = session.take_fault() {
        return Err(FileError::io("keep checkpoints in a file in", beside, e).into());
    }
    let loss = nats / targets as f64;
    if !loss.is_finite() {
        bail!("the loss is {loss}: the model or the adapter holds values that are no numbers");
    }
    let metadata = BTreeMap::from([
        ("loss".to_owned(), loss.to_string()),
        ("target_tokens".to_owned(), targets.to_string()),
    ]);
    let exact = session.options().estimator == Estimator::Exact;
    let grads = if exact { session.grads() } else { session.params() };
    peft::write_tensors(session.backend(), output, grads, &metadata)?;
    let shown = output.display().to_string();
    if args.shared.json {
        return ui::json(&json!({ "loss": loss, "target_tokens": targets, "output": shown }));
    }
    ui::print(&format!("loss {loss} over {targets} target tokens; gradients in {shown}\n"))
}

/// The zeroth-order estimate of the gradient as the first step of a run would make it; it takes the adapters'
/// place, which nothing reads any more.
fn estimate<R: Real>(
    session: &mut Session<Cpu<R>>,
    zeroth: Zeroth,
    rows: &[Example],
    batch_size: usize,
    seed: u64,
) -> Outcome {
    let mut staging = Staging::default();
    let mut outcome = Outcome { nats: 0.0, targets: rows.iter().map(Example::targets).sum() };
    let mut slopes = Vec::with_capacity(zeroth.directions);
    let mut counter = Counter::new("directions", zeroth.directions as u64);
    for direction in 0..zeroth.directions {
        let noise = zeroth.noise(seed, 1, direction);
        let ends = zeroth.points().map(|by| {
            let mut nats = 0.0;
            for chunk in rows.chunks(batch_size) {
                staging.fill(chunk);
                nats += session.probe(&staging.batch, by, noise).nats;
            }
            nats
        });
        outcome.nats += f64::midpoint(ends[0], ends[1]) / zeroth.directions as f64;
        slopes.push(zeroth.slope(ends, outcome.targets));
        counter.at(direction as u64 + 1);
    }
    let mut keep = 0.0;
    for (direction, slope) in slopes.iter().enumerate() {
        let weight = f64::from(*slope) / zeroth.directions as f64;
        session.drift(keep, weight, zeroth.noise(seed, 1, direction));
        keep = 1.0;
    }
    outcome
}

/// The gradients of the mean loss over all targets of all rows, in order.
fn accumulate<R: Real>(
    session: &mut Session<Cpu<R>>,
    rows: &[Example],
    batch_size: usize,
    pool: &ThreadPool,
) -> Outcome {
    let total: usize = rows.iter().map(Example::targets).sum();
    let mut staging = Staging::default();
    let mut sum = Outcome::default();
    let mut counter = Counter::new("gradients", rows.len() as u64);
    pool.install(|| {
        for (i, chunk) in rows.chunks(batch_size).enumerate() {
            staging.fill(chunk);
            if staging.batch.targets() > 0 {
                let outcome = session.accumulate(&staging.batch, total);
                sum.nats += outcome.nats;
                sum.targets += outcome.targets;
            }
            counter.at((i * batch_size + chunk.len()) as u64);
        }
    });
    sum
}
