//! A linear layer with an adapter.
//!
//! ```text
//! forward   y  = x·Wᵀ + b + s·h·Bᵀ,   h = x·Aᵀ
//! backward  dB += s·gᵀ·h     dh = s·g·B     dA += dhᵀ·x     dx (+)= g·W + dh·A       g = dL/dy
//! reads     x (and h, which is rebuilt from x unless kept)      scratch  none of its own
//! shapes    x [n, in]  y g [n, out]  h dh [n, r]  A [r, in]  B [out, r]
//! ```
//! Layers that share a fused matrix of the checkpoint share its adapter: one A, one h, each its own rows of B, and dh
//! is the sum of theirs. Derivation: `docs/math/lora.md`. The frozen path of dx uses g itself, not s·g.
//!
//! ```text
//! with dropout   x̃ = k∘x/(1−p)     h = x̃·Aᵀ     dA += dhᵀ·x̃     dx (+)= g·W, then += k∘(dh·A)/(1−p)
//! ```
//! k is computed from a counter wherever it is needed, so x̃ is recomputed in tiles of rows and no mask is stored. Each
//! adapter has its own mask and the frozen path has none, as with PEFT's `lora_dropout`.

use std::ops::Range;

use mesp_device::{Act, Backend, Class, Dropout, Form, Label, View, ViewMut};

use super::{Matrix, PairView};
use crate::arch::{Linear, Module, Tensor};
use crate::gradient::Factors;

const Z: Label = Label::new(Class::WithinBlock, "dora_z");

/// `y = x·Wᵀ + b`, or `y += x·Wᵀ + b`, plus `s·h·Bᵀ` with an adapter; `h = x·Aᵀ`. With DoRA everything but b is
/// multiplied by m/n, row by row.
pub fn forward<B: Backend>(
    be: &mut B,
    mut y: ViewMut<'_>,
    x: View<'_>,
    linear: &Linear,
    adapter: Option<(PairView<'_>, View<'_>)>,
    accumulate: bool,
) {
    let bias = linear.bias.as_deref();
    if let Some((pair, h)) = adapter
        && let Some([gain, _]) = pair.gain
    {
        if accumulate {
            let z = unscaled(be, x, linear, pair, h);
            be.dora_gain_add(y, z.view(), gain, bias);
            be.free(z);
        } else {
            be.adapted_linear(y.again(), x, &linear.weight, None, false, (h, pair.b, pair.scale));
            be.dora_gain(y, gain, bias);
        }
        return;
    }
    match (adapter, bias) {
        // The bias is added between the two.
        (adapter, Some(bias)) if accumulate => {
            be.linear(y.again(), x, &linear.weight, None, true);
            be.add_bias(y.again(), bias);
            if let Some((pair, h)) = adapter {
                be.product(y, Form::RightTransposed, h, pair.b, pair.scale, true);
            }
        }
        (Some((pair, h)), bias) => {
            be.adapted_linear(y, x, &linear.weight, bias, accumulate, (h, pair.b, pair.scale));
        }
        (None, bias) => be.linear(y, x, &linear.weight, bias, accumulate),
    }
}

/// `z = x·Wᵀ + s·h·Bᵀ`, in a buffer of its own.
fn unscaled<B: Backend>(be: &mut B, x: View<'_>, linear: &Linear, pair: PairView<'_>, h: View<'_>) -> Act {
    let mut z = be.alloc(x.rows(), linear.weight.rows(), Z);
    be.adapted_linear(z.view_mut(), x, &linear.weight, None, false, (h, pair.b, pair.scale));
    z
}

/// DoRA's part of the backward, before the rest: passes on the factors of `dm += Σ_t dy∘z/n` for some rows of a module,
/// with z recomputed, and sets `dy ← dz = gain∘dy`.
pub fn through_gain<B: Backend>(
    be: &mut B,
    (module, rows, factors): (Module, Range<usize>, &mut impl Factors<B>),
    dy: ViewMut<'_>,
    x: View<'_>,
    linear: &Linear,
    (pair, h): (PairView<'_>, View<'_>),
) {
    let Some([gain, inverse]) = pair.gain else { return };
    if factors.wants_adapter(module, Matrix::M) {
        let z = unscaled(be, x, linear, pair, h);
        factors.magnitudes(be, module, rows, [dy.view(), z.view(), inverse]);
        be.free(z);
    }
    be.dora_gain(dy, gain, None);
}

