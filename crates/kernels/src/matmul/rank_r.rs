//! Products whose left factor has few rows whatever the batch: rows are ranks of adapters, columns features or tokens.
//!
//! ```text
//! out = init + alpha · a · b          a [m,k], m at most MOST_RANKS   b [k,n]   out [m,n]
//! scratch   that of the product: a's part of a block of depth, a packed panel of b, sums
//! ```
//!
//! The work is a pass over `b`, which is read in place where its rows lie as the microkernel reads them, and otherwise
//! packed in pieces that the first-level cache holds. Sums wait in scratch until they are whole, as `out` is often
//! strided. Every element is the same chain of multiply-adds as in [`super::matmul`]; `a` is what is scaled.

use std::ops::Range;

use super::prefetch::Prefetch;
use super::{
    Compute, GROUP, Init, KC, Lhs, Micro, Out, PACKED, Rhs, Target, check, matmul_scratch, rank_lanes, start,
};
use crate::compact::wide;
use crate::par::{Par, Pieces, share};
use crate::{Real, Values};

/// The most rows.
pub const MOST_RANKS: usize = 64;
/// Depth of a block: a packed panel of it stays in the first-level cache.
const DEPTH: usize = 64;
/// Rows along the depth that are worth a thread.
const ROWS: usize = 48;
/// Where the left factor's part, the panel and the sums lie in a thread's scratch.
const LEFT: usize = MOST_RANKS * DEPTH;
const PANEL: usize = DEPTH * super::NR;
const SUMS: usize = KC * GROUP - LEFT - PANEL;

/// `out = init + alpha·a·b` for at most [`MOST_RANKS`] rows.
///
/// # Panics
/// As [`super::matmul`], and when there are more rows.
#[track_caller]
pub fn matmul_rank_r<R: Real>(
    out: Out<'_, R>,
    [m, n, k]: [usize; 3],
    alpha: R,
    a: Lhs<'_, R>,
    b: Rhs<'_, R>,
    init: Init<'_>,
    scratch: &mut [R],
    par: Par<'_>,
) {
    check(&out, [m, n, k], &a, &b, init);
    assert!(m <= MOST_RANKS, "a rank-r product has {m} rows, at most {MOST_RANKS} are expected");
    assert!(scratch.len() >= matmul_scratch(par.threads()), "matmul scratch: {} values", scratch.len());
    if m == 0 || n == 0 {
        return;
    }
    let micro = Micro::of(Compute::Full);
    let (row_stride, col_stride) = (out.row_stride, out.col_stride);
    let c = Pieces::new(out.data);
    let scratch = Pieces::new(&mut scratch[..matmul_scratch(par.threads())]);
    if let Some(kernels) = micro.rank_lanes
        && let Rhs::Dense { data, row_stride: 1, col_stride: along } = b
        && row_stride == 1
        && !matches!(init, Init::Bias(_))
    {
        let parts = n.div_ceil(ROWS).min(par.threads());
        par.tasks(parts, |task, worker| {
            // SAFETY: each worker runs one task at a time and owns its piece of the scratch.
            let packed = unsafe { scratch.piece(worker, PACKED) };
            let c = Target { start: c.as_ptr(), row_stride, col_stride };
            let rows = share(n, parts, task);
            // SAFETY: `check` proved that every index lies inside the operands; tasks own disjoint columns of `out`.
            unsafe { rank_lanes::rows(kernels, &rows, [m, k], alpha, &a, (data, along), init, c, packed) };
        });
        return;
    }
    let nr = micro.nr;
    let panels = n.div_ceil(nr);
    // As many columns as there is room for sums, and the same for each thread.
    let most = (SUMS / m / nr).max(1);
    let parts = panels.div_ceil(most).next_multiple_of(par.threads()).min(panels);
    par.tasks(parts, |task, worker| {
        // SAFETY: each worker runs one task at a time and owns its piece of the scratch.
        let scratch = unsafe { scratch.piece(worker, PACKED) };
        let panels = share(panels, parts, task);
        let cols = panels.start * nr..(panels.end * nr).min(n);
        let c = Target { start: c.as_ptr(), row_stride, col_stride };
        // SAFETY: `check` proved that every index lies inside the operands; tasks own disjoint columns of `out`.
        unsafe { columns(cols, [m, n, k], alpha, a, b, init, c, scratch) };
    });
}

