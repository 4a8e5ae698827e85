//! The options that determine a session's buffers.

use mesp_device::Elem;

use super::ObjectiveKind;
use crate::adapter::AdapterConfig;
use crate::arch::{Config, Selection, base_params};
use crate::method::{Estimator, Method};
use crate::optim::{OptimizerKind, Trained};
use crate::tape::Policy;

/// When the optimizer steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// After the whole backward, and after several micro-batches: all gradients are kept until then.
    Accumulate,
    /// Block by block, as soon as a block's gradients are finished, as fused optimizers do: no gradient outlives its
    /// block. One micro-batch a step; a norm is clipped to by a sweep before, which doubles the work.
    PerBlock,
    /// Matrix by matrix where the model's own are trained: no gradient outlives the matrix, or a tile of its rows. Else
    /// as [`Update::PerBlock`].
    PerMatrix,
}

impl Update {
    /// The name among settings and in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accumulate => "accumulate",
            Self::PerBlock => "per-block",
            Self::PerMatrix => "per-matrix",
        }
    }

    /// Whether parameters are stepped while the backward goes on.
    pub fn is_fused(self) -> bool {
        self != Self::Accumulate
    }
}

/// The options that determine a session's buffers: a change of any of them needs another plan.
#[derive(Debug, Clone)]
pub struct Options {
    /// The adapter's rank, scale and target modules.
    pub adapter: AdapterConfig,
    /// The storage type of adapters. Arithmetic, gradients and optimizer state use the backend's number type.
    pub adapter_type: Elem,
    /// What is minimized.
    pub objective: ObjectiveKind,
    /// The method's name, for reports.
    pub method_name: String,
    /// Which activations are kept from forward to backward.
    pub policy: Policy,
    /// How a step's gradient is computed: exactly, or as an estimate.
    pub estimator: Estimator,
    /// When the optimizer steps.
    pub update: Update,
    /// The optimizer and its settings.
    pub optimizer: OptimizerKind,
    /// λ, the decoupled weight decay.
    pub weight_decay: f64,
    /// Which matrices of an adapter are trained, and their learning rates.
    pub trained: Trained,
    /// Seed of the stochastic rounding of bf16 adapters.
    pub seed: u64,
    /// Whether the caller reads the gradient, so that it is kept even where the step itself does not need it.
    pub gradients: bool,
    /// Which tensors of the model itself have gradients, beside the adapter's. They are trained where they are held
    /// ([`Options::held`]); else their gradients are computed and nothing is changed.
    pub base: Selection,
    /// The type in which the model's trained matrices are held in memory.
    pub held: Option<Elem>,
    /// Whether what rounding to bf16 cuts off is kept and added to the next update (Kahan), in as many bytes again; else
    /// updates are rounded up or down at random.
    pub compensated: bool,
    /// Whether there is training at all: if not, there are no gradients and no optimizer state.
    pub training: bool,
}

impl Options {
    /// Exact next-token training of an adapter in full precision with accumulated gradients and plain SGD: what a field
    /// is that nobody sets.
    pub fn new(adapter: AdapterConfig, policy: Policy) -> Self {
        Self {
            adapter,
            adapter_type: Elem::Full,
            method_name: Method::Mesp.name().to_owned(),
            objective: ObjectiveKind::Sft,
            policy,
            estimator: Estimator::Exact,
            update: Update::Accumulate,
            optimizer: OptimizerKind::sgd(0.0),
            weight_decay: 0.0,
            trained: Trained::ALIKE,
            seed: 0,
            gradients: false,
            base: Selection::default(),
            held: None,
            compensated: false,
            training: true,
        }
    }

    /// Whether all weights of the model are trained.
    pub fn trains_model(&self) -> bool {
        self.held.is_some() && self.base.is_full()
    }

    /// Parameters that are trained.
    pub fn parameters(&self, c: &Config) -> u64 {
        let own = base_params(c).into_iter().filter(|param| self.base.has(param));
        self.adapter.parameters(c)
            + own.map(|param| param.shape[0] as u64 * param.shape[1] as u64).sum::<u64>()
    }

    /// Whether a step has a backward pass.
    pub fn backpropagates(&self) -> bool {
        self.training && self.estimator.backpropagates()
    }

    /// Whether the gradient is in memory after a step's backward.
    pub fn keeps_gradients(&self) -> bool {
        self.gradients || (self.backpropagates() && self.update == Update::Accumulate)
    }
}
