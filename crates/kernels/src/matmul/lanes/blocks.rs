//! The quantized formats that are common, from bits to floats without a table.
//!
//! Bits that stand at bit s of a lane, among the lower 23 of a float, are a whole number u on top of M = 2²³⁻ˢ once the
//! rest of the float says M. So two operations make x = scale·q of them, with q = u − o:
//!
//! ```text
//! v = (bits and mask) xor M      v = M + u
//! x = scale·v − scale·(M + o)    one rounding: the product is exact inside, and so is the second one, of at most 24 bits
//! ```
//! Both equal scale·q to the bit (of zeros the sign may differ, which no sum shows; an infinite scale gives NaN).
//!
//! For pairs of bf16 each vector holds two depths of eight rows, neighbours in neighbouring lanes: two such vectors rounded
//! are the pairs of sixteen rows, in order. Else a vector holds one depth of sixteen rows.

use std::arch::x86_64::*;

use super::{Format, Q4_0, Q4_K, Q8_0, Sink, first_words, four_words, high_f16, low_f16};
use super::{bits, nibble_values, signed_bytes, splat_f16, unpacked};
use crate::weight::unpack::{self, Blocks};

/// Bits at 8 to 15 (or fewer of them) as numbers.
#[derive(Clone, Copy)]
struct Bits {
    mask: u32,
    /// M, and what is flipped.
    base: u32,
    /// −(M + o)
    offset: f32,
}

/// Signed bytes: with the sign's bit flipped they are 128 more.
const BYTE: Bits = Bits { mask: 0xff00, base: 0x4700_8000, offset: -32_896.0 };
/// Four bits at 8, and four at 12, less 8.
const LOW: Bits = Bits { mask: 0x0f00, base: 0x4700_0000, offset: -32_776.0 };
const HIGH: Bits = Bits { mask: 0xf000, base: 0x4500_0000, offset: -2056.0 };
/// The same as they are.
const LOW_PLAIN: Bits = Bits { offset: -32_768.0, ..LOW };
const HIGH_PLAIN: Bits = Bits { offset: -2048.0, ..HIGH };

/// How the lanes of a vector become floats.
#[derive(Clone, Copy)]
struct Scaled {
    scale: __m512,
    offset: __m512,
    minimum: Option<__m512>,
}

impl Scaled {
    #[inline(always)]
    unsafe fn new(of: Bits, scale: __m512, minimum: Option<__m512>) -> Self {
        // SAFETY: AVX-512, as everywhere here.
        unsafe { Self { scale, offset: _mm512_mul_ps(scale, _mm512_set1_ps(of.offset)), minimum } }
    }

    /// The value of byte `B` of each lane.
    #[inline(always)]
    unsafe fn of<const B: usize>(self, of: Bits, x: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let x = match B {
                0 => _mm512_slli_epi32::<8>(x),
                1 => x,
                2 => _mm512_srli_epi32::<8>(x),
                _ => _mm512_srli_epi32::<16>(x),
            };
            let (mask, base) =
                (_mm512_set1_epi32(of.mask.cast_signed()), _mm512_set1_epi32(of.base.cast_signed()));
            // (x and mask) xor base
            let v = _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0x6a>(x, mask, base));
            let x = _mm512_fmadd_ps(self.scale, v, self.offset);
            match self.minimum {
                Some(minimum) => _mm512_sub_ps(x, minimum),
                None => x,
            }
        }
    }
}

/// Sixteen bytes of each of sixteen rows.
enum Bytes {
    /// Word t of row r is lane r of vector t.
    ByDepth([__m512i; 4]),
    /// Vector `[h][s]` has bytes 8h to 8h + 7 of row 8s + r in lanes 2r and 2r + 1, even ones in the first.
    ByPairs([[__m512i; 2]; 2]),
}

impl Bytes {
    #[inline(always)]
    unsafe fn load<S: Sink>(start: *const u8, stride: usize) -> Self {
        // SAFETY: the caller has sixteen bytes of each row.
        unsafe {
            if !S::PAIRS {
                return Self::ByDepth(four_words(start, stride));
            }
            let (first, second) =
                (pairs_of_eight(start, stride), pairs_of_eight(start.add(8 * stride), stride));
            Self::ByPairs([[first[0], second[0]], [first[1], second[1]]])
        }
    }

