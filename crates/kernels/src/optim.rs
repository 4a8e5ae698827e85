//! Parameter updates and the vector operations around them.
//!
//! ```text
//! SGD        m ← μ·m + (g + λ·p);   p ← p − η·m
//! AdamW      m and v, means of g and g²;   p ← p·(1 − η·λ) − η·m̂ / (√v̂ + ε)
//! Lion       p ← p·(1 − η·λ) − η·sign(β₁·m + (1−β₁)·g)
//! FOAM       AdamW with a moment for each block of values of a row, and the rest of g
//! factored   AdaLomo, Adafactor: v from a mean for each row and one for each column
//! ```
//! Equations and sources stand in the file of each.
//! How parameters and moments are stored is said by [`ParamMut`] and [`MomentMut`]: an update computes in `R` and
//! brings its results back in the same way, a stretch at a time, so that nothing is there twice.
//! derivation: `docs/math/optimizers.md`

mod adam;
mod blocks;
mod factored;
mod foam;
mod kept;
mod lion;
mod sgd;

use crate::Real;
use crate::isa::vectorized;
use crate::par::Par;
use crate::real::sum;

pub use adam::{AdamW, adamw};
pub use factored::{Factored, factored_moments, factored_norms, factored_step};
pub use foam::{Foam, foam};
pub use kept::{MomentMut, ParamMut};
pub use lion::{Lion, lion};
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

/// `y += c·x`
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn add_scaled<R: Real>(y: &mut [R], x: &[R], c: f64, par: Par<'_>) {
    assert_eq!(y.len(), x.len(), "add_scaled: lengths");
    let c = R::from_f64(c);
    par.chunks(y, CHUNK, |i, y| add_scaled_chunk(y, &x[i * CHUNK..][..y.len()], c));
}

vectorized! {
fn add_scaled_chunk<R: Real>(y: &mut [R], x: &[R], c: R) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += c * *x;
    }
}
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
        let mut y = [1.0f64, 2.0];
        add_scaled(&mut y, &[4.0, -1.0], 0.5, Par::serial());
        assert_eq!(y, [3.0, 1.5]);
    }
}
