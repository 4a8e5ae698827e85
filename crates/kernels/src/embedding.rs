//! Rows picked from a table and rows moved between matrices.
//!
//! ```text
//! embedding     y[t]       = E[token_t]      E [V, d] frozen: no gradient
//! gather_rows   y[t]       = x[index_t]
//! scatter_rows  y[index_t] = x[t]            the gradient of gather_rows, for distinct indices into zeros
//! scatter_add   y[index_t] += x[t]           for any indices, in the order of t
//! ```

use crate::par::{Par, rows_per_task};
use crate::{Real, WeightView};

/// `y[t] = table[tokens[t]]`.
///
/// # Panics
/// When shapes disagree or a token is not in the table.
#[track_caller]
pub fn embedding<R: Real>(y: &mut [R], table: WeightView<'_>, tokens: &[u32], par: Par<'_>) {
    table.check();
    let d = table.cols;
    assert_eq!(y.len(), tokens.len() * d, "embedding: out");
    let rows = rows_per_task(d);
    par.chunks(y, rows * d, |i, y| {
        for (y, token) in y.chunks_exact_mut(d).zip(&tokens[i * rows..]) {
            table.for_row(*token as usize, 0, d, |j, v| y[j] = R::from_f32(v));
        }
    });
}

/// `y[t] = x[index[t]]`, rows of `d`.
///
/// # Panics
/// When `y` is not `index.len()` rows or an index is not in `x`.
#[track_caller]
pub fn gather_rows<R: Real>(y: &mut [R], x: &[R], index: &[u32], d: usize) {
    assert_eq!(y.len(), index.len() * d, "gather_rows: out");
    for (y, i) in y.chunks_exact_mut(d).zip(index) {
        y.copy_from_slice(&x[*i as usize * d..][..d]);
    }
}

/// [`gather_rows`] of numbers in bf16.
///
/// # Panics
/// As [`gather_rows`].
#[track_caller]
pub fn gather_rows_bf16<R: Real>(y: &mut [R], x: &[u16], index: &[u32], d: usize) {
    assert_eq!(y.len(), index.len() * d, "gather_rows: out");
    for (y, i) in y.chunks_exact_mut(d).zip(index) {
        for (y, x) in y.iter_mut().zip(&x[*i as usize * d..][..d]) {
            *y = R::from_f32(half::bf16::from_bits(*x).to_f32());
        }
    }
}

/// `y[index[t] − first] += x[t]`, rows of `d`, the first `t` first; indices of other rows than y's are passed over.
///
/// # Panics
/// When `x` is not `index.len()` rows.
#[track_caller]
pub fn scatter_add_rows<R: Real>(y: &mut [R], x: &[R], index: &[u32], d: usize, first: usize) {
    assert_eq!(x.len(), index.len() * d, "scatter_add_rows: in");
    let end = y.len() / d.max(1);
    for (x, i) in x.chunks_exact(d).zip(index) {
        let Some(row) = (*i as usize).checked_sub(first).filter(|row| *row < end) else { continue };
        for (y, x) in y[row * d..][..d].iter_mut().zip(x) {
            *y += *x;
        }
    }
}

/// `y[index[t]] = x[t]`, rows of `d`.
///
/// # Panics
/// When `x` is not `index.len()` rows or an index is not in `y`.
#[track_caller]
pub fn scatter_rows<R: Real>(y: &mut [R], x: &[R], index: &[u32], d: usize) {
    assert_eq!(x.len(), index.len() * d, "scatter_rows: in");
    for (x, i) in x.chunks_exact(d).zip(index) {
        y[*i as usize * d..][..d].copy_from_slice(x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    #[test]
    fn rows_go_where_they_should() {
        let table: Vec<u8> = (0..6).flat_map(|x| half::bf16::from_f32(x as f32).to_le_bytes()).collect();
        let view = WeightView { dtype: Dtype::Bf16, data: &table, rows: 3, cols: 2 };
        let mut y = vec![0.0f64; 4];
        embedding(&mut y, view, &[2, 0], Par::serial());
        assert_eq!(y, [4.0, 5.0, 0.0, 1.0]);
        let mut picked = vec![0.0; 4];
        gather_rows(&mut picked, &y, &[1, 1], 2);
        assert_eq!(picked, [0.0, 1.0, 0.0, 1.0]);
        scatter_rows(&mut y, &picked[..2], &[0], 2);
        assert_eq!(y, [0.0, 1.0, 0.0, 1.0]);
    }
}
