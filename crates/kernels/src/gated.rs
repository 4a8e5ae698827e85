//! The gated activation of the MLP (Shazeer 2020).
//!
//! ```text
//! forward   a = f(gate)∘up,   f(x) = x·σ(u(x)):   silu has u = x,   gelu-tanh u = 2√(2/π)·(x + 0.044715·x³)
//! backward  dgate = da∘up∘σ·(1 + gate·u'·(1 − σ)),   dup = da∘f(gate),   σ = σ(u(gate))
//! tangent   a' = gate'∘up∘σ·(1 + gate·u'·(1 − σ)) + up'∘f(gate)
//! reads     gate, up      scratch  none      in place: a takes gate's buffer; dgate, dup take gate's and up's
//! shapes    all [n, i]                       derivation: docs/math/gated.md
//! ```
//!
//! In `f32` silu is within 3 ULP of the exact value for |x| ≤ 80.

use std::marker::PhantomData;

use crate::compact::Stored;
use crate::isa::vectorized;
use crate::{Par, Real};

/// Values that one task works on.
const CHUNK: usize = 16 * 1024;

/// What a gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// x·σ(x).
    Silu,
    /// x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2: the approximation of x·Φ(x) by a tanh (Hendrycks & Gimpel
    /// 2016).
    GeluTanh,
}

/// 2·√(2/π): (1 + tanh z)/2 is σ(2z).
const STEEP: f64 = 1.595_769_121_605_730_7;
const CUBIC: f64 = 0.044_715;

/// What the two differ in: u and its slope.
trait Curve {
    fn at<R: Real>(x: R) -> R;
    fn slope<R: Real>(x: R) -> R;
}

struct Silu;
struct GeluTanh;

#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
impl Curve for Silu {
    #[inline(always)]
    fn at<R: Real>(x: R) -> R {
        x
    }
    #[inline(always)]
    fn slope<R: Real>(_: R) -> R {
        R::ONE
    }
}

#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
impl Curve for GeluTanh {
    #[inline(always)]
    fn at<R: Real>(x: R) -> R {
        R::from_f64(STEEP) * x * (R::ONE + R::from_f64(CUBIC) * x * x)
    }
    #[inline(always)]
    fn slope<R: Real>(x: R) -> R {
        R::from_f64(STEEP) * (R::ONE + R::from_f64(3.0 * CUBIC) * x * x)
    }
}

/// `gate ← f(gate)∘up`.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn gated_in_place<R: Real>(f: Gate, gate: &mut [R], up: &[R], par: Par<'_>) {
    assert_eq!(gate.len(), up.len(), "gated: gate and up");
    let up = |i: usize, len: usize| &up[i * CHUNK..][..len];
    match f {
        Gate::Silu => par.chunks(gate, CHUNK, |i, gate| silu(gate, up(i, gate.len()))),
        Gate::GeluTanh => par.chunks(gate, CHUNK, |i, gate| gelu(gate, up(i, gate.len()))),
    }
}

/// [`gated_in_place`] of bf16, rounded as it is stored.
///
/// # Panics
/// As [`gated_in_place`].
#[track_caller]
pub fn gated_in_place_bf16<R: Real>(f: Gate, gate: &mut [u16], up: &[u16], par: Par<'_>) {
    assert_eq!(gate.len(), up.len(), "gated: gate and up");
    let up = |i: usize, len: usize| &up[i * CHUNK..][..len];
    match f {
        Gate::Silu => par.chunks(gate, CHUNK, |i, gate| silu_bf16(gate, up(i, gate.len()), PhantomData::<R>)),
        Gate::GeluTanh => {
            par.chunks(gate, CHUNK, |i, gate| gelu_bf16(gate, up(i, gate.len()), PhantomData::<R>));
        }
    }
}

/// `gate ← dgate`, `up ← dup`, from `da`.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn gated_backward_in_place<R: Real>(f: Gate, gate: &mut [R], up: &mut [R], da: &[R], par: Par<'_>) {
    assert_eq!(gate.len(), up.len(), "gated: gate and up");
    assert_eq!(gate.len(), da.len(), "gated: gate and da");
    par.chunks2(gate, CHUNK, up, CHUNK, |i, gate, up| {
        let da = &da[i * CHUNK..][..gate.len()];
        match f {
            Gate::Silu => silu_backward(gate, up, da),
            Gate::GeluTanh => gelu_backward(gate, up, da),
        }
    });
}

