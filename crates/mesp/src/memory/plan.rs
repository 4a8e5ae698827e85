//! The planned bytes of a run, by purpose.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use mesp_device::{Act, Class, Entry, Plan, RowStat, Spill};
use mesp_formats::Error as FileError;

use super::work::weights;
use super::{ByteSize, Workload};
use crate::Result;
use crate::adapter::{BlockPairs, list_count};
use crate::arch::{Module, Param, base_params};
use crate::method::Estimator;
use crate::model::{Batch, Block, ModelWeights};
use crate::source::Base;
use crate::tape::{SavedAs, Tape};
use crate::train::{self, Options, RunConfig};

/// The memory of a run in bytes: the arena, and what the process holds around it.
///
/// Its `Display` is one line: `43.9 MB (checkpoint 22.0 MB, adapter 17.6 MB, ...)`.
#[derive(Debug, Clone)]
pub struct MemoryPlan {
    /// The arena: each buffer's size, lifetime and offset.
    pub plan: Plan,
    /// Its bytes.
    arena: u64,
    /// Multiply-adds of a training step of the largest micro-batch.
    pub multiply_adds: u64,
    /// Planned bytes by class.
    pub ledger: BTreeMap<Class, u64>,
    /// Bytes of memory-mapped weights. They are not part of the plan: the system may drop their pages at any time.
    pub mapped: u64,
    /// Anonymous memory of the whole process in bytes; only computed with a budget.
    pub anonymous: Option<u64>,
}

impl MemoryPlan {
    /// Plans a session: the arena, and what the process holds around it.
    ///
    /// # Errors
    /// As [`train::plan`].
    pub fn new(model: &Arc<ModelWeights>, options: &Options, work: &Workload) -> Result<Self> {
        let plan = train::plan(model, options, &work.shapes, work.value_bytes, work.threads)?;
        Ok(Self::around(model, options, work, plan))
    }

    /// Adds to an arena what is held around it.
    pub(super) fn around(model: &ModelWeights, options: &Options, work: &Workload, plan: Plan) -> Self {
        let mut ledger: BTreeMap<Class, u64> =
            plan.ledger().into_iter().map(|(c, n)| (c, n as u64)).collect();
        // Norms and biases: of the files, and where all weights are trained at rest and moved.
        let copies = match (options.held, options.backpropagates()) {
            (None, _) => 1,
            (Some(_), true) => 2,
            (Some(_), false) => 3,
        };
        *ledger.entry(Class::BaseResident).or_default() += copies * work.base_resident(model);
        *ledger.entry(Class::Tokens).or_default() += work.tokens;
        *ledger.entry(Class::Other).or_default() += beside(&plan, model, options, work);
        ledger.retain(|_, n| *n > 0);
        let all: u64 = weights(model).map(|w| (w.bytes() - w.resident_bytes()) as u64).sum();
        let mapped = if work.base == Base::Mapped && !options.trains_model() { all } else { 0 };
        let multiply_adds = plan.programs.first().map_or(0, |p| p.multiply_adds);
        let arena = plan.bytes() as u64;
        Self { plan, arena, multiply_adds, ledger, mapped, anonymous: None }
    }

    /// Bytes of the arena, which is one allocation.
    pub fn arena(&self) -> u64 {
        self.arena
    }

    /// Bytes of everything that the engine allocates: the sum of [`MemoryPlan::ledger`].
    pub fn planned(&self) -> u64 {
        self.ledger.values().sum()
    }

    /// Bytes that a run which trains the model's own weights writes to its folder, at most at a time: checkpoints of the
    /// weights and the optimizer's state, and the model at its end. 0 for adapters.
    pub fn on_disk(&self, options: &Options, run: &RunConfig, steps: usize) -> u64 {
        if options.held.is_none() || !options.backpropagates() {
            return 0;
        }
        let of = |class| self.ledger.get(&class).copied().unwrap_or(0);
        let (model, checkpoint) = (of(Class::Trained), of(Class::Trained) + of(Class::Optimizer));
        // Without checkpoints on the way there is one where a run is interrupted, in place of the model. A new one is
        // written before an old one goes.
        let Some(every) = run.save_every else { return checkpoint };
        let kept =
            (steps / every.max(1)).max(1).min(run.save_total_limit.map_or(usize::MAX, |limit| limit + 1));
        model + kept as u64 * checkpoint
    }

    /// A lower bound in bytes for any placement of the same buffers: the plan without the holes between them.
    pub fn floor(&self) -> u64 {
        let holes = self.plan.programs.iter().max_by_key(|p| p.bytes).map_or(0, |p| p.bytes - p.live_peak);
        self.planned() - holes as u64
    }

    /// The classes and their bytes, largest first.
    pub fn largest(&self) -> Vec<(Class, u64)> {
        let mut classes: Vec<_> = self.ledger.iter().map(|(c, n)| (*c, *n)).collect();
        classes.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        classes
    }

