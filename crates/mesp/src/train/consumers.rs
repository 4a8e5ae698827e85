//! What takes the factors of a session's gradients: sums that are kept, or updates that are fused into the backward.
//!
//! ```text
//! accumulate   every gradient is a sum in one buffer; the optimizer steps after the sweep
//! per-block    the gradients of a block are sums until its backward ends, then its parameters are stepped
//! per-matrix   a matrix of the model is stepped as soon as its factors are there, in tiles of rows where it has
//!              more than a tile; adapters, norms and biases at the end of their block
//! ```
//! Fused updates visit tables (embeddings, head) in tiles of rows in any case: the gradient of a tile is made anew in
//! each visit, so that no more of it is in memory. Where the embedding table is the head's too, it is stepped after both.

use std::ops::Range;
use std::sync::Arc;

use mesp_device::{Act, AllocOnly, Backend, Class, Label, View};

use crate::adapter::BlockPairs;
use crate::arch::{Module, Norm, Param, Tensor};
use crate::gradient::{Factors, Gradients, ParamList, Sums};
use crate::method::Consumer;
use crate::optim::{Optimizer, Stepped, TrainedWeights, UpdateRule as _};

/// The label of buffers of gradients.
pub(super) const GRAD: Label = Label::new(Class::Gradient, "lora_grad");
const TILE: Label = Label::new(Class::Gradient, "weight_grad");

/// Adds all gradients up.
pub(super) struct Accumulated<'a> {
    pub(super) grads: &'a mut Gradients,
    pub(super) layers: usize,
}

impl<B: Backend> Consumer<B> for Accumulated<'_> {
    type Place<'a>
        = Sums<'a>
    where
        Self: 'a;
    fn wants(&self, place: usize, of: Tensor) -> bool {
        self.grads.get(place, of).is_some()
    }
    fn begin(&mut self, _: &mut B, place: usize) -> Sums<'_> {
        let numbers = self.grads.list().reached_from(place, self.layers);
        self.grads.sums_of(numbers)
    }
}

/// Which parameters of a list are gathered in a buffer until their place ends, where updates are fused: all but tables,
/// and with `in_place` all but the model's matrices.
pub(super) fn gathered(list: &ParamList, in_place: bool) -> ParamList {
    let own = |param: &&Param| match param.tensor {
        Tensor::Weight(module) => !in_place && !module.is_outside_blocks(),
        _ => true,
    };
    ParamList::new(list.params().iter().filter(own).copied().collect())
}

/// Steps parameters while the sweep goes on.
pub(super) struct Fused<'a> {
    pub(super) stepping: Stepping<'a>,
    /// What is gathered until its place ends.
    pub(super) gathered: &'a Arc<ParamList>,
    /// The gradients of the place that is passed.
    pub(super) current: Option<Gradients>,
}

/// What is stepped, and how.
pub(super) struct Stepping<'a> {
    pub(super) optimizer: &'a mut Optimizer,
    pub(super) weights: Option<&'a mut TrainedWeights>,
    pub(super) learning_rate: f64,
    /// Updates of each place before this step.
    pub(super) updates: &'a mut [u64],
    /// By what gradients are multiplied; none for a sweep that measures their norm and steps nothing.
    pub(super) scale: Option<f64>,
    /// The squares of all gradients so far, as they are before they are multiplied.
    pub(super) squares: f64,
    /// Whether matrices are stepped as soon as their factors are there.
    pub(super) in_place: bool,
    /// Rows of a matrix, and of a table, whose gradient is in memory at once.
    pub(super) rows: [usize; 2],
}

impl Stepping<'_> {
    /// Once a gradient is not finite, or a checkpoint was lost, nothing below is stepped.
    fn goes_on<B: Backend>(&self, be: &B) -> bool {
        self.squares.is_finite() && !be.faulty()
    }

    /// Steps the parameters of a place that were gathered.
    fn update<B: Backend>(&mut self, be: &mut B, place: usize, pairs: &mut BlockPairs, grads: &Gradients) {
        let stepped = &mut Stepped { pairs, weights: self.weights.as_deref_mut() };
        self.optimizer.update(be, place, stepped, grads, self.learning_rate, self.updates[place]);
    }

    /// Visits some rows of the i-th parameter with their gradient.
    fn visit<B: Backend>(
        &mut self,
        be: &mut B,
        i: usize,
        rows: Range<usize>,
        g: View<'_>,
        visits: Range<usize>,
    ) {
        let step = self.updates[self.optimizer.list().params()[i].place] + 1;
        for visit in visits {
            let stepped =
                &mut Stepped { pairs: &mut BlockPairs::default(), weights: self.weights.as_deref_mut() };
            let at = (self.learning_rate, step, visit);
            self.optimizer.visit(be, i, (stepped, rows.clone()), g, at);
        }
    }

    /// Steps the i-th parameter, a matrix of the model, from gradients of rows that `make` makes.
    fn matrix<B: Backend>(
        &mut self,
        be: &mut B,
        i: usize,
        tile: usize,
        make: &mut impl FnMut(&mut B, Range<usize>) -> Act,
    ) {
        let param = self.optimizer.list().params()[i];
        let kind = self.optimizer.kind();
        let rows = param.shape[0];
        let visits = if self.scale.is_some() { kind.visits(&param) } else { 1 };
        let whole = tile >= rows || kind.needs_whole(&param);
        let (tile, passes) = if whole { (rows, 1) } else { (tile, visits) };
        let mark = be.mark();
        for pass in 0..passes {
            for start in (0..rows).step_by(tile) {
                be.rewind(mark);
                let range = start..(start + tile).min(rows);
                let mut g = make(be, range.clone());
                if pass == 0 {
                    self.squares += be.sum_of_squares(g.view());
                }
                // All visits to a gradient that is there as a whole, else this one.
                let visits = if whole { 0..visits } else { pass..pass + 1 };
                if let Some(scale) = self.scale.filter(|_| self.goes_on(be)) {
                    if scale < 1.0 {
                        be.scale(g.view_mut(), scale);
                    }
                    self.visit(be, i, range, g.view(), visits);
                } else if kind.allocates() {
                    // Nothing is stepped, and the buffers are asked for as in the plan.
                    self.visit(&mut AllocOnly::new(be), i, range, g.view(), visits);
                }
                be.free(g);
            }
        }
    }
}

