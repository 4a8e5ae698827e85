//! `mesp grads`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use mesp::adapter::peft;
use mesp::data::Example;
use mesp::train::{Outcome, RunConfig, Session, Staging, Update};
use mesp_device::{Cpu, Real};
use rayon::ThreadPool;
use serde_json::json;

use crate::args::{CommonArgs, Compute, GradsArgs};
use crate::footprint::{self, Work};
use crate::inputs::{self, usage};
use crate::progress::Counter;
use crate::settings::{Settings, no_bf16};
use crate::ui;

pub(crate) fn run(args: &GradsArgs) -> Result<()> {
    match args.common.method.compute {
        Compute::F32 => grads::<f32>(&args.common),
        Compute::F64 => grads::<f64>(&args.common),
        Compute::Bf16 => no_bf16(),
    }
}

fn grads<R: Real>(args: &CommonArgs) -> Result<()> {
    let settings = Settings::new(args)?;
    if settings.options.update == Update::PerBlock {
        let problem = "--update per-block keeps no gradients, and grads writes them";
        return Err(usage(problem, "leave --update out"));
    }
    let Some(output) = &args.output.output else {
        return Err(usage("no output was given", "give --output FILE.safetensors"));
    };
    if output.is_dir() {
        let problem = format!("{}: expected a file to write gradients to, found a folder", output.display());
        return Err(usage(problem, "give --output FILE.safetensors"));
    }
    let dir = inputs::model_dir(&args.model)?;
    let data = inputs::data_file(&args.data)?;
    let pool = inputs::pool(args.shared.threads)?;
    let model = inputs::load_model(dir, settings.base)?.model;
    let read = inputs::read_options(&args.data, &model.config, false);
    let rows = inputs::read_rows(dir, data, None, &read)?;

    // All rows are one batch; a smaller --batch-size divides it, which changes memory and not the result.
    let batch_size = args.schedule.batch_size.unwrap_or(rows.train.len());
    let run = RunConfig { batch_size, ..settings.run };
    let work = Work {
        value_bytes: size_of::<R>(),
        ..Work::training(&rows, &run, settings.base, pool.current_num_threads())
    };
    let footprint = footprint::footprint(&model, &settings.options, &work)?;
    if let Some(budget) = args.method.memory_budget.filter(|b| footprint.planned() > b.0) {
        // Gradients are kept whole, so an update by block is no way out.
        let least = footprint::least(&model, &settings.options, &work, usize::MAX)?;
        footprint::verdict(&footprint, budget, &least)?;
    }
    let be = Cpu::<R>::new(footprint.plan, Arc::clone(&pool));
    let mut session = Session::new(be, model, settings.options, work.shapes.targets());
    if let Some(adapter) = &args.adapter.adapter {
        let config = session.model().config.clone();
        let (be, params, _) = session.state_mut();
        peft::read_tensors(be, &adapter.join(mesp_formats::peft::MODEL_FILE), params, &config)?;
    } else {
        session.init_adapters(run.seed);
    }
    let Outcome { nats, targets } = accumulate(&mut session, &rows.train, batch_size, &pool);
    let loss = nats / targets as f64;
    if !loss.is_finite() {
        bail!("the loss is {loss}: the model or the adapter holds values that are no numbers");
    }
    let metadata = BTreeMap::from([
        ("loss".to_owned(), loss.to_string()),
        ("target_tokens".to_owned(), targets.to_string()),
    ]);
    peft::write_tensors(session.backend(), output, session.grads(), &metadata)?;
    let shown = output.display().to_string();
    if args.shared.json {
        return ui::json(&json!({ "loss": loss, "target_tokens": targets, "output": shown }));
    }
    ui::print(&format!("loss {loss} over {targets} target tokens; gradients in {shown}\n"))
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