/// [`gated_backward_in_place`] of bf16, rounded as it is stored.
///
/// # Panics
/// As [`gated_backward_in_place`].
#[track_caller]
pub fn gated_backward_in_place_bf16<R: Real>(
    f: Gate,
    gate: &mut [u16],
    up: &mut [u16],
    da: &[R],
    par: Par<'_>,
) {
    assert_eq!(gate.len(), up.len(), "gated: gate and up");
    assert_eq!(gate.len(), da.len(), "gated: gate and da");
    par.chunks2(gate, CHUNK, up, CHUNK, |i, gate, up| {
        let da = &da[i * CHUNK..][..gate.len()];
        match f {
            Gate::Silu => silu_backward_bf16(gate, up, da),
            Gate::GeluTanh => gelu_backward_bf16(gate, up, da),
        }
    });
}

/// `gate_t ← a'` for gate and up that move along `gate_t` and `up_t`.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn gated_tangent_in_place<R: Real>(
    f: Gate,
    gate_t: &mut [R],
    up_t: &[R],
    [gate, up]: [&[R]; 2],
    par: Par<'_>,
) {
    let lengths = [gate.len(), up.len(), up_t.len()];
    assert!(lengths.iter().all(|len| *len == gate_t.len()), "gated: {lengths:?} and {}", gate_t.len());
    par.chunks(gate_t, CHUNK, |i, gate_t| {
        let at = i * CHUNK..i * CHUNK + gate_t.len();
        let [up_t, gate, up] = [up_t, gate, up].map(|x| &x[at.clone()]);
        match f {
            Gate::Silu => silu_tangent(gate_t, up_t, gate, up),
            Gate::GeluTanh => gelu_tangent(gate_t, up_t, gate, up),
        }
    });
}

vectorized! {
fn silu_tangent<R: Real>(gate_t: &mut [R], up_t: &[R], gate: &[R], up: &[R]) {
    tangent::<R, Silu>(gate_t, up_t, gate, up);
}
}

vectorized! {
fn gelu_tangent<R: Real>(gate_t: &mut [R], up_t: &[R], gate: &[R], up: &[R]) {
    tangent::<R, GeluTanh>(gate_t, up_t, gate, up);
}
}

vectorized! {
fn silu<R: Real>(gate: &mut [R], up: &[R]) {
    forward::<R, R, Silu>(gate, up);
}
}

vectorized! {
fn silu_bf16<R: Real>(gate: &mut [u16], up: &[u16], computing: PhantomData<R>) {
    let PhantomData = computing;
    forward::<R, u16, Silu>(gate, up);
}
}

vectorized! {
fn gelu<R: Real>(gate: &mut [R], up: &[R]) {
    forward::<R, R, GeluTanh>(gate, up);
}
}

vectorized! {
fn gelu_bf16<R: Real>(gate: &mut [u16], up: &[u16], computing: PhantomData<R>) {
    let PhantomData = computing;
    forward::<R, u16, GeluTanh>(gate, up);
}
}

vectorized! {
fn silu_backward<R: Real>(gate: &mut [R], up: &mut [R], da: &[R]) {
    backward::<R, R, Silu>(gate, up, da);
}
}

vectorized! {
fn silu_backward_bf16<R: Real>(gate: &mut [u16], up: &mut [u16], da: &[R]) {
    backward::<R, u16, Silu>(gate, up, da);
}
}

vectorized! {
fn gelu_backward<R: Real>(gate: &mut [R], up: &mut [R], da: &[R]) {
    backward::<R, R, GeluTanh>(gate, up, da);
}
}

