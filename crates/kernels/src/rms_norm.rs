//! Root-mean-square normalization with a learned scale (Zhang & Sennrich 2019, as in Llama).
//!
//! ```text
//! forward   y  = x·ρ·w,                        ρ = 1/√(mean(x²)+ε), per row
//! backward  dx = ρ·(w∘dy − x̂·mean(w∘dy∘x̂)),    x̂ = x·ρ
//! tangent   y' = w∘ρ·(x' − x̂·mean(x̂∘x'))
//! reads     x, w   (ρ is rebuilt: one pass, no bytes)      scratch  none
//! shapes    x y dx dy [n, d]   w [d]           derivation: docs/math/rms_norm.md
//! ```

use crate::compact::Stored;
use crate::isa::vectorized;
use crate::par::rows_per_task;
use crate::real::sum;
use crate::{Par, Real};

/// `y = x·ρ·w`.
///
/// # Panics
/// When `x` and `y` are not the same whole number of rows of `w.len()`.
#[track_caller]
pub fn rms_norm<R: Real>(y: &mut [R], x: &[R], w: &[f32], eps: f64, par: Par<'_>) {
    check(y.len(), x.len(), w.len());
    let chunk = rows_per_task(w.len()) * w.len();
    par.chunks(y, chunk, |i, y| forward_rows(y, &x[i * chunk..][..y.len()], w, R::from_f64(eps)));
}

/// [`rms_norm`], rounded to bf16 as it is stored.
///
/// # Panics
/// As [`rms_norm`].
#[track_caller]
pub fn rms_norm_bf16<R: Real>(y: &mut [u16], x: &[R], w: &[f32], eps: f64, par: Par<'_>) {
    check(y.len(), x.len(), w.len());
    let chunk = rows_per_task(w.len()) * w.len();
    par.chunks(y, chunk, |i, y| rounded_rows(y, &x[i * chunk..][..y.len()], w, R::from_f64(eps)));
}

/// `y += x·ρ·w`: a norm on the way into the residual stream.
///
/// # Panics
/// As [`rms_norm`].
#[track_caller]
pub fn rms_norm_add<R: Real>(y: &mut [R], x: &[R], w: &[f32], eps: f64, par: Par<'_>) {
    check(y.len(), x.len(), w.len());
    let chunk = rows_per_task(w.len()) * w.len();
    par.chunks(y, chunk, |i, y| add_rows(y, &x[i * chunk..][..y.len()], w, R::from_f64(eps)));
}

/// `dx += ρ·(w∘dy − x̂·mean(w∘dy∘x̂))`.
///
/// # Panics
/// As [`rms_norm`].
#[track_caller]
pub fn rms_norm_backward<R: Real>(dx: &mut [R], dy: &[R], x: &[R], w: &[f32], eps: f64, par: Par<'_>) {
    check(dx.len(), x.len(), w.len());
    check(dy.len(), x.len(), w.len());
    let chunk = rows_per_task(w.len()) * w.len();
    par.chunks(dx, chunk, |i, dx| {
        let (from, to) = (i * chunk, i * chunk + dx.len());
        backward_rows(dx, &dy[from..to], &x[from..to], w, R::from_f64(eps));
    });
}

/// `d = ρ·(w∘d − x̂·mean(w∘d∘x̂))`: the gradient takes the place of what came in. Each row's mean is taken
/// before the row is written, so nothing is read after it was overwritten.
///
/// # Panics
/// As [`rms_norm`].
#[track_caller]
pub fn rms_norm_backward_in_place<R: Real>(d: &mut [R], x: &[R], w: &[f32], eps: f64, par: Par<'_>) {
    check(d.len(), x.len(), w.len());
    let chunk = rows_per_task(w.len()) * w.len();
    par.chunks(d, chunk, |i, d| in_place_rows(d, &x[i * chunk..][..d.len()], w, R::from_f64(eps)));
}

