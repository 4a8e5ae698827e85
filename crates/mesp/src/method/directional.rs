//! Estimates of the gradient from slopes along random directions.
//!
//! ```text
//! estimate    ĝ = 1/n·Σ gᵢ·zᵢ        gᵢ the loss's slope along zᵢ
//! update      θ ← (1 − ηλ)·θ − η·Σ_k μᵏ·ĝ_{t−k}
//! ```
//! z is a function of (seed, step, direction, tensor, element), so it is never stored, and a run is its seed and
//! its slopes. derivation: `docs/math/zeroth.md`.

use mesp_device::{Backend, Distribution, Noise};

use crate::adapter::{BlockPairs, Projection, matrices_mut};

/// How a slope is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Slope {
    /// From losses beside the adapters (MeZO; Malladi et al. 2023, arXiv 2305.17333).
    Difference {
        /// ε.
        eps: f64,
        /// Whether one side is the loss at θ itself: n + 1 forward passes a step in place of 2n.
        one_sided: bool,
    },
}

/// How directions are drawn, and slopes taken along them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Directional {
    /// How a slope is made.
    pub slope: Slope,
    /// Of z.
    pub distribution: Distribution,
    /// n, directions of a step.
    pub directions: usize,
    /// μ: earlier estimates go on, recomputed from the log of slopes; nothing of the size of θ is kept.
    pub momentum: f64,
}

impl Directional {
    /// Gaussian, one direction, two-sided; ε as published for LoRA (`large_models`, OPT).
    pub const MEZO: Self = Self {
        slope: Slope::Difference { eps: 1e-2, one_sided: false },
        distribution: Distribution::Gaussian,
        directions: 1,
        momentum: 0.0,
    };

    /// A direction of a step, for the first tensor.
    pub fn noise(&self, seed: u64, step: u64, direction: usize) -> Noise {
        let distribution = self.distribution;
        Noise { seed, step: step as u32, direction: direction as u32, tensor: 0, distribution }
    }

    /// Steps whose estimates an update takes in: those with μᵏ ≥ 1%.
    pub fn window(&self) -> usize {
        if self.momentum > 0.0 { 1 + (0.01f64.ln() / self.momentum.ln()) as usize } else { 1 }
    }

    /// How often a step goes through the model.
    pub fn passes(&self) -> usize {
        match self.slope {
            Slope::Difference { one_sided: true, .. } => self.directions + 1,
            Slope::Difference { one_sided: false, .. } => 2 * self.directions,
        }
    }
}

/// How a step's gradient is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Estimator {
    /// Exactly, by backpropagation under the policy.
    Exact,
    /// From slopes along directions.
    Directional(Directional),
}

impl Estimator {
    /// Whether there is a backward pass.
    pub fn backpropagates(&self) -> bool {
        *self == Self::Exact
    }

    /// How often a step goes through the model; a backward pass belongs to its forward.
    pub fn passes(&self) -> usize {
        match self {
            Self::Exact => 1,
            Self::Directional(along) => along.passes(),
        }
    }
}

/// `θ ← a·θ + c·z` for all adapters, or `ĝ ← a·ĝ + c·z` for gradients of them.
pub fn drift<B: Backend>(be: &mut B, params: &mut [BlockPairs], a: f64, c: f64, noise: Noise) {
    for (block, pairs) in params.iter_mut().enumerate() {
        for (i, matrix) in matrices_mut(std::slice::from_mut(pairs)).enumerate() {
            be.drift(matrix.view_mut(), a, c, tensor(noise, block, i));
        }
    }
}

/// The stream of a block's i-th matrix: matrices are counted through all blocks.
pub(super) fn tensor(noise: Noise, block: usize, i: usize) -> Noise {
    Noise { tensor: (block * 2 * Projection::MODULES.len() + i) as u32, ..noise }
}
