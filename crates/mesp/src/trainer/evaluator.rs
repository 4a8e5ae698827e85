//! A model with an adapter, or without, to evaluate rows.

use std::path::Path;
use std::sync::Arc;

use mesp_device::{Cpu, Real, Threads};

use crate::adapter::AdapterConfig;
use crate::data::{BatchSize, Examples};
use crate::memory::{ByteSize, largest_evaluation};
use crate::model::ModelWeights;
use crate::settings::Numbers;
use crate::source::{load_adapter, load_adapter_config};
use crate::tape::Policy;
use crate::train::{ObjectiveKind, Options, Session, Shapes, plan};
use crate::{Error, ErrorKind, Result};

/// A model with an adapter, or without, to evaluate rows: there are no gradients and no optimizer.
#[derive(Debug, Clone, Copy)]
pub struct Evaluator<'a> {
    /// The weights.
    pub model: &'a Arc<ModelWeights>,
    /// The adapter, of any layout; none for the model itself.
    pub adapter: Option<&'a Path>,
    /// What is rounded, and the tiles.
    pub policy: Policy,
    /// The number types.
    pub numbers: Numbers,
    /// Threads to compute with.
    pub pool: &'a Arc<Threads>,
    /// Whether weights' pages are let go, as with a memory budget.
    pub advice: bool,
    /// Bytes that the arena may take.
    pub limit: Option<u64>,
}

impl Evaluator<'_> {
    /// Plans and allocates a session for rows, as many at a time as `size` allows, and reads the adapter into it.
    ///
    /// # Errors
    /// When the adapter is of another model or cannot be read, a row cannot be read, or there is no memory.
    pub fn session<R: Real>(
        &self,
        rows: &dyn Examples,
        size: BatchSize,
        objective: ObjectiveKind,
    ) -> Result<Session<Cpu<R>>> {
        let config = match self.adapter {
            Some(path) => load_adapter_config(path)?.on(&self.model.config)?,
            None => AdapterConfig::none(),
        };
        let options = Options { training: false, objective, ..Options::new(config, self.policy) };
        let shapes = Shapes { train: None, eval: Some(largest_evaluation(rows, size)?) };
        let plan = plan(self.model, &options, &shapes, size_of::<R>(), self.pool.count())?;
        let bytes = plan.bytes() as u64;
        if let Some(limit) = self.limit.filter(|limit| bytes > *limit) {
            let problem = "‘memory_budget’: the log-probabilities of ‘reference’ take more than the run";
            return Err(Error::usage(ErrorKind::OutOfRange, problem)
                .found(ByteSize(bytes))
                .expected(format!("at most {}", ByteSize(limit)))
                .hint("choose ‘reference’ base, or compute them without a budget once; they are kept"));
        }
        let be = self.numbers.processor::<R>(plan, self.pool)?.with_advice(self.advice);
        let mut session = Session::new(be, Arc::clone(self.model), options, shapes.targets());
        if let Some(path) = self.adapter {
            let (be, params, _) = session.state_mut();
            load_adapter(be, path, params, self.model)?;
        }
        Ok(session)
    }
}
