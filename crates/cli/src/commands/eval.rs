//! `mesp eval`: losses of rows, or answers to questions, of a model with adapters and without.

mod losses;
mod questions;
mod report;

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use mesp::Evaluator;
use mesp::data::{BatchSize, Examples};
use mesp::method::Method;
use mesp::model::ModelWeights;
use mesp::train::{ObjectiveKind, Score, Staging, evaluate};
use mesp_device::{Real, Threads};

use crate::args::{Compute, EvalArgs};
use crate::failure::usage;
use crate::outputs::{self, Inputs};
use crate::progress::Counter;
use mesp::settings::Numbers;

pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    if args.batch_size == 0 {
        return Err(usage("--batch-size is 0, expected 1 or more", "leave it out for 1"));
    }
    if let Some(output) = &args.per_row {
        let mut read = Inputs::default().model(args.model.model.as_deref());
        read = read.file("--task", args.task.task.as_deref());
        read = read.file("--data", args.data.data.as_deref());
        for adapter in &args.adapter {
            read = read.adapter("--adapter", adapter.as_path());
        }
        outputs::file(output, &read, args.replace.overwrite)?;
    }
    let double = args.compute == Some(Compute::F64);
    match &args.task.task {
        Some(file) if double => questions::run::<f64>(args, file),
        Some(file) => questions::run::<f32>(args, file),
        None if double => losses::run::<f64>(args),
        None => losses::run::<f32>(args),
    }
}

/// What is evaluated, in order: the model itself is `None`.
fn models(args: &EvalArgs) -> Vec<Option<&Path>> {
    let base = args.adapter.len() != 1 || args.with_base;
    base.then_some(None).into_iter().chain(args.adapter.iter().map(|dir| Some(dir.as_path()))).collect()
}

/// Evaluates rows with adapters of a model.
struct Scorer<'a> {
    /// The model without one.
    base: Evaluator<'a>,
    batch_size: usize,
    objective: ObjectiveKind,
}

impl Scorer<'_> {
    /// What all rows came to, and each.
    fn score<R: Real>(&self, adapter: Option<&Path>, rows: &dyn Examples) -> Result<(Score, Vec<Score>)> {
        let size = BatchSize::rows(self.batch_size);
        let mut session = Evaluator { adapter, ..self.base }.session::<R>(rows, size, self.objective)?;
        let mut scores = vec![Score::default(); rows.count()];
        let mut counter = Counter::new("evaluating", rows.count() as u64);
        let total = evaluate(&mut session, rows, size, &mut Staging::default(), &mut |i, score| {
            scores[i] = score;
            counter.at(i as u64 + 1);
        })?;
        Ok((total, scores))
    }
}

/// A model without an adapter.
fn without_adapter<'a>(
    model: &'a Arc<ModelWeights>,
    numbers: Numbers,
    pool: &'a Arc<Threads>,
) -> Evaluator<'a> {
    let policy = Method::Mesp.policy();
    Evaluator { model, adapter: None, policy, numbers, pool, advice: false, limit: None }
}
