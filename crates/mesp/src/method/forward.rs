//! Slopes from tangents: forward-mode differentiation (Baydin et al. 2022, arXiv 2202.08587; in federated
//! fine-tuning Panchal et al. 2024, arXiv 2405.15551).
//!
//! ```text
//! slope       g = ⟨∇L, z⟩ = ⟨dL/dy, y'⟩       y the last block's output, y' = dy/dθ·z, carried beside y
//! ```
//! derivation: `docs/math/forward.md`. The blocks run on a [`Dual`] backend: the model's own rules, with a
//! tangent beside each buffer. Below the first block whose adapters move there is no tangent. The head gives
//! dL/dy as it does for a backward pass, which is then not made.

use mesp_device::{Backend, Class, Dual, RowStat, Tangents};

use super::backprop::{run, will_need};
use super::directional::tensor;
use super::{Backprop, Bounds, Ray};
use crate::adapter::{BlockPairs, matrices};
use crate::model::{self, Batch, Model};
use crate::tape::{Site, SiteSet};

impl Backprop {
    /// Losses of a micro-batch's trained rows, and the slope of their sum, times `gradient`, along a
    /// direction.
    pub fn slope<B: Backend>(
        &mut self,
        be: &mut B,
        tangents: &mut Tangents,
        model: &Model,
        adapters: &[BlockPairs],
        (ray, bounds): (Ray, &Bounds),
        batch: &Batch,
        gradient: f64,
        stats: &mut [RowStat],
    ) -> f64 {
        let policy = self.policy;
        let mut x = model::embed(be, model, batch, Class::WithinBlock);
        for (l, tape) in self.tapes.iter_mut().enumerate() {
            will_need(be, model, l + 1);
            let run = run(model, &adapters[l], l, batch, policy);
            tape.keep_across(SiteSet::EMPTY);
            if l < ray.blocks.first {
                tape.put(Site::BlockIn, x);
                x = model::forward_block(be, &run, tape, SiteSet::EMPTY);
                continue;
            }
            let mut dual = Dual::new(be, tangents);
            if l == ray.blocks.first {
                dual.attach(&x, Class::WithinBlock, B::zero);
            }
            let moved = if ray.blocks.has(l) { &adapters[l..=l] } else { &[] };
            for (i, matrix) in matrices(moved).enumerate() {
                let noise = tensor(ray.noise, l, i, bounds);
                dual.attach(matrix, Class::Adapter, |be, t| be.perturb(t, matrix.view(), [0.0, 1.0], noise));
            }
            tape.put(Site::BlockIn, x);
            x = model::forward_block(&mut dual, &run, tape, SiteSet::EMPTY);
            for matrix in matrices(moved) {
                if let Some(tangent) = dual.detach(matrix) {
                    dual.primal().free(tangent);
                }
            }
        }
        let tangent = Dual::new(be, tangents).detach(&x);
        model::head(be, model, &mut x, batch, Some(gradient), policy.tiles, stats);
        // From here on x is dL/dx.
        let slope = tangent.as_ref().map_or(0.0, |t| be.dot(x.view(), t.view()));
        if let Some(tangent) = tangent {
            be.free(tangent);
        }
        be.free(x);
        slope
    }
}
