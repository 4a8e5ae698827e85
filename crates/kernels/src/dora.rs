//! DoRA: rows of an adapted weight brought to magnitudes of their own.
//!
//! ```text
//! gains       n_j = ‖W_j + s·B_j·A‖ = √(‖W_j‖² + 2s·B_j·P_j + s²·B_j·G·B_jᵀ)      P = A·Wᵀ, G = A·Aᵀ
//!             gain_j = m_j/n_j      inverse_j = 1/n_j
//! forward     y_tj = gain_j·z_tj (+ b_j), or y_tj +=           z = x·Wᵀ + s·h·Bᵀ
//! backward    dm_j += Σ_t dy_tj·z_tj·inverse_j                 dz_tj = gain_j·dy_tj
//! reads       z, which is rebuilt      scratch  none
//! shapes      y z dy dz [n, out]   m gain inverse ‖W‖² [out]   B [out, r]   P [r, out]   G [r, r]
//! ```
//! n is a constant to the gradient, as in the paper (Liu et al. 2024, section 4.3). Each sum over rows is one chain in
//! ascending order, so that tiles of rows change no bit. derivation: `docs/math/dora.md`

use crate::compact::{Stored, Values};
use crate::isa::vectorized;
use crate::par::{Par, Pieces, rows_per_task};
use crate::{Real, WeightView};

/// Values of a row that are converted at once.
const PART: usize = 256;
/// Columns that one task sums.
const COLUMNS: usize = 128;

/// `to_j = ‖W_j‖²`, summed in double precision.
///
/// # Panics
/// When `to` is not a value for each row.
#[track_caller]
pub fn row_squares<R: Real>(to: &mut [R], w: WeightView<'_>, par: Par<'_>) {
    w.check();
    assert_eq!(to.len(), w.rows, "row_squares: rows");
    let rows = rows_per_task(w.cols);
    par.chunks(to, rows, |i, to| {
        for (j, to) in to.iter_mut().enumerate() {
            *to = R::from_f64(squares(&w, i * rows + j));
        }
    });
}

fn squares(w: &WeightView<'_>, row: usize) -> f64 {
    let (mut part, mut sums) = ([0.0f32; PART], [0.0f64; 8]);
    for from in (0..w.cols).step_by(PART) {
        let n = PART.min(w.cols - from);
        w.for_row(row, from, n, |i, v| part[i] = v);
        part[n..].fill(0.0);
        for values in part.as_chunks::<8>().0 {
            for (sum, v) in sums.iter_mut().zip(values) {
                *sum += f64::from(*v) * f64::from(*v);
            }
        }
    }
    sums.iter().sum()
}

/// `gain_j = m_j/n_j` and `inverse_j = 1/n_j`.
///
/// # Panics
/// When shapes disagree.
#[track_caller]
pub fn dora_gains<R: Real>(
    (gain, inverse): (&mut [R], &mut [R]),
    (m, squares): (&[R], &[R]),
    b: Values<'_, R>,
    (p, g): (&[R], &[R]),
    scale: R,
    par: Par<'_>,
) {
    let out = gain.len();
    let r = b.len().checked_div(out).unwrap_or(0);
    assert!([inverse.len(), m.len(), squares.len()].iter().all(|n| *n == out), "dora_gains: rows");
    assert_eq!((b.len(), p.len(), g.len()), (out * r, r * out, r * r), "dora_gains: factors");
    let rows = rows_per_task(r * r);
    par.chunks2(gain, rows, inverse, rows, |i, gain, inverse| {
        for (j, (gain, inverse)) in gain.iter_mut().zip(inverse).enumerate() {
            let j = i * rows + j;
            let square = match b {
                Values::Full(b) => norm_square(&b[j * r..][..r], j, out, squares[j], p, g, scale),
                Values::Bf16(b) => norm_square(&b[j * r..][..r], j, out, squares[j], p, g, scale),
            };
            let n = square.sqrt();
            (*gain, *inverse) = (m[j] / n, R::ONE / n);
        }
    });
}

fn norm_square<R: Real, S: Stored<R>>(b: &[S], j: usize, out: usize, w: R, p: &[R], g: &[R], s: R) -> R {
    let (mut cross, mut own) = (R::ZERO, R::ZERO);
    for (k, bk) in b.iter().enumerate() {
        cross += bk.get() * p[k * out + j];
        let mut along = R::ZERO;
        for (bl, g) in b.iter().zip(&g[k * b.len()..]) {
            along += bl.get() * *g;
        }
        own += bk.get() * along;
    }
    w + s * (cross + cross) + s * s * own
}

/// `y_tj ← gain_j·y_tj (+ bias_j)`
///
/// # Panics
/// When shapes disagree.
#[track_caller]
pub fn dora_gain<R: Real>(y: &mut [R], gain: &[R], bias: Option<&[f32]>, par: Par<'_>) {
    check(y.len(), gain.len(), bias);
    let values = rows_per_task(gain.len()) * gain.len();
    par.chunks(y, values, |_, y| gain_rows(y, gain, bias.unwrap_or(&[])));
}