impl<'s, B: Backend> Consumer<B> for Fused<'s> {
    type Place<'a>
        = FusedPlace<'a, 's>
    where
        Self: 'a;

    fn wants(&self, place: usize, of: Tensor) -> bool {
        self.stepping.optimizer.list().has(place, of)
    }

    fn begin(&mut self, be: &mut B, place: usize) -> FusedPlace<'_, 's> {
        let grads = Gradients::zeros(be, self.gathered, self.gathered.of(place), GRAD);
        FusedPlace { sums: self.current.insert(grads).sums(), stepping: &mut self.stepping, place }
    }

    fn finish(&mut self, be: &mut B, place: usize, pairs: &mut BlockPairs) {
        let Some(mut grads) = self.current.take() else { return };
        let Self { stepping, .. } = self;
        stepping.squares += grads.iter().map(|(_, g)| be.sum_of_squares(g)).sum::<f64>();
        if let Some(scale) = stepping.scale.filter(|_| stepping.goes_on(be)) {
            stepping.updates[place] += 1;
            if scale < 1.0 {
                grads.for_each_mut(|_, g| be.scale(g, scale));
            }
            stepping.update(be, place, pairs, &grads);
        } else if stepping.optimizer.kind().allocates() {
            stepping.update(&mut AllocOnly::new(be), place, pairs, &grads);
        }
        grads.free(be);
    }

    fn left_out(&mut self, be: &mut B, _: usize) {
        if let Some(grads) = self.current.take() {
            grads.free(be);
        }
    }

    fn steps_tables(&self) -> bool {
        true
    }

    fn table(
        &mut self,
        be: &mut B,
        (place, of): (usize, Tensor),
        make: &mut impl FnMut(&mut B, Range<usize>) -> Act,
    ) {
        let Some(i) = self.stepping.optimizer.list().number(place, of) else { return };
        let tile = self.stepping.rows[1];
        self.stepping.matrix(be, i, tile, make);
    }
}

/// Takes the factors of one place.
pub(super) struct FusedPlace<'a, 's> {
    sums: Sums<'a>,
    stepping: &'a mut Stepping<'s>,
    place: usize,
}

impl FusedPlace<'_, '_> {
    /// Whether a tensor is stepped while the place is passed.
    fn is_stepped(&self, of: Tensor) -> bool {
        matches!(of, Tensor::Weight(module) if !module.is_outside_blocks())
            && self.stepping.in_place
            && self.stepping.optimizer.list().number(self.place, of).is_some()
    }
}

impl<B: Backend> Factors<B> for FusedPlace<'_, '_> {
    fn wants(&self, of: Tensor) -> bool {
        self.is_stepped(of) || Factors::<B>::wants(&self.sums, of)
    }

    fn linear(&mut self, be: &mut B, of: Tensor, rows: Range<usize>, g_x: [View<'_>; 2], scale: f64) {
        self.sums.linear(be, of, rows, g_x, scale);
    }

    fn bias(&mut self, be: &mut B, of: Module, rows: Range<usize>, g: View<'_>) {
        self.sums.bias(be, of, rows, g);
    }

    fn norm(&mut self, be: &mut B, of: Norm, dy_x: [View<'_>; 2], eps: f64) {
        self.sums.norm(be, of, dy_x, eps);
    }

    fn magnitudes(&mut self, be: &mut B, of: Module, rows: Range<usize>, dy_z_inverse: [View<'_>; 3]) {
        self.sums.magnitudes(be, of, rows, dy_z_inverse);
    }

    fn table_rows(&mut self, be: &mut B, of: Tensor, index: &[u32], g: View<'_>) {
        self.sums.table_rows(be, of, index, g);
    }

    fn steps_weights(&self) -> bool {
        self.stepping.in_place
    }

    fn weight(&mut self, be: &mut B, of: Module, parts: &[(Range<usize>, View<'_>)], x: View<'_>) {
        let tensor = Tensor::Weight(of);
        if !self.is_stepped(tensor) {
            return self.sums.weight(be, of, parts, x);
        }
        let Some(i) = self.stepping.optimizer.list().number(self.place, tensor) else { return };
        let (tile, cols) = (self.stepping.rows[0], x.cols());
        self.stepping.matrix(be, i, tile, &mut |be, range| {
            let mut dw = be.alloc(range.len(), cols, TILE);
            for (rows, g) in parts {
                let (start, end) = (rows.start.max(range.start), rows.end.min(range.end));
                if start < end {
                    let to = dw.rows_mut(start - range.start..end - range.start);
                    be.weight_grad(to, [*g, x], start - rows.start, false);
                }
            }
            dw
        });
    }
}