/// `t = w∘ρ·(x' − x̂·mean(x̂∘x'))`, or `t +=`: how `y` moves as `x` moves along `xt`.
///
/// # Panics
/// As [`rms_norm`].
#[track_caller]
pub fn rms_norm_tangent<R: Real>(
    t: &mut [R],
    xt: &[R],
    x: &[R],
    w: &[f32],
    eps: f64,
    accumulate: bool,
    par: Par<'_>,
) {
    check(t.len(), x.len(), w.len());
    check(xt.len(), x.len(), w.len());
    let chunk = rows_per_task(w.len()) * w.len();
    par.chunks(t, chunk, |i, t| {
        let (from, to) = (i * chunk, i * chunk + t.len());
        if !accumulate {
            t.fill(R::ZERO);
        }
        tangent_rows(t, &xt[from..to], &x[from..to], w, R::from_f64(eps));
    });
}

#[track_caller]
fn check(a: usize, b: usize, d: usize) {
    assert!(a == b && d > 0 && a.is_multiple_of(d), "rms_norm: {a} and {b} values in rows of {d}");
}

vectorized! {
fn forward_rows<R: Real>(y: &mut [R], x: &[R], w: &[f32], eps: R) {
    forward(y, x, w, eps);
}
}

vectorized! {
fn rounded_rows<R: Real>(y: &mut [u16], x: &[R], w: &[f32], eps: R) {
    forward(y, x, w, eps);
}
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
fn forward<R: Real, S: Stored<R>>(y: &mut [S], x: &[R], w: &[f32], eps: R) {
    let d = w.len();
    for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
        let rho = inverse_rms(x, eps);
        for i in 0..d {
            y[i] = S::put(R::from_f32(w[i]) * (x[i] * rho));
        }
    }
}

vectorized! {
fn add_rows<R: Real>(y: &mut [R], x: &[R], w: &[f32], eps: R) {
    let d = w.len();
    for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
        let rho = inverse_rms(x, eps);
        for i in 0..d {
            y[i] += R::from_f32(w[i]) * (x[i] * rho);
        }
    }
}
}

vectorized! {
fn backward_rows<R: Real>(dx: &mut [R], dy: &[R], x: &[R], w: &[f32], eps: R) {
    let d = w.len();
    for ((dx, dy), x) in dx.chunks_exact_mut(d).zip(dy.chunks_exact(d)).zip(x.chunks_exact(d)) {
        let rho = inverse_rms(x, eps);
        let mean = sum(d, |i| R::from_f32(w[i]) * dy[i] * (x[i] * rho)) / R::from_f64(d as f64);
        for i in 0..d {
            dx[i] += rho * (R::from_f32(w[i]) * dy[i] - (x[i] * rho) * mean);
        }
    }
}
}

vectorized! {
fn in_place_rows<R: Real>(g: &mut [R], x: &[R], w: &[f32], eps: R) {
    let d = w.len();
    for (g, x) in g.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
        let rho = inverse_rms(x, eps);
        let mean = sum(d, |i| R::from_f32(w[i]) * g[i] * (x[i] * rho)) / R::from_f64(d as f64);
        for i in 0..d {
            g[i] = rho * (R::from_f32(w[i]) * g[i] - (x[i] * rho) * mean);
        }
    }
}
}

