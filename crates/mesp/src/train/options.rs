//! What fixes a session's buffers.

use mesp_device::Elem;

use crate::adapter::AdapterConfig;
use crate::method::Estimator;
use crate::optim::{OptimizerKind, Trained};
use crate::tape::Policy;

/// When adapters are stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// After the whole backward (and several micro-batches): all gradients are kept until then.
    Accumulate,
    /// Each block's as soon as its gradients are finished: no gradient outlives its block.
    PerBlock,
}

/// What fixes a session's buffers.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rank, scale, targets.
    pub adapter: AdapterConfig,
    /// How adapters are stored; they compute, and their gradients and the optimizer's state are stored, in the
    /// backend's numbers.
    pub adapter_type: Elem,
    /// The policy by its name, for reports.
    pub method_name: String,
    /// What is kept.
    pub policy: Policy,
    /// How a step's gradient is made.
    pub estimator: Estimator,
    /// When adapters are stepped.
    pub update: Update,
    /// Which update.
    pub optimizer: OptimizerKind,
    /// λ.
    pub weight_decay: f64,
    /// Which parts of an adapter are trained, and how fast.
    pub trained: Trained,
    /// Seed of the random numbers that round adapters in bf16.
    pub seed: u64,
    /// Whether the gradient itself is wanted, so that it is kept also where a step needs none.
    pub gradients: bool,
    /// Whether gradients are those of all the model's own weights, which stay as they are, and there is no adapter.
    pub base_gradients: bool,
    /// How the model's own weights are held where they are trained, all of them and no adapter.
    pub full: Option<Elem>,
    /// Whether there is anything to train: without, no gradients and no optimizer state exist.
    pub training: bool,
}

impl Options {
    /// Whether a step has a backward pass.
    pub fn backpropagates(&self) -> bool {
        self.training && self.estimator.backpropagates()
    }

    /// Whether the gradient is in memory after a step's backward.
    pub fn keeps_gradients(&self) -> bool {
        self.gradients || (self.backpropagates() && self.update == Update::Accumulate)
    }
}