vectorized! {
fn gelu_backward_bf16<R: Real>(gate: &mut [u16], up: &mut [u16], da: &[R]) {
    backward::<R, u16, GeluTanh>(gate, up, da);
}
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
fn forward<R: Real, S: Stored<R>, C: Curve>(gate: &mut [S], up: &[S]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let g = gate.get();
        *gate = S::put(g * sigmoid(C::at(g)) * up.get());
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
fn backward<R: Real, S: Stored<R>, C: Curve>(gate: &mut [S], up: &mut [S], da: &[R]) {
    for ((gate, up), da) in gate.iter_mut().zip(up).zip(da) {
        let (g, u) = (gate.get(), up.get());
        let s = sigmoid(C::at(g));
        *gate = S::put(*da * u * s * (R::ONE + g * C::slope(g) * (R::ONE - s)));
        *up = S::put(*da * (g * s));
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
fn tangent<R: Real, C: Curve>(gate_t: &mut [R], up_t: &[R], gate: &[R], up: &[R]) {
    for (((gate_t, up_t), g), u) in gate_t.iter_mut().zip(up_t).zip(gate).zip(up) {
        let s = sigmoid(C::at(*g));
        *gate_t = *gate_t * *u * s * (R::ONE + *g * C::slope(*g) * (R::ONE - s)) + *up_t * (*g * s);
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
        for f in [Gate::Silu, Gate::GeluTanh] {
            let (gate, up, da): (Vec<f64>, Vec<f64>, Vec<f64>) = (rng.vec(n), rng.vec(n), rng.vec(n));
            let run = |gate: &[f64], up: &[f64]| {
                let mut a = gate.to_vec();
                gated_in_place(f, &mut a, up, Par::serial());
                dot(&a, &da)
            };
            let (mut dgate, mut dup) = (gate.clone(), up.clone());
            gated_backward_in_place(f, &mut dgate, &mut dup, &da, Par::serial());
            assert!(relative(&dgate, &differences(&gate, |g| run(g, &up))) < 1e-8, "{f:?}");
            assert!(relative(&dup, &differences(&up, |u| run(&gate, u))) < 1e-8, "{f:?}");
        }
    }

    /// ⟨da, J·(gate', up')⟩ = ⟨dgate, gate'⟩ + ⟨dup, up'⟩.
    #[test]
    fn the_tangent_is_the_gradients_adjoint() {
        let mut rng = Rng(19);
        let n = CHUNK + 37;
        for f in [Gate::Silu, Gate::GeluTanh] {
            let [gate, up, da, gate_t, up_t]: [Vec<f64>; 5] = std::array::from_fn(|_| rng.vec(n));
            let (mut dgate, mut dup) = (gate.clone(), up.clone());
            gated_backward_in_place(f, &mut dgate, &mut dup, &da, Par::serial());
            let mut t = gate_t.clone();
            gated_tangent_in_place(f, &mut t, &up_t, [&gate, &up], Par::serial());
            let (forward, backward) = (dot(&t, &da), dot(&dgate, &gate_t) + dot(&dup, &up_t));
            assert!((forward - backward).abs() < 1e-14 * n as f64, "{f:?} {forward} {backward}");
        }
    }

    /// What is stored in bf16 is what the same numbers give in single precision, rounded.
    #[test]
    fn bf16_is_the_same_rounded() {
        let mut rng = Rng(18);
        let stored = |x: &[f32]| -> Vec<u16> {
            let mut to = vec![0; x.len()];
            crate::narrow(&mut to, x, Par::serial());
            to
        };
        let wide = |x: &[u16]| -> Vec<f32> { x.iter().map(|x| crate::compact::wide(*x)).collect() };
        for f in [Gate::Silu, Gate::GeluTanh] {
            let (gate, up) = (stored(&rng.vec::<f32>(37)), stored(&rng.vec::<f32>(37)));
            let da: Vec<f32> = rng.vec(37);
            let (mut a, mut a16) = (wide(&gate), gate.clone());
            gated_in_place(f, &mut a, &wide(&up), Par::serial());
            gated_in_place_bf16::<f32>(f, &mut a16, &up, Par::serial());
            assert_eq!(a16, stored(&a), "{f:?}");
            let (mut dgate, mut dup, mut dgate16, mut dup16) = (wide(&gate), wide(&up), gate, up);
            gated_backward_in_place(f, &mut dgate, &mut dup, &da, Par::serial());
            gated_backward_in_place_bf16(f, &mut dgate16, &mut dup16, &da, Par::serial());
            assert_eq!([dgate16, dup16], [stored(&dgate), stored(&dup)], "{f:?}");
        }
    }

    #[test]
    fn gelu_is_its_definition() {
        for x in [-30.0f64, -3.0, -0.7, 0.0, 0.1, 1.0, 4.0, 50.0] {
            let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            let expected = 0.5 * x * (1.0 + z.tanh());
            let mut gate = [x];
            gated_in_place(Gate::GeluTanh, &mut gate, &[1.0], Par::serial());
            assert!((gate[0] - expected).abs() <= 1e-14 * (1.0 + x.abs()), "{x}: {} {expected}", gate[0]);
        }
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
        gated_in_place(Gate::Silu, &mut silu, &vec![1.0; gates.len()], Par::serial());
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
        for f in [Gate::Silu, Gate::GeluTanh] {
            let mut gate = vec![-200.0f32, 200.0, 0.0];
            gated_in_place(f, &mut gate, &[1.0, 1.0, 1.0], Par::serial());
            assert!(gate[0].abs() < 1e-30 && (gate[1] - 200.0).abs() < 1e-4 && gate[2] == 0.0);
            let (mut gate, mut up) = (vec![-200.0f32, 200.0, 0.0], vec![1.0; 3]);
            gated_backward_in_place(f, &mut gate, &mut up, &[1.0, 1.0, 1.0], Par::serial());
            assert!(gate[0].abs() < 1e-20 && (gate[1] - 1.0).abs() < 1e-6 && gate[2] == 0.5, "{gate:?}");
        }
    }
}
