//! The memory budget: the policy that fits it, or why none does.
//!
//! A budget covers the anonymous memory of the whole process. That is the arena, which a search over policies
//! makes fit, and everything else: what the engine holds beside the arena (rows, norms, tables), and the process
//! around it (the program's own data, its threads, what the allocator keeps).

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Result;
use mesp::method::{Estimator, Method};
use mesp::model::Model;
use mesp::optim::{OptimizerKind, UpdateRule as _};
use mesp::tape::{Policy, SavedAs};
use mesp::train::budget::{Freedom, Search, least, search};
use mesp::train::{Options, Reaction, Update};
use mesp_device::Class;

use crate::args::CommonArgs;
use crate::failure::OverBudget;
use crate::footprint::{Footprint, Work, footprint, planned};
use crate::machine::Room;
use crate::memory;
use crate::settings::Settings;
use crate::sizes::{Bytes, bytes};

/// Anonymous memory of a process that does nothing: the program's data, the allocator, what reading the command line
/// leaves behind. Measured with two threads, in builds for tests: 0.65 MB to 1.2 MB above what is planned.
const PROCESS: u64 = 1_050_000;
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
/// By how much the memory of a process that is run once to be measured differs from start to start. Measured: 0.2 MB.
const MEASURED: u64 = 256_000;
/// What rows that are not there yet will hold besides the batch: their order and windows. Measured: 15 kB.
const ROWS: u64 = 16_000;
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
        usual.max(measured) + SLACK + work.beside
    }
}

/// A policy that was decided on.
pub(crate) struct Decision {
    pub(crate) footprint: Footprint,
    /// Why it cannot be used.
    pub(crate) refused: Option<OverBudget>,
    /// Why this machine cannot keep it now.
    pub(crate) beyond: Option<OverBudget>,
}

impl Decision {
    /// What is to be run, here.
    pub(crate) fn allowed(self) -> Result<Footprint> {
        self.refused.or(self.beyond).map_or(Ok(self.footprint), |why| Err(why.into()))
    }
}

/// Whether an update by block may be advised: nothing that was typed excludes it.
pub(crate) fn may_step_blocks(args: &CommonArgs, settings: &Settings) -> bool {
    let run = &settings.run;
    let skips = [run.on_non_finite, run.on_spike].contains(&Reaction::Skip);
    let clips = args.schedule.max_grad_norm.is_some_and(|norm| norm != 0.0);
    run.grad_accum == 1 && !skips && !clips
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
    let mut fits = true;
    if let Some(budget) = budget {
        let beside = process.beside(model, &asked, work);
        fits = beside + asked.arena() <= budget.0;
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
    }
    // Rows and norms are in memory already.
    let needs = asked.planned().saturating_sub(work.present);
    let room = Room::now().filter(|room| room.lacks(needs));
    let mut decision = Decision { footprint: asked, refused: None, beyond: None };
    if fits && room.is_none() {
        return Ok(decision);
    }
    let advice = Advice { process: &process, model, settings, work, per_block };
    if let Some(budget) = budget.filter(|_| !fits) {
        let needs = decision.footprint.anonymous.unwrap_or_else(|| decision.footprint.planned());
        let limit = format!("the memory budget is {}", sized(budget.0));
        decision.refused = Some(advice.refusal(&decision.footprint, ("run", needs), &limit, budget.0)?);
    }
    if let Some(room) = room {
        let limit = format!("the system gives {}", room.text());
        decision.beyond = Some(advice.refusal(&decision.footprint, ("plan", needs), &limit, room.bytes)?);
    }
    Ok(decision)
}

/// The smallest budget that a run with these settings can be done in: by any policy with the same result where one can
/// be chosen, else with the method that was asked for.
pub(crate) fn least_budget(
    process: &Process,
    model: &Arc<Model>,
    settings: &Settings,
    work: &Work,
) -> Result<u64> {
    let advice = Advice { process, model, settings, work, per_block: false };
    if settings.options.estimator == Estimator::Exact {
        return advice.smallest(&settings.options, settings.may_spill);
    }
    advice.as_asked()
}

/// What a run is told that does not fit. Every budget that is named is one that was tried.
struct Advice<'a> {
    process: &'a Process,
    model: &'a Arc<Model>,
    settings: &'a Settings,
    work: &'a Work,
    per_block: bool,
}

