//! A linear layer with an adapter.
//!
//! ```text
//! forward   y  = x·Wᵀ + b + s·h·Bᵀ,   h = x·Aᵀ
//! backward  dB += s·gᵀ·h     dh = s·g·B     dA += dhᵀ·x     dx (+)= g·W + dh·A       g = dL/dy
//! reads     x (and h, which is rebuilt from x unless kept)      scratch  none of its own
//! shapes    x [n, in]  y g [n, out]  h dh [n, r]  A [r, in]  B [out, r]
//! ```
//! derivation: `docs/math/lora.md`. The frozen path of dx uses g itself, not s·g. The frozen W has no
//! gradient function anywhere.

use mesp_device::{Backend, Form, View, ViewMut};

use super::Pair;
use crate::model::Linear;

/// `y = x·Wᵀ + b`, or `y += x·Wᵀ + b`, and `+ s·h·Bᵀ` where there is an adapter; `h = x·Aᵀ`.
pub fn forward<B: Backend>(
    be: &mut B,
    mut y: ViewMut<'_>,
    x: View<'_>,
    linear: &Linear,
    adapter: Option<(&Pair, View<'_>)>,
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
                be.product(y, Form::RightTransposed, h, pair.b.view(), scale, true);
            }
        }
        (Some((pair, h)), bias) => {
            be.adapted_linear(y, x, &linear.weight, bias, accumulate, (h, pair.b.view(), scale));
        }
        (None, bias) => be.linear(y, x, &linear.weight, bias, accumulate),
    }
}

/// `h = x·Aᵀ`
pub fn project<B: Backend>(be: &mut B, h: ViewMut<'_>, x: View<'_>, pair: &Pair) {
    be.product(h, Form::RightTransposed, x, pair.a.view(), 1.0, false);
}

/// `dB += s·gᵀ·h`, `dh = s·g·B`, `dA += dhᵀ·x`
pub fn gradients<B: Backend>(
    be: &mut B,
    grads: &mut Pair,
    mut dh: ViewMut<'_>,
    pair: &Pair,
    x: View<'_>,
    h: View<'_>,
    g: View<'_>,
    scale: f64,
) {
    be.product(grads.b.view_mut(), Form::LeftTransposed, g, h, scale, true);
    be.product(dh.again(), Form::Plain, g, pair.b.view(), scale, false);
    be.product(grads.a.view_mut(), Form::LeftTransposed, dh.view(), x, 1.0, true);
}

/// `dx = g·W + dh·A`, or `dx +=`
pub fn input_grad<B: Backend>(
    be: &mut B,
    dx: ViewMut<'_>,
    g: View<'_>,
    linear: &Linear,
    adapter: Option<(&Pair, View<'_>)>,
    accumulate: bool,
) {
    match adapter {
        Some((pair, dh)) => be.adapted_input_grad(dx, g, &linear.weight, accumulate, (dh, pair.a.view())),
        None => be.input_grad(dx, g, &linear.weight, accumulate),
    }
}