    /// Sends the sixteen depths as pairs from `p` on; `minimum` is subtracted.
    #[inline(always)]
    unsafe fn send<S: Sink>(&self, of: Bits, scale: __m512, minimum: Option<__m512>, p: usize, to: &mut S) {
        // SAFETY: as above.
        unsafe {
            match self {
                Self::ByDepth(words) => {
                    let to_float = Scaled::new(of, scale, minimum);
                    unrolled!(T in [0, 1, 2, 3] {
                        let x = words[T];
                        to.pair(p + 2 * T, to_float.of::<0>(of, x), to_float.of::<1>(of, x));
                        to.pair(p + 2 * T + 1, to_float.of::<2>(of, x), to_float.of::<3>(of, x));
                    });
                }
                Self::ByPairs(halves) => {
                    let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
                    let others = _mm512_add_epi32(twice, _mm512_set1_epi32(8));
                    let to_float = [
                        Scaled::new(of, _mm512_permutexvar_ps(twice, scale), lanes(twice, minimum)),
                        Scaled::new(of, _mm512_permutexvar_ps(others, scale), lanes(others, minimum)),
                    ];
                    unrolled!(H in [0, 1] {
                        let x = halves[H];
                        unrolled!(T in [0, 1, 2, 3] {
                            let [low, high] = [to_float[0].of::<T>(of, x[0]), to_float[1].of::<T>(of, x[1])];
                            to.words(p + 4 * H + T, rounded(low, high));
                        });
                    });
                }
            }
        }
    }
}

// No closures here: they would not be compiled for the instructions.

/// Sixteen bytes of each of eight rows: the half of [`Bytes::ByPairs`] that is theirs.
#[inline(always)]
unsafe fn pairs_of_eight(start: *const u8, stride: usize) -> [__m512i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let order =
            _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
        let (even, odd) = (every_second(start, stride), every_second(start.add(stride), stride));
        [
            _mm512_shuffle_epi8(_mm512_unpacklo_epi64(even, odd), order),
            _mm512_shuffle_epi8(_mm512_unpackhi_epi64(even, odd), order),
        ]
    }
}

#[inline(always)]
#[allow(clippy::manual_map, reason = "a closure")]
unsafe fn lanes(at: __m512i, x: Option<__m512>) -> Option<__m512> {
    match x {
        // SAFETY: AVX-512.
        Some(x) => Some(unsafe { _mm512_permutexvar_ps(at, x) }),
        None => None,
    }
}

/// Sixteen bytes of rows 0, 2, 4 and 6.
#[inline(always)]
unsafe fn every_second(start: *const u8, stride: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let x = _mm512_castsi128_si512(_mm_loadu_si128(start.cast()));
        let x = _mm512_inserti32x4::<1>(x, _mm_loadu_si128(start.add(2 * stride).cast()));
        let x = _mm512_inserti32x4::<2>(x, _mm_loadu_si128(start.add(4 * stride).cast()));
        _mm512_inserti32x4::<3>(x, _mm_loadu_si128(start.add(6 * stride).cast()))
    }
}

/// Rounded to bf16, `low` in the lower half.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 512 bits.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

impl Format for Q8_0 {
    const BYTES: usize = 34;
    const GROUPS: usize = 1;

    #[inline(always)]
    unsafe fn along(block: *const u8, _: usize) -> [__m512; 2] {
        // SAFETY: 34 bytes.
        unsafe {
            let d = splat_f16(block);
            [_mm512_mul_ps(d, signed_bytes(block.add(2))), _mm512_mul_ps(d, signed_bytes(block.add(18)))]
        }
    }

    #[inline(always)]
    unsafe fn across<S: Sink>(block: *const u8, stride: usize, _: usize, p: usize, to: &mut S) {
        // SAFETY: 34 bytes of each row.
        unsafe {
            let d = low_f16(first_words(block, stride));
            Bytes::load::<S>(block.add(2), stride).send(BYTE, d, None, p, to);
            Bytes::load::<S>(block.add(18), stride).send(BYTE, d, None, p + 8, to);
        }
    }
}

