//! Packing for single precision and for pairs of bf16: whole groups by [`super::pack512`], edges one by one.
//!
//! A pair of bf16 is the microkernel's unit of depth: depth 2p in the low half of a word, 2p + 1 in the high
//! half, which is also how two neighbours of a bf16 row lie in memory.

use super::Rhs;
use super::pack::plain;
use crate::compact::round;

/// [`super::micro::Pack`] for `f32`.
pub(super) fn full(
    packed: &mut [f32],
    b: Rhs<'_, f32>,
    k0: usize,
    depth: usize,
    n0: usize,
    width: usize,
    padded: usize,
    alpha: f32,
) {
    // SAFETY: `Micro::full` picks this packer on such machines only; `matmul` checked the right factor.
    #[cfg(target_arch = "x86_64")]
    let done = unsafe { super::pack512::full(packed, b, [k0, depth], [n0, width], padded) };
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    if alpha != 1.0 {
        packed[..done * padded].iter_mut().for_each(|x| *x *= alpha);
    }
    if done < depth {
        plain(&mut packed[done * padded..], b, k0 + done, depth - done, n0, width, padded, alpha);
    }
}

/// [`super::micro::Pack`] for bf16 pairs, each in the bits of an `f32`; an odd depth ends with a zero.
pub(super) fn pairs(
    packed: &mut [f32],
    b: Rhs<'_, f32>,
    k0: usize,
    depth: usize,
    n0: usize,
    width: usize,
    padded: usize,
    alpha: f32,
) {
    let packed = &mut packed[..depth.div_ceil(2) * padded];
    if width < padded {
        packed.fill(0.0);
    }
    #[cfg(target_arch = "x86_64")]
    let done = if alpha == 1.0 {
        // SAFETY: `Micro::for_f32` picks this packer on such machines only; `matmul` checked the right factor.
        unsafe { super::pack512::pairs(packed, b, [k0, depth], [n0, width], padded) }
    } else {
        // Values are scaled before they are rounded.
        0
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    if done >= depth {
        return;
    }
    let half = |i: usize, v: f32| u32::from(round(alpha * v)) << (16 * (i % 2));
    let mut put = |i: usize, j: usize, v: f32| {
        let x = &mut packed[i / 2 * padded + j];
        *x = f32::from_bits(if i.is_multiple_of(2) { half(i, v) } else { x.to_bits() | half(i, v) });
    };
    match b {
        Rhs::Dense { data, row_stride, col_stride } => {
            for i in done..depth {
                for j in 0..width {
                    put(i, j, data[(k0 + i) * row_stride + (n0 + j) * col_stride]);
                }
            }
        }
        Rhs::WeightTransposed(w) => {
            for j in 0..width {
                w.for_row(n0 + j, k0 + done, depth - done, |i, v| put(done + i, j, v));
            }
        }
        Rhs::Weight(w) => {
            for i in done..depth {
                w.for_row(k0 + i, n0, width, |j, v| put(i, j, v));
            }
        }
    }
}
