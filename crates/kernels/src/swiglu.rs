//! The gated activation of the MLP (Shazeer 2020).
//!
//! ```text
//! forward   a = silu(gate)∘up,   silu(x) = x·σ(x)
//! backward  dgate = da∘up∘σ(gate)·(1 + gate·(1 − σ(gate))),   dup = da∘silu(gate)
//! reads     gate, up      scratch  none      in place: a takes gate's buffer; dgate, dup take gate's and up's
//! shapes    all [n, i]                       derivation: docs/math/swiglu.md
//! ```
//!
//! In `f32` silu is within 3 ULP of the exact value for |x| ≤ 80.

use crate::isa::vectorized;
use crate::{Par, Real};

/// Values that one task works on.
const CHUNK: usize = 16 * 1024;

/// `gate ← silu(gate)∘up`.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn swiglu_in_place<R: Real>(gate: &mut [R], up: &[R], par: Par<'_>) {
    assert_eq!(gate.len(), up.len(), "swiglu: gate and up");
    par.chunks(gate, CHUNK, |i, gate| forward(gate, &up[i * CHUNK..][..gate.len()]));
}

/// `gate ← dgate`, `up ← dup`, from `da`.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn swiglu_backward_in_place<R: Real>(gate: &mut [R], up: &mut [R], da: &[R], par: Par<'_>) {
    assert_eq!(gate.len(), up.len(), "swiglu: gate and up");
    assert_eq!(gate.len(), da.len(), "swiglu: gate and da");
    par.chunks2(gate, CHUNK, up, CHUNK, |i, gate, up| backward(gate, up, &da[i * CHUNK..][..gate.len()]));
}

vectorized! {
fn forward<R: Real>(gate: &mut [R], up: &[R]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g * sigmoid(*g) * *u;
    }
}
}

vectorized! {
fn backward<R: Real>(gate: &mut [R], up: &mut [R], da: &[R]) {
    for ((g, u), da) in gate.iter_mut().zip(up).zip(da) {
        let s = sigmoid(*g);
        let silu = *g * s;
        *g = *da * *u * s * (R::ONE + *g * (R::ONE - s));
        *u = *da * silu;
    }
}
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
fn sigmoid<R: Real>(x: R) -> R {
    R::ONE / (R::ONE + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{Rng, differences, dot, relative, ulps};

    #[test]
    fn gradient_is_the_difference_quotient() {
        let mut rng = Rng(8);
        let n = 37;
        let (gate, up, da): (Vec<f64>, Vec<f64>, Vec<f64>) = (rng.vec(n), rng.vec(n), rng.vec(n));
        let run = |gate: &[f64], up: &[f64]| {
            let mut a = gate.to_vec();
            swiglu_in_place(&mut a, up, Par::serial());
            dot(&a, &da)
        };
        let (mut dgate, mut dup) = (gate.clone(), up.clone());
        swiglu_backward_in_place(&mut dgate, &mut dup, &da, Par::serial());
        assert!(relative(&dgate, &differences(&gate, |g| run(g, &up))) < 1e-8);
        assert!(relative(&dup, &differences(&up, |u| run(&gate, u))) < 1e-8);
    }

    /// Every 251st gate of magnitude up to 80, with up = 1.
    #[test]
    fn silu_is_within_three_ulp() {
        let gates: Vec<f32> = [0, 1 << 31]
            .into_iter()
            .flat_map(|sign| {
                (0..=80.0f32.to_bits()).step_by(251).map(move |bits| f32::from_bits(sign | bits))
            })
            .collect();
        let mut silu = gates.clone();
        swiglu_in_place(&mut silu, &vec![1.0; gates.len()], Par::serial());
        let worst = gates.iter().zip(&silu).fold((0.0, 0.0), |worst: (f64, f32), (x, y)| {
            let wide = f64::from(*x);
            let exact = wide / (1.0 + (-wide).exp());
            // Below the normal numbers a unit means nothing.
            let error = if exact.abs() < 2e-38 { 0.0 } else { ulps(*y, exact) };
            if error > worst.0 { (error, *x) } else { worst }
        });
        assert!(worst.0 <= 3.0, "{} ULP at {}", worst.0, worst.1);
    }

    #[test]
    fn extreme_gates_stay_finite() {
        let mut gate = vec![-200.0f32, 200.0, 0.0];
        swiglu_in_place(&mut gate, &[1.0, 1.0, 1.0], Par::serial());
        assert!(gate[0].abs() < 1e-30 && (gate[1] - 200.0).abs() < 1e-4 && gate[2] == 0.0);
    }
}
