//! Weights of every format as vectors of AVX-512: 32 values of one row, or 32 × 16 values of sixteen rows.
//!
//! *Across* sixteen rows a vector holds one value of each row, which is what packed panels want. Bits are regrouped while they are few: four bytes of every row are brought into the lanes by
//! shuffles of words, and become floats there, each lane with its own scale. So nothing is transposed in a form
//! larger than the stored one.
//!
//! Numbers are those of `weight::unpack` to the bit: the same multiplication and addition for each value.

#![allow(clippy::wildcard_imports, reason = "some forty intrinsics with names of their own")]
#![allow(clippy::cast_ptr_alignment, reason = "every load here is an unaligned one")]
#![allow(clippy::inline_always, reason = "compiled inside entries that enable the instructions")]

use std::arch::x86_64::*;

use super::Rhs;
use crate::weight::unpack::{Blocks, GROUP, Q4_1, Q5_0, Q5_1, Q5_K, Q6_K};
use crate::weight::{Dtype, WeightView, unpack};

/// Rows that are read together.
pub(super) const LANES: usize = 16;

/// Takes pairs of neighbours in depth, in ascending order. `p` counts pairs from where [`across`] began.
pub(super) trait Sink {
    /// Whether it rounds what it takes to bf16, and so may be given it rounded.
    const PAIRS: bool;

    /// Depths 2p and 2p + 1 of sixteen rows.
    ///
    /// # Safety
    /// On a machine with AVX-512 (and bf16 where the sink says so); the sink's place for pair `p` exists.
    unsafe fn pair(&mut self, p: usize, low: __m512, high: __m512);

    /// The same as bf16, depth 2p in the lower half of each lane.
    ///
    /// # Safety
    /// As [`Sink::pair`].
    unsafe fn words(&mut self, p: usize, words: __m512i);
}

/// How 32 values of depth are read.
trait Format {
    /// Bytes of a block.
    const BYTES: usize;
    /// Groups of 32 values in a block.
    const GROUPS: usize;

    /// One row's group.
    ///
    /// # Safety
    /// The block's bytes exist, on a machine with AVX-512.
    unsafe fn along(block: *const u8, group: usize) -> [__m512; 2];

    /// The groups of sixteen rows whose blocks begin `stride` bytes apart, as pairs from `p` on.
    ///
    /// # Safety
    /// As [`Format::along`] for all sixteen, and [`Sink::pair`].
    unsafe fn across<S: Sink>(block: *const u8, stride: usize, group: usize, p: usize, to: &mut S);

    /// Whether a group of even number shares its bytes with the next.
    const SHARES: bool = false;

    /// The same for such a group and the next.
    ///
    /// # Safety
    /// As [`Format::across`] for both.
    #[inline(always)]
    unsafe fn across_two<S: Sink>(block: *const u8, stride: usize, group: usize, p: usize, to: &mut S) {
        // SAFETY: the caller's promise.
        unsafe {
            Self::across(block, stride, group, p, to);
            Self::across(block, stride, group + 1, p + GROUP / 2, to);
        }
    }
}

/// A matrix in memory as [`across`] and [`along`] read it: rows of a stored type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    dtype: Dtype,
    start: *const u8,
    /// Bytes between rows.
    stride: usize,
}

impl Source {
    /// The right factor whose depth runs along rows in memory.
    pub(super) fn across(b: &Rhs<'_, f32>) -> Option<Self> {
        match b {
            Rhs::WeightTransposed(w) => Some(Self::weight(w)),
            Rhs::Dense { data, row_stride: 1, col_stride } => Some(Self::dense(data, *col_stride)),
            _ => None,
        }
    }

    /// The right factor whose columns run along rows in memory.
    pub(super) fn along(b: &Rhs<'_, f32>) -> Option<Self> {
        match b {
            Rhs::Weight(w) => Some(Self::weight(w)),
            Rhs::Dense { data, row_stride, col_stride: 1 } => Some(Self::dense(data, *row_stride)),
            _ => None,
        }
    }

    pub(super) fn weight(w: &WeightView<'_>) -> Self {
        Self { dtype: w.dtype, start: w.data.as_ptr(), stride: w.dtype.row_bytes(w.cols) }
    }

    /// Dense values in memory are a matrix of type F32 (x86-64 is little-endian).
    fn dense(data: &[f32], stride: usize) -> Self {
        Self { dtype: Dtype::F32, start: data.as_ptr().cast(), stride: 4 * stride }
    }
}

