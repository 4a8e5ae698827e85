//! The memory budget: the policy that fits it, or why none does.
//!
//! A budget covers the anonymous memory of the whole process. That is the arena, whose size the search over policies
//! can change, and everything else: what the engine holds outside the arena (tokens, norms, tables), and the process
//! around it (the program's data, its threads, the allocator's overhead).

use std::sync::Arc;

use mesp_device::{Class, release_free_memory};

use super::{ByteSize, Limit, MemoryPlan, OverBudget, Resident, Room, Saving, Workload};
use crate::Result;
use crate::method::{Estimator, Method};
use crate::model::ModelWeights;
use crate::optim::OptimizerKind;
use crate::tape::{Policy, SavedAs};
use crate::train::budget::{Freedom, Search, least, search};
use crate::train::{Options, Update};

/// Anonymous memory of a process that does nothing: the program's data, the allocator, what reading the command line
/// leaves behind. Measured with two threads, in builds for tests: 0.65 MB to 1.2 MB above what is planned.
const PROCESS: u64 = 1_050_000;
/// What one more thread touches of its stack and of the allocator, beside what a plan counts of it on the heap. Measured:
/// up to 100 kB.
const THREAD_STACK: u64 = 120_000;
/// Beyond what is measured when the budget is looked at: what a step allocates for a moment, and what the search
/// for a policy leaves behind.
const SLACK: u64 = 200_000;
/// Heap of a run with a budget, beside what any run has: which weights are in memory, to let them go. Measured: up
/// to 8.6 kB; of anonymous memory it is a part of what is measured above.
const ADVICE: u64 = 10_000;
/// What lists of buffers take more under another policy: a budget is held against those of the first, before the search.
const LISTS: u64 = 4_000;
/// By how much the memory of a process that is run once to be measured differs from start to start. Measured: 0.2 MB.
const MEASURED: u64 = 256_000;
/// What rows that are not there yet will hold besides the batch: their order and windows. Measured: 15 kB.
const ROWS: u64 = 16_000;
/// Budgets that are named are multiples of this.
const ROUND: u64 = 100_000;

/// The anonymous memory of this process before it plans anything large.
#[derive(Debug)]
pub struct Process {
    anonymous: Option<u64>,
}

impl Process {
    /// Measures it: call this when all rows are read and before anything is planned.
    pub fn measure() -> Self {
        release_free_memory();
        Self { anonymous: Resident::now().map(|now| now.anonymous) }
    }

    /// Anonymous memory beside the arena when a run is at its peak. The larger of two figures: one that is the
    /// same in every process, so that a plan and its run agree, and one from what this process has now.
    fn beside(&self, model: &ModelWeights, plan: &MemoryPlan, work: &Workload) -> u64 {
        let heap = plan.planned() - plan.arena();
        let usual = PROCESS + THREAD_STACK * work.threads as u64 + heap;
        let there = work.present + model.resident_bytes() as u64;
        let measured = self.anonymous.map_or(0, |now| now + heap.saturating_sub(there));
        usual.max(measured) + SLACK + work.beside
    }
}

/// The options of a run, and what a budget may change of them.
#[derive(Debug, Clone)]
pub struct Request {
    /// The options that determine the session's buffers.
    pub options: Options,
    /// Whether the budget may choose the policy: no setting fixes it.
    pub auto: bool,
    /// Whether activation checkpoints may go to a file although no setting asks for that.
    pub may_spill: bool,
    /// Whether per-block updates may be suggested to the user: no setting excludes them.
    pub may_step_blocks: bool,
}

/// The chosen policy and its memory.
#[derive(Debug)]
pub struct Decision {
    /// The planned memory.
    pub plan: MemoryPlan,
    /// Set if the plan exceeds the budget.
    pub refused: Option<OverBudget>,
    /// Set if the plan exceeds the memory that the system has free now.
    pub beyond: Option<OverBudget>,
}

impl Decision {
    /// The plan, if both the budget and this machine allow it.
    ///
    /// # Errors
    /// [`Error::OverBudget`](crate::Error::OverBudget) if they do not.
    pub fn allowed(self) -> Result<MemoryPlan> {
        self.refused.or(self.beyond).map_or(Ok(self.plan), |why| Err(why.into()))
    }
}

/// Chooses the policy, stores it in the request's options and plans its memory. With a budget, and if [`Request::auto`]
/// is set, it is the fastest policy that fits.
///
/// # Errors
/// When the options cannot be planned.
pub fn decide(
    model: &Arc<ModelWeights>,
    request: &mut Request,
    work: &Workload,
    budget: Option<ByteSize>,
) -> Result<Decision> {
    let process = Process::measure();
    let mut asked = MemoryPlan::new(model, &request.options, work)?;
    let mut fits = true;
    if let Some(budget) = budget {
        let beside = process.beside(model, &asked, work);
        fits = beside + asked.arena() <= budget.0;
        if request.auto {
            let freedom = Freedom { file: request.may_spill };
            let limit = usize::try_from(budget.0.saturating_sub(beside)).unwrap_or(usize::MAX);
            let size = (work.value_bytes, work.threads);
            let Search { fits: found, least } =
                search(model, &request.options, &work.shapes, size, limit, freedom)?;
            fits = found.is_some();
            let choice = found.unwrap_or(least);
            request.options = choice.options;
            asked = MemoryPlan::around(model, &request.options, work, choice.plan);
        }
        asked.anonymous = Some(beside + asked.arena());
        *asked.ledger.entry(Class::Other).or_default() += ADVICE;
        release_free_memory();
    }
    // Rows and norms are in memory already.
    let needs = asked.planned().saturating_sub(work.present);
    let room = Room::now().filter(|room| room.lacks(needs));
    let mut decision = Decision { plan: asked, refused: None, beyond: None };
    if fits && room.is_none() {
        return Ok(decision);
    }
    let advice = Advice { process: &process, model, request, work };
    if let Some(budget) = budget.filter(|_| !fits) {
        let needs = decision.plan.anonymous.unwrap_or_else(|| decision.plan.planned());
        decision.refused = Some(advice.refusal(&decision.plan, ("run", needs), Limit::Budget(budget))?);
    }
    if let Some(room) = room {
        decision.beyond = Some(advice.refusal(&decision.plan, ("plan", needs), Limit::System(room))?);
    }
    Ok(decision)
}

