//! Packing for single precision and for pairs of bf16, where the source runs along the depth: sixteen rows
//! are read at a time and transposed in blocks of 16 × 16 words of 32 bits.
//!
//! A pair of bf16 is the microkernel's unit of depth: depth 2p in the low half of a word, 2p + 1 in the high
//! half, which is also how two neighbours of a bf16 row lie in memory.

use super::Rhs;
use super::pack::plain;
use crate::compact::round;
use crate::isa::{Isa, isa};
use crate::weight::{Dtype, WeightView};

/// Depth, in values, that is converted at a time.
const STRIP: usize = 64;
/// Side of a transposed block.
const SIDE: usize = 16;

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
    match b {
        Rhs::WeightTransposed(w) if width == padded => dispatch::<false>(packed, w, k0, depth, n0, width),
        Rhs::Dense { data, row_stride: 1, col_stride } if width == padded && col_stride > 0 => {
            // Dense values in memory are a weight of type F32.
            let cols = col_stride;
            let rows = data.len() / cols;
            if rows >= n0 + width && depth > 0 {
                let view = WeightView { dtype: Dtype::F32, data: bytes_of(&data[..rows * cols]), rows, cols };
                dispatch::<false>(packed, view, k0, depth, n0, width);
                if alpha != 1.0 {
                    packed[..depth * padded].iter_mut().for_each(|x| *x *= alpha);
                }
            } else {
                plain(packed, b, k0, depth, n0, width, padded, alpha);
            }
        }
        _ => plain(packed, b, k0, depth, n0, width, padded, alpha),
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
    match b {
        Rhs::WeightTransposed(w) if width == padded => dispatch::<true>(packed, w, k0, depth, n0, width),
        Rhs::Weight(w) => interleave::<true>(packed, w, k0, depth, n0, width, padded),
        _ => {
            let value = |p: usize, j: usize| match b {
                Rhs::Dense { data, row_stride, col_stride } => alpha * data[p * row_stride + j * col_stride],
                Rhs::WeightTransposed(w) => {
                    let mut value = 0.0;
                    w.for_row(j, p, 1, |_, v| value = v);
                    value
                }
                Rhs::Weight(_) => unreachable!("interleaved above"),
            };
            for (p, row) in packed.chunks_exact_mut(padded).enumerate() {
                for (j, x) in row[..width].iter_mut().enumerate() {
                    let low = round(value(k0 + 2 * p, n0 + j));
                    let high = if 2 * p + 1 < depth { round(value(k0 + 2 * p + 1, n0 + j)) } else { 0 };
                    *x = f32::from_bits(u32::from(low) | u32::from(high) << 16);
                }
            }
        }
    }
}

fn bytes_of(data: &[f32]) -> &[u8] {
    // SAFETY: any bytes of f32 values are valid u8; the length is theirs. Little-endian targets store them as
    // a file of type F32 does; others take the plain path in `full`.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data)) }
}

/// Compiles `$body` for the machine's vectors.
macro_rules! for_isa {
    (fn $name:ident $(<const $c:ident: bool>)? ($($arg:ident: $ty:ty),*), $body:ident) => {
        fn $name $(<const $c: bool>)? ($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<const $c: bool>)? ($($arg: $ty),*) { $body $(::<$c, false>)? ($($arg),*) }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512 $(<const $c: bool>)? ($($arg: $ty),*) { $body $(::<$c, true>)? ($($arg),*) }
                match isa() {
                    // SAFETY: `isa` returns a set only when the processor has it.
                    Isa::Avx512 | Isa::Avx512Bf16 => return unsafe { avx512 $(::<$c>)? ($($arg),*) },
                    // SAFETY: as above.
                    Isa::Avx2 => return unsafe { avx2 $(::<$c>)? ($($arg),*) },
                    Isa::Portable => {}
                }
            }
            $body $(::<$c, false>)? ($($arg),*);
        }
    };
}

