//! Which values of the adapters move, where not all do (sparse MeZO; Liu et al. 2024, arXiv 2402.15751).
//!
//! ```text
//! bound    of a matrix, once, at the start: the size that a share s of its values exceeds
//! mask     of a step, anew: |θ| ≤ bound       θ as it is before the step       z ∘ mask in z's place
//! ```
//! The mask is a function of θ and a number for each matrix, so it is not stored: a product's copy of θ is moved
//! where θ is small. A matrix that is zero at the start, as B of a new adapter, has no large values to spare and
//! no scale to tell them by: all of it moves, always.

use mesp_device::Backend;

use crate::adapter::{BlockPairs, matrices};

/// A bound for each matrix, block by block; without any nothing is bounded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bounds {
    /// Where each block's begin: not all need have as many.
    starts: Vec<usize>,
    values: Vec<f32>,
}

impl Bounds {
    /// For adapters as they are now, of which a share is to stay.
    pub fn new<B: Backend>(be: &B, params: &[BlockPairs], sparsity: f64) -> Self {
        if sparsity <= 0.0 {
            return Self::default();
        }
        let mut sizes = Vec::new();
        let bound = |matrix: &mesp_device::Act| {
            sizes.clear();
            be.store(matrix.view(), &mut |_, value| sizes.push(value.abs() as f32));
            let moving = ((1.0 - sparsity) * sizes.len() as f64).round() as usize;
            let last = moving.clamp(1, sizes.len().max(1)) - 1;
            if last >= sizes.len() {
                return f32::MAX;
            }
            let (_, bound, _) = sizes.select_nth_unstable_by(last, f32::total_cmp);
            if *bound > 0.0 { *bound } else { f32::MAX }
        };
        Self::from_values(matrices(params).map(bound).collect(), params)
    }

    /// From what [`Bounds::values`] gave for adapters shaped like these.
    pub fn from_values(values: Vec<f32>, params: &[BlockPairs]) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        let mut next = 0;
        let start = |block| {
            let start = next;
            next += matrices(std::slice::from_ref(block)).count();
            start
        };
        Self { starts: params.iter().map(start).collect(), values }
    }

    /// All of them, in the order of matrices.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The bound of a block's i-th matrix.
    pub fn of(&self, block: usize, i: usize) -> f32 {
        self.starts.get(block).and_then(|start| self.values.get(start + i)).copied().unwrap_or(f32::MAX)
    }
}
