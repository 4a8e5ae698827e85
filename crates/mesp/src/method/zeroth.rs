//! Zeroth-order estimates of the gradient (MeZO; Malladi et al. 2023, arXiv 2305.17333).
//!
//! ```text
//! slope       g = (L(θ + εz) − L(θ − εz)) / 2ε,   one-sided (L(θ + εz) − L(θ)) / ε
//! estimate    ĝ = 1/n·Σ gᵢ·zᵢ
//! update      θ ← (1 − ηλ)·θ − η·Σ_k μᵏ·ĝ_{t−k}
//! ```
//! derivation: `docs/math/zeroth.md`. z is a function of (seed, step, direction, tensor, element), so it is
//! never stored. θ is never perturbed in place: a block computes with a moved copy of its adapters, which is
//! all the memory that an estimate adds to a forward pass, and nothing drifts.

use mesp_device::{Backend, Class, Distribution, Label, Noise};

use crate::adapter::{AdapterConfig, BlockPairs, Projection, block_pairs, matrices, matrices_mut};
use crate::model::Config;

/// How directions are drawn and slopes taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Zeroth {
    /// ε.
    pub eps: f64,
    /// Of z.
    pub distribution: Distribution,
    /// n, directions of a step.
    pub directions: usize,
    /// Whether one side is the loss at θ itself: n + 1 forward passes a step in place of 2n.
    pub one_sided: bool,
    /// μ: earlier estimates go on, recomputed from the log of slopes; nothing of the size of θ is kept.
    pub momentum: f64,
}

impl Zeroth {
    /// Gaussian, one direction, two-sided; ε as published for LoRA (`large_models`, OPT).
    pub const DEFAULT: Self = Self {
        eps: 1e-2,
        distribution: Distribution::Gaussian,
        directions: 1,
        one_sided: false,
        momentum: 0.0,
    };

    /// A direction of a step, for the first tensor.
    pub fn noise(&self, seed: u64, step: u64, direction: usize) -> Noise {
        let distribution = self.distribution;
        Noise { seed, step: step as u32, direction: direction as u32, tensor: 0, distribution }
    }

    /// Where the losses of a direction are taken, in units of z.
    pub fn points(&self) -> [f64; 2] {
        [self.eps, if self.one_sided { 0.0 } else { -self.eps }]
    }

    /// The slope between two sums of losses at [`Zeroth::points`], in the precision in which a log keeps it.
    pub fn slope(&self, nats: [f64; 2], targets: usize) -> f32 {
        let [from, to] = self.points();
        ((nats[0] - nats[1]) / targets as f64 / (from - to)) as f32
    }

    /// Steps whose estimates an update takes in: those with μᵏ ≥ 1%.
    pub fn window(&self) -> usize {
        if self.momentum > 0.0 { 1 + (0.01f64.ln() / self.momentum.ln()) as usize } else { 1 }
    }
}

/// How a step's gradient is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Estimator {
    /// Exactly, by backpropagation under the policy.
    Exact,
    /// From losses alone.
    Zeroth(Zeroth),
}

/// A point beside the adapters: θ + c·z.
#[derive(Debug, Clone, Copy)]
pub struct Shift<'a> {
    /// c.
    pub by: f64,
    /// z, but for the tensor.
    pub noise: Noise,
    /// Shapes of the moved copy.
    pub adapter: &'a AdapterConfig,
}

impl Shift<'_> {
    /// A moved copy of a block's adapters.
    pub(super) fn moved<B: Backend>(
        &self,
        be: &mut B,
        c: &Config,
        block: usize,
        pairs: &BlockPairs,
    ) -> BlockPairs {
        let label = Label::new(Class::Adapter, "lora_moved");
        let mut moved = block_pairs(c, self.adapter, |rows, cols| be.alloc(rows, cols, label));
        let to = matrices_mut(std::slice::from_mut(&mut moved));
        let from = matrices(std::slice::from_ref(pairs));
        for (i, (to, from)) in to.zip(from).enumerate() {
            be.perturb(to.view_mut(), from.view(), self.by, tensor(self.noise, block, i));
        }
        moved
    }
}

/// `θ ← a·θ + c·z` for all adapters.
pub fn drift<B: Backend>(be: &mut B, params: &mut [BlockPairs], a: f64, c: f64, noise: Noise) {
    for (block, pairs) in params.iter_mut().enumerate() {
        for (i, matrix) in matrices_mut(std::slice::from_mut(pairs)).enumerate() {
            be.drift(matrix.view_mut(), a, c, tensor(noise, block, i));
        }
    }
}

/// The stream of a block's i-th matrix: matrices are counted through all blocks.
fn tensor(noise: Noise, block: usize, i: usize) -> Noise {
    Noise { tensor: (block * 2 * Projection::MODULES.len() + i) as u32, ..noise }
}
