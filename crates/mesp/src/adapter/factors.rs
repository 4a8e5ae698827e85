//! Gradients as pairs of factors.
//!
//! ```text
//! dP[rows] += scale·gᵀ·x        g [n, rows]   x [n, cols]
//! ```
//! The gradient of every matrix is a sum of such products. The backward of a block has both factors in hand at one
//! place; it does not make the gradient, it hands them over ([`Factors`]): whoever takes them may add the product to a
//! buffer ([`Sums`]), step the parameter, or take a norm. A [`Consumer`] is told when a place begins and ends.

use std::marker::PhantomData;
use std::ops::Range;

use mesp_device::{Backend, Form, Still, View};

use super::{BlockPairs, Matrix};
use crate::arch::Module;

/// What takes the factors of the gradients of a sweep, place by place: the head, the blocks from the last to the first,
/// the embeddings.
pub trait Consumer<B: Backend> {
    /// What takes those of one place.
    type Place<'a>: Factors<B>
    where
        Self: 'a;
    /// The backward of a place begins, before any loop over tiles: buffers that live until its end are made here.
    fn begin(&mut self, be: &mut B, place: usize, adapters: &BlockPairs) -> Self::Place<'_>;
    /// All factors of a place were handed over, and its adapters are read no more in this sweep.
    fn finish(&mut self, be: &mut B, place: usize, adapters: &mut BlockPairs);
    /// In place of the finish, where the backward was left out: nothing was handed over.
    fn left_out(&mut self, be: &mut B, place: usize);
}

/// What takes the factors of the gradients of one place.
pub trait Factors<B: Backend> {
    /// Whether factors of a matrix are to be handed over.
    fn wants(&self, module: Module, matrix: Matrix) -> bool;
    /// Some rows of a matrix: `dP[rows] += scale·gᵀ·x`.
    fn linear(
        &mut self,
        be: &mut B,
        of: (Module, Matrix),
        rows: Range<usize>,
        g_x: [View<'_>; 2],
        scale: f64,
    );
    /// Some magnitudes (DoRA): `dm[rows] += Σ_t dy[t]∘z[t]∘inverse`.
    fn magnitudes(&mut self, be: &mut B, of: Module, rows: Range<usize>, dy_z_inverse: [View<'_>; 3]);
    /// Rows of a table: `dP[index[t]] += g[t]`, in the order of t.
    fn table_rows(&mut self, be: &mut B, of: (Module, Matrix), index: &[u32], g: View<'_>);
}

/// Sums of products, in buffers that are shaped like a place's adapters.
#[derive(Debug)]
pub struct Sums<'a>(pub &'a mut BlockPairs);

impl<B: Backend> Factors<B> for Sums<'_> {
    fn wants(&self, module: Module, matrix: Matrix) -> bool {
        let pair = self.0[module as usize].as_ref();
        pair.is_some_and(|pair| pair.matrices().any(|(m, act)| m == matrix && act.rows() > 0))
    }

    fn linear(
        &mut self,
        be: &mut B,
        (module, matrix): (Module, Matrix),
        rows: Range<usize>,
        [g, x]: [View<'_>; 2],
        scale: f64,
    ) {
        if let Some(act) = self.0[module as usize].as_mut().and_then(|pair| pair.matrix_mut(matrix)) {
            be.product(act.rows_mut(rows), Form::LeftTransposed, g, x, scale, true);
        }
    }

    fn magnitudes(
        &mut self,
        be: &mut B,
        module: Module,
        rows: Range<usize>,
        [dy, z, inverse]: [View<'_>; 3],
    ) {
        if let Some(act) = self.0[module as usize].as_mut().and_then(|pair| pair.matrix_mut(Matrix::M)) {
            be.dora_magnitude_grad(act.rows_mut(rows), dy, z, inverse);
        }
    }

    fn table_rows(&mut self, be: &mut B, (module, matrix): (Module, Matrix), index: &[u32], g: View<'_>) {
        if let Some(act) = self.0[module as usize].as_mut().and_then(|pair| pair.matrix_mut(matrix)) {
            be.scatter_add_rows(act.view_mut(), g, index);
        }
    }
}

/// Wants no gradient: for losses alone, and for dL/dx alone.
#[derive(Debug)]
pub struct Nothing;

impl<B: Backend> Factors<B> for Nothing {
    fn wants(&self, _: Module, _: Matrix) -> bool {
        false
    }
    fn linear(&mut self, _: &mut B, _: (Module, Matrix), _: Range<usize>, _: [View<'_>; 2], _: f64) {}
    fn magnitudes(&mut self, _: &mut B, _: Module, _: Range<usize>, _: [View<'_>; 3]) {}
    fn table_rows(&mut self, _: &mut B, _: (Module, Matrix), _: &[u32], _: View<'_>) {}
}

/// Beside a backend that computes nothing: wants the same factors as another, and leaves them.
#[derive(Debug)]
pub struct Quiet<F, B>(F, PhantomData<fn(B)>);

impl<F: Factors<B>, B: Backend> Quiet<F, B> {
    /// Of what would take them.
    pub const fn new(factors: F) -> Self {
        Self(factors, PhantomData)
    }
}

impl<'b, F: Factors<B>, B: Backend> Factors<Still<'b, B>> for Quiet<F, B> {
    fn wants(&self, module: Module, matrix: Matrix) -> bool {
        self.0.wants(module, matrix)
    }
    fn linear(
        &mut self,
        _: &mut Still<'b, B>,
        _: (Module, Matrix),
        _: Range<usize>,
        _: [View<'_>; 2],
        _: f64,
    ) {
    }
    fn magnitudes(&mut self, _: &mut Still<'b, B>, _: Module, _: Range<usize>, _: [View<'_>; 3]) {}
    fn table_rows(&mut self, _: &mut Still<'b, B>, _: (Module, Matrix), _: &[u32], _: View<'_>) {}
}