/// Writes `$body` out once for each value: shifts and choices of bytes must be constants, which loops that are
/// judged too long to unroll would not give.
macro_rules! unrolled {
    ($i:ident in [$($value:literal),*] $body:block) => {
        $({
            const $i: usize = $value;
            $body
        })*
    };
}

/// Runs `$body` with `$f` as the format of `$dtype`.
macro_rules! with_format {
    ($dtype:expr, $f:ident => $body:expr) => {
        match $dtype {
            Dtype::F32 => {
                type $f = F32;
                $body
            }
            Dtype::F16 => {
                type $f = F16;
                $body
            }
            Dtype::Bf16 => {
                type $f = Bf16;
                $body
            }
            Dtype::Q8_0 => {
                type $f = Q8_0;
                $body
            }
            Dtype::Q4_0 => {
                type $f = Q4_0;
                $body
            }
            Dtype::Q4_1 => {
                type $f = Unpacked<20, Q4_1>;
                $body
            }
            Dtype::Q5_0 => {
                type $f = Unpacked<22, Q5_0>;
                $body
            }
            Dtype::Q5_1 => {
                type $f = Unpacked<24, Q5_1>;
                $body
            }
            Dtype::Q4_K => {
                type $f = Q4_K;
                $body
            }
            Dtype::Q5_K => {
                type $f = Unpacked<176, Q5_K>;
                $body
            }
            Dtype::Q6_K => {
                type $f = Unpacked<210, Q6_K>;
                $body
            }
        }
    };
}

mod blocks;

/// Sends `groups` times 32 values of depth, from `from` on, of sixteen rows from `row` on.
///
/// # Safety
/// The rows and depths exist and `from` is a multiple of 32; [`Sink::pair`].
#[inline(always)]
pub(super) unsafe fn across<S: Sink>(b: Source, row: usize, from: usize, groups: usize, to: &mut S) {
    let start = b.start.wrapping_add(row * b.stride);
    // SAFETY: the caller's promise.
    unsafe { with_format!(b.dtype, F => across_of::<F, S>(start, b.stride, from / GROUP, groups, to)) }
}

#[inline(always)]
unsafe fn across_of<F: Format, S: Sink>(
    start: *const u8,
    stride: usize,
    from: usize,
    groups: usize,
    to: &mut S,
) {
    let mut g = 0;
    while g < groups {
        let block = start.wrapping_add((from + g) / F::GROUPS * F::BYTES);
        // SAFETY: the caller's promise.
        g += unsafe { some_of::<F, S>(block, stride, (from + g) % F::GROUPS, groups - g, g * GROUP / 2, to) };
    }
}

/// [`across`] for sixteen rows for each of several sinks, in turns of 32 values; what follows the rows in memory
/// is prefetched. For the types of `gemv::streams`.
///
/// # Safety
/// As [`across`].
#[inline(always)]
pub(super) unsafe fn across_side_by_side<S: Sink + Copy, const SIDE: usize>(
    b: Source,
    row: usize,
    from: usize,
    groups: usize,
    to: &mut [S; SIDE],
) {
    let start = b.start.wrapping_add(row * b.stride);
    let from = from / GROUP;
    // SAFETY: the caller's promise.
    unsafe {
        match b.dtype {
            Dtype::Bf16 => side_by_side_of::<Bf16, S, SIDE>(start, b.stride, from, groups, to),
            Dtype::Q8_0 => side_by_side_of::<Q8_0, S, SIDE>(start, b.stride, from, groups, to),
            Dtype::Q4_0 => side_by_side_of::<Q4_0, S, SIDE>(start, b.stride, from, groups, to),
            _ => unreachable!("`gemv::streams` names the types"),
        }
    }
}

#[inline(always)]
unsafe fn side_by_side_of<F: Format, S: Sink + Copy, const SIDE: usize>(
    start: *const u8,
    stride: usize,
    from: usize,
    groups: usize,
    to: &mut [S; SIDE],
) {
    // The same place of the next rows, unless that would be too much to keep until then.
    let rows = SIDE * LANES * stride;
    let ahead = if rows <= 192 * 1024 { rows } else { 1024 };
    for g in 0..groups {
        let block = start.wrapping_add((from + g) / F::GROUPS * F::BYTES);
        for (side, to) in to.iter_mut().enumerate() {
            let block = block.wrapping_add(side * LANES * stride);
            if g % 2 == 0 || F::BYTES / F::GROUPS >= GROUP {
                for r in 0..LANES {
                    // SAFETY: a hint takes any address.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(r * stride + ahead).cast()) };
                }
            }
            // A copy is kept in registers.
            let mut sums = *to;
            // SAFETY: the caller's promise.
            unsafe { F::across(block, stride, (from + g) % F::GROUPS, g * GROUP / 2, &mut sums) };
            *to = sums;
        }
    }
}

