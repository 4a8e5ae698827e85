//! `mesp grads`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use mesp::adapter::peft;
use mesp::data::{Examples, Part, Subset, totals};
use mesp::memory::{Workload, processor, spill};
use mesp::optim::OptimizerKind;
use mesp::train::{Outcome, RunConfig, Session, Staging, Update};
use mesp_device::{Cpu, Real, RowStat};
use mesp_formats::Error as FileError;
use serde_json::json;

use crate::args::{CommonArgs, Compute, GradsArgs};
use crate::failure::usage;
use crate::inputs::{self, Held, Loaded};
use crate::memory;
use crate::outputs;
use crate::progress::Counter;
use crate::settings::setup;
use crate::{made_with, ui};
use mesp::settings::{Numbers, held};

pub(crate) fn run(args: &GradsArgs) -> Result<()> {
    match args.common.method.compute {
        Some(Compute::F64) => grads::<f64>(&args.common),
        _ => grads::<f32>(&args.common),
    }
}

/// A session that is ready to make gradients of rows.
pub(super) struct Ready<R: Real> {
    pub(super) session: Session<Cpu<R>>,
    rows: Arc<dyn Examples>,
    batch_size: usize,
    /// Seed of new adapters and of directions.
    pub(super) seed: u64,
    /// Where checkpoints in a file go.
    beside: PathBuf,
    /// Buffers of a batch that is evaluated.
    staging: Staging,
}

impl<R: Real> Ready<R> {
    /// Reads model and rows, and plans gradients of the first `limit` rows as one batch; with `evaluates` their
    /// losses too.
    pub(super) fn new(args: &CommonArgs, beside: &Path, limit: usize, evaluates: bool) -> Result<Self> {
        let mut settings = setup(args)?.of_gradients()?;
        if settings.options.update == Update::PerBlock {
            let problem = "--update per-block keeps no gradients, and they are wanted here";
            return Err(usage(problem, "leave --update out"));
        }
        settings.options.gradients = true;
        // What an adapter was trained with is no part of its loss; what is asked for here is.
        settings.options.adapter.dropout = args.adapter.lora_dropout.unwrap_or(0.0);
        // Nothing is stepped.
        settings.options.optimizer = OptimizerKind::sgd(0.0);
        let dir = inputs::model_path(&args.model)?;
        memory::keep_children_within(args.method.memory_budget);
        let data = inputs::data_file(&args.data)?;
        let pool = inputs::pool(args.shared.threads)?;
        let Loaded { model, dtype, .. } = inputs::load_model(dir, settings.base)?;
        settings.fit(&model.config)?;
        settings.differentiable(dtype)?;
        made_with::note_other_base(args.adapter.adapter.as_deref(), (&model, dtype), dir);
        let asked = args.method.compute.unwrap_or(Compute::F32);
        let numbers = Numbers::new(Some(asked), held(settings.base, dtype));
        let read = args.data.read_options(&model.config, false);
        let mut rows = inputs::read_rows(dir, data, &Held::None, &read, None)?;
        let count = rows.train.count();
        if limit < count {
            let chosen = Subset::first(limit, count);
            rows.train = Arc::new(Part { all: rows.train, chosen });
        }

        // All rows are one batch; a smaller --batch-size divides it, which changes memory and not the result.
        let batch_size = args.schedule.batch_size.unwrap_or_else(|| rows.train.count());
        if let Some(tokens) = settings.run.batch_tokens {
            let problem = format!("--batch-tokens {tokens} has no meaning here: all rows are one batch");
            return Err(crate::failure::usage(problem, "give --batch-size to divide it"));
        }
        let run = RunConfig { batch_size, ..settings.run.clone() };
        if evaluates {
            rows.eval = Arc::clone(&rows.train);
        }
        let work = Workload {
            held: 0,
            value_bytes: size_of::<R>(),
            ..Workload::training(&rows, &run, settings.base, pool.count())?
        };
        // Gradients are kept whole, so an update by block is no way out.
        let budget = args.method.memory_budget;
        let memory = settings.decide(&model, &work, budget, false)?.allowed()?;
        let spill = spill(&model, &settings.options, &work, beside)?;
        let mut be =
            processor::<R>(memory.plan, pool)?.with_compute(numbers.compute()).with_advice(budget.is_some());
        if let Some(spill) = spill {
            be = be.with_spill(spill);
        }
        let mut session = Session::new(be, model, settings.options, work.shapes.targets());
        if let Some(adapter) = &args.adapter.adapter {
            let model = Arc::clone(session.model());
            let (be, params, _) = session.state_mut();
            mesp::source::load_adapter(be, adapter, params, &model)?;
        } else {
            session.init_adapters(run.seed);
        }
        let (rows, beside) = (rows.train, beside.to_path_buf());
        Ok(Self { session, rows, batch_size, seed: run.seed, beside, staging: Staging::default() })
    }

