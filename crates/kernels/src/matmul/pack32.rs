//! Packing for single precision and for pairs of bf16: whole groups by `pack512` where there is AVX-512, the rest
//! through plain values.
//!
//! A pair of bf16 is the microkernel's unit of depth: depth 2p in the low half of a word, 2p + 1 in the high
//! half, which is also how two neighbours of a bf16 row lie in memory.

use super::pack::plain;
use super::{NR, Rhs};
use crate::compact::round;

/// Depth that is converted at a time where values are rounded in pairs. Even, so that pairs are not cut.
const STRIP: usize = 32;

/// [`super::micro::Pack`] for `f32`.
#[cfg(target_arch = "x86_64")]
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
    let done = unsafe { super::pack512::full(packed, b, [k0, depth], [n0, width], padded) };
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
    // A strip of values, then two of its rows at a time.
    let mut values = [0.0; STRIP * NR];
    for from in (done..depth).step_by(STRIP) {
        let rows = STRIP.min(depth - from);
        plain(&mut values, b, k0 + from, rows, n0, width, padded, alpha);
        for (p, to) in packed[from / 2 * padded..].chunks_exact_mut(padded).enumerate().take(rows.div_ceil(2))
        {
            let (low, rest) = values[2 * p * padded..rows * padded].split_at(padded);
            for (j, (x, low)) in to.iter_mut().zip(low).enumerate() {
                let high = rest.get(j).map_or(0, |high| u32::from(round(*high)));
                *x = f32::from_bits(u32::from(round(*low)) | high << 16);
            }
        }
    }
}

/// [`super::micro::Left`] for bf16 pairs.
pub(super) fn round_tile(out: &mut [f32], a: &[f32], [rows, cols]: [usize; 2], [height, depth]: [usize; 2]) {
    let steps = depth.div_ceil(2);
    for (i, out) in out.chunks_exact_mut(steps.max(1)).take(height).enumerate() {
        // SAFETY: `steps` words of 32 bits are `2·steps` halves, at a larger alignment.
        let halves = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u16>(), 2 * steps) };
        if cols == 1 {
            round_row(halves, &a[i * rows..i * rows + depth]);
        } else {
            for (p, h) in halves.iter_mut().enumerate().take(depth) {
                *h = round(a[i * rows + p * cols]);
            }
        }
        if depth % 2 == 1 {
            halves[depth] = 0;
        }
    }
}

/// [`super::micro::LeftBf16`] for bf16 pairs, where they do not lie as the kernel reads them.
pub(super) fn pair_tile(out: &mut [f32], a: &[u16], [rows, cols]: [usize; 2], [height, depth]: [usize; 2]) {
    for (i, out) in out.chunks_exact_mut(depth.div_ceil(2).max(1)).take(height).enumerate() {
        for (p, x) in out.iter_mut().enumerate().take(depth.div_ceil(2)) {
            let low = a[i * rows + 2 * p * cols];
            let high = if 2 * p + 1 < depth { a[i * rows + (2 * p + 1) * cols] } else { 0 };
            *x = f32::from_bits(u32::from(low) | u32::from(high) << 16);
        }
    }
}

/// To the nearest bf16, ties to even.
fn round_row(out: &mut [u16], x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: used by the kernel of `Isa::Avx512Bf16` only.
    unsafe {
        super::x86::round_row(out, x);
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (out, x) in out.iter_mut().zip(x) {
        *out = round(*x);
    }
}

/// Rows of depth become rows of pairs, in place: row p of the result, which begins no later than what it is made of,
/// holds rows 2p and 2p + 1. An odd last row is paired with zeros.
pub(super) fn pair_rows(a: &mut [f32], stride: usize) {
    let rows = a.len() / stride.max(1);
    #[cfg(target_arch = "x86_64")]
    if stride.is_multiple_of(16) {
        // SAFETY: used by the kernel of `Isa::Avx512Bf16` only.
        unsafe { super::x86::pair_rows(a, stride) };
        return;
    }
    for p in 0..rows.div_ceil(2) {
        for j in 0..stride {
            let low = u32::from(round(a[2 * p * stride + j]));
            let high = if 2 * p + 1 < rows { u32::from(round(a[(2 * p + 1) * stride + j])) } else { 0 };
            a[p * stride + j] = f32::from_bits(low | high << 16);
        }
    }
}