/// One group, or two that share their bytes where so many are left; how many.
///
/// # Safety
/// As [`Format::across`] for them.
#[inline(always)]
unsafe fn some_of<F: Format, S: Sink>(
    block: *const u8,
    stride: usize,
    group: usize,
    left: usize,
    p: usize,
    to: &mut S,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        if F::SHARES && group.is_multiple_of(2) && left > 1 {
            F::across_two(block, stride, group, p, to);
            2
        } else {
            F::across(block, stride, group, p, to);
            1
        }
    }
}

/// Calls `put(g, values, next)` for `groups` times 32 values of `row` from column `from` on; `next` are those of
/// the row after it when `second`, zeros otherwise.
///
/// # Safety
/// The rows and columns exist and `from` is a multiple of 32; the machine has AVX-512.
#[inline(always)]
pub(super) unsafe fn along(
    b: Source,
    row: usize,
    second: bool,
    from: usize,
    groups: usize,
    put: impl FnMut(usize, [__m512; 2], [__m512; 2]),
) {
    let start = b.start.wrapping_add(row * b.stride);
    // SAFETY: the caller's promise.
    unsafe { with_format!(b.dtype, F => along_of::<F>(start, b.stride, second, from / GROUP, groups, put)) }
}

#[inline(always)]
unsafe fn along_of<F: Format>(
    start: *const u8,
    stride: usize,
    second: bool,
    from: usize,
    groups: usize,
    mut put: impl FnMut(usize, [__m512; 2], [__m512; 2]),
) {
    for g in 0..groups {
        let at = start.wrapping_add((from + g) / F::GROUPS * F::BYTES);
        let group = (from + g) % F::GROUPS;
        // SAFETY: the caller's promise.
        unsafe {
            let next =
                if second { F::along(at.wrapping_add(stride), group) } else { [_mm512_set1_ps(0.0); 2] };
            put(g, F::along(at, group), next);
        }
    }
}

/// 32 values of depth as a format that is read value by value has them in a row.
struct F32;
struct F16;
struct Bf16;
struct Q8_0;
struct Q4_0;
#[allow(non_camel_case_types, reason = "the names are GGUF's")]
struct Q4_K;
/// Any other: unpacked to bytes row by row, then as `Q8_0`.
struct Unpacked<const BYTES: usize, B>(std::marker::PhantomData<B>);

impl Format for F32 {
    const BYTES: usize = 4 * GROUP;
    const GROUPS: usize = 1;

    #[inline(always)]
    unsafe fn along(block: *const u8, _: usize) -> [__m512; 2] {
        // SAFETY: 128 bytes.
        unsafe { [_mm512_loadu_ps(block.cast()), _mm512_loadu_ps(block.cast::<f32>().add(16))] }
    }

    #[inline(always)]
    unsafe fn across<S: Sink>(block: *const u8, stride: usize, _: usize, p: usize, to: &mut S) {
        for half in 0..2 {
            // SAFETY: 64 bytes of each row.
            unsafe {
                let v = super::x86::transposed16(block.add(64 * half), stride);
                unrolled!(I in [0, 1, 2, 3, 4, 5, 6, 7] {
                    let (low, high) = (v[2 * I], v[2 * I + 1]);
                    to.pair(p + 8 * half + I, _mm512_castsi512_ps(low), _mm512_castsi512_ps(high));
                });
            }
        }
    }
}

impl Format for Bf16 {
    const BYTES: usize = 2 * GROUP;
    const GROUPS: usize = 1;

    #[inline(always)]
    unsafe fn along(block: *const u8, _: usize) -> [__m512; 2] {
        // SAFETY: twice 32 bytes.
        unsafe { [bf16(block), bf16(block.add(32))] }
    }

    #[inline(always)]
    unsafe fn across<S: Sink>(block: *const u8, stride: usize, _: usize, p: usize, to: &mut S) {
        // SAFETY: 64 bytes of each row.
        unsafe {
            let v = super::x86::transposed16(block, stride);
            unrolled!(I in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] { to.words(p + I, v[I]) });
        }
    }
}

