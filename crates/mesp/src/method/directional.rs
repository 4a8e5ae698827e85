//! Estimates of the gradient from directional derivatives along random directions.
//!
//! ```text
//! estimate    ĝ = 1/n·Σ gᵢ·zᵢ        gᵢ the loss's directional derivative along zᵢ
//! update      θ ← (1 − ηλ)·θ − η·Σ_k μᵏ·ĝ_{t−k}
//! ```
//! z is a function of (seed, step, direction, tensor, element), so it is never stored, and a run is its seed and
//! its derivatives. derivation: `docs/math/zeroth.md`.

use mesp_device::{Backend, Distribution, Noise};

use super::bounds::Bounds;
use super::{Blocks, Subset};
use crate::Result;
use crate::adapter::{BlockPairs, matrices_mut};
use crate::arch::{Module, Tensor};
use crate::gradient::Gradients;

/// How a directional derivative is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Derivative {
    /// From losses beside the adapters (MeZO; Malladi et al. 2023, arXiv 2305.17333).
    Difference {
        /// ε.
        eps: f64,
        /// Whether one side is the loss at θ itself: n + 1 forward passes a step in place of 2n.
        one_sided: bool,
    },
    /// From tangents, exactly.
    Tangent,
}

/// A direction of the adapters.
#[derive(Debug, Clone, Copy)]
pub struct Direction {
    /// z, but for the tensor.
    pub noise: Noise,
    /// Whose adapters move.
    pub blocks: Blocks,
}

/// How directions are drawn, and directional derivatives along them computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Directional {
    /// How a directional derivative is computed.
    pub derivative: Derivative,
    /// Distribution of z.
    pub distribution: Distribution,
    /// n, directions of a step.
    pub directions: usize,
    /// μ, the momentum: earlier estimates are recomputed from the log of derivatives; nothing of the size of θ is kept.
    pub momentum: f64,
    /// Whose adapters move, as a federated client's part of a model does (Spry); the others stay as they are.
    pub blocks: Blocks,
    /// Share of each matrix that stays: its values largest in size at the start, and what grows as large
    /// (sparse MeZO; Liu et al. 2024, arXiv 2402.15751). 0 for none.
    pub sparsity: f64,
}

impl Directional {
    /// Gaussian, one direction, two-sided; ε as published for LoRA (`large_models`, OPT).
    pub const MEZO: Self = Self {
        derivative: Derivative::Difference { eps: 1e-2, one_sided: false },
        distribution: Distribution::Gaussian,
        directions: 1,
        momentum: 0.0,
        blocks: Blocks::ALL,
        sparsity: 0.0,
    };

    /// Forward mode: one Gaussian direction, the exact directional derivative.
    pub const FORWARD: Self = Self { derivative: Derivative::Tangent, ..Self::MEZO };

    /// A direction of a step.
    pub fn direction(&self, seed: u64, step: u64, number: usize) -> Direction {
        let Self { distribution, blocks, .. } = *self;
        let (step, number) = (step as u32, number as u32);
        Direction {
            noise: Noise { seed, step, direction: number, tensor: 0, distribution, below: f32::MAX },
            blocks,
        }
    }

    /// Steps whose estimates an update takes in: those with μᵏ ≥ 1%.
    pub fn window(&self) -> usize {
        if self.momentum > 0.0 { 1 + (0.01f64.ln() / self.momentum.ln()) as usize } else { 1 }
    }

    /// How often a step goes through the model.
    pub fn passes(&self) -> usize {
        match self.derivative {
            Derivative::Difference { one_sided: true, .. } => self.directions + 1,
            Derivative::Difference { one_sided: false, .. } => 2 * self.directions,
            Derivative::Tangent => self.directions,
        }
    }
}

/// How a step's gradient is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Estimator {
    /// Exactly, by backpropagation under the policy.
    Exact,
    /// A surrogate: by backpropagation through some blocks, the others taken for constants.
    Subset(Subset),
    /// From directional derivatives.
    Directional(Directional),
}

impl Estimator {
    /// Whether a step's gradient has a part for a block, or for what is outside of them, which no subset leaves out.
    pub fn has(&self, block: usize, layers: usize, seed: u64, step: u64) -> bool {
        match self {
            Self::Exact => true,
            Self::Subset(_) if block >= layers => true,
            Self::Subset(subset) => subset.has(block, layers, seed, step),
            Self::Directional(along) => along.blocks.has(block),
        }
    }

    /// Whether there is a backward pass.
    pub fn backpropagates(&self) -> bool {
        !matches!(self, Self::Directional(_))
    }

    /// Whether a model has the blocks that it names.
    ///
    /// # Errors
    /// When it does not.
    pub fn fits(&self, layers: usize) -> Result<()> {
        match self {
            Self::Exact | Self::Subset(Subset::Share(_)) => Ok(()),
            Self::Subset(Subset::Fixed(blocks)) => blocks.fits(layers),
            Self::Directional(along) => along.blocks.fits(layers),
        }
    }

    /// How often a step goes through the model; a backward pass belongs to its forward.
    pub fn passes(&self) -> usize {
        match self {
            Self::Exact | Self::Subset(_) => 1,
            Self::Directional(along) => along.passes(),
        }
    }
}

/// `θ ← a·θ + c·z` for the adapters of some blocks.
pub fn perturb_in_place<B: Backend>(
    be: &mut B,
    params: &mut [BlockPairs],
    [a, c]: [f64; 2],
    direction: Direction,
    bounds: &Bounds,
) {
    let Direction { noise, blocks } = direction;
    for (block, pairs) in params.iter_mut().enumerate().filter(|(block, _)| blocks.has(*block)) {
        for (i, matrix) in matrices_mut(std::slice::from_mut(pairs)).enumerate() {
            be.perturb_in_place(matrix.view_mut(), a, c, tensor(noise, block, i, bounds));
        }
    }
}

/// `ĝ += c·z` for gradients of the adapters of some blocks, or `ĝ ← c·z` where not all values move: z's zeros are
/// where `params` are above their bounds.
pub fn add_direction<B: Backend>(
    be: &mut B,
    grads: &mut Gradients,
    params: &[BlockPairs],
    c: f64,
    direction: Direction,
    bounds: &Bounds,
) {
    let Direction { noise, blocks } = direction;
    grads.for_each_mut(|param, grad| {
        let Tensor::Adapter(module, matrix) = param.tensor else { return };
        let Some(pair) = params[param.place][module as usize].as_ref() else { return };
        if !blocks.has(param.place) {
            return;
        }
        let noise = tensor(noise, param.place, usize::from(param.index), bounds);
        if *bounds == Bounds::default() {
            be.perturb_in_place(grad, 1.0, c, noise);
        } else if let Some(from) = pair.matrix(matrix) {
            be.perturb(grad, from.view(), [0.0, c], noise);
        }
    });
}

/// The stream of a block's i-th matrix, with its bound: matrices are counted through all blocks.
pub(super) fn tensor(noise: Noise, block: usize, i: usize, bounds: &Bounds) -> Noise {
    let tensor = (block * 2 * Module::INSIDE.len() + i) as u32;
    Noise { tensor, below: bounds.of(block, i), ..noise }
}
