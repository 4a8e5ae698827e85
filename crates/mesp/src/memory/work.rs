//! The largest batches of a run, and the memory of its rows.

use mesp_device::Weight;

use crate::Result;
use crate::data::{BatchSize, Batches, Example, Examples, Mismatched, Origin, RaggedBatch, Rows};
use crate::model::{Batch, ModelWeights};
use crate::preference::{Completion, PreferenceLabel};
use crate::source::Base;
use crate::train::{Largest, Length, ObjectiveKind, RunConfig, Shapes, largest_batch};

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
        let held_out =
            if eval.count() == 0 { None } else { Some(largest_evaluation(&**eval, run.micro_batch())?) };
        let rows = train;
        let train = match run.batch_tokens {
            None => largest_batch(&**rows, run.batch_size)?,
            Some(_) => largest_packed(&**rows, &mut batches, count)?,
        };
        // What is only evaluated of a training step: completions with a label after other prompts.
        let mismatched = match Mismatched::of(&**rows)? {
            None => None,
            Some(others) if run.batch_tokens.is_none() => Some(largest_batch(&others, run.batch_size)?),
            Some(others) => Some(largest_packed(&others, &mut batches, count)?),
        };
        let held_out = match (held_out, mismatched) {
            (Some(one), Some(other)) => Some(either(&one, &other)),
            (one, other) => one.or(other),
        };
        let mut first = RaggedBatch::default();
        let shapes = Shapes { train: Some(train), eval: held_out };
        rows.append(0, &mut first)?;
        let preferences = if first.preferences.is_empty() { 0 } else { compared(&shapes) };
        let present = *heap as u64;
        let tokens = present + staged(&shapes) + preferences + batches.heap_bytes() as u64;
        Ok(Self { shapes, tokens, present, held: 0, beside: 0, steps, base, value_bytes: 4, threads })
    }

    /// For training on rows of `tokens` tokens each (completions of pairs: both), before there are any rows.
    pub fn of_length(
        tokens: usize,
        objective: &ObjectiveKind,
        run: &RunConfig,
        base: Base,
        threads: usize,
    ) -> Self {
        let each = objective.sequences();
        let fit = run.batch_tokens.map_or(usize::MAX, |all| (all / (each * tokens).max(1)).max(1));
        let batch = |sequences: usize| {
            let offsets: Vec<usize> = (0..=sequences).map(|r| r * tokens).collect();
            let targets = sequences * tokens.saturating_sub(1);
            Batch::for_plan(sequences * tokens, targets, sequences * tokens * tokens, &offsets)
        };
        let sequences = each * run.batch_size.min(fit);
        let row = size_of::<Example>() + 8 * tokens;
        let labeled = objective.preference().is_some_and(|p| !p.loss_type.is_paired());
        let shapes = Shapes { train: Some(batch(sequences)), eval: labeled.then(|| batch(sequences)) };
        let preferences = if objective.preference().is_some() { compared(&shapes) } else { 0 };
        let tokens = (sequences * row) as u64 + staged(&shapes) + preferences;
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

/// Bytes of what completions of the largest batches come to: what each is, twice, its log-probability and its weight.
fn compared(shapes: &Shapes) -> u64 {
    let most = [&shapes.train, &shapes.eval].into_iter().flatten().map(|b| b.offsets.len()).max();
    let one = 2 * size_of::<PreferenceLabel>() + size_of::<Completion>() + size_of::<f64>();
    (most.unwrap_or(0) * one) as u64
}

/// The largest batch of rows that are evaluated in their order: of a certain number of rows, and where tokens limit it,
/// of those that fit. With completions that have a label, that of the mismatched ones too.
///
/// # Errors
/// When a row cannot be read.
pub fn largest_evaluation(rows: &dyn Examples, size: BatchSize) -> Result<Batch> {
    let own = if size.tokens == usize::MAX {
        largest_batch(rows, size.rows)?
    } else {
        largest_in_order(rows, rows, size)?
    };
    // They are computed with the rows whose prompts they have.
    match Mismatched::of(rows)? {
        Some(others) => Ok(either(&own, &largest_in_order(&others, rows, size)?)),
        None => Ok(own),
    }
}

/// The largest batches of `rows`, which are put together in their order by the sizes of `order`.
fn largest_in_order(rows: &dyn Examples, order: &dyn Examples, size: BatchSize) -> Result<Batch> {
    let mut largest = Largest::default();
    size.each_range(order, &mut |range| {
        let sizes: Result<Vec<_>> = range.map(|row| rows.size(row)).collect();
        largest.add(sizes?);
        Ok(())
    })?;
    Ok(largest.batch())
}

/// A batch as large in each respect as the larger of two.
fn either(one: &Batch, other: &Batch) -> Batch {
    let (large, small) = if one.rows() > other.rows() { (one, other) } else { (other, one) };
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

/// The matrices of a model.
pub(super) fn weights(model: &ModelWeights) -> impl Iterator<Item = &Weight> {
    let linears = model.blocks.iter().flat_map(|b| &b.linears).map(|l| &l.weight);
    linears.chain([&model.embedding]).chain(&model.head)
}
