//! Packing with AVX-512: whole groups of 32 by 16 values straight from their stored form into the panel.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtne2ps_pbh,
    _mm512_loadu_si512, _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_slli_epi32, _mm512_storeu_ps,
    _mm512_storeu_si512,
};

use super::Rhs;
use super::lanes::{LANES, Sink, Source, across, along};
use crate::weight::unpack::GROUP;

/// Where packed vectors go: row p of the panel at `to + p·width`, as values or as pairs.
struct Panel<const PAIRS: bool> {
    to: *mut f32,
    width: usize,
}

impl<const PAIRS: bool> Sink for Panel<PAIRS> {
    const PAIRS: bool = PAIRS;

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled inside the entries below")]
    unsafe fn pair(&mut self, p: usize, low: __m512, high: __m512) {
        // SAFETY: the entries below own a panel with a place for each pair.
        unsafe {
            if PAIRS {
                _mm512_storeu_si512(self.to.add(p * self.width).cast(), round_pairs(low, high));
            } else {
                _mm512_storeu_ps(self.to.add(2 * p * self.width), low);
                _mm512_storeu_ps(self.to.add((2 * p + 1) * self.width), high);
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as above")]
    unsafe fn words(&mut self, p: usize, words: __m512i) {
        // SAFETY: as above.
        unsafe {
            if PAIRS {
                _mm512_storeu_si512(self.to.add(p * self.width).cast(), words);
            } else {
                let (low, high) = split_words(words);
                self.pair(p, low, high);
            }
        }
    }
}

/// The two bf16 of each lane as floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn split_words(words: __m512i) -> (__m512, __m512) {
    let high = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000u32.cast_signed()));
    (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)), _mm512_castsi512_ps(high))
}

/// Words `from`, `from + apart`, `from + 1`, `from + 1 + apart`, …
pub(super) const fn alternating(from: u16, apart: u16) -> [u16; 32] {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = from + i as u16 / 2 + apart * (i as u16 % 2);
        i += 1;
    }
    order
}

/// Both rounded to bf16, ties to even, `low` in the lower half of each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn round_pairs(low: __m512, high: __m512) -> __m512i {
    const ORDER: [u16; 32] = alternating(0, 16);
    // SAFETY: 64 bytes of a constant; both types of the result are 512 bits.
    unsafe {
        let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
        _mm512_permutexvar_epi16(
            order,
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)),
        )
    }
}

macro_rules! entry {
    ($name:ident, $pairs:literal, $features:literal) => {
        /// Packs what lies in whole groups and returns how much of the depth that was: all, a multiple of 32
        /// below it, or nothing. Padding is not touched.
        ///
        /// # Safety
        /// The machine has the instructions; `b` holds `depth × width` values from `(k0, n0)`, and `packed` the
        /// panel.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(
            packed: &mut [f32],
            b: Rhs<'_, f32>,
            [k0, depth]: [usize; 2],
            [n0, width]: [usize; 2],
            padded: usize,
        ) -> usize {
            const PER_STEP: usize = if $pairs { 2 } else { 1 };
            assert!(packed.len() >= depth.div_ceil(PER_STEP) * padded && width <= padded, "a panel's place");
            let to = packed.as_mut_ptr();
            if let Some(source) = Source::across(&b)
                && k0.is_multiple_of(GROUP)
                && width >= LANES
            {
                // The last sixteen columns may overlap those before: the same values once more.
                for j in (0..width).step_by(LANES).map(|j| j.min(width - LANES)) {
                    let mut panel = Panel::<$pairs> { to: to.wrapping_add(j), width: padded };
                    // SAFETY: sixteen columns and whole groups of what the caller promises.
                    unsafe { across(source, n0 + j, k0, depth / GROUP, &mut panel) };
                }
                return depth / GROUP * GROUP;
            }
            if let Some(source) = Source::along(&b)
                && n0.is_multiple_of(GROUP)
                && width.is_multiple_of(GROUP)
            {
                for p in (0..depth).step_by(PER_STEP) {
                    let mut panel =
                        Panel::<$pairs> { to: to.wrapping_add(p / PER_STEP * padded), width: LANES };
                    let second = PER_STEP == 2 && p + 1 < depth;
                    // SAFETY: one or two rows and whole groups of columns of what the caller promises; a row of
                    // the panel holds them.
                    unsafe {
                        along(source, k0 + p, second, n0, width / GROUP, |g, low, high| {
                            for h in 0..2 {
                                if $pairs {
                                    panel.pair(2 * g + h, low[h], high[h]);
                                } else {
                                    panel.single(2 * g + h, low[h]);
                                }
                            }
                        });
                    }
                }
                return depth;
            }
            0
        }
    };
}

impl<const PAIRS: bool> Panel<PAIRS> {
    /// One vector to place `i`.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as above")]
    unsafe fn single(&mut self, i: usize, x: __m512) {
        // SAFETY: as above.
        unsafe {
            _mm512_storeu_ps(self.to.add(i * self.width), x);
        }
    }
}

entry!(full, false, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");
entry!(pairs, true, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma");

/// Packs 32 columns from `n0` on for tiles of sixteen: pair p of column j of the first half at `16·p + j`, the second half
/// behind the first. Depth and columns are in whole groups.
///
/// # Safety
/// The machine has the instructions, and `b` holds `depth × 32` values from `(k0, n0)`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn sixteens(to: &mut [f32], b: &Rhs<'_, f32>, [k0, depth]: [usize; 2], n0: usize) {
    let half = LANES * depth / 2;
    assert!(
        k0.is_multiple_of(GROUP) && depth.is_multiple_of(GROUP) && n0.is_multiple_of(GROUP),
        "whole groups"
    );
    assert!(to.len() >= 2 * half, "the panel's place");
    let to = to.as_mut_ptr();
    if let Some(source) = Source::across(b) {
        for h in 0..2 {
            let mut panel = Panel::<true> { to: to.wrapping_add(h * half), width: LANES };
            // SAFETY: sixteen columns and whole groups of what the caller promises.
            unsafe { across(source, n0 + h * LANES, k0, depth / GROUP, &mut panel) };
        }
    } else if let Some(source) = Source::along(b) {
        for p in 0..depth / 2 {
            let mut panel = Panel::<true> { to: to.wrapping_add(p * LANES), width: half };
            // SAFETY: two rows and a group of columns of what the caller promises.
            unsafe {
                along(source, k0 + 2 * p, true, n0, 1, |_, low, high| {
                    panel.pair(0, low[0], high[0]);
                    panel.pair(1, low[1], high[1]);
                });
            }
        }
    } else {
        unreachable!("weights only");
    }
}
