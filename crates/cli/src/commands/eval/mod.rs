//! `mesp eval`.

use std::sync::Arc;

use anyhow::{Result, bail};
use mesp::adapter::peft;
use mesp::method::{Estimator, Method};
use mesp::optim::OptimizerKind;
use mesp::source::Base;
use mesp::train::{Options, Score, Session, Shapes, Staging, Update, evaluate, largest_batch, plan};
use mesp_device::{Cpu, Elem, Real};
use rayon::ThreadPool;
use serde_json::{Value, json};

use crate::args::{Compute, EvalArgs};
use crate::inputs::{self, Held, Loaded};
use crate::numbers::{Numbers, held};
use crate::progress::Counter;
use crate::settings::given_adapter;
use crate::sizes::count;
use crate::ui;

pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    match args.compute {
        Some(Compute::F64) => eval::<f64>(args),
        _ => eval::<f32>(args),
    }
}

fn eval<R: Real>(args: &EvalArgs) -> Result<()> {
    let dir = inputs::model_path(&args.model)?;
    let data = &inputs::held_out(inputs::data_file(&args.data)?);
    if args.batch_size == 0 {
        return Err(inputs::usage("--batch-size is 0, expected 1 or more", "leave it out for 1"));
    }
    let pool = inputs::pool(args.shared.threads)?;
    let base = Base::parse(&args.model.base)?;
    let Loaded { model, dtype, .. } = inputs::load_model(dir, base)?;
    let numbers = Numbers::new(args.compute, held(base, dtype));
    let options = inputs::read_options(&args.data, &model.config, false);
    let rows = inputs::read_rows(dir, data, &Held::None, &options, None)?.train;
    inputs::warn_of_length(inputs::longest(&rows), &model.config);

    let shapes = Shapes { train: None, eval: Some(largest_batch(&rows, args.batch_size)) };
    let options = session_options(given_adapter(args.adapter.as_deref())?);
    let plan = plan(&model, &options, &shapes, size_of::<R>(), pool.current_num_threads())?;
    let be = Cpu::<R>::new(plan, Arc::clone(&pool)).with_compute(numbers.compute());
    let mut session = Session::new(be, model, options, shapes.targets());
    if let Some(adapter) = &args.adapter {
        let config = session.model().config.clone();
        let (be, params, _) = session.state_mut();
        peft::read_tensors(be, &adapter.join(mesp_formats::peft::MODEL_FILE), params, &config)?;
    }
    let (total, scores) = score(&mut session, &rows, args.batch_size, &pool);
    if !total.loss().is_finite() {
        bail!("the loss is {}: the model or the adapter holds values that are no numbers", total.loss());
    }
    if args.shared.json {
        return ui::json(&document(total, &scores));
    }
    let line = |name: &str, value: String| vec![name.to_owned(), value];
    ui::print(&ui::table(&[
        line("loss", format!("{:.4}", total.loss())),
        line("perplexity", format!("{:.3}", total.loss().exp())),
        line("accuracy", format!("{:.2}%", 100.0 * total.accuracy())),
        line("target tokens", count(total.targets as u64)),
        line("rows", rows.len().to_string()),
    ]))
}

/// A session that evaluates only: no gradients, no optimizer.
fn session_options(adapter: mesp::adapter::AdapterConfig) -> Options {
    Options {
        adapter,
        adapter_type: Elem::Full,
        method_name: Method::Mesp.name().to_owned(),
        policy: Method::Mesp.policy(),
        estimator: Estimator::Exact,
        update: Update::Accumulate,
        optimizer: OptimizerKind::Sgd { momentum: 0.0 },
        weight_decay: 0.0,
        seed: 0,
        gradients: false,
        training: false,
    }
}

fn score<R: Real>(
    session: &mut Session<Cpu<R>>,
    rows: &[mesp::data::Example],
    batch_size: usize,
    pool: &ThreadPool,
) -> (Score, Vec<Score>) {
    let mut scores = vec![Score::default(); rows.len()];
    let mut counter = Counter::new("evaluating", rows.len() as u64);
    let total = pool.install(|| {
        evaluate(session, rows, batch_size, &mut Staging::default(), &mut |i, score| {
            scores[i] = score;
            counter.at(i as u64 + 1);
        })
    });
    (total, scores)
}

fn document(total: Score, rows: &[Score]) -> Value {
    let row = |s: &Score| json!({ "loss": (s.targets > 0).then(|| s.loss()), "target_tokens": s.targets });
    json!({
        "loss": total.loss(),
        "perplexity": total.loss().exp(),
        "accuracy": total.accuracy(),
        "target_tokens": total.targets,
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
    })
}
