//! Gradients of a layer's vectors: its bias, and the weight of a norm.
//!
//! ```text
//! bias     y = x·Wᵀ + b      db_j += Σ_t dy_tj
//! norm     y = x̂∘w           dw_j += Σ_t dy_tj·x̂_tj      x̂ = x·ρ,  ρ = 1/√(mean(x²)+ε), per row
//! reads    dy [n, d], and x [n, d] for a norm, whose ρ is rebuilt      scratch  none
//! ```
//! Each column is summed in the order of the rows, so that the bits depend neither on the threads nor on how rows are
//! cut into tiles.

use crate::compact::Stored;
use crate::isa::vectorized;
use crate::par::Pieces;
use crate::rms_norm::inverse_rms;
use crate::{Par, Real, Values};

/// Columns of a task.
const COLUMNS: usize = 128;

/// `db_j += Σ_t dy_tj`
///
/// # Panics
/// When `dy` is not whole rows of `db.len()`.
#[track_caller]
pub fn bias_grad<R: Real>(db: &mut [R], dy: Values<'_, R>, par: Par<'_>) {
    check(dy.len(), dy.len(), db.len());
    let d = db.len();
    in_columns(db, par, |db, at| match dy {
        Values::Full(dy) => sum_columns(db, dy, at, d),
        Values::Bf16(dy) => sum_columns_bf16(db, dy, at, d),
    });
}

/// `dw_j += Σ_t dy_tj·x̂_tj`, for the norm of [`rms_norm`](crate::rms_norm()).
///
/// # Panics
/// When `dy` and `x` are not the same whole number of rows of `dw.len()`.
#[track_caller]
pub fn rms_norm_weight_grad<R: Real>(dw: &mut [R], dy: &[R], x: &[R], eps: f64, par: Par<'_>) {
    check(dy.len(), x.len(), dw.len());
    let (d, eps) = (dw.len(), R::from_f64(eps));
    in_columns(dw, par, |dw, at| normed_columns(dw, dy, x, at, (d, eps)));
}

#[track_caller]
fn check(a: usize, b: usize, d: usize) {
    assert!(a == b && d > 0 && a.is_multiple_of(d), "{a} and {b} values in rows of {d}");
}

/// Runs `f` for parts of a vector, each with the column where it begins.
fn in_columns<R: Real>(sums: &mut [R], par: Par<'_>, f: impl Fn(&mut [R], usize) + Sync) {
    let tasks = sums.len().div_ceil(COLUMNS);
    let pieces = Pieces::new(sums);
    par.tasks(tasks, |i, _| {
        // SAFETY: task `i` runs once, and pieces of different tasks do not overlap.
        f(unsafe { pieces.piece(i, COLUMNS) }, i * COLUMNS);
    });
}

vectorized! {
fn sum_columns<R: Real>(db: &mut [R], dy: &[R], at: usize, d: usize) {
    columns(db, dy, at, d);
}
}

