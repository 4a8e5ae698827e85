//! Optimizers over adapters, block by block.

mod schedule;

use mesp_device::{AdamW, Backend, Class, Label, Sgd};

pub use schedule::{Schedule, ScheduleKind};

use crate::adapter::{BlockPairs, Matrix, Pair, pairs_like};
use crate::arch::Module;
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

/// Which parts of an adapter are trained, and how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trained {
    /// Whether A stays as it is (LoRA-FA; Zhang et al. 2023): no gradient and no state of it exist.
    pub freeze_a: bool,
    /// The learning rate of B, and of magnitudes, over A's (LoRA+; Hayou et al. 2024).
    pub b_ratio: f64,
}

impl Trained {
    /// A and B alike.
    pub const ALIKE: Self = Self { freeze_a: false, b_ratio: 1.0 };

    /// A matrix's learning rate.
    pub fn rate(self, matrix: Matrix, learning_rate: f64) -> f64 {
        if matrix == Matrix::A { learning_rate } else { learning_rate * self.b_ratio }
    }
}

/// An optimizer and its state.
#[derive(Debug)]
pub struct Optimizer {
    kind: OptimizerKind,
    weight_decay: f64,
    trained: Trained,
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
        trained: Trained,
        seed: u64,
        params: &[BlockPairs],
    ) -> Self {
        const NAMES: [&str; 2] = ["first_moment", "second_moment"];
        let states = (0..kind.states())
            .map(|i| {
                let label = Label::new(Class::Optimizer, NAMES[i]);
                let mut like = |p| pairs_like(p, trained.freeze_a, |r, c| be.persist(r, c, label));
                params.iter().map(&mut like).collect()
            })
            .collect();
        Self { kind, weight_decay, trained, seed, states }
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
        let Self { kind, weight_decay, trained, seed, states } = self;
        let weight_decay = *weight_decay;
        let mut i = 0;
        for (p, (param, grad)) in params.iter_mut().zip(grads).enumerate() {
            let (Some(param), Some(grad)) = (param, grad) else { continue };
            let mut states = states.iter_mut().map(|s| s[block][p].as_mut().map(Pair::matrices_mut));
            let mut states = [states.next().flatten(), states.next().flatten()];
            for ((matrix, p), (_, g)) in param.matrices_mut().zip(grad.matrices()) {
                let key = rng::bits(*seed, step, (block * 2 * Module::ALL.len() + i) as u64);
                // Of matrices that may be in bf16.
                i += usize::from(matrix != Matrix::M);
                let [first, second] = states.each_mut().map(|s| Some(s.as_mut()?.next()?.1.view_mut()));
                if g.rows() == 0 {
                    continue;
                }
                let learning_rate = trained.rate(matrix, learning_rate);
                match *kind {
                    OptimizerKind::Sgd { momentum } => {
                        let settings = Sgd { learning_rate, momentum, weight_decay };
                        be.sgd(p.view_mut(), first, g.view(), settings, key);
                    }
                    OptimizerKind::AdamW { beta1, beta2, eps } => {
                        if let (Some(m), Some(v)) = (first, second) {
                            let settings = AdamW { learning_rate, beta1, beta2, eps, weight_decay, step };
                            be.adamw(p.view_mut(), m, v, g.view(), settings, key);
                        }
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
