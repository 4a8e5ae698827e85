//! Directional derivatives from tangents: forward-mode differentiation (Baydin et al. 2022, arXiv 2202.08587; in federated
//! fine-tuning Panchal et al. 2024, arXiv 2405.15551).
//!
//! ```text
//! derivative       g = ⟨∇L, z⟩ = ⟨dL/dy, y'⟩       y the last block's output, y' = dy/dθ·z, carried beside y
//! ```
//! derivation: `docs/math/forward.md`. The blocks run on a [`Dual`] backend: the model's own rules, with a
//! tangent beside each buffer. Below the first block whose adapters move there is no tangent. The head gives
//! dL/dy as it does for a backward pass, which is then not made.

use std::sync::Arc;

use mesp_device::{Backend, Class, Dual, Label, Tangents};

use super::backprop::{run, will_need};
use super::directional::tensor;
use super::{Backprop, Bounds, Direction};
use crate::adapter::{BlockPairs, matrices, pair_outside_blocks, params};
use crate::arch::Module;
use crate::gradient::{Gradients, Nothing, ParamList};
use crate::model::{self, Batch, HeadAdapter, ModelWeights, Objective, Top};
use crate::tape::{Site, SiteSet};

impl Backprop {
    /// A micro-batch's losses, and the objective's directional derivative.
    pub fn derivative<B: Backend>(
        &mut self,
        be: &mut B,
        tangents: &mut Tangents,
        model: &ModelWeights,
        adapters: &[BlockPairs],
        (direction, bounds): (Direction, &Bounds),
        batch: &Batch,
        objective: &mut impl Objective<B>,
    ) -> f64 {
        let policy = self.policy;
        let c = &model.config;
        let [head, table] = Module::OUTSIDE_BLOCKS.map(|p| p.list_index(0, c));
        let moves = |place: usize| direction.blocks.has(place) && adapters[place].iter().any(Option::is_some);
        let mut dual = Dual::new(be, tangents);
        let moved = if moves(table) { &adapters[table..=table] } else { &[] };
        attach(&mut dual, moved, (direction, bounds), table);
        let pair = pair_outside_blocks(adapters, Module::Embed, c);
        let mut x = if moves(table) {
            model::embed(&mut dual, model, pair, batch, Class::WithinBlock)
        } else {
            model::embed(dual.primal(), model, pair, batch, Class::WithinBlock)
        };
        detach(&mut dual, moved);
        for (l, tape) in self.tapes.iter_mut().enumerate() {
            will_need(be, model, l + 1);
            let run = run(model, &adapters[l], l, batch, policy, None);
            tape.keep_across(SiteSet::EMPTY);
            if l < direction.blocks.first {
                tape.put(Site::BlockIn, x);
                x = model::forward_block(be, &run, tape, SiteSet::EMPTY);
                continue;
            }
            let mut dual = Dual::new(be, tangents);
            if l == direction.blocks.first && !moves(table) {
                dual.attach(&x, Class::WithinBlock, B::zero);
            }
            let moved = if direction.blocks.has(l) { &adapters[l..=l] } else { &[] };
            attach(&mut dual, moved, (direction, bounds), l);
            tape.put(Site::BlockIn, x);
            x = model::forward_block(&mut dual, &run, tape, SiteSet::EMPTY);
            detach(&mut dual, moved);
        }
        let tangent = Dual::new(be, tangents).detach(&x);
        let pair = pair_outside_blocks(adapters, Module::Head, c);
        let mut grads = moves(head).then(|| {
            let list = || Arc::new(ParamList::new(params(&adapters[head..=head])));
            let list = self.head.get_or_insert_with(list);
            Gradients::zeros(be, list, 0..list.params().len(), Label::new(Class::Gradient, "lora_grad"))
        });
        let top = Top {
            model,
            head: HeadAdapter { pair, dropout: None },
            batch,
            tiles: policy.tiles,
            later: false,
        };
        match &mut grads {
            Some(grads) => objective.gradient(be, top, &mut x, &mut grads.sums()),
            None => objective.gradient(be, top, &mut x, &mut Nothing),
        }
        // From here on x is dL/dx.
        let mut derivative = tangent.as_ref().map_or(0.0, |t| be.dot(x.view(), t.view()));
        if let Some(tangent) = tangent {
            be.free(tangent);
        }
        // The head comes after what carries tangents: its derivative is its gradient's.
        for (matrix, grad) in matrices(&adapters[head..=head]).zip(grads.iter().flat_map(Gradients::iter)) {
            let (i, grad) = (usize::from(grad.0.index), grad.1);
            let mut z = be.alloc(grad.rows(), grad.cols(), Label::new(Class::Adapter, "tangent"));
            be.perturb(z.view_mut(), matrix.view(), [0.0, 1.0], tensor(direction.noise, head, i, bounds));
            derivative += be.dot(grad, z.view());
            be.free(z);
        }
        if let Some(grads) = grads {
            grads.free(be);
        }
        be.free(x);
        derivative
    }
}

/// Gives adapters of a place their direction as tangents.
fn attach<B: Backend>(
    dual: &mut Dual<'_, B>,
    moved: &[BlockPairs],
    (direction, bounds): (Direction, &Bounds),
    place: usize,
) {
    for (i, matrix) in matrices(moved).enumerate() {
        let noise = tensor(direction.noise, place, i, bounds);
        dual.attach(matrix, Class::Adapter, |be, t| be.perturb(t, matrix.view(), [0.0, 1.0], noise));
    }
}

fn detach<B: Backend>(dual: &mut Dual<'_, B>, moved: &[BlockPairs]) {
    for matrix in matrices(moved) {
        if let Some(tangent) = dual.detach(matrix) {
            dual.primal().free(tangent);
        }
    }
}
