//! What a run needs, before it has it: the planned bytes by class, and whether they fit.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use mesp::adapter::{BlockPairs, places};
use mesp::arch::{Module, Param, base_params};
use mesp::data::{Batches, Example, Examples, Origin};
use mesp::method::Estimator;
use mesp::model::{Batch, Block, Model};
use mesp::optim::UpdateRule as _;
use mesp::source::Base;
use mesp::tape::{SavedAs, Tape};
use mesp::train::{Largest, Length, Options, RunConfig, Shapes, largest_batch, plan};
use mesp_device::{Act, Class, Entry, Plan, RowStat, Spill, Weight};
use mesp_formats::Error as FileError;
use serde_json::{Map, Value};

use crate::inputs::Rows;
use crate::sizes::bytes;

/// What the engine is asked to do: its largest batches, and the memory of the rows themselves.
pub(crate) struct Work {
    pub(crate) shapes: Shapes,
    /// Bytes of the rows and of the batch that is being laid out.
    pub(crate) tokens: u64,
    /// Those of them that are in memory already.
    pub(crate) present: u64,
    /// Heap that the program held before it began the run, beside its usual share.
    pub(crate) held: u64,
    /// Anonymous memory of a process that runs while the arena is there.
    pub(crate) beside: u64,
    /// Optimizer steps, at most.
    pub(crate) steps: usize,
    pub(crate) base: Base,
    /// Bytes of a value: 4 for f32, 8 for f64.
    pub(crate) value_bytes: usize,
    pub(crate) threads: usize,
}

impl Work {
    /// Training on these rows, with evaluation of others.
    pub(crate) fn training(rows: &Rows, run: &RunConfig, base: Base, threads: usize) -> Result<Self> {
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
        let train = match run.batch_tokens {
            None => largest_batch(&**train, run.batch_size)?,
            Some(_) => largest_packed(&**train, &mut batches, count)?,
        };
        let shapes = Shapes { train: Some(train), eval: held_out };
        let present = *heap as u64;
        let tokens = present + staged(&shapes) + batches.heap_bytes() as u64;
        Ok(Self { shapes, tokens, present, held: 0, beside: 0, steps, base, value_bytes: 4, threads })
    }