impl Format for Q4_0 {
    const BYTES: usize = 18;
    const GROUPS: usize = 1;

    #[inline(always)]
    unsafe fn along(block: *const u8, _: usize) -> [__m512; 2] {
        // SAFETY: 18 bytes.
        unsafe {
            let (d, q) = (splat_f16(block), _mm512_cvtepu8_epi32(_mm_loadu_si128(block.add(2).cast())));
            let table = nibble_values(-8.0);
            let low = _mm512_permutexvar_ps(q, table);
            let high = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(q), table);
            [_mm512_mul_ps(d, low), _mm512_mul_ps(d, high)]
        }
    }

    #[inline(always)]
    unsafe fn across<S: Sink>(block: *const u8, stride: usize, _: usize, p: usize, to: &mut S) {
        // SAFETY: 18 bytes of each row.
        unsafe {
            let d = low_f16(first_words(block, stride));
            let bytes = Bytes::load::<S>(block.add(2), stride);
            bytes.send(LOW, d, None, p, to);
            bytes.send(HIGH, d, None, p + 8, to);
        }
    }
}

impl Format for Q4_K {
    const BYTES: usize = 144;
    const GROUPS: usize = 8;

    #[inline(always)]
    unsafe fn along(block: *const u8, group: usize) -> [__m512; 2] {
        // SAFETY: 144 bytes.
        unsafe { unpacked(&unpack::Q4_K::unpack(&*block.cast(), group)) }
    }

    const SHARES: bool = true;

    #[inline(always)]
    unsafe fn across<S: Sink>(block: *const u8, stride: usize, group: usize, p: usize, to: &mut S) {
        let of = if group.is_multiple_of(2) { LOW_PLAIN } else { HIGH_PLAIN };
        // SAFETY: 144 bytes of each row.
        unsafe {
            let (scale, minimum) = scale_and_minimum(four_words(block, stride), group);
            let at = block.add(16 + 32 * (group / 2));
            Bytes::load::<S>(at, stride).send(of, scale, Some(minimum), p, to);
            Bytes::load::<S>(at.add(16), stride).send(of, scale, Some(minimum), p + 8, to);
        }
    }

    #[inline(always)]
    unsafe fn across_two<S: Sink>(block: *const u8, stride: usize, group: usize, p: usize, to: &mut S) {
        // SAFETY: 144 bytes of each row.
        unsafe {
            let header = four_words(block, stride);
            let at = block.add(16 + 32 * (group / 2));
            let bytes = [Bytes::load::<S>(at, stride), Bytes::load::<S>(at.add(16), stride)];
            for (i, of) in [LOW_PLAIN, HIGH_PLAIN].into_iter().enumerate() {
                let (scale, minimum) = scale_and_minimum(header, group + i);
                bytes[0].send(of, scale, Some(minimum), p + 16 * i, to);
                bytes[1].send(of, scale, Some(minimum), p + 16 * i + 8, to);
            }
        }
    }
}

/// As `unpack::scaled_twice`, all rows at once.
#[inline(always)]
unsafe fn scale_and_minimum([halves, s0, s1, s2]: [__m512i; 4], group: usize) -> (__m512, __m512) {
    let at = 8 * (group % 4);
    // SAFETY: AVX-512.
    unsafe {
        let (scale, minimum) = if group < 4 {
            (bits(s0, at, 63), bits(s1, at, 63))
        } else {
            let (low, high) = (bits(s0, at + 6, 3), bits(s1, at + 6, 3));
            (
                _mm512_or_si512(bits(s2, at, 15), _mm512_slli_epi32::<4>(low)),
                _mm512_or_si512(bits(s2, at + 4, 15), _mm512_slli_epi32::<4>(high)),
            )
        };
        let scale = _mm512_mul_ps(low_f16(halves), _mm512_cvtepi32_ps(scale));
        (scale, _mm512_mul_ps(high_f16(halves), _mm512_cvtepi32_ps(minimum)))
    }
}
