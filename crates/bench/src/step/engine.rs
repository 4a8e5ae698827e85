//! Steps of random tokens, timed as a whole and operation by operation.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use mesp::arch::Module;
use mesp::memory::{MemoryPlan, Resident, Workload, spill};
use mesp::model::{Batch, ModelWeights};
use mesp::rng;
use mesp::settings::{Numbers, Settings, Setup, threads};
use mesp::train::{Options, Session, Update};
use mesp_device::{Backend, Cpu, OpCost, Threads, Timed, process_cpu_time};

use super::product::{Multipliers, Peak};
use super::resolved;

/// A model with the options of its steps.
pub(super) struct Engine<'a> {
    pub(super) model: &'a Arc<ModelWeights>,
    pub(super) asked: &'a Settings,
    /// What that means.
    pub(super) setup: &'a Setup,
    pub(super) numbers: Numbers,
    /// Where checkpoints in a file go.
    pub(super) cache: &'a Path,
}

/// A step's size, and its memory.
pub(super) struct Planned {
    tokens: usize,
    pool: Arc<Threads>,
    options: Options,
    memory: MemoryPlan,
    work: Workload,
}

/// Seconds of whole steps.
#[derive(Debug, Clone)]
pub(super) struct Timing {
    pub(super) tokens: usize,
    pub(super) threads: usize,
    /// Seconds of each step.
    pub(super) seconds: Vec<f64>,
    /// Processor time of each step, all threads.
    pub(super) cpu_seconds: Vec<f64>,
    pub(super) planned_bytes: u64,
    /// Resident anonymous memory, the highest after any step, where the system tells.
    pub(super) anonymous: Option<u64>,
    /// The policy, which with a budget depends on the length.
    pub(super) options: Options,
}

impl Timing {
    pub(crate) fn median(&self) -> f64 {
        median(&self.seconds)
    }

    pub(super) fn cpu_median(&self) -> f64 {
        median(&self.cpu_seconds)
    }

    pub(super) fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.median()
    }
}

/// A step taken apart.
pub(super) struct Anatomy {
    pub(super) timing: Timing,
    /// Costs of all timed steps together.
    pub(super) costs: Vec<OpCost>,
    pub(super) peak: Peak,
    pub(super) multipliers: Multipliers,
}

impl Anatomy {
    pub(super) fn steps(&self) -> f64 {
        self.timing.seconds.len() as f64
    }

    /// Multiplications and additions of a step with the frozen weights.
    pub(super) fn frozen_flop(&self) -> f64 {
        let frozen = self.costs.iter().filter(|c| !c.weight.is_empty() && c.op != ATTENTION_BACKWARD);
        frozen.map(|c| c.flop as f64).sum::<f64>() / self.steps()
    }
}

/// The operation whose parts are named like weights are.
const ATTENTION_BACKWARD: &str = "attention_backward";

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

impl Engine<'_> {
    /// Plans a step, within the budget where there is one.
    pub(super) fn plan(&self, tokens: usize, count: usize) -> Result<Planned> {
        let pool = threads(Some(count))?;
        let mut setup = resolved(self.asked)?;
        let work = Workload::of_length(tokens, &setup.options.objective, &setup.run, setup.base, count);
        let budget = self.asked.method.memory_budget;
        let memory = setup.decide(self.model, &work, budget, true)?.allowed()?;
        Ok(Planned { tokens, pool, options: setup.options, memory, work })
    }

    /// Whole steps.
    pub(super) fn time(&self, planned: Planned, steps: usize) -> Result<Timing> {
        let mut running = self.ready(planned)?;
        running.steps(steps);
        Ok(running.timing)
    }

    /// Steps whose operations are timed one by one, between two measurements of what a product reaches.
    pub(super) fn take_apart(&self, planned: Planned, steps: usize) -> Result<Anatomy> {
        let pool = Arc::clone(&planned.pool);
        let before = Peak::measure(self.numbers, &pool);
        let mut running = Running::new(self, planned, |be| Timed::new(be, size_of::<f32>()))?;
        let be = running.session.state_mut().0;
        for block in &self.model.blocks {
            for p in Module::ALL {
                be.name(&block.linear(p).weight, p.name());
            }
        }
        be.name(self.model.head(), "lm_head");
        running.steps(1);
        running.forget();
        running.session.state_mut().0.take_costs();
        running.steps(steps);
        let mut costs = running.session.state_mut().0.take_costs();
        let threads = running.timing.threads;
        if threads > 1 {
            // What threads have spent is known when they sleep or are interrupted, which is not between operations.
            for c in &mut costs {
                c.cpu = c.wall * threads as u32;
            }
        }
        let peak = before.best(Peak::measure(self.numbers, &pool));
        let multipliers = Multipliers::measure(self.numbers, &pool);
        Ok(Anatomy { timing: running.timing, costs, peak, multipliers })
    }

    /// A session that stays ready between turns, with one step behind it.
    pub(super) fn ready(&self, planned: Planned) -> Result<Running<Cpu<f32>>> {
        let mut running = Running::new(self, planned, |be| be)?;
        running.steps(1);
        running.forget();
        Ok(running)
    }
}

