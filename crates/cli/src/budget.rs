//! The memory budget: the policy that fits it, or why none does.
//!
//! A budget covers the anonymous memory of the whole process. That is the arena, which a search over policies
//! makes fit, and everything else: what the engine holds beside the arena (rows, norms, tables), and the process
//! around it (the program's own data, its threads, what the allocator keeps).

use std::sync::Arc;

use anyhow::Result;
use mesp::model::Model;
use mesp::optim::OptimizerKind;
use mesp::tape::Residency;
use mesp::train::budget::{Freedom, Search, least, search};
use mesp::train::{Options, Update};
use mesp_device::{Class, Elem};

use crate::failure::OverBudget;
use crate::footprint::{Footprint, Work, footprint, planned};
use crate::memory;
use crate::settings::Settings;
use crate::sizes::{Bytes, bytes};

/// Anonymous memory of a process that does nothing: the program's data, the allocator, what reading the command line
/// leaves behind. Measured with two threads, in builds for tests: 0.65 MB to 1.05 MB above what is planned.
const PROCESS: u64 = 900_000;
/// What one more thread touches of its stack and of the allocator. Measured: up to 100 kB.
const THREAD: u64 = 120_000;
/// Beyond what is measured when the budget is looked at: what a step allocates for a moment, and what the search
/// for a policy leaves behind.
const SLACK: u64 = 200_000;
/// Heap of a run with a budget, beside what any run has: which weights are in memory, to let them go. Measured: up
/// to 8.6 kB; of anonymous memory it is a part of what is measured above.
const ADVICE: u64 = 10_000;
/// What lists of buffers take more under another policy: a budget is held against those of the first, before the search.
const LISTS: u64 = 4_000;
/// Budgets that are named are multiples of this.
const ROUND: u64 = 100_000;

/// What this process holds before it plans anything large.
pub(crate) struct Process {
    anonymous: Option<u64>,
}

impl Process {
    /// Measures it, once all rows are read and nothing is planned.
    pub(crate) fn measure() -> Self {
        memory::give_back();
        Self { anonymous: memory::anonymous() }
    }

    /// Anonymous memory beside the arena when a run is at its peak. The larger of two figures: one that is the
    /// same in every process, so that a plan and its run agree, and one from what this process has now.
    fn beside(&self, model: &Model, footprint: &Footprint, work: &Work) -> u64 {
        let heap = footprint.planned() - footprint.arena();
        let usual = PROCESS + THREAD * work.threads as u64 + heap;
        let there = work.present + model.resident_bytes() as u64;
        let measured = self.anonymous.map_or(0, |now| now + heap.saturating_sub(there));
        usual.max(measured) + SLACK
    }
}

/// A policy that was decided on.
pub(crate) struct Decision {
    pub(crate) footprint: Footprint,
    /// Why it cannot be used.
    pub(crate) refused: Option<OverBudget>,
}

/// Decides the policy, which goes into `settings`, and plans it: with a budget the fastest that fits, where the
/// policy is left to the program. `per_block` says whether an update by block may be advised.
pub(crate) fn decide(
    model: &Arc<Model>,
    settings: &mut Settings,
    work: &Work,
    budget: Option<Bytes>,
    per_block: bool,
) -> Result<Decision> {
    let process = Process::measure();
    let mut asked = footprint(model, &settings.options, work)?;
    let Some(budget) = budget else { return Ok(Decision { footprint: asked, refused: None }) };
    let beside = process.beside(model, &asked, work);
    let mut fits = beside + asked.arena() <= budget.0;
    if settings.auto {
        let freedom = Freedom { file: settings.may_spill };
        let limit = usize::try_from(budget.0.saturating_sub(beside)).unwrap_or(usize::MAX);
        let size = (work.value_bytes, work.threads);
        let Search { fits: found, least } =
            search(model, &settings.options, &work.shapes, size, limit, freedom)?;
        fits = found.is_some();
        let choice = found.unwrap_or(least);
        settings.options = choice.options;
        asked = planned(model, &settings.options, work, choice.plan);
    }
    asked.anonymous = Some(beside + asked.arena());
    *asked.ledger.entry(Class::Other).or_default() += ADVICE;
    memory::give_back();
    let refused =
        if fits { None } else { Some(refusal(&process, model, settings, work, &asked, budget, per_block)?) };
    Ok(Decision { footprint: asked, refused })
}