/// The smallest budget, in bytes, in which a run with these settings is possible: with any policy that gives the same
/// result if [`Request::auto`] is set, else with the requested method.
///
/// # Errors
/// When the options cannot be planned.
pub fn least_budget(
    process: &Process,
    model: &Arc<ModelWeights>,
    request: &Request,
    work: &Workload,
) -> Result<u64> {
    let advice = Advice { process, model, request, work };
    if request.options.estimator == Estimator::Exact {
        return advice.smallest(&request.options, request.may_spill);
    }
    advice.as_asked()
}

/// What a run is told that does not fit. Every budget that is named is one that was tried.
struct Advice<'a> {
    process: &'a Process,
    model: &'a Arc<ModelWeights>,
    request: &'a Request,
    work: &'a Workload,
}

impl Advice<'_> {
    /// The smallest budget with any policy that has the same result, as a run with the method `auto` finds it: what is
    /// beside the arena is measured with the policy that it looks at first.
    fn smallest(&self, options: &Options, may_spill: bool) -> Result<u64> {
        let Self { process, model, work, .. } = *self;
        let size = (work.value_bytes, work.threads);
        let least = least(model, options, &work.shapes, size, Freedom { file: may_spill })?;
        let first = Policy { saved: options.policy.saved, ..Method::Mesp.policy() };
        let first = MemoryPlan::new(model, &Options { policy: first, ..options.clone() }, work)?;
        let plan = MemoryPlan::around(model, &least.options, work, least.plan);
        let beside = process.beside(model, &first, work).max(process.beside(model, &plan, work));
        Ok((beside + margin(work) + plan.arena()).next_multiple_of(ROUND))
    }

    /// The smallest budget with the method, the policy and the tiles that were asked for.
    fn as_asked(&self) -> Result<u64> {
        let Self { process, model, request, work } = *self;
        let plan = MemoryPlan::new(model, &request.options, work)?;
        Ok((process.beside(model, &plan, work) + margin(work) + plan.arena()).next_multiple_of(ROUND))
    }

    /// What is needed, what there is, and what would do.
    fn refusal(
        &self,
        plan: &MemoryPlan,
        (what, needs): (&'static str, u64),
        limit: Limit,
    ) -> Result<OverBudget> {
        let Request { options, auto, may_spill, .. } = self.request;
        let mut refusal = OverBudget {
            what,
            needs,
            limit,
            largest: plan.largest().into_iter().take(3).collect(),
            method: (!auto).then(|| options.method_name.clone()),
            least_with_method: (!auto).then(|| self.as_asked()).transpose()?,
            least: None,
            others: Vec::new(),
        };
        if options.estimator == Estimator::Exact {
            let any = self.smallest(options, *may_spill)?;
            refusal.least = Some(any);
            let least = refusal.least_with_method.map_or(any, |with_method| with_method.min(any));
            for (savings, options, may_spill) in others_of(self.request) {
                let n = self.smallest(&options, may_spill)?;
                if n < least {
                    refusal.others.push((savings, n));
                }
            }
        }
        Ok(refusal)
    }
}

/// By how much a later run may need more than this process has found.
fn margin(work: &Workload) -> u64 {
    let measured = if work.beside > 0 { MEASURED } else { 0 };
    let rows = if work.present == 0 { ROWS } else { 0 };
    LISTS + measured + rows
}

/// Settings with other results that need less memory, and whether checkpoints may go to a file with them.
fn others_of(request: &Request) -> Vec<(Vec<Saving>, Options, bool)> {
    let asked = &request.options;
    let mut together = (Vec::new(), asked.clone());
    let mut list = Vec::new();
    let mut add = |saving: Saving, change: &dyn Fn(&mut Options)| {
        let mut options = asked.clone();
        change(&mut options);
        change(&mut together.1);
        together.0.push(saving);
        list.push((vec![saving], options, request.may_spill));
    };
    if request.may_step_blocks && asked.update == Update::Accumulate {
        add(Saving::PerBlock, &|o| o.update = Update::PerBlock);
    }
    if asked.training && asked.optimizer.most_states() > 0 {
        add(Saving::Sgd, &|o| o.optimizer = OptimizerKind::sgd(0.0));
    }
    if together.0.len() > 1 {
        list.push((together.0, together.1, request.may_spill));
    }
    if asked.policy.inputs() == SavedAs::Full {
        let options = Options { policy: asked.policy.with_inputs(SavedAs::Bf16), ..asked.clone() };
        list.push((vec![Saving::Bf16Checkpoints], options, false));
    }
    if asked.policy.activations() == SavedAs::Full {
        let options = Options { policy: asked.policy.with_activations(SavedAs::Bf16), ..asked.clone() };
        list.push((vec![Saving::Bf16Activations], options, request.may_spill));
    }
    list
}
