//! Parameter updates and the vector operations around them.
//!
//! ```text
//! SGD     m ← μ·m + (g + λ·p);   p ← p − η·m          (without momentum m is not kept: p ← p − η·(g + λ·p))
//! AdamW   p ← p·(1 − η·λ)
//!         m ← β₁·m + (1−β₁)·g;   v ← β₂·v + (1−β₂)·g²
//!         p ← p − η·(m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + ε)
//! ```
//! How parameters and moments are stored is said by [`ParamMut`] and [`MomentMut`]: an update computes in `R` and
//! brings its results back in the same way, a stretch at a time, so that nothing is there twice.
//!
//! Both are PyTorch's (`torch.optim.SGD` with dampening 0, `torch.optim.AdamW`; Loshchilov & Hutter 2019).
//! derivation: `docs/math/optimizers.md`

mod adam;
mod kept;
mod sgd;

use crate::Real;
use crate::par::Par;
use crate::real::sum;

pub use adam::{AdamW, adamw};
pub use kept::{MomentMut, ParamMut};
pub use sgd::{Sgd, sgd};

/// Values that one task works on.
const CHUNK: usize = 16 * 1024;

/// `y[t] += bias`, rows of `bias.len()`.
///
/// # Panics
/// When `y` is not whole rows.
#[track_caller]
pub fn add_bias<R: Real>(y: &mut [R], bias: &[f32], par: Par<'_>) {
    assert!(y.len().is_multiple_of(bias.len()), "add_bias: rows");
    par.chunks(y, crate::par::rows_per_task(bias.len()) * bias.len(), |_, y| {
        for row in y.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += R::from_f32(*b));
        }
    });
}

/// `x ← c·x`.
pub fn scale<R: Real>(x: &mut [R], c: f64, par: Par<'_>) {
    let c = R::from_f64(c);
    par.chunks(x, CHUNK, |_, x| x.iter_mut().for_each(|x| *x *= c));
}

/// Σ x², the chunks added in order in double precision: the same for any number of threads.
pub fn sum_of_squares<R: Real>(x: &[R]) -> f64 {
    x.chunks(1024).map(|c| sum(c.len(), |i| c[i] * c[i]).to_f64()).sum()
}

/// Σ x·y, likewise.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn dot<R: Real>(x: &[R], y: &[R]) -> f64 {
    assert_eq!(x.len(), y.len(), "dot: lengths");
    x.chunks(1024).zip(y.chunks(1024)).map(|(x, y)| sum(x.len(), |i| x[i] * y[i]).to_f64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_products() {
        assert_eq!(sum_of_squares(&[3.0f32, 4.0]), 25.0);
        assert_eq!(dot(&[3.0f32, 4.0], &[2.0, -1.0]), 2.0);
    }
}
