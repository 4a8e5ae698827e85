//! Optimizers over adapters, block by block.

mod schedule;

use mesp_device::{AdamW, Backend, Class, Elem, Label, Sgd};

pub use schedule::{Schedule, ScheduleKind};

use crate::adapter::{AdapterConfig, BlockPairs, Projection, matrices, persistent_pairs};
use crate::model::Config;
use crate::{Error, Result, rng};

/// Which update, with its own settings. Steps as PyTorch's optimizers of the same names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerKind {
    /// Stochastic gradient descent; momentum 0 keeps no state.
    Sgd {
        /// μ.
        momentum: f64,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// β₁.
        beta1: f64,
        /// β₂.
        beta2: f64,
        /// ε.
        eps: f64,
    },
}

impl OptimizerKind {
    /// From the command line's name, with the usual settings.
    ///
    /// # Errors
    /// When there is none by that name.
    pub fn parse(name: &str, momentum: f64) -> Result<Self> {
        match name {
            "sgd" => Ok(Self::Sgd { momentum }),
            "adamw" => Ok(Self::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 }),
            _ => Err(Error::usage(format!("optimizer {name:?} is unknown, expected sgd or adamw"))),
        }
    }

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sgd { .. } => "sgd",
            Self::AdamW { .. } => "adamw",
        }
    }

    /// Values of state that it keeps for each parameter.
    pub fn states(self) -> usize {
        match self {
            Self::Sgd { momentum } => usize::from(momentum != 0.0),
            Self::AdamW { .. } => 2,
        }
    }
}

/// An optimizer and its state.
#[derive(Debug)]
pub struct Optimizer {
    kind: OptimizerKind,
    weight_decay: f64,
    seed: u64,
    /// As many as the kind keeps, each like the parameters.
    states: Vec<Vec<BlockPairs>>,
}

impl Optimizer {
    /// With all state zero. `seed` is of the random numbers by which adapters in bf16 are rounded.
    pub fn new<B: Backend>(
        be: &mut B,
        kind: OptimizerKind,
        weight_decay: f64,
        seed: u64,
        c: &Config,
        adapter: &AdapterConfig,
    ) -> Self {
        const NAMES: [&str; 2] = ["first_moment", "second_moment"];
        let states = (0..kind.states())
            .map(|i| persistent_pairs(be, c, adapter, Elem::Full, Label::new(Class::Optimizer, NAMES[i])))
            .collect();
        Self { kind, weight_decay, seed, states }
    }

    /// Steps a block's adapters; `step` counts from 1.
    pub fn update<B: Backend>(
        &mut self,
        be: &mut B,
        block: usize,
        params: &mut BlockPairs,
        grads: &BlockPairs,
        learning_rate: f64,
        step: u64,
    ) {
        let states = self.states.iter_mut().map(|s| crate::adapter::matrices_mut(&mut s[block..=block]));
        let mut states: [_; 2] = {
            let mut states = states;
            [states.next(), states.next()]
        };
        let weight_decay = self.weight_decay;
        let params = crate::adapter::matrices_mut(std::slice::from_mut(params));
        for (i, (p, g)) in params.zip(matrices(std::slice::from_ref(grads))).enumerate() {
            let key = rng::bits(self.seed, step, (block * 2 * Projection::ALL.len() + i) as u64);
            let mut state =
                |i: usize| states[i].as_mut().and_then(Iterator::next).map(mesp_device::Act::view_mut);
            match self.kind {
                OptimizerKind::Sgd { momentum } => {
                    let settings = Sgd { learning_rate, momentum, weight_decay };
                    be.sgd(p.view_mut(), state(0), g.view(), settings, key);
                }
                OptimizerKind::AdamW { beta1, beta2, eps } => {
                    if let (Some(m), Some(v)) = (state(0), state(1)) {
                        let settings = AdamW { learning_rate, beta1, beta2, eps, weight_decay, step };
                        be.adamw(p.view_mut(), m, v, g.view(), settings, key);
                    }
                }
            }
        }
    }

    /// The state, for checkpoints.
    pub fn states(&self) -> &[Vec<BlockPairs>] {
        &self.states
    }

    /// As [`Optimizer::states`], to write.
    pub fn states_mut(&mut self) -> &mut [Vec<BlockPairs>] {
        &mut self.states
    }
}