impl Format for F16 {
    const BYTES: usize = 2 * GROUP;
    const GROUPS: usize = 1;

    #[inline(always)]
    unsafe fn along(block: *const u8, _: usize) -> [__m512; 2] {
        // SAFETY: twice 32 bytes.
        unsafe {
            let second = _mm256_loadu_si256(block.add(32).cast());
            [_mm512_cvtph_ps(_mm256_loadu_si256(block.cast())), _mm512_cvtph_ps(second)]
        }
    }

    #[inline(always)]
    unsafe fn across<S: Sink>(block: *const u8, stride: usize, _: usize, p: usize, to: &mut S) {
        // SAFETY: 64 bytes of each row.
        unsafe {
            let v = super::x86::transposed16(block, stride);
            unrolled!(I in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
                to.pair(p + I, low_f16(v[I]), high_f16(v[I]));
            });
        }
    }
}

impl<const BYTES: usize, B: Blocks<BYTES>> Format for Unpacked<BYTES, B> {
    const BYTES: usize = BYTES;
    const GROUPS: usize = B::GROUPS;

    #[inline(always)]
    unsafe fn along(block: *const u8, group: usize) -> [__m512; 2] {
        // SAFETY: `BYTES` bytes.
        unsafe { unpacked(&B::unpack(&*block.cast(), group)) }
    }

    #[inline(always)]
    unsafe fn across<S: Sink>(block: *const u8, stride: usize, group: usize, p: usize, to: &mut S) {
        let (mut q, mut scales, mut minima) = ([[0i8; GROUP]; LANES], [[0.0f32; LANES]; 2], [0.0f32; LANES]);
        let mut with_minimum = false;
        for r in 0..LANES {
            // SAFETY: `BYTES` bytes of each row.
            let unpacked = unsafe { B::unpack(&*block.add(r * stride).cast(), group) };
            q[r] = unpacked.q;
            (scales[0][r], scales[1][r]) = (unpacked.scales[0], unpacked.scales[1]);
            minima[r] = unpacked.minimum.unwrap_or(0.0);
            with_minimum = unpacked.minimum.is_some();
        }
        // SAFETY: the arrays above.
        unsafe {
            let scales = [_mm512_loadu_ps(scales[0].as_ptr()), _mm512_loadu_ps(scales[1].as_ptr())];
            let minima = with_minimum.then(|| _mm512_loadu_ps(minima.as_ptr()));
            bytes_across(q.as_ptr().cast(), GROUP, scales, minima, p, to);
        }
    }
}

#[inline(always)]
unsafe fn unpacked(group: &unpack::Group) -> [__m512; 2] {
    // SAFETY: sixteen bytes in each half.
    unsafe {
        let low = _mm512_mul_ps(_mm512_set1_ps(group.scales[0]), signed_bytes(group.q.as_ptr().cast()));
        let high =
            _mm512_mul_ps(_mm512_set1_ps(group.scales[1]), signed_bytes(group.q.as_ptr().add(16).cast()));
        match group.minimum {
            Some(m) => [_mm512_add_ps(low, _mm512_set1_ps(m)), _mm512_add_ps(high, _mm512_set1_ps(m))],
            None => [low, high],
        }
    }
}

/// 32 signed bytes of each row, with a scale for each half.
#[inline(always)]
unsafe fn bytes_across<S: Sink>(
    start: *const u8,
    stride: usize,
    scales: [__m512; 2],
    minima: Option<__m512>,
    p: usize,
    to: &mut S,
) {
    // SAFETY: the caller's promise.
    unsafe {
        bytes_across_half(start, stride, scales[0], minima, p, to);
        bytes_across_half(start.add(16), stride, scales[1], minima, p + 8, to);
    }
}

#[inline(always)]
unsafe fn bytes_across_half<S: Sink>(
    start: *const u8,
    stride: usize,
    scale: __m512,
    minima: Option<__m512>,
    p: usize,
    to: &mut S,
) {
    // SAFETY: the caller's promise.
    unsafe {
        // A byte in a lane's highest place is 2²⁴ times its value, and a scale by a power of two is exact.
        let scale = _mm512_mul_ps(scale, _mm512_set1_ps(1.0 / 16_777_216.0));
        let words = four_words(start, stride);
        unrolled!(T in [0, 1, 2, 3] {
            unrolled!(B in [0, 1] {
                let low = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(top_byte(words[T], 2 * B)));
                let high = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(top_byte(words[T], 2 * B + 1)));
                match minima {
                    Some(m) => to.pair(p + 2 * T + B, _mm512_add_ps(low, m), _mm512_add_ps(high, m)),
                    None => to.pair(p + 2 * T + B, low, high),
                }
            });
        });
    }
}