    /// Training on rows of one length that are not there yet.
    pub(crate) fn of_length(tokens: usize, run: &RunConfig, base: Base, threads: usize) -> Self {
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
    fn base_resident(&self, model: &Model) -> u64 {
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

/// The largest batches among those that a run packs.
fn largest_packed(rows: &dyn Examples, batches: &mut Batches<'_>, count: usize) -> Result<Batch> {
    let mut largest = Largest::default();
    let (mut epoch, mut done) = (0, 0);
    while done < count {
        let all = batches.in_epoch(epoch)?;
        for i in 0..all.min(count - done) {
            let places = batches.places(epoch, i)?;
            let sizes: mesp::Result<Vec<_>> = places.map(|place| rows.size(batches.row(place))).collect();
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
        let sizes: mesp::Result<Vec<_>> = (start..end).map(|row| rows.size(row)).collect();
        largest.add(sizes?);
        start = end;
    }
    Ok(largest.batch())
}

fn weights(model: &Model) -> impl Iterator<Item = &Weight> {
    let linears = model.blocks.iter().flat_map(|b| &b.linears).map(|l| &l.weight);
    linears.chain([&model.embedding]).chain(&model.head)
}

/// A run's memory.
pub(crate) struct Footprint {
    /// The arena; a run takes it.
    pub(crate) plan: Plan,
    /// Its bytes.
    arena: u64,
    /// Multiplications with additions of the largest micro-batch's step.
    pub(crate) multiply_adds: u64,
    /// Every planned byte by what it is for.
    pub(crate) ledger: BTreeMap<Class, u64>,
    /// Bytes of mapped weights: in memory only as long as the system leaves them there, and not in the plan.
    pub(crate) mapped: u64,
    /// Anonymous memory of the whole process, where a budget asked for it.
    pub(crate) anonymous: Option<u64>,
}

/// Plans a session: the arena, and what is held around it.
pub(crate) fn footprint(model: &Arc<Model>, options: &Options, work: &Work) -> Result<Footprint> {
    let plan = plan(model, options, &work.shapes, work.value_bytes, work.threads)?;
    Ok(planned(model, options, work, plan))
}

/// Adds to an arena what is held around it.
pub(crate) fn planned(model: &Model, options: &Options, work: &Work, plan: Plan) -> Footprint {
    let mut ledger: BTreeMap<Class, u64> = plan.ledger().into_iter().map(|(c, n)| (c, n as u64)).collect();
    // Norms and biases: of the files, and where all weights are trained at rest and moved.
    let copies = if options.whole.is_some() { 3 } else { 1 };
    *ledger.entry(Class::BaseResident).or_default() += copies * work.base_resident(model);
    *ledger.entry(Class::Tokens).or_default() += work.tokens;
    *ledger.entry(Class::Other).or_default() += around(&plan, model, options, work);
    ledger.retain(|_, n| *n > 0);
    let all: u64 = weights(model).map(|w| (w.bytes() - w.resident_bytes()) as u64).sum();
    let mapped = if work.base == Base::Mapped && options.whole.is_none() { all } else { 0 };
    let multiply_adds = plan.programs.first().map_or(0, |p| p.multiply_adds);
    let arena = plan.bytes() as u64;
    Footprint { plan, arena, multiply_adds, ledger, mapped, anonymous: None }
}

/// Memory of the program itself while a run goes on: options, settings as they are written beside figures, what the
/// model and the rows are called, small things of the session. Measured on six models: 28 kB to 42 kB.
const PROGRAM: usize = 44_500;
/// What a buffer that is there at the peak takes beside its bytes: its name in lists, its place on a tape. Measured:
/// 80 B to 110 B.
const KEPT: usize = 110;
/// What a run writes of itself when it begins: the step's memory over time, sample rows, with a line of the first
/// for each block. Measured: 29 kB with 4 blocks, 55 kB with 36.
const NOTES: usize = 28_000;
const NOTES_BLOCK: usize = 1_000;
/// What the system's library keeps of each thread. Measured: 0.26 kB.
const THREAD: usize = 350;
/// What naming one matrix takes while a file of them is written. Measured: 1.45 kB.
const NAMED: usize = 1_450;

/// Bytes that are in no arena: tables of the plan and the session, names of tensors, the program.
fn around(plan: &Plan, model: &Model, options: &Options, work: &Work) -> u64 {
    let entries =
        plan.persistent.capacity() + plan.programs.iter().map(|p| p.entries.capacity()).sum::<usize>();
    let layers = model.blocks.len();
    let exact = options.backpropagates();
    let block = size_of::<Block>() + size_of::<Tape>();
    let pairs = places(&model.config) * size_of::<BlockPairs>();
    let each = 2 + usize::from(options.adapter.dora);
    let times = |p: &Module| if Module::OUTSIDE.contains(p) { 1 } else { layers };
    let has = |p: &&Module| options.adapter.has(**p, &model.config);
    let mut params = each * Module::MODULES.iter().filter(has).map(times).sum::<usize>();
    if options.base_gradients {
        params += base_params(&model.config).len();
    }
    let states = if exact { options.optimizer.states().len() } else { 0 };
    let mut state = 0;
    if exact || options.gradients {
        state += size_of::<Param>() + size_of::<usize>();
    }
    if exact {
        state += states * size_of::<Act>();
    }
    let mut named = params * NAMED;
    let (mut models, mut slopes) = (0, 0);
    if options.whole.is_some() {
        model.parts(&mut |_, _| named += NAMED);
        models = 2 * (size_of::<Model>() + layers * size_of::<Block>());
        let directions = match options.estimator {
            Estimator::Directional(along) => along.directions,
            Estimator::Exact | Estimator::Subset(_) => 0,
        };
        slopes = work.steps * directions * size_of::<f32>();
    }
    let rows = work.shapes.targets() * size_of::<RowStat>();
    // Of each step, its loss and its time.
    let steps = work.steps * 2 * size_of::<f64>();
    let notes = if options.training { NOTES + layers * NOTES_BLOCK } else { 0 };
    // The one when a run begins, the other when it keeps what it has learned.
    let written = named.max(notes);
    let kept = plan.programs.first().map_or(0, |p| p.alive_at_peak().count());
    let program = PROGRAM + kept * KEPT + work.threads * THREAD;
    let tables = layers * block + pairs + params * state + models;
    (entries * size_of::<Entry>() + tables + slopes + written + rows + steps + program) as u64 + work.held
}

/// The file of the blocks' inputs, where the policy keeps them in one: a hidden file in a folder, with all its
/// space taken, so that a full disk shows before the run begins.
pub(crate) fn spill(model: &Model, options: &Options, work: &Work, dir: &Path) -> Result<Option<Spill>> {
    if options.policy.inputs() != SavedAs::File {
        return Ok(None);
    }
    let rows = work.shapes.train.as_ref().map_or(0, Batch::rows);
    let slot = rows * model.config.hidden_size * work.value_bytes;
    let made = Spill::create(dir, model.config.layers, slot);
    Ok(Some(made.map_err(|e| FileError::io("keep checkpoints in a file in", dir, e))?))
}

impl Footprint {
    /// The bytes of it that are one block, the arena.
    pub(crate) fn arena(&self) -> u64 {
        self.arena
    }

    /// Everything that the engine allocates.
    pub(crate) fn planned(&self) -> u64 {
        self.ledger.values().sum()
    }

    /// What no placement of the same buffers goes below.
    pub(crate) fn floor(&self) -> u64 {
        let holes = self.plan.programs.iter().max_by_key(|p| p.bytes).map_or(0, |p| p.bytes - p.live_peak);
        self.planned() - holes as u64
    }

    /// Classes, the largest first.
    pub(crate) fn largest(&self) -> Vec<(Class, u64)> {
        let mut classes: Vec<_> = self.ledger.iter().map(|(c, n)| (*c, *n)).collect();
        classes.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        classes
    }

    /// One line: `43.9 MB (checkpoint 22.0 MB, adapter 17.6 MB, ...)`.
    pub(crate) fn line(&self, items: usize) -> String {
        let largest = self.largest();
        let more = if largest.len() > items { ", ..." } else { "" };
        let parts: Vec<String> =
            largest.iter().take(items).map(|(c, n)| format!("{} {}", c.name(), bytes(*n))).collect();
        format!("{} ({}{more})", bytes(self.planned()), parts.join(", "))
    }

    /// The ledger as JSON.
    pub(crate) fn ledger_json(&self) -> Map<String, Value> {
        self.ledger.iter().map(|(c, n)| (c.name().to_owned(), Value::from(*n))).collect()
    }
}
