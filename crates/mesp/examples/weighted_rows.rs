//! Trains with an objective of one's own: the next-token loss of each row, multiplied by a constant weight of the row.
//!
//!     cargo run --release -p mesp --example weighted_rows
//!
//! The model is tiny and random, so nothing is downloaded. A [`Trainer`](mesp::Trainer) always minimizes
//! [`NextToken`]; another objective has a loop of its own over [`Backprop`], which runs twice: on [`Dry`], which plans
//! its memory, and on [`Cpu`].

#![allow(clippy::print_stdout, reason = "a program")]

use std::sync::Arc;

use mesp::Model;
use mesp::adapter::{self, AdapterConfig, BlockPairs, params, persistent_pairs};
use mesp::arch::{Config, Module, Tensor};
use mesp::data::Example;
use mesp::gradient::{Factors, Gradients, ParamList, Sums};
use mesp::init_model::{preset, write};
use mesp::method::{Backprop, Consumer, Method};
use mesp::model::{Batch, ModelWeights, NextToken, Objective, Top};
use mesp::optim::{Optimizer, OptimizerKind, Stepped, Trained};
use mesp::train::Staging;

use mesp_device::{Act, Backend, Class, Cpu, Dry, Elem, Label, Program, RowStat, Threads};
use mesp_formats::Dtype;

/// L = Σ over rows of a batch: weight of the row · Σ over its targets: −ln p(target), divided by all targets.
struct WeightedRows<'a> {
    /// The batch with a weight for each of its targets.
    weighted: &'a Batch,
    stats: &'a mut [RowStat],
}

impl WeightedRows<'_> {
    fn next_token<'a>(&'a mut self, top: Top<'a>) -> (NextToken<'a>, Top<'a>) {
        let scale = 1.0 / self.weighted.targets() as f64;
        (NextToken { scale, stats: &mut *self.stats }, Top { batch: self.weighted, ..top })
    }
}

impl<B: Backend> Objective<B> for WeightedRows<'_> {
    fn losses(&mut self, be: &mut B, top: Top<'_>, x: &mut Act) {
        let (mut inner, top) = self.next_token(top);
        inner.losses(be, top, x);
    }

    fn gradient(&mut self, be: &mut B, top: Top<'_>, x: &mut Act, factors: &mut impl Factors<B>) {
        let (mut inner, top) = self.next_token(top);
        inner.gradient(be, top, x, factors);
    }

    fn of_logits(&self) -> Option<(f64, &[RowStat])> {
        Some((1.0 / self.weighted.targets() as f64, self.stats))
    }
}

/// A batch whose targets have their row's weight.
fn weighted(batch: &Batch, weights: &[f32]) -> Batch {
    let row_of = |at: u32| batch.offsets.partition_point(|start| *start <= at as usize) - 1;
    Batch {
        target_weights: batch.target_rows.iter().map(|at| weights[row_of(*at)]).collect(),
        ..batch.clone()
    }
}

/// Adds gradients to buffers.
struct Adds<'a>(&'a mut Gradients);

impl<B: Backend> Consumer<B> for Adds<'_> {
    type Place<'a>
        = Sums<'a>
    where
        Self: 'a;
    fn wants(&self, place: usize, of: Tensor) -> bool {
        self.0.list().has(place, of)
    }
    fn begin(&mut self, _: &mut B, place: usize) -> Sums<'_> {
        let numbers = self.0.list().of(place);
        self.0.sums_of(numbers)
    }
}

/// What a run needs, on any backend.
struct Run {
    adapters: Vec<BlockPairs>,
    grads: Gradients,
    optimizer: Optimizer,
    backprop: Backprop,
    stats: Vec<RowStat>,
}

impl Run {
    fn new<B: Backend>(be: &mut B, c: &Config, lora: &AdapterConfig, targets: usize) -> Self {
        let adapters =
            persistent_pairs(be, c, lora, Elem::Full, |_| true, Label::new(Class::Adapter, "lora"));
        let list = Arc::new(ParamList::new(params(&adapters)));
        let grads = Gradients::persistent(be, &list, Label::new(Class::Gradient, "lora_grad"));
        let optimizer =
            Optimizer::new(be, OptimizerKind::adamw(0.9, 0.999, 1e-8), 0.0, Trained::ALIKE, 0, &list);
        let backprop = Backprop::new(Method::Mesp.policy(), c.layers);
        Self { adapters, grads, optimizer, backprop, stats: vec![RowStat::EMPTY; targets] }
    }

    /// One step, counted from 1; gives the loss before it.
    fn step<B: Backend>(&mut self, be: &mut B, model: &ModelWeights, batch: &Batch, number: u64) -> f64 {
        let Self { adapters, grads, optimizer, backprop, stats } = self;
        be.begin(Program(0));
        if let Some(all) = grads.flat_mut() {
            be.zero(all);
        }
        let mut objective = WeightedRows { weighted: batch, stats: &mut *stats };
        backprop.step(be, model, adapters, batch, &mut objective, &mut Adds(grads));
        for (place, pairs) in adapters.iter_mut().enumerate() {
            let stepped = &mut Stepped { pairs, weights: None };
            optimizer.update(be, place, stepped, grads, 0.01, number);
        }
        stats.iter().map(RowStat::loss).sum::<f64>() / batch.targets() as f64
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), &preset("tiny")?, Dtype::F32, 0, &mut |_done, _total| {})?;
    let model = Model::open(dir.path())?;
    let c = model.config();

    let rows: Vec<Example> =
        (0..2).map(|i| Example::of((0..16).map(|t| 3 + (i + t) % 5).collect())).collect();
    let mut staging = Staging::default();
    staging.fill(&rows, 0..rows.len())?;
    let batch = weighted(&staging.batch, &[1.0, 0.25]);

    let lora = AdapterConfig::new(4, 8.0, false, vec![Module::Q, Module::V]);
    let mut dry = Dry::new(size_of::<f32>(), 1);
    Run::new(&mut dry, c, &lora, batch.targets()).step(&mut dry, model.weights(), &batch, 1);
    let plan = dry.finish();
    println!("planned: {} bytes", plan.bytes());

    let mut cpu = Cpu::<f32>::new(plan, Arc::new(Threads::new(1)?));
    let mut run = Run::new(&mut cpu, c, &lora, batch.targets());
    adapter::init(&mut cpu, &mut run.adapters, 0);
    for number in 1..=2 {
        println!("step {number}: weighted loss {:.4}", run.step(&mut cpu, model.weights(), &batch, number));
    }
    Ok(())
}