impl Advice<'_> {
    /// The smallest budget with any policy that has the same result, as a run by `--method auto` finds it: what is
    /// beside the arena is measured with the policy that it looks at first.
    fn smallest(&self, options: &Options, may_spill: bool) -> Result<u64> {
        let Self { process, model, work, .. } = *self;
        let size = (work.value_bytes, work.threads);
        let least = least(model, options, &work.shapes, size, Freedom { file: may_spill })?;
        let first = Policy { saved: options.policy.saved, ..Method::Mesp.policy() };
        let first = footprint(model, &Options { policy: first, ..options.clone() }, work)?;
        let footprint = planned(model, &least.options, work, least.plan);
        let beside = process.beside(model, &first, work).max(process.beside(model, &footprint, work));
        Ok((beside + margin(work) + footprint.arena()).next_multiple_of(ROUND))
    }

    /// The smallest budget with the method, the policy and the tiles that were asked for.
    fn as_asked(&self) -> Result<u64> {
        let Self { process, model, settings, work, .. } = *self;
        let footprint = footprint(model, &settings.options, work)?;
        Ok((process.beside(model, &footprint, work) + margin(work) + footprint.arena())
            .next_multiple_of(ROUND))
    }

    /// The text: what is needed, what there is, and what would do.
    fn refusal(
        &self,
        footprint: &Footprint,
        (what, needs): (&str, u64),
        limit: &str,
        limit_bytes: u64,
    ) -> Result<OverBudget> {
        let settings = self.settings;
        let items: Vec<String> = footprint
            .largest()
            .into_iter()
            .take(3)
            .map(|(c, n)| format!("{} {}", c.name(), bytes(n)))
            .collect();
        let method = &settings.options.method_name;
        let with = if settings.auto { String::new() } else { format!(" with --method {method}") };
        let mut text = format!(
            "the {what} needs {}{with}, {limit}\n  its largest items: {}",
            sized(needs),
            items.join(", ")
        );
        let exact = settings.options.estimator == Estimator::Exact;
        let mut least = u64::MAX;
        if !settings.auto {
            least = self.as_asked()?;
            let _ =
                write!(text, "\n  the smallest budget that would do is {} with this method", sized(least));
        }
        if exact {
            let any = self.smallest(&settings.options, settings.may_spill)?;
            if settings.auto {
                let _ = write!(text, "\n  the smallest budget that would do is {}", sized(any));
            } else if any < least {
                let _ = write!(
                    text,
                    ", and {} with --method auto, without --mlp-rows and --head-rows",
                    sized(any)
                );
            }
            least = least.min(any);
            let mut others = Vec::new();
            for (name, options, may_spill) in others_of(settings, self.per_block) {
                let n = self.smallest(&options, may_spill)?;
                if n < least {
                    others.push(format!("{name} {}", bytes(n)));
                }
            }
            if !others.is_empty() {
                let how = if settings.auto { "" } else { ", with --method auto" };
                let _ = write!(text, "\n  other results in less{how}: {}", others.join(", "));
            }
        }
        if least > limit_bytes {
            text += "\n  shorter rows (--max-seq-len) and a lower --rank need less too";
        }
        Ok(OverBudget(text))
    }
}

/// By how much a later run may need more than this process has found.
fn margin(work: &Work) -> u64 {
    let measured = if work.beside > 0 { MEASURED } else { 0 };
    let rows = if work.present == 0 { ROWS } else { 0 };
    LISTS + measured + rows
}

/// `1000 bytes (1.00 kB)`.
fn sized(n: u64) -> String {
    format!("{n} bytes ({})", bytes(n))
}

/// Settings with other results that need less memory, with what to type for them.
fn others_of(settings: &Settings, per_block: bool) -> Vec<(String, Options, bool)> {
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
    if asked.training && !asked.optimizer.states().is_empty() {
        add("--optimizer sgd", &|o| o.optimizer = OptimizerKind::sgd(0.0), settings.may_spill);
    }
    if names.len() > 1 {
        list.push((names.join(" "), all, settings.may_spill));
    }
    if asked.policy.inputs() == SavedAs::Full {
        let mut options = asked.clone();
        options.policy = options.policy.with_inputs(SavedAs::Bf16);
        list.push(("--checkpoints bf16".to_owned(), options, false));
    }
    if asked.policy.activations() == SavedAs::Full {
        let mut options = asked.clone();
        options.policy = options.policy.with_activations(SavedAs::Bf16);
        list.push(("--activations bf16".to_owned(), options, settings.may_spill));
    }
    list
}
