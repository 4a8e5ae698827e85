//! From a plan to the session that it was made for.

use std::path::Path;
use std::sync::Arc;

use mesp_device::{Cpu, Plan, Real, Threads};

use super::{Numbers, Setup};
use crate::Result;
use crate::memory::{Workload, processor, spill};
use crate::model::ModelWeights;
use crate::train::Session;

impl Numbers {
    /// Allocates a plan's arena on a processor that computes in these numbers.
    ///
    /// # Errors
    /// As [`processor`].
    pub fn processor<R: Real>(self, plan: Plan, pool: &Arc<Threads>) -> Result<Cpu<R>> {
        Ok(processor::<R>(plan, Arc::clone(pool))?.with_compute(self.compute()))
    }
}

impl Setup {
    /// Allocates the session of a run as it was planned; its adapters are not filled yet. Activation checkpoints that go
    /// to a file lie in the folder `beside`.
    ///
    /// # Errors
    /// When there is no memory, or no room for the file.
    pub fn session<R: Real>(
        &self,
        model: &Arc<ModelWeights>,
        work: &Workload,
        plan: Plan,
        numbers: Numbers,
        (pool, beside): (&Arc<Threads>, &Path),
    ) -> Result<Session<Cpu<R>>> {
        let spill = spill(model, &self.options, work, beside)?;
        let mut be = numbers.processor::<R>(plan, pool)?.with_advice(self.has_budget());
        if let Some(spill) = spill {
            be = be.with_spill(spill);
        }
        Ok(Session::new(be, Arc::clone(model), self.options.clone(), work.shapes.targets()))
    }

    /// Whether there is a memory budget: weights' pages are let go then.
    pub fn has_budget(&self) -> bool {
        self.chosen.method.memory_budget.is_some()
    }
}