vectorized! {
fn tangent_rows<R: Real>(t: &mut [R], xt: &[R], x: &[R], w: &[f32], eps: R) {
    let d = w.len();
    for ((t, xt), x) in t.chunks_exact_mut(d).zip(xt.chunks_exact(d)).zip(x.chunks_exact(d)) {
        let rho = inverse_rms(x, eps);
        let mean = sum(d, |i| (x[i] * rho) * xt[i]) / R::from_f64(d as f64);
        for i in 0..d {
            t[i] += R::from_f32(w[i]) * (rho * (xt[i] - (x[i] * rho) * mean));
        }
    }
}
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
pub(crate) fn inverse_rms<R: Real>(x: &[R], eps: R) -> R {
    R::ONE / (sum(x.len(), |i| x[i] * x[i]) / R::from_f64(x.len() as f64) + eps).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{Rng, differences, dot, relative};

    #[test]
    fn gradient_is_the_difference_quotient() {
        let mut rng = Rng(5);
        for (n, d) in [(1, 1), (3, 7), (2, 33)] {
            let (x, dy): (Vec<f64>, Vec<f64>) = (rng.vec(n * d), rng.vec(n * d));
            let w: Vec<f32> = rng.vec(d);
            let numeric = differences(&x, |x| {
                let mut y = vec![0.0; n * d];
                rms_norm(&mut y, x, &w, 1e-2, Par::serial());
                dot(&y, &dy)
            });
            let before: Vec<f64> = rng.vec(n * d);
            let mut dx = before.clone();
            rms_norm_backward(&mut dx, &dy, &x, &w, 1e-2, Par::serial());
            let added: Vec<f64> = dx.iter().zip(&before).map(|(a, b)| a - b).collect();
            assert!(relative(&added, &numeric) < 1e-8);
            let mut aliased = dy.clone();
            rms_norm_backward_in_place(&mut aliased, &x, &w, 1e-2, Par::serial());
            assert!(relative(&aliased, &numeric) < 1e-8);
        }
    }

    /// ⟨dy, J·x'⟩ = ⟨Jᵀ·dy, x'⟩.
    #[test]
    fn the_tangent_is_the_gradients_adjoint() {
        let mut rng = Rng(15);
        for (n, d) in [(1, 1), (3, 7), (40, 33)] {
            let [x, dy, xt]: [Vec<f64>; 3] = std::array::from_fn(|_| rng.vec(n * d));
            let w: Vec<f32> = rng.vec(d);
            let (mut t, mut dx) = (vec![f64::NAN; n * d], vec![0.0; n * d]);
            rms_norm_tangent(&mut t, &xt, &x, &w, 1e-2, false, Par::serial());
            rms_norm_backward(&mut dx, &dy, &x, &w, 1e-2, Par::serial());
            let (forward, backward) = (dot(&dy, &t), dot(&dx, &xt));
            assert!((forward - backward).abs() < 1e-13 * (n * d) as f64, "{forward} {backward}");
            let mut twice = t.clone();
            rms_norm_tangent(&mut twice, &xt, &x, &w, 1e-2, true, Par::serial());
            for t in &mut t {
                *t *= 2.0;
            }
            assert!(relative(&twice, &t) < 1e-15);
        }
    }

    #[test]
    fn adding_is_the_norm_and_a_sum() {
        let mut rng = Rng(9);
        let (x, before): (Vec<f64>, Vec<f64>) = (rng.vec(3 * 17), rng.vec(3 * 17));
        let w: Vec<f32> = rng.vec(17);
        let (mut y, mut sum) = (vec![0.0; x.len()], before.clone());
        rms_norm(&mut y, &x, &w, 1e-6, Par::serial());
        rms_norm_add(&mut sum, &x, &w, 1e-6, Par::serial());
        let expected: Vec<f64> = y.iter().zip(&before).map(|(y, b)| y + b).collect();
        assert!(relative(&sum, &expected) < 1e-15);
    }

    #[test]
    fn f32_follows_f64() {
        let mut rng = Rng(6);
        let x: Vec<f32> = rng.vec(5 * 129);
        let w: Vec<f32> = rng.vec(129);
        let wide: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        let (mut y, mut exact) = (vec![0.0f32; x.len()], vec![0.0f64; x.len()]);
        rms_norm(&mut y, &x, &w, 1e-6, Par::serial());
        rms_norm(&mut exact, &wide, &w, 1e-6, Par::serial());
        assert!(relative(&y, &exact) < 3e-7, "a few roundings of 6e-8");
    }
}