/// `h = x·Aᵀ` for rows of a micro-batch from `first` on; with dropout `h = x̃·Aᵀ`.
pub fn project<B: Backend>(be: &mut B, mut h: ViewMut<'_>, x: View<'_>, pair: PairView<'_>, first: usize) {
    let Some(mask) = pair.dropout else {
        return be.product(h, Form::RightTransposed, x, pair.a, 1.0, false);
    };
    in_tiles(be, (x.rows(), x.cols()), |be, mut dropped, rows| {
        be.dropout(dropped.view_mut(), x.part(rows.clone()), mask, first + rows.start, false);
        be.product(h.again().part(rows), Form::RightTransposed, dropped.view(), pair.a, 1.0, false);
        be.free(dropped);
    });
}

/// Rows whose dropped inputs are in memory at once.
const DROPPED_ROWS: usize = 64;

/// Runs `f` for tiles of rows `[n, cols]`, each with a buffer of the tile's shape, which `f` frees.
fn in_tiles<B: Backend>(be: &mut B, (n, cols): (usize, usize), mut f: impl FnMut(&mut B, Act, Range<usize>)) {
    let mark = be.mark();
    for start in (0..n).step_by(DROPPED_ROWS) {
        be.rewind(mark);
        let rows = start..(start + DROPPED_ROWS).min(n);
        let buffer = be.alloc(rows.len(), cols, Label::new(Class::WithinBlock, "lora_dropped"));
        f(be, buffer, rows);
    }
}

/// A layer's part of its adapter's gradients: passes on the factors of `dB += s·gᵀ·h` for some rows of a module, and
/// computes `dh = s·g·B`, or `dh +=`. [`gradient_of_a`] follows when dh is complete.
pub fn gradients<B: Backend>(
    be: &mut B,
    (module, rows, factors): (Module, Range<usize>, &mut impl Factors<B>),
    dh: ViewMut<'_>,
    pair: PairView<'_>,
    h: View<'_>,
    g: View<'_>,
    accumulate: bool,
) {
    if factors.wants_adapter(module, Matrix::B) {
        factors.linear(be, Tensor::Adapter(module, Matrix::B), rows, [g, h], pair.scale);
    }
    be.product(dh, Form::Plain, g, pair.b, pair.scale, accumulate);
}

/// Passes on the factors of `dA += dhᵀ·x` for rows of a micro-batch from `first` on; with dropout `dA += dhᵀ·x̃`.
pub fn gradient_of_a<B: Backend>(
    be: &mut B,
    (module, factors): (Module, &mut impl Factors<B>),
    dh: View<'_>,
    x: View<'_>,
    dropout: Option<Dropout>,
    first: usize,
) {
    if !factors.wants_adapter(module, Matrix::A) {
        return;
    }
    let (a, rank) = (Tensor::Adapter(module, Matrix::A), dh.cols());
    let Some(mask) = dropout else { return factors.linear(be, a, 0..rank, [dh, x], 1.0) };
    in_tiles(be, (x.rows(), x.cols()), |be, mut dropped, rows| {
        be.dropout(dropped.view_mut(), x.part(rows.clone()), mask, first + rows.start, false);
        factors.linear(be, a, 0..rank, [dh.part(rows), dropped.view()], 1.0);
        be.free(dropped);
    });
}

/// `dx = g·W + dh·A`, or `dx +=`, for rows of a micro-batch from `first` on; with dropout the adapter's part is
/// [`add_input_grad`].
pub fn input_grad<B: Backend>(
    be: &mut B,
    mut dx: ViewMut<'_>,
    g: View<'_>,
    linear: &Linear,
    adapter: Option<(PairView<'_>, View<'_>)>,
    accumulate: bool,
    first: usize,
) {
    match adapter {
        Some((pair, dh)) if pair.dropout.is_none() => {
            be.adapted_input_grad(dx, g, &linear.weight, accumulate, (dh, pair.a));
        }
        Some((pair, dh)) => {
            be.input_grad(dx.again(), g, &linear.weight, accumulate);
            add_input_grad(be, dx, dh, pair, first);
        }
        None => be.input_grad(dx, g, &linear.weight, accumulate),
    }
}

/// `dx += dh·A`; with dropout `dx += k∘(dh·A)/(1−p)`.
pub fn add_input_grad<B: Backend>(
    be: &mut B,
    mut dx: ViewMut<'_>,
    dh: View<'_>,
    pair: PairView<'_>,
    first: usize,
) {
    let Some(mask) = pair.dropout else {
        return be.product(dx, Form::Plain, dh, pair.a, 1.0, true);
    };
    in_tiles(be, (dx.rows(), dx.cols()), |be, mut part, rows| {
        be.product(part.view_mut(), Form::Plain, dh.part(rows.clone()), pair.a, 1.0, false);
        let at = first + rows.start;
        be.dropout(dx.again().part(rows), part.view(), mask, at, true);
        be.free(part);
    });
}
