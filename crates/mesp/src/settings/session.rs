//! From a plan to the session that it was made for, and its threads.

use std::path::Path;
use std::sync::Arc;

use mesp_device::{Cpu, Plan, Real, Threads};

use super::{Numbers, Setup};
use crate::memory::{Workload, processor, spill};
use crate::model::ModelWeights;
use crate::train::Session;
use crate::{Error, ErrorKind, Result};

/// Threads at most: more than the largest machines have cores, so that more are a slip.
const MOST: usize = 1024;

/// As many threads as asked for, or as there are cores.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) for none, and for more than any machine has cores.
pub fn thread_count(asked: Option<usize>) -> Result<usize> {
    let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = asked.unwrap_or_else(available);
    if threads == 0 || threads > MOST {
        return Err(Error::usage(ErrorKind::OutOfRange, "‘threads’")
            .is(threads)
            .expected(format!("1 to {MOST}"))
            .hint("leave it out to use all cores"));
    }
    Ok(threads)
}

/// The threads themselves, to train and to generate with.
///
/// # Errors
/// As [`thread_count`]; when the system gives no threads.
pub fn threads(asked: Option<usize>) -> Result<Arc<Threads>> {
    let threads = Threads::new(thread_count(asked)?);
    let refused = |e| Error::usage(ErrorKind::System, format!("the system gives no threads: {e}"));
    Ok(Arc::new(threads.map_err(refused)?))
}

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