/// Byte `b` of each lane moved to its highest place, zeros below.
#[inline(always)]
unsafe fn top_byte(x: __m512i, b: usize) -> __m512i {
    // SAFETY: AVX-512, the caller's promise.
    unsafe {
        if b == 3 {
            _mm512_and_si512(x, _mm512_set1_epi32(0xff00_0000u32.cast_signed()))
        } else {
            // A negative index gives a zero.
            let lane = |l: i32| (b as i32 + 4 * l) << 24 | 0x00ff_ffff;
            _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(_mm_setr_epi32(lane(0), lane(1), lane(2), lane(3))))
        }
    }
}

/// Sixteen bf16 as floats.
#[inline(always)]
unsafe fn bf16(at: *const u8) -> __m512 {
    // SAFETY: 32 bytes exist.
    unsafe {
        let halves = _mm256_loadu_si256(at.cast());
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }
}

/// Sixteen bytes of each of sixteen rows; word t of row r becomes lane r of vector t.
#[inline(always)]
unsafe fn four_words(start: *const u8, stride: usize) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (every_fourth(start, stride), every_fourth(start.add(stride), stride));
        let (c, d) =
            (every_fourth(start.add(2 * stride), stride), every_fourth(start.add(3 * stride), stride));
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}

/// The first of [`four_words`].
#[inline(always)]
unsafe fn first_words(start: *const u8, stride: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (every_fourth(start, stride), every_fourth(start.add(stride), stride));
        let (c, d) =
            (every_fourth(start.add(2 * stride), stride), every_fourth(start.add(3 * stride), stride));
        _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d))
    }
}

/// Sixteen bytes of rows 0, 4, 8 and 12.
#[inline(always)]
unsafe fn every_fourth(start: *const u8, stride: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let x = _mm512_castsi128_si512(_mm_loadu_si128(start.cast()));
        let x = _mm512_inserti32x4::<1>(x, _mm_loadu_si128(start.add(4 * stride).cast()));
        let x = _mm512_inserti32x4::<2>(x, _mm_loadu_si128(start.add(8 * stride).cast()));
        _mm512_inserti32x4::<3>(x, _mm_loadu_si128(start.add(12 * stride).cast()))
    }
}

/// The lower half of each lane, an f16, exactly.
#[inline(always)]
unsafe fn low_f16(words: __m512i) -> __m512 {
    // SAFETY: AVX-512, the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)) }
}

#[inline(always)]
unsafe fn high_f16(words: __m512i) -> __m512 {
    // SAFETY: as above.
    unsafe { low_f16(_mm512_srli_epi32::<16>(words)) }
}

/// The f16 at `at` in all lanes.
#[inline(always)]
unsafe fn splat_f16(at: *const u8) -> __m512 {
    // SAFETY: two bytes exist.
    unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(at.cast::<i16>().read_unaligned())) }
}

/// Sixteen signed bytes as floats.
#[inline(always)]
unsafe fn signed_bytes(at: *const u8) -> __m512 {
    // SAFETY: sixteen bytes exist.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) }
}

/// What four bits stand for: `from`, `from` + 1, …
#[inline(always)]
unsafe fn nibble_values(from: f32) -> __m512 {
    let values: [f32; 16] = std::array::from_fn(|i| i as f32 + from);
    // SAFETY: sixteen floats.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

/// Each lane to the right by `bits`.
#[inline(always)]
unsafe fn shift(x: __m512i, bits: usize) -> __m512i {
    // SAFETY: AVX-512, the caller's promise.
    unsafe { _mm512_srl_epi32(x, _mm_cvtsi32_si128(bits as i32)) }
}

/// `x >> from & mask` in each lane.
#[inline(always)]
unsafe fn bits(x: __m512i, from: usize, mask: i32) -> __m512i {
    // SAFETY: AVX-512, the caller's promise.
    unsafe { _mm512_and_si512(shift(x, from), _mm512_set1_epi32(mask)) }
}
