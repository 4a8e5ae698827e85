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

use mesp_device::{Act, Backend, Class, Form, Label, View, ViewMut};

use super::PairView;
use crate::model::Linear;

const Z: Label = Label::new(Class::WithinBlock, "dora_z");

/// `y = x·Wᵀ + b`, or `y += x·Wᵀ + b`, and `+ s·h·Bᵀ` where there is an adapter; `h = x·Aᵀ`. With magnitudes all but b
/// is multiplied by their gains.
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

/// DoRA's part of the backward, before all other: `dm += Σ_t dy∘z/n` with z rebuilt, and `dy ← dz = gain∘dy`.
pub fn through_gain<B: Backend>(
    be: &mut B,
    dm: Option<ViewMut<'_>>,
    dy: ViewMut<'_>,
    x: View<'_>,
    linear: &Linear,
    (pair, h): (PairView<'_>, View<'_>),
) {
    let Some([gain, inverse]) = pair.gain else { return };
    if let Some(dm) = dm {
        let z = unscaled(be, x, linear, pair, h);
        be.dora_magnitude_grad(dm, dy.view(), z.view(), inverse);
        be.free(z);
    }
    be.dora_gain(dy, gain, None);
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
    pair: PairView<'_>,
    h: View<'_>,
    g: View<'_>,
    accumulate: bool,
) {
    be.product(db, Form::LeftTransposed, g, h, pair.scale, true);
    be.product(dh, Form::Plain, g, pair.b, pair.scale, accumulate);
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
