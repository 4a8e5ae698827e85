//! Directional derivatives from losses (MeZO; Malladi et al. 2023, arXiv 2305.17333).
//!
//! ```text
//! derivative       g = (L(θ + εz) − L(θ − εz)) / 2ε,   one-sided (L(θ + εz) − L(θ)) / ε
//! ```
//! derivation: `docs/math/zeroth.md`. θ is never perturbed in place: a block computes with a moved copy of its
//! adapters, which is all the memory that an estimate adds to a forward pass, and nothing drifts.

use mesp_device::{Backend, Class, Label};

use super::bounds::Bounds;
use super::directional::{Direction, tensor};
use crate::adapter::{BlockPairs, matrices, matrices_mut, pairs_like};

/// Where the losses of a direction are taken, in units of z.
pub fn points(eps: f64, one_sided: bool) -> [f64; 2] {
    [eps, if one_sided { 0.0 } else { -eps }]
}

/// The directional derivative from two sums of losses at two [`points`], in the precision in which a log keeps it.
pub fn derivative(nats: [f64; 2], [from, to]: [f64; 2], targets: usize) -> f32 {
    ((nats[0] - nats[1]) / targets as f64 / (from - to)) as f32
}

/// A point beside the adapters: θ + c·z.
#[derive(Debug, Clone, Copy)]
pub struct Perturbation<'a> {
    /// c.
    pub by: f64,
    /// z.
    pub direction: Direction,
    /// Which values move.
    pub bounds: &'a Bounds,
}

impl Perturbation<'_> {
    /// A moved copy of a block's adapters, if they move.
    pub(super) fn moved<B: Backend>(
        &self,
        be: &mut B,
        block: usize,
        pairs: &BlockPairs,
    ) -> Option<BlockPairs> {
        if !self.direction.blocks.has(block) {
            return None;
        }
        let label = Label::new(Class::Adapter, "lora_moved");
        let mut moved = pairs_like(pairs, |rows, cols| be.alloc(rows, cols, label));
        let to = matrices_mut(std::slice::from_mut(&mut moved));
        let from = matrices(std::slice::from_ref(pairs));
        for (i, (to, from)) in to.zip(from).enumerate() {
            be.perturb(
                to.view_mut(),
                from.view(),
                [1.0, self.by],
                tensor(self.direction.noise, block, i, self.bounds),
            );
        }
        Some(moved)
    }
}