/// The smallest budget that a run with these settings can be done in, by any policy with the same result.
pub(crate) fn least_budget(
    process: &Process,
    model: &Arc<Model>,
    settings: &Settings,
    work: &Work,
) -> Result<u64> {
    smallest(process, model, &settings.options, settings.may_spill, work)
}

fn smallest(
    process: &Process,
    model: &Arc<Model>,
    options: &Options,
    may_spill: bool,
    work: &Work,
) -> Result<u64> {
    let freedom = Freedom { file: may_spill };
    let least = least(model, options, &work.shapes, (work.value_bytes, work.threads), freedom)?;
    let footprint = planned(model, &least.options, work, least.plan);
    let needs = process.beside(model, &footprint, work) + LISTS + footprint.arena();
    Ok(needs.next_multiple_of(ROUND))
}

/// What a budget that is too small is answered.
fn refusal(
    process: &Process,
    model: &Arc<Model>,
    settings: &Settings,
    work: &Work,
    footprint: &Footprint,
    budget: Bytes,
    per_block: bool,
) -> Result<OverBudget> {
    let size = |n: u64| format!("{n} bytes ({})", bytes(n));
    let needs = footprint.anonymous.unwrap_or_else(|| footprint.planned());
    let items: Vec<String> =
        footprint.largest().into_iter().take(3).map(|(c, n)| format!("{} {}", c.name(), bytes(n))).collect();
    let least = least_budget(process, model, settings, work)?;
    let (with, how) = if settings.auto {
        (String::new(), "")
    } else {
        (format!(" with --method {}", settings.options.method_name), ", with --method auto")
    };
    let mut text = format!(
        "the run needs {}{with}, the memory budget is {}\n  its largest items: {}\n  the smallest budget that would do is {}{how}",
        size(needs),
        size(budget.0),
        items.join(", "),
        size(least),
    );
    let others: Vec<String> = others(settings, per_block)
        .into_iter()
        .map(|(name, options, may_spill)| Ok((name, smallest(process, model, &options, may_spill, work)?)))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|(_, n)| *n < least)
        .map(|(name, n)| format!("{name} {}", bytes(n)))
        .collect();
    if !others.is_empty() {
        text = format!("{text}\n  other results in less: {}", others.join(", "));
    }
    if least > budget.0 {
        text += "\n  shorter rows (--max-seq-len) and a lower --rank need less too";
    }
    Ok(OverBudget(text))
}

/// Settings with other results that need less memory, with what to type for them.
fn others(settings: &Settings, per_block: bool) -> Vec<(String, Options, bool)> {
    let asked = &settings.options;
    let mut all = asked.clone();
    let (mut names, mut list) = (Vec::new(), Vec::new());
    let mut add = |name: &str, change: &dyn Fn(&mut Options), may_spill: bool| {
        let mut options = asked.clone();
        change(&mut options);
        change(&mut all);
        names.push(name.to_owned());
        list.push((name.to_owned(), options, may_spill));
    };
    if per_block && asked.update == Update::Accumulate {
        add("--update per-block", &|o| o.update = Update::PerBlock, settings.may_spill);
    }
    if asked.training && asked.optimizer.states() > 0 {
        add("--optimizer sgd", &|o| o.optimizer = OptimizerKind::Sgd { momentum: 0.0 }, settings.may_spill);
    }
    if names.len() > 1 {
        list.push((names.join(" "), all, settings.may_spill));
    }
    if asked.policy.residency == Residency::Full {
        let mut options = asked.clone();
        options.policy.residency = Residency::Bf16;
        list.push(("--checkpoints bf16".to_owned(), options, false));
    }
    if asked.policy.activations == Elem::Full {
        let mut options = asked.clone();
        options.policy.activations = Elem::Bf16;
        list.push(("--activations bf16".to_owned(), options, settings.may_spill));
    }
    list
}