    /// Target tokens of all rows.
    pub(super) fn targets(&self) -> Result<usize> {
        Ok(totals(&*self.rows)?.0.targets)
    }

    /// Makes the gradient, or an estimate of it with the random numbers of a step; gives the mean loss.
    pub(super) fn gradient(&mut self, step: u64, done: &mut dyn FnMut(usize)) -> Result<f64> {
        let targets = self.targets()?;
        let Self { session, rows, batch_size, seed, beside, staging } = self;
        let mut read = Ok(());
        let Outcome { nats, .. } = session.gradient((*seed, step), targets, &mut |each| {
            for chunk in chunks(rows.count(), *batch_size) {
                match staging.fill(&**rows, chunk.clone()) {
                    Ok(()) => each(&staging.batch),
                    Err(e) => read = Err(e),
                }
                done(chunk.len());
            }
        });
        read?;
        if let Some(e) = session.take_fault() {
            return Err(FileError::io("keep checkpoints in a file in", beside.as_path(), e).into());
        }
        let loss = nats / targets as f64;
        if !loss.is_finite() {
            bail!("the loss is {loss}: the model or the adapter holds values that are no numbers");
        }
        Ok(loss)
    }

    /// The mean loss of the adapters as they are.
    pub(super) fn loss(&mut self) -> Result<f64> {
        let targets = self.targets()?;
        let Self { session, rows, batch_size, staging, .. } = self;
        let mut nats = 0.0;
        for chunk in chunks(rows.count(), *batch_size) {
            staging.fill(&**rows, chunk)?;
            nats += session.evaluate(&staging.batch).iter().map(RowStat::nats).sum::<f64>();
        }
        Ok(nats / targets as f64)
    }

    /// Rows, times the passes that an estimate makes over each.
    fn passes(&self) -> usize {
        self.session.options().estimator.passes() * self.rows.count()
    }
}

/// So many rows in chunks.
fn chunks(rows: usize, of: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(of).map(move |start| start..rows.min(start.saturating_add(of)))
}

fn grads<R: Real>(args: &CommonArgs) -> Result<()> {
    let Some(output) = &args.output.output else {
        return Err(usage("no output was given", "give --output FILE.safetensors"));
    };
    let read = args.reads(args.data.data.as_deref(), None);
    outputs::file(output, &read, args.output.overwrite)?;
    let beside = mesp_formats::atomic::folder_of(output);
    let mut ready = Ready::<R>::new(args, beside, usize::MAX, false)?;
    let mut counter = Counter::new("gradients", ready.passes() as u64);
    let (targets, mut done) = (ready.targets()?, 0);
    let loss = ready.gradient(1, &mut |rows| {
        done += rows as u64;
        counter.at(done);
    })?;
    let metadata = BTreeMap::from([
        ("loss".to_owned(), loss.to_string()),
        ("target_tokens".to_owned(), targets.to_string()),
    ]);
    let session = &ready.session;
    let gradients: Vec<_> = session.grads().iter().collect();
    peft::write_params(session.backend(), output, &gradients, &metadata)?;
    let shown = output.display().to_string();
    if args.shared.json {
        return ui::json(&json!({ "loss": loss, "target_tokens": targets, "output": shown }));
    }
    let text = format!("loss {loss} over {targets} target tokens; gradients in {shown}\n");
    ui::result(outputs::is_standard(output), &text)
}