/// [`dora_gain`] of bf16, without bias, rounded as it is stored.
///
/// # Panics
/// As [`dora_gain`].
#[track_caller]
pub fn dora_gain_bf16<R: Real>(y: &mut [u16], gain: &[R], par: Par<'_>) {
    check(y.len(), gain.len(), None);
    let values = rows_per_task(gain.len()) * gain.len();
    par.chunks(y, values, |_, y| gain_rows_bf16(y, gain));
}

/// `y_tj += gain_j·z_tj (+ bias_j)`
///
/// # Panics
/// When shapes disagree.
#[track_caller]
pub fn dora_gain_add<R: Real>(y: &mut [R], z: &[R], gain: &[R], bias: Option<&[f32]>, par: Par<'_>) {
    check(y.len(), gain.len(), bias);
    assert_eq!(y.len(), z.len(), "dora_gain_add: z");
    let values = rows_per_task(gain.len()) * gain.len();
    par.chunks(y, values, |i, y| {
        add_rows(y, &z[i * values..][..y.len()], gain, bias.unwrap_or(&[]));
    });
}

/// `dm_j += Σ_t dy_tj·z_tj·inverse_j`
///
/// # Panics
/// When shapes disagree.
#[track_caller]
pub fn dora_magnitude_grad<R: Real>(dm: &mut [R], dy: Values<'_, R>, z: &[R], inverse: &[R], par: Par<'_>) {
    check(z.len(), dm.len(), None);
    assert_eq!((dy.len(), inverse.len()), (z.len(), dm.len()), "dora_magnitude_grad: dy, n");
    let (out, tasks) = (dm.len(), dm.len().div_ceil(COLUMNS));
    let pieces = Pieces::new(dm);
    par.tasks(tasks, |i, _| {
        // SAFETY: task `i` runs once, and pieces of different tasks do not overlap.
        let dm = unsafe { pieces.piece(i, COLUMNS) };
        let at = i * COLUMNS;
        let inverse = &inverse[at..][..dm.len()];
        match dy {
            Values::Full(dy) => sum_columns(dm, dy, z, inverse, at, out),
            Values::Bf16(dy) => sum_columns_bf16(dm, dy, z, inverse, at, out),
        }
    });
}

#[track_caller]
fn check(values: usize, cols: usize, bias: Option<&[f32]>) {
    assert!(cols > 0 && values.is_multiple_of(cols), "dora: columns");
    assert!(bias.is_none_or(|b| b.len() == cols), "dora: bias");
}

vectorized! {
fn gain_rows<R: Real>(y: &mut [R], gain: &[R], bias: &[f32]) {
    for y in y.chunks_exact_mut(gain.len()) {
        if bias.is_empty() {
            for (y, g) in y.iter_mut().zip(gain) {
                *y *= *g;
            }
        } else {
            for ((y, g), b) in y.iter_mut().zip(gain).zip(bias) {
                *y = *y * *g + R::from_f32(*b);
            }
        }
    }
}
}

vectorized! {
fn gain_rows_bf16<R: Real>(y: &mut [u16], gain: &[R]) {
    for y in y.chunks_exact_mut(gain.len()) {
        for (y, g) in y.iter_mut().zip(gain) {
            let x: R = y.get();
            *y = <u16 as Stored<R>>::put(x * *g);
        }
    }
}
}

vectorized! {
fn add_rows<R: Real>(y: &mut [R], z: &[R], gain: &[R], bias: &[f32]) {
    for (y, z) in y.chunks_exact_mut(gain.len()).zip(z.chunks_exact(gain.len())) {
        if bias.is_empty() {
            for ((y, z), g) in y.iter_mut().zip(z).zip(gain) {
                *y += *z * *g;
            }
        } else {
            for (((y, z), g), b) in y.iter_mut().zip(z).zip(gain).zip(bias) {
                *y += *z * *g + R::from_f32(*b);
            }
        }
    }
}
}

vectorized! {
fn sum_columns<R: Real>(dm: &mut [R], dy: &[R], z: &[R], inverse: &[R], at: usize, out: usize) {
    columns(dm, dy, z, inverse, at, out);
}
}