    /// The one-line text of [`Display`](fmt::Display) with the `items` largest classes.
    pub fn line(&self, items: usize) -> String {
        let largest = self.largest();
        let more = if largest.len() > items { ", ..." } else { "" };
        let parts: Vec<String> =
            largest.iter().take(items).map(|(c, n)| format!("{} {}", c.name(), ByteSize(*n))).collect();
        format!("{} ({}{more})", ByteSize(self.planned()), parts.join(", "))
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line(4))
    }
}

/// Memory of the program itself while a run goes on: options, settings as they are written beside figures, what the
/// model and the rows are called, small things of the session. Measured on six models: 28 kB to 42 kB.
const PROGRAM: usize = 45_000;
/// What a buffer that is there at the peak takes beside its bytes: its name in lists, its place on a tape. Measured:
/// 80 B to 110 B.
const KEPT: usize = 110;
/// What a run writes of itself when it begins: the step's memory over time, sample rows, with a line of the first
/// for each block. Measured: 29 kB with 4 blocks, 55 kB with 36.
const NOTES: usize = 28_000;
const NOTES_BLOCK: usize = 1_000;
/// What the system's library keeps of each thread on the heap. Measured: 0.26 kB.
const THREAD_HEAP: usize = 350;
/// What naming one matrix takes while a file of them is written. Measured: 1.45 kB.
const NAMED: usize = 1_450;

/// Bytes that are in no arena: tables of the plan and the session, names of tensors, the program.
fn beside(plan: &Plan, model: &ModelWeights, options: &Options, work: &Workload) -> u64 {
    let entries =
        plan.persistent.capacity() + plan.programs.iter().map(|p| p.entries.capacity()).sum::<usize>();
    let layers = model.blocks.len();
    let exact = options.backpropagates();
    let block = size_of::<Block>() + size_of::<Tape>();
    let pairs = list_count(&model.config) * size_of::<BlockPairs>();
    let each = 2 + usize::from(options.adapter.dora);
    let times = |p: &Module| if Module::OUTSIDE_BLOCKS.contains(p) { 1 } else { layers };
    let has = |p: &&Module| options.adapter.has(**p, &model.config);
    let mut params = each * Module::MODULES.iter().filter(has).map(times).sum::<usize>();
    let own = base_params(&model.config).iter().filter(|param| options.base.has(param)).count();
    if exact || options.gradients {
        params += own;
    }
    let states = if exact { options.optimizer.most_states() } else { 0 };
    let mut state = 0;
    if exact || options.gradients {
        state += size_of::<Param>() + size_of::<usize>();
    }
    if exact {
        state += states * size_of::<Act>() + size_of::<usize>();
        if options.update.is_fused() {
            state += size_of::<Param>() + size_of::<usize>();
        }
    }
    let mut named = params * NAMED;
    let (mut models, mut derivatives) = (0, 0);
    if options.held.is_some() {
        named += own * NAMED;
        let more = if exact { 1 } else { 2 };
        models = more * (size_of::<ModelWeights>() + layers * size_of::<Block>());
        let directions = match options.estimator {
            Estimator::Directional(along) => along.directions,
            Estimator::Exact | Estimator::Subset(_) => 0,
        };
        derivatives = work.steps * directions * size_of::<f32>();
    }
    let rows = work.shapes.targets() * size_of::<RowStat>();
    // Of each step, its loss and its time.
    let steps = work.steps * 2 * size_of::<f64>();
    let notes = if options.training { NOTES + layers * NOTES_BLOCK } else { 0 };
    // The one when a run begins, the other when it keeps what it has learned.
    let written = named.max(notes);
    let kept = plan.programs.first().map_or(0, |p| p.alive_at_peak().count());
    let program = PROGRAM + kept * KEPT + work.threads * THREAD_HEAP;
    let tables = layers * block + pairs + params * state + models;
    (entries * size_of::<Entry>() + tables + derivatives + written + rows + steps + program) as u64
        + work.held
}

/// The file of the blocks' inputs, where the policy keeps them in one: a hidden file in a folder, with all its
/// space taken, so that a full disk shows before the run begins.
///
/// # Errors
/// When the file cannot be made.
pub fn spill(model: &ModelWeights, options: &Options, work: &Workload, dir: &Path) -> Result<Option<Spill>> {
    if options.policy.inputs() != SavedAs::File {
        return Ok(None);
    }
    let rows = work.shapes.train.as_ref().map_or(0, Batch::rows);
    let slot = rows * model.config.hidden_size * work.value_bytes;
    let made = Spill::create(dir, model.config.layers, slot);
    Ok(Some(made.map_err(|e| FileError::io("keep checkpoints in a file in", dir, e))?))
}