/// A session and its batch.
pub(super) struct Running<B> {
    session: Session<B>,
    batch: Batch,
    pub(super) timing: Timing,
}

impl<B: Backend> Running<B> {
    fn new(engine: &Engine<'_>, planned: Planned, wrap: impl FnOnce(Cpu<f32>) -> B) -> Result<Self> {
        let Planned { tokens, pool, options, memory, work } = planned;
        let planned_bytes = memory.planned();
        let spill = spill(engine.model, &options, &work, engine.cache)?;
        let mut be = engine
            .numbers
            .processor::<f32>(memory.plan, &pool)?
            .with_advice(engine.asked.method.memory_budget.is_some());
        if let Some(spill) = spill {
            be = be.with_spill(spill);
        }
        let model = Arc::clone(engine.model);
        let mut session = Session::new(wrap(be), model, options.clone(), work.shapes.targets());
        session.init_adapters(0);
        let threads = pool.count();
        let timing = Timing {
            tokens,
            threads,
            seconds: Vec::new(),
            cpu_seconds: Vec::new(),
            planned_bytes,
            anonymous: None,
            options,
        };
        let batch = random_batch(tokens, engine.model.config.vocab_size);
        Ok(Self { session, batch, timing })
    }

    /// Takes and times steps.
    pub(super) fn steps(&mut self, steps: usize) {
        let Self { session, batch, timing } = self;
        for _ in 0..steps {
            let (wall, cpu) = (Instant::now(), process_cpu_time().unwrap_or_default());
            one(session, batch);
            timing.seconds.push(wall.elapsed().as_secs_f64());
            let cpu = process_cpu_time().unwrap_or_default().saturating_sub(cpu);
            timing.cpu_seconds.push(cpu.as_secs_f64());
            timing.anonymous = timing.anonymous.max(Resident::now().map(|now| now.anonymous));
        }
    }

    /// Steps from here on are timed anew.
    pub(super) fn forget(&mut self) {
        self.timing.seconds.clear();
        self.timing.cpu_seconds.clear();
    }
}

/// One optimizer step, as the run loop makes it.
fn one<B: Backend>(session: &mut Session<B>, batch: &Batch) {
    const RATE: f64 = 1e-4;
    match session.options().update {
        Update::PerBlock | Update::PerMatrix => {
            session.step_fused(batch, RATE, None);
        }
        Update::Accumulate => {
            session.accumulate(batch, batch.targets());
            session.grad_norm();
            session.apply(RATE, 1.0);
        }
    }
}

/// One sequence of random tokens.
fn random_batch(tokens: usize, vocabulary: usize) -> Batch {
    let ids: Vec<u32> = (0..tokens).map(|t| (rng::bits(1, 0, t as u64) % vocabulary as u64) as u32).collect();
    let next = ids[1..].iter().map(|id| *id as i32).chain([-100]).collect::<Vec<_>>();
    let mut batch = Batch::default();
    batch.fill(&ids, &next, &[0, tokens]);
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