vectorized! {
fn sum_columns_bf16<R: Real>(dm: &mut [R], dy: &[u16], z: &[R], inverse: &[R], at: usize, out: usize) {
    columns(dm, dy, z, inverse, at, out);
}
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
fn columns<R: Real, S: Stored<R>>(dm: &mut [R], dy: &[S], z: &[R], inverse: &[R], at: usize, out: usize) {
    for (dy, z) in dy.chunks_exact(out).zip(z.chunks_exact(out)) {
        let (dy, z) = (&dy[at..][..dm.len()], &z[at..][..dm.len()]);
        for (((dm, dy), z), inverse) in dm.iter_mut().zip(dy).zip(z).zip(inverse) {
            *dm += dy.get() * *z * *inverse;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;
    use crate::test_util::{Rng, relative};

    /// The gains are those of the rows of W + s·B·A, formed here.
    #[test]
    fn gains_are_of_the_adapted_rows() {
        let mut rng = Rng(3);
        for (out, input, r) in [(1, 1, 1), (5, 300, 3), (130, 31, 8)] {
            let w: Vec<f32> = rng.vec(out * input);
            let (a, b, m): (Vec<f64>, Vec<f64>, Vec<f64>) =
                (rng.vec(r * input), rng.vec(out * r), rng.vec(out));
            let bytes: Vec<u8> = w.iter().flat_map(|x| x.to_le_bytes()).collect();
            let view = WeightView { dtype: Dtype::F32, data: &bytes, rows: out, cols: input };
            let scale = 0.7;
            let mut squares = vec![0.0; out];
            row_squares(&mut squares, view, Par::serial());
            let dot = |x: &[f64], y: &mut dyn Iterator<Item = f64>| {
                x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>()
            };
            let row = |k: usize| &a[k * input..][..input];
            let p: Vec<f64> = (0..r * out)
                .map(|i| dot(row(i / out), &mut w[i % out * input..][..input].iter().map(|x| f64::from(*x))))
                .collect();
            let g: Vec<f64> = (0..r * r).map(|i| dot(row(i / r), &mut row(i % r).iter().copied())).collect();
            let (mut gain, mut inverse) = (vec![0.0; out], vec![0.0; out]);
            let factors = (&m[..], &squares[..]);
            dora_gains((&mut gain, &mut inverse), factors, Values::Full(&b), (&p, &g), scale, Par::serial());
            let expected: Vec<f64> = (0..out)
                .map(|j| {
                    let v = |i: usize| {
                        let product: f64 = (0..r).map(|k| b[j * r + k] * a[k * input + i]).sum();
                        f64::from(w[j * input + i]) + scale * product
                    };
                    (0..input).map(|i| v(i).powi(2)).sum::<f64>().sqrt()
                })
                .collect();
            let ones: Vec<f64> = inverse.iter().zip(&expected).map(|(i, n)| i * n).collect();
            assert!(relative(&ones, &vec![1.0; out]) < 1e-12, "{out} {input} {r}");
            let magnitudes: Vec<f64> = gain.iter().zip(&expected).map(|(g, n)| g * n).collect();
            assert!(relative(&magnitudes, &m) < 1e-12);
        }
    }

    #[test]
    fn rows_are_scaled_and_summed() {
        let mut rng = Rng(4);
        for (n, out) in [(1, 1), (3, 130), (9, 7)] {
            let (z, dy): (Vec<f64>, Vec<f64>) = (rng.vec(n * out), rng.vec(n * out));
            let (gain, start): (Vec<f64>, Vec<f64>) = (rng.vec(out), rng.vec(out));
            let bias: Vec<f32> = rng.vec(out);
            let (mut y, mut sum) = (z.clone(), dy.clone());
            dora_gain(&mut y, &gain, Some(&bias), Par::serial());
            dora_gain_add(&mut sum, &z, &gain, Some(&bias), Par::serial());
            for i in 0..n * out {
                let expected = z[i] * gain[i % out] + f64::from(bias[i % out]);
                assert!((y[i] - expected).abs() < 1e-14 && (sum[i] - dy[i] - expected).abs() < 1e-14);
            }
            // Whole, and in two tiles of rows.
            let mut dm = start.clone();
            dora_magnitude_grad(&mut dm, Values::Full(&dy), &z, &gain, Par::serial());
            let mut tiles = start.clone();
            for range in [0..n / 2 * out, n / 2 * out..n * out] {
                let (dy, z) = (&dy[range.clone()], &z[range]);
                dora_magnitude_grad(&mut tiles, Values::Full(dy), z, &gain, Par::serial());
            }
            assert_eq!(dm, tiles);
            for j in 0..out {
                let expected: f64 = (0..n).map(|t| dy[t * out + j] * z[t * out + j]).sum::<f64>() * gain[j];
                assert!((dm[j] - start[j] - expected).abs() < 1e-13);
            }
        }
    }

    #[test]
    fn bf16_follows() {
        let x = [1.0f32, -2.5, 0.375, 8.0];
        let gain = [2.0f32, 0.5];
        let mut stored: Vec<u16> = x.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
        let mut dm = [0.0f32; 2];
        dora_magnitude_grad(&mut dm, Values::Bf16(&stored), &[1.0, 2.0, 3.0, 4.0], &gain, Par::serial());
        assert_eq!(dm, [2.0 * 2.125, 0.5 * 27.0]);
        dora_gain_bf16(&mut stored, &gain, Par::serial());
        let wide: Vec<f32> = stored.iter().map(|x| f32::from_bits(u32::from(*x) << 16)).collect();
        assert_eq!(wide, [2.0, -1.25, 0.75, 4.0]);
    }
}