vectorized! {
fn sum_columns_bf16<R: Real>(db: &mut [R], dy: &[u16], at: usize, d: usize) {
    columns(db, dy, at, d);
}
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
fn columns<R: Real, S: Stored<R>>(db: &mut [R], dy: &[S], at: usize, d: usize) {
    for dy in dy.chunks_exact(d) {
        for (db, dy) in db.iter_mut().zip(&dy[at..]) {
            *db += dy.get();
        }
    }
}

vectorized! {
fn normed_columns<R: Real>(dw: &mut [R], dy: &[R], x: &[R], at: usize, shape: (usize, R)) {
    let (d, eps) = shape;
    for (dy, x) in dy.chunks_exact(d).zip(x.chunks_exact(d)) {
        let rho = inverse_rms(x, eps);
        for ((dw, dy), x) in dw.iter_mut().zip(&dy[at..]).zip(&x[at..]) {
            *dw += *dy * (*x * rho);
        }
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{Rng, differences, dot, relative};
    use crate::{add_bias, rms_norm};

    #[test]
    fn a_biass_gradient_is_the_difference_quotient() {
        let mut rng = Rng(31);
        for (n, d) in [(1, 1), (3, 7), (2, 300)] {
            let dy: Vec<f64> = rng.vec(n * d);
            let bias: Vec<f64> = rng.vec::<f32>(d).into_iter().map(f64::from).collect();
            // Through values that single precision holds, since a bias is stored in it.
            let numeric = differences(&bias, |bias| {
                let mut y = vec![0.0; n * d];
                for row in y.chunks_exact_mut(d) {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
                dot(&y, &dy)
            });
            let before: Vec<f64> = rng.vec(d);
            let mut db = before.clone();
            bias_grad(&mut db, Values::Full(&dy), Par::serial());
            let added: Vec<f64> = db.iter().zip(&before).map(|(a, b)| a - b).collect();
            assert!(relative(&added, &numeric) < 1e-8);
            // ⟨dy, J·b⟩ = ⟨db, b⟩ with the forward's own addition.
            let (mut y, stored) = (vec![0.0; n * d], bias.iter().map(|b| *b as f32).collect::<Vec<_>>());
            add_bias(&mut y, &stored, Par::serial());
            let (forward, backward) = (dot(&y, &dy), dot(&added, &bias));
            assert!((forward - backward).abs() < 1e-12 * (n * d) as f64, "{forward} {backward}");
        }
    }

    #[test]
    fn a_norms_gradient_is_the_difference_quotient() {
        let mut rng = Rng(32);
        for (n, d) in [(1, 1), (3, 7), (2, 300)] {
            let (x, dy): (Vec<f64>, Vec<f64>) = (rng.vec(n * d), rng.vec(n * d));
            // y is linear in w: each derivative is y at a unit vector.
            let numeric: Vec<f64> = (0..d)
                .map(|j| {
                    let (mut y, mut w) = (vec![0.0; n * d], vec![0.0f32; d]);
                    w[j] = 1.0;
                    rms_norm(&mut y, &x, &w, 1e-2, Par::serial());
                    dot(&y, &dy)
                })
                .collect();
            let before: Vec<f64> = rng.vec(d);
            let mut dw = before.clone();
            rms_norm_weight_grad(&mut dw, &dy, &x, 1e-2, Par::serial());
            let added: Vec<f64> = dw.iter().zip(&before).map(|(a, b)| a - b).collect();
            assert!(relative(&added, &numeric) < 1e-13);
        }
    }

    /// Rows in tiles, and values in bf16, to the bit.
    #[test]
    fn tiles_change_no_bit() {
        let mut rng = Rng(33);
        let (n, d) = (11, 133);
        let (dy, x): (Vec<f32>, Vec<f32>) = (rng.vec(n * d), rng.vec(n * d));
        let mut whole = [vec![0.0; d], vec![0.0; d]];
        bias_grad(&mut whole[0], Values::Full(&dy), Par::serial());
        rms_norm_weight_grad(&mut whole[1], &dy, &x, 1e-6, Par::serial());
        for rows in [1, 2, 4] {
            let mut tiles = [vec![0.0; d], vec![0.0; d]];
            for (dy, x) in dy.chunks(rows * d).zip(x.chunks(rows * d)) {
                bias_grad(&mut tiles[0], Values::Full(dy), Par::serial());
                rms_norm_weight_grad(&mut tiles[1], dy, x, 1e-6, Par::serial());
            }
            assert_eq!(whole, tiles);
        }
        let halves: Vec<u16> = dy.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
        let wide: Vec<f32> = halves.iter().map(|x| f32::from_bits(u32::from(*x) << 16)).collect();
        let mut both = [vec![0.0f32; d], vec![0.0f32; d]];
        bias_grad(&mut both[0], Values::Bf16(&halves), Par::serial());
        bias_grad(&mut both[1], Values::Full(&wide), Par::serial());
        assert_eq!(both[0], both[1]);
    }
}
