//! Gradients as pairs of factors.
//!
//! ```text
//! a matrix P     dP[rows] += scale·gᵀ·x              g [n, rows]   x [n, cols]
//! a bias         db[rows] += Σ_t g[t]
//! a norm's w     dw       += Σ_t dy[t]∘x̂[t]          x̂ the normed rows of x
//! magnitudes     dm[rows] += Σ_t dy[t]∘z[t]∘inverse  (DoRA)
//! a table        dP[index[t]] += g[t]
//! ```
//! The gradient of every tensor is a sum of such terms. The backward of a block has both factors at one place. It does
//! not compute the gradient but passes the factors to a consumer ([`Factors`]), which may add the product to a buffer
//! ([`Sums`](super::Sums)), update the parameter, or compute a norm. Factors that the consumer does not want are not
//! passed on.

use std::marker::PhantomData;
use std::ops::Range;

use mesp_device::{AllocOnly, Backend, View};
use mesp_formats::peft::Matrix;

use crate::arch::{Module, Norm, Tensor};

/// A consumer of the factors of gradients of one place ([`Module::list_index`]).
pub trait Factors<B: Backend> {
    /// Whether the factors of a tensor are to be passed on.
    fn wants(&self, of: Tensor) -> bool;
    /// Some rows of a matrix: `dP[rows] += scale·gᵀ·x`.
    fn linear(&mut self, be: &mut B, of: Tensor, rows: Range<usize>, g_x: [View<'_>; 2], scale: f64);
    /// Some values of a bias: `db[rows] += Σ_t g[t]`.
    fn bias(&mut self, be: &mut B, of: Module, rows: Range<usize>, g: View<'_>);
    /// The weight of a norm: `dw += Σ_t dy[t]∘x̂[t]`, where x̂ are the rows of `x` divided by their root mean squares.
    fn norm(&mut self, be: &mut B, of: Norm, dy_x: [View<'_>; 2], eps: f64);
    /// Some magnitudes (DoRA): `dm[rows] += Σ_t dy[t]∘z[t]∘inverse`.
    fn magnitudes(&mut self, be: &mut B, of: Module, rows: Range<usize>, dy_z_inverse: [View<'_>; 3]);
    /// Rows of a table: `dP[index[t]] += g[t]`, in the order of t.
    fn table_rows(&mut self, be: &mut B, of: Tensor, index: &[u32], g: View<'_>);

    /// A matrix of the model, in parts whose rows are `rows` and that have the input `x` in common:
    /// `dP[rows] += gᵀ·x`. With [`Factors::steps_weights`] these are all its factors in the sweep. Passes each on to
    /// [`Factors::linear`] unless implemented.
    fn weight(&mut self, be: &mut B, of: Module, parts: &[(Range<usize>, View<'_>)], x: View<'_>) {
        for (rows, g) in parts {
            self.linear(be, Tensor::Weight(of), rows.clone(), [*g, x], 1.0);
        }
    }

    /// Whether a matrix is updated in place as soon as its factors are passed on ([`Factors::weight`]): that is then done
    /// after the last read of the matrix, and with all rows at once. Not unless implemented.
    fn steps_weights(&self) -> bool {
        false
    }

    /// Whether a part of an adapter is wanted.
    fn wants_adapter(&self, module: Module, matrix: Matrix) -> bool {
        self.wants(Tensor::Adapter(module, matrix))
    }
}

/// Wants no gradients: for losses alone, or dL/dx alone.
#[derive(Debug)]
pub struct Nothing;

impl<B: Backend> Factors<B> for Nothing {
    fn wants(&self, _: Tensor) -> bool {
        false
    }
    fn linear(&mut self, _: &mut B, _: Tensor, _: Range<usize>, _: [View<'_>; 2], _: f64) {}
    fn bias(&mut self, _: &mut B, _: Module, _: Range<usize>, _: View<'_>) {}
    fn norm(&mut self, _: &mut B, _: Norm, _: [View<'_>; 2], _: f64) {}
    fn magnitudes(&mut self, _: &mut B, _: Module, _: Range<usize>, _: [View<'_>; 3]) {}
    fn table_rows(&mut self, _: &mut B, _: Tensor, _: &[u32], _: View<'_>) {}
}

/// For [`AllocOnly`]: wants the same factors as another consumer, and ignores them.
#[derive(Debug)]
pub struct IgnoreFactors<F, B>(F, PhantomData<fn(B)>);

impl<F: Factors<B>, B: Backend> IgnoreFactors<F, B> {
    /// Wraps the other consumer.
    pub const fn new(factors: F) -> Self {
        Self(factors, PhantomData)
    }
}

impl<'b, F: Factors<B>, B: Backend> Factors<AllocOnly<'b, B>> for IgnoreFactors<F, B> {
    fn wants(&self, of: Tensor) -> bool {
        self.0.wants(of)
    }
    fn steps_weights(&self) -> bool {
        self.0.steps_weights()
    }
    fn weight(&mut self, _: &mut AllocOnly<'b, B>, _: Module, _: &[(Range<usize>, View<'_>)], _: View<'_>) {}
    fn linear(&mut self, _: &mut AllocOnly<'b, B>, _: Tensor, _: Range<usize>, _: [View<'_>; 2], _: f64) {}
    fn bias(&mut self, _: &mut AllocOnly<'b, B>, _: Module, _: Range<usize>, _: View<'_>) {}
    fn norm(&mut self, _: &mut AllocOnly<'b, B>, _: Norm, _: [View<'_>; 2], _: f64) {}
    fn magnitudes(&mut self, _: &mut AllocOnly<'b, B>, _: Module, _: Range<usize>, _: [View<'_>; 3]) {}
    fn table_rows(&mut self, _: &mut AllocOnly<'b, B>, _: Tensor, _: &[u32], _: View<'_>) {}
}
