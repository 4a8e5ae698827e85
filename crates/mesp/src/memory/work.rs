//! The largest batches of a run, and the memory of its rows.

use mesp_device::Weight;

use crate::Result;
use crate::data::{Batches, Example, Examples, Origin, RaggedBatch, Rows, totals};
use crate::model::{Batch, ModelWeights};
use crate::source::Base;
use crate::train::{Largest, Length, RunConfig, Shapes, largest_batch};

/// What a plan must be large enough for: the largest batches of a run, and the memory of the rows themselves.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The largest micro-batch and the largest evaluation batch.
    pub shapes: Shapes,
    /// Bytes of the rows and of the current batch.
    pub tokens: u64,
    /// The part of [`Workload::tokens`] that is allocated already, in bytes.
    pub present: u64,
    /// Bytes of heap that the program held before the run, beyond its usual share.
    pub held: u64,
    /// Bytes of anonymous memory of a child process that runs while the arena is allocated.
    pub beside: u64,
    /// Optimizer steps, at most.
    pub steps: usize,
    /// How the base weights are held.
    pub base: Base,
    /// Bytes of a value: 4 for f32, 8 for f64.
    pub value_bytes: usize,
    /// Threads, the caller's among them.
    pub threads: usize,
}

impl Workload {
    /// For training on these rows, and evaluation on the held-out ones.
    ///
    /// # Errors
    /// When a row cannot be read, or the run has more steps than are allowed.
    pub fn training(rows: &Rows, run: &RunConfig, base: Base, threads: usize) -> Result<Self> {
        let Rows { train, eval, heap } = rows;
        let mut batches = Batches::new(&**train, run.micro_batch(), run.seed)?;
        let (steps, count) = run.steps(&mut batches)?;
        let held_out = if eval.count() == 0 {
            None
        } else {
            Some(match run.batch_tokens {
                None => largest_batch(&**eval, run.batch_size)?,
                Some(_) => largest_in_order(&**eval, run)?,
            })
        };
        let rows = train;
        let train = match run.batch_tokens {
            None => largest_batch(&**rows, run.batch_size)?,
            Some(_) => largest_packed(&**rows, &mut batches, count)?,
        };
        // What is only evaluated of a training step: completions of marked rows with other prompts.
        let beside = rows.append_mismatched(0, &mut RaggedBatch::default())?;
        let held_out =
            if beside { Some(with_mismatched(held_out, &train, totals(&**rows)?.1)) } else { held_out };
        let shapes = Shapes { train: Some(train), eval: held_out };
        let present = *heap as u64;
        let tokens = present + staged(&shapes) + batches.heap_bytes() as u64;
        Ok(Self { shapes, tokens, present, held: 0, beside: 0, steps, base, value_bytes: 4, threads })
    }

    /// For training on rows of `tokens` tokens each, before there are any rows.
    pub fn of_length(tokens: usize, run: &RunConfig, base: Base, threads: usize) -> Self {
        let fit = run.batch_tokens.map_or(usize::MAX, |all| (all / tokens.max(1)).max(1));
        let batch_size = run.batch_size.min(fit);
        let offsets: Vec<usize> = (0..=batch_size).map(|r| r * tokens).collect();
        let targets = batch_size * tokens.saturating_sub(1);
        let batch = Batch::for_plan(batch_size * tokens, targets, batch_size * tokens * tokens, &offsets);
        let row = size_of::<Example>() + 8 * tokens;
        let shapes = Shapes { train: Some(batch), eval: None };
        let tokens = (batch_size * row) as u64 + staged(&shapes);
        let steps = if let Length::Steps(n) = run.length { n } else { 0 };
        Self { shapes, tokens, held: 0, beside: 0, present: 0, steps, base, value_bytes: 4, threads }
    }

    /// Bytes of memory that the frozen weights will hold.
    pub(super) fn base_resident(&self, model: &ModelWeights) -> u64 {
        // What products do not take as it is stored is held in memory in any case.
        let Base::Resident(dtype) = self.base else { return model.resident_bytes() as u64 };
        let matrices: u64 = weights(model).map(|w| (w.rows() * dtype.row_bytes(w.cols())) as u64).sum();
        let already: u64 = weights(model).map(|w| w.resident_bytes() as u64).sum();
        model.resident_bytes() as u64 - already + matrices
    }
}

/// Bytes of the largest batches: each as it is planned, the largest of them as the engine reads it, and as rows
/// end to end with their origins.
fn staged(shapes: &Shapes) -> u64 {
    let all = || [&shapes.train, &shapes.eval].into_iter().flatten();
    let ragged = |b: &Batch| {
        (size_of::<u32>() + size_of::<i32>()) * b.rows()
            + (size_of::<usize>() + size_of::<Origin>()) * b.offsets.len()
    };
    let planned: usize = all().map(Batch::heap_bytes).sum();
    let read = all().map(Batch::heap_bytes).max().unwrap_or(0);
    (planned + read + all().map(ragged).max().unwrap_or(0)) as u64
}

/// An evaluation batch that holds the mismatched completions of a training batch too: each is at most as long as the
/// longest row.
fn with_mismatched(held_out: Option<Batch>, train: &Batch, longest: usize) -> Batch {
    let count = train.offsets.len().saturating_sub(1);
    let offsets: Vec<usize> = (0..=count).map(|i| i * longest).collect();
    let targets = count * longest.saturating_sub(1);
    let mismatched = Batch::for_plan(count * longest, targets, count * longest * longest, &offsets);
    let Some(other) = held_out else { return mismatched };
    let (large, small) =
        if mismatched.rows() > other.rows() { (mismatched, other) } else { (other, mismatched) };
    // Sequences without a token: room for their places, and no work.
    let mut offsets = large.offsets.clone();
    offsets.resize(large.offsets.len().max(small.offsets.len()), large.rows());
    let targets = large.targets().max(small.targets());
    Batch::for_plan(large.rows(), targets, large.probs.max(small.probs), &offsets)
}

/// The largest batches among those that a run packs.
fn largest_packed(rows: &dyn Examples, batches: &mut Batches<impl Examples>, count: usize) -> Result<Batch> {
    let mut largest = Largest::default();
    let (mut epoch, mut done) = (0, 0);
    while done < count {
        let all = batches.in_epoch(epoch)?;
        for i in 0..all.min(count - done) {
            let places = batches.places(epoch, i)?;
            let sizes: Result<Vec<_>> = places.map(|place| rows.size(batches.row(place))).collect();
            largest.add(sizes?);
        }
        (epoch, done) = (epoch + 1, done + all);
    }
    Ok(largest.batch())
}

/// The largest batches of rows that are taken in their order.
fn largest_in_order(rows: &dyn Examples, run: &RunConfig) -> Result<Batch> {
    let mut largest = Largest::default();
    let (mut start, count) = (0, rows.count());
    while start < count {
        let end = run.micro_batch().end(start, count, |row| Ok(rows.size(row)?.tokens))?;
        let sizes: Result<Vec<_>> = (start..end).map(|row| rows.size(row)).collect();
        largest.add(sizes?);
        start = end;
    }
    Ok(largest.batch())
}

/// The matrices of a model.
pub(super) fn weights(model: &ModelWeights) -> impl Iterator<Item = &Weight> {
    let linears = model.blocks.iter().flat_map(|b| &b.linears).map(|l| &l.weight);
    linears.chain([&model.embedding]).chain(&model.head)
}