for_isa!(fn dispatch<const PAIRS: bool>(packed: &mut [f32], w: WeightView<'_>, k0: usize, depth: usize, n0: usize, width: usize), transposed);

/// `packed[p·width + j] = w[n0+j, k0+p]`, as values or as pairs; `width` is a multiple of 16.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the functions of `for_isa`")]
fn transposed<const PAIRS: bool, const AVX512: bool>(
    packed: &mut [f32],
    w: WeightView<'_>,
    k0: usize,
    depth: usize,
    n0: usize,
    width: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if AVX512 && PAIRS && w.dtype == Dtype::Bf16 && depth.is_multiple_of(2 * SIDE) {
        // Pairs lie in the row as they are wanted: blocks are transposed straight out of the weight.
        let bytes = w.dtype.row_bytes(w.cols);
        for j0 in (0..width).step_by(SIDE) {
            for p0 in (0..depth / 2).step_by(SIDE) {
                let from = &w.data[(n0 + j0) * bytes + 2 * k0 + 4 * p0..];
                let to = &mut packed[p0 * width + j0..];
                assert!(from.len() >= (SIDE - 1) * bytes + 4 * SIDE && to.len() >= (SIDE - 1) * width + SIDE);
                // SAFETY: AVX-512 as above; both sides hold the block by the assertion.
                unsafe { super::x86::transpose16(from.as_ptr(), bytes, to.as_mut_ptr().cast(), width) };
            }
        }
        return;
    }
    let mut words = [[0u32; STRIP]; SIDE];
    for start in (0..depth).step_by(STRIP) {
        let len = STRIP.min(depth - start);
        let count = if PAIRS { len.div_ceil(2) } else { len };
        let first = if PAIRS { start / 2 } else { start };
        for j0 in (0..width).step_by(SIDE) {
            for (r, words) in words.iter_mut().enumerate() {
                if PAIRS {
                    row_pairs::<AVX512>(w, n0 + j0 + r, k0 + start, len, words);
                } else if w.dtype.is_quantized() {
                    let mut values = [0.0; STRIP];
                    w.unpack_row::<AVX512>(n0 + j0 + r, k0 + start, &mut values[..len]);
                    *words = values.map(f32::to_bits);
                } else {
                    w.for_row(n0 + j0 + r, k0 + start, len, |i, v| words[i] = v.to_bits());
                }
            }
            for p0 in (0..count).step_by(SIDE) {
                let rows = SIDE.min(count - p0);
                let to = &mut packed[(first + p0) * width + j0..];
                if AVX512 && rows == SIDE {
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: this instance is called with AVX-512 only; 16 rows of 16 words lie in `words`
                    // from p0, and 16 rows at `width` apart in `to`, the last one 16 words long.
                    unsafe {
                        assert!(to.len() >= (SIDE - 1) * width + SIDE);
                        let from = words.as_ptr().cast::<u32>().add(p0).cast();
                        super::x86::transpose16(from, 4 * STRIP, to.as_mut_ptr().cast(), width);
                    }
                } else {
                    for p in 0..rows {
                        for (r, words) in words.iter().enumerate() {
                            to[p * width + r] = f32::from_bits(words[p0 + p]);
                        }
                    }
                }
            }
        }
    }
}

/// Values of a row as pairs; an odd count ends with a zero.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the functions of `for_isa`")]
fn row_pairs<const AVX512: bool>(
    w: WeightView<'_>,
    row: usize,
    from: usize,
    n: usize,
    out: &mut [u32; STRIP],
) {
    if w.dtype == Dtype::Bf16 {
        let at = row * w.dtype.row_bytes(w.cols) + 2 * from;
        let (pairs, rest) = w.data[at..at + 2 * n].as_chunks::<4>();
        for (o, b) in out.iter_mut().zip(pairs) {
            *o = u32::from_le_bytes(*b);
        }
        if let [low, high] = rest {
            out[n / 2] = u32::from(u16::from_le_bytes([*low, *high]));
        }
        return;
    }
    let mut half = [0u16; STRIP];
    if w.dtype.is_quantized() {
        // Unpacked first and rounded after: two loops that vectorize.
        let mut values = [0.0; STRIP];
        w.unpack_row::<AVX512>(row, from, &mut values[..n]);
        for (h, v) in half.iter_mut().zip(&values) {
            *h = round(*v);
        }
    } else {
        w.for_row(row, from, n, |i, v| half[i] = round(v));
    }
    for (o, h) in out.iter_mut().zip(half.as_chunks::<2>().0) {
        *o = u32::from(h[0]) | u32::from(h[1]) << 16;
    }
}

for_isa!(fn interleave<const PAIRS: bool>(packed: &mut [f32], w: WeightView<'_>, k0: usize, depth: usize, n0: usize, width: usize, padded: usize), interleaved);

/// `packed[p·padded + j] = (w[k0+2p, n0+j], w[k0+2p+1, n0+j])`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the functions of `for_isa`")]
fn interleaved<const PAIRS: bool, const AVX512: bool>(
    packed: &mut [f32],
    w: WeightView<'_>,
    k0: usize,
    depth: usize,
    n0: usize,
    width: usize,
    padded: usize,
) {
    for (p, row) in packed.chunks_exact_mut(padded).enumerate() {
        let row = &mut row[..width];
        if w.dtype.is_quantized() && width <= STRIP {
            // An odd depth ends with a zero.
            let (mut low, mut high) = ([0.0; STRIP], [0.0; STRIP]);
            w.unpack_row::<AVX512>(k0 + 2 * p, n0, &mut low[..width]);
            if 2 * p + 1 < depth {
                w.unpack_row::<AVX512>(k0 + 2 * p + 1, n0, &mut high[..width]);
            }
            for ((x, l), h) in row.iter_mut().zip(&low).zip(&high) {
                *x = f32::from_bits(u32::from(round(*l)) | u32::from(round(*h)) << 16);
            }
            continue;
        }
        if w.dtype == Dtype::Bf16 && 2 * p + 1 < depth {
            let bytes = w.dtype.row_bytes(w.cols);
            let at = (k0 + 2 * p) * bytes + 2 * n0;
            let low = w.data[at..at + 2 * width].as_chunks::<2>().0;
            let high = w.data[at + bytes..at + bytes + 2 * width].as_chunks::<2>().0;
            for ((x, l), h) in row.iter_mut().zip(low).zip(high) {
                *x = f32::from_bits(
                    u32::from(u16::from_le_bytes(*l)) | u32::from(u16::from_le_bytes(*h)) << 16,
                );
            }
            continue;
        }
        w.for_row(k0 + 2 * p, n0, width, |j, v| row[j] = f32::from_bits(u32::from(round(v))));
        if 2 * p + 1 < depth {
            w.for_row(k0 + 2 * p + 1, n0, width, |j, v| {
                row[j] = f32::from_bits(row[j].to_bits() | u32::from(round(v)) << 16);
            });
        }
    }
}
