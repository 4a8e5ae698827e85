//! A linear layer with an adapter.
//!
//! ```text
//! forward   y  = x·Wᵀ + b + s·h·Bᵀ,   h = x·Aᵀ
//! backward  dB += s·gᵀ·h     dh = s·g·B     dA += dhᵀ·x     dx (+)= g·W + dh·A       g = dL/dy
//! reads     x (and h, which is rebuilt from x unless kept)      scratch  none of its own
//! shapes    x [n, in]  y g [n, out]  h dh [n, r]  A [r, in]  B [out, r]
//! ```
//! Layers that share a matrix of the checkpoint share its adapter: one A, one h, each its own rows of B, and dh
//! the sum of theirs. derivation: `docs/math/lora.md`. The frozen path of dx uses g itself, not s·g. The frozen W has no
//! gradient function anywhere.

use mesp_device::{Backend, Form, View, ViewMut};

use super::PairView;
use crate::model::Linear;

/// `y = x·Wᵀ + b`, or `y += x·Wᵀ + b`, and `+ s·h·Bᵀ` where there is an adapter; `h = x·Aᵀ`.
pub fn forward<B: Backend>(
    be: &mut B,
    mut y: ViewMut<'_>,
    x: View<'_>,
    linear: &Linear,
    adapter: Option<(PairView<'_>, View<'_>)>,
    scale: f64,
    accumulate: bool,
) {
    let bias = linear.bias.as_deref();
    match (adapter, bias) {
        // The bias is added between the two.
        (adapter, Some(bias)) if accumulate => {
            be.linear(y.again(), x, &linear.weight, None, true);
            be.add_bias(y.again(), bias);
            if let Some((pair, h)) = adapter {
                be.product(y, Form::RightTransposed, h, pair.b, scale, true);
            }
        }
        (Some((pair, h)), bias) => {
            be.adapted_linear(y, x, &linear.weight, bias, accumulate, (h, pair.b, scale));
        }
        (None, bias) => be.linear(y, x, &linear.weight, bias, accumulate),
    }
}

/// `h = x·Aᵀ`
pub fn project<B: Backend>(be: &mut B, h: ViewMut<'_>, x: View<'_>, a: View<'_>) {
    be.product(h, Form::RightTransposed, x, a, 1.0, false);
}

/// `dB += s·gᵀ·h`, `dh = s·g·B`, or `dh +=`: a layer's part of its adapter's gradients. Once dh is whole, what
/// is left is [`gradient_of_a`].
pub fn gradients<B: Backend>(
    be: &mut B,
    db: ViewMut<'_>,
    dh: ViewMut<'_>,
    b: View<'_>,
    h: View<'_>,
    g: View<'_>,
    scale: f64,
    accumulate: bool,
) {
    be.product(db, Form::LeftTransposed, g, h, scale, true);
    be.product(dh, Form::Plain, g, b, scale, accumulate);
}

/// `dA += dhᵀ·x`
pub fn gradient_of_a<B: Backend>(be: &mut B, da: ViewMut<'_>, dh: View<'_>, x: View<'_>) {
    be.product(da, Form::LeftTransposed, dh, x, 1.0, true);
}

/// `dx = g·W + dh·A`, or `dx +=`
pub fn input_grad<B: Backend>(
    be: &mut B,
    dx: ViewMut<'_>,
    g: View<'_>,
    linear: &Linear,
    adapter: Option<(PairView<'_>, View<'_>)>,
    accumulate: bool,
) {
    match adapter {
        Some((pair, dh)) => be.adapted_input_grad(dx, g, &linear.weight, accumulate, (dh, pair.a)),
        None => be.input_grad(dx, g, &linear.weight, accumulate),
    }
}
