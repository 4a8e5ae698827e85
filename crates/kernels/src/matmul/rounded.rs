//! bf16 products on machines without the instruction: both factors are rounded to bf16 and multiplied in
//! single precision, where a product of two bf16 is exact. Only the order of additions within a pair differs
//! from the instruction's.

use super::Rhs;
use super::pack::plain;
use crate::Real;
use crate::compact::{wide, widen_into};

/// [`super::micro::Pack`].
pub(super) fn pack(
    packed: &mut [f32],
    b: Rhs<'_, f32>,
    k0: usize,
    depth: usize,
    n0: usize,
    width: usize,
    padded: usize,
    alpha: f32,
) {
    plain(packed, b, k0, depth, n0, width, padded, alpha);
    packed[..depth * padded].iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
}

/// [`super::micro::Left`].
pub(super) fn left(out: &mut [f32], a: &[f32], [rows, cols]: [usize; 2], [height, depth]: [usize; 2]) {
    if depth == 0 {
        return;
    }
    for (i, out) in out.chunks_exact_mut(depth).take(height).enumerate() {
        for (p, x) in out.iter_mut().enumerate() {
            *x = half::bf16::from_f32(a[i * rows + p * cols]).to_f32();
        }
    }
}

/// Rows of depth, in place.
pub(super) fn transposed(a: &mut [f32], _: usize) {
    for x in a {
        *x = half::bf16::from_f32(*x).to_f32();
    }
}

/// [`super::micro::LeftBf16`] for microkernels that read values: exact, as a left factor that is stored in bf16 is
/// rounded already.
pub(super) fn widened<R: Real>(
    out: &mut [R],
    a: &[u16],
    [rows, cols]: [usize; 2],
    [height, depth]: [usize; 2],
) {
    if cols == 1 {
        for (i, out) in out.chunks_exact_mut(depth.max(1)).take(height).enumerate() {
            widen_into(out, &a[i * rows..][..depth]);
        }
        return;
    }
    // Rows that are columns in memory: neighbours of one depth lie together.
    for p in 0..depth {
        for i in 0..height {
            out[i * depth + p] = R::from_f32(wide(a[i * rows + p * cols]));
        }
    }
}
