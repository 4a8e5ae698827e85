//! The left factor and a term's factors in the order in which tiles read them.

use std::arch::x86_64::{__m512i, _mm512_loadu_si512, _mm512_setzero_si512, _mm512_storeu_si512};
use std::ops::Range;

use super::{COLUMNS, DEPTH, ROWS, tile};
use crate::Values;
use crate::matmul::pack::plain;
use crate::matmul::x86::{rounded, transposed};
use crate::matmul::{Lhs, Rhs, Term};

/// Tiles of `rows`, pair p of row i at `16·p + i`, rounded to bf16; rows past the last are zeros.
pub(super) fn lay_out(to: &mut [f32], a: &Lhs<'_, f32>, rows: &Range<usize>, depth: &Range<usize>) {
    let tile = ROWS * depth.len() / 2;
    assert!(a.col_stride == 1 && depth.len().is_multiple_of(DEPTH), "whole pieces of rows");
    assert!(a.data.len() >= (rows.end - 1) * a.row_stride + depth.end, "the left factor's rows");
    assert!(to.len() >= rows.len().div_ceil(ROWS) * tile, "the left factor's place");
    for (to, row) in to.chunks_exact_mut(tile).zip(rows.clone().step_by(ROWS)) {
        let height = ROWS.min(rows.end - row);
        let from = row * a.row_stride + depth.start;
        // SAFETY: `height` rows of this depth by the asserts; used by the kernel of `Isa::Avx512Bf16` only.
        unsafe {
            match a.data {
                Values::Full(a_) => tile_of(to, depth.len(), height, |i, p| {
                    rounded(a_.as_ptr().add(from + i * a.row_stride + p))
                }),
                Values::Bf16(a_) => tile_of(to, depth.len(), height, |i, p| {
                    _mm512_loadu_si512(a_.as_ptr().add(from + i * a.row_stride + p).cast())
                }),
            }
        }
    }
}

/// One tile, from `piece(i, p)`: bf16 from depth p on of row i.
///
/// # Safety
/// `piece` may be called for rows below `height` and depths below `depth`; the machine has the instructions.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_of(to: &mut [f32], depth: usize, height: usize, piece: impl Fn(usize, usize) -> __m512i) {
    for (p, to) in (0..depth).step_by(DEPTH).zip(to.chunks_exact_mut(ROWS * DEPTH / 2)) {
        let mut rows = [_mm512_setzero_si512(); ROWS];
        for (i, row) in rows.iter_mut().enumerate().take(height) {
            *row = piece(i, p);
        }
        for (pair, to) in transposed(&rows).into_iter().zip(to.chunks_exact_mut(ROWS)) {
            // SAFETY: sixteen values.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), pair) };
        }
    }
}

/// Whether a term's left factor is one that [`lay_out_term`] reads.
pub(super) fn reads(a: &Lhs<'_, f32>) -> bool {
    matches!(a.data, Values::Full(_))
}

/// Tiles of a term's left factor for `rows`, depth p of row i at `16·p + i`.
pub(super) fn lay_out_term(to: &mut [f32], t: &Term<'_, f32>, rows: &Range<usize>) {
    let Values::Full(data) = t.a.data else { unreachable!("`reads` was asked") };
    let a = Rhs::Dense { data, row_stride: t.a.col_stride, col_stride: t.a.row_stride };
    for (to, row) in to.chunks_exact_mut((ROWS * t.depth).max(1)).zip(rows.clone().step_by(ROWS)) {
        plain(to, a, 0, t.depth, row, ROWS.min(rows.end - row), ROWS, 1.0);
    }
}

/// Lays out a term's right factor, times alpha, for sixteen columns, behind the `tiles` of the left one. Gives the term of
/// the first tile.
pub(super) fn term_of_columns(term: &mut [f32], t: &Term<'_, f32>, tiles: usize, col: usize) -> tile::Term {
    let (left, right) = term.split_at_mut(tiles * ROWS * t.depth);
    plain(right, t.b, 0, t.depth, col, COLUMNS, COLUMNS, t.alpha);
    tile::Term { depth: t.depth, left: left.as_ptr(), right: right.as_ptr() }
}