/// Some columns of the result.
///
/// # Safety
/// The operands' elements exist, nobody else touches these columns of the result, of which the scratch has room for
/// the sums.
unsafe fn columns<R: Real>(
    cols: Range<usize>,
    [m, n, k]: [usize; 3],
    alpha: R,
    a: Lhs<'_, R>,
    b: Rhs<'_, R>,
    init: Init<'_>,
    c: Target<R>,
    scratch: &mut [R],
) {
    let micro = Micro::of(Compute::Full);
    let (left, rest) = scratch.split_at_mut(LEFT);
    let (panel, sums) = rest.split_at_mut(PANEL);
    let stride = cols.len().next_multiple_of(micro.lane);
    assert!(m * stride <= sums.len(), "room for the sums of {} columns", cols.len());
    // SAFETY: the caller's promise; `sums` holds `m` rows of `stride`.
    unsafe {
        let origin = c.start.add(cols.start * c.col_stride);
        start(sums.as_mut_ptr(), stride, origin, [c.row_stride, c.col_stride], m, &cols, init);
    }
    let panels = || cols.clone().step_by(micro.nr).map(|from| from..(from + micro.nr).min(cols.end));
    for k0 in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - k0);
        let (a_rows, a_cols) = scaled_left(left, a, m, k0..k0 + depth, alpha);
        for panel_cols in panels() {
            let width = panel_cols.len();
            let vectors = width.div_ceil(micro.lane);
            let padded = vectors * micro.lane;
            let (b_at, b_rows) = match b {
                Rhs::Dense { data, row_stride, col_stride: 1 } if width == padded => {
                    (data[k0 * row_stride + panel_cols.start..].as_ptr(), row_stride)
                }
                _ => {
                    (micro.pack)(panel, b, k0, depth, panel_cols.start, width, padded, R::ONE);
                    (panel.as_ptr(), padded)
                }
            };
            let next = if panel_cols.end < cols.end {
                (k0..k0 + depth, panel_cols.end..(panel_cols.end + micro.nr).min(cols.end))
            } else {
                (k0 + depth..(k0 + 2 * depth).min(k), cols.start..(cols.start + micro.nr).min(n))
            };
            let mut ahead = Prefetch::new(&b, next.0, next.1);
            let each = ahead.len().div_ceil(m.div_ceil(micro.mr));
            for i in (0..m).step_by(micro.mr) {
                ahead.ask_near(each);
                let height = micro.mr.min(m - i);
                // SAFETY: rows `i..i+height` of the left part and of the sums, and whole vectors of columns of the
                // panel, or of `b` itself, whose rows reach as far.
                unsafe {
                    let a_at = left.as_ptr().add(i * a_rows);
                    let at = sums.as_mut_ptr().add(i * stride + panel_cols.start - cols.start);
                    (micro.run)(height, vectors, depth, a_at, a_rows, a_cols, b_at, b_rows, at, stride);
                }
            }
        }
    }
    for i in 0..m {
        for (j, x) in sums[i * stride..][..cols.len()].iter().enumerate() {
            // SAFETY: a column of the caller's.
            unsafe { *c.start.add(i * c.row_stride + (cols.start + j) * c.col_stride) = *x };
        }
    }
}

/// `alpha·a` for some depth, laid out as `a` is; returns the distances of rows and columns.
fn scaled_left<R: Real>(
    left: &mut [R],
    a: Lhs<'_, R>,
    m: usize,
    depth: Range<usize>,
    alpha: R,
) -> (usize, usize) {
    let by_rows = a.col_stride == 1;
    let (outer, inner) = if by_rows { (m, depth.len()) } else { (depth.len(), m) };
    let (outer_stride, inner_stride) =
        if by_rows { (a.row_stride, a.col_stride) } else { (a.col_stride, a.row_stride) };
    let first = depth.start * a.col_stride;
    for (i, left) in left.chunks_exact_mut(inner.max(1)).enumerate().take(outer) {
        let from = first + i * outer_stride;
        let at = |j: usize| from + j * inner_stride;
        match a.data {
            Values::Full(a) if inner_stride == 1 => {
                left.iter_mut().zip(&a[from..]).for_each(|(x, a)| *x = alpha * *a);
            }
            Values::Full(a) => left.iter_mut().enumerate().for_each(|(j, x)| *x = alpha * a[at(j)]),
            Values::Bf16(a) => {
                left.iter_mut().enumerate().for_each(|(j, x)| *x = alpha * R::from_f32(wide(a[at(j)])));
            }
        }
    }
    if by_rows { (inner, 1) } else { (1, inner) }
}
