//! Products of one to four rows with a frozen weight (decoding): the weight is streamed once, turned into floats in
//! registers and multiplied there; nothing is packed.
//!
//! A vector holds sixteen columns of the result, so every element is the same chain of multiply-adds in ascending
//! depth as in the product of many rows, and the bits are the same. A chain waits for itself, so several groups of
//! sixteen columns run side by side. Other formats, and five rows and more, take the packed way ([`super::small_m`]): each
//! instance here is some hundred instructions long.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::ops::Range;

use super::lanes::{LANES, Sink, Source, across_side_by_side};
use super::pack512::{round_pairs, split_words};
use super::{Init, Lhs, Target};
use crate::weight::unpack::GROUP;
use crate::{Dtype, Values, WeightView};

/// The most rows.
pub(super) const ROWS: usize = 4;
/// Columns of a group that runs side by side; ranges of columns are whole ones.
pub(super) const COLUMNS: usize = 64;

/// Whether weights of this type have instances.
pub(super) fn streams(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Bf16 | Dtype::Q8_0 | Dtype::Q4_0)
}

/// `M` rows of sixteen columns.
#[derive(Clone, Copy)]
struct Rows<const M: usize, const PAIRS: bool> {
    acc: [__m512; M],
    /// Value (or pair) p of row i at `i·stride + p`.
    x: *const f32,
    stride: usize,
}

impl<const M: usize, const PAIRS: bool> Rows<M, PAIRS> {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled inside the entries below")]
    unsafe fn at(&self, i: usize, p: usize) -> __m512 {
        // SAFETY: the entries below own `M` rows of all depths that they send.
        unsafe { _mm512_set1_ps(*self.x.add(i * self.stride + p)) }
    }
}

impl<const M: usize, const PAIRS: bool> Sink for Rows<M, PAIRS> {
    const PAIRS: bool = PAIRS;

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as above")]
    unsafe fn pair(&mut self, p: usize, low: __m512, high: __m512) {
        // SAFETY: as above.
        unsafe {
            if PAIRS {
                self.words(p, round_pairs(low, high));
                return;
            }
            for i in 0..M {
                self.acc[i] = _mm512_fmadd_ps(self.at(i, 2 * p), low, self.acc[i]);
            }
            for i in 0..M {
                self.acc[i] = _mm512_fmadd_ps(self.at(i, 2 * p + 1), high, self.acc[i]);
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as above")]
    unsafe fn words(&mut self, p: usize, words: __m512i) {
        // SAFETY: as above; words and pairs are 512 bits both.
        unsafe {
            if !PAIRS {
                let (low, high) = split_words(words);
                self.pair(p, low, high);
                return;
            }
            let words = std::mem::transmute::<__m512i, __m512bh>(words);
            for i in 0..M {
                let x = std::mem::transmute::<__m512, __m512bh>(self.at(i, p));
                self.acc[i] = _mm512_dpbf16_ps(self.acc[i], x, words);
            }
        }
    }
}

macro_rules! entry {
    ($name:ident, $tile:ident, $pairs:literal, $features:literal) => {
        /// `c[.., cols] = init + a·wᵀ[.., cols]` for at most [`ROWS`] rows.
        ///
        /// # Safety
        /// The machine has the instructions and [`streams`] the type. All operands have the values that the shapes
        /// name, `cols` are whole groups of [`COLUMNS`], `k` is a positive multiple of 32, the scratch holds
        /// `PACKED` values, and nobody else touches those columns of the result.
        pub(super) unsafe fn $name(
            m: usize,
            cols: Range<usize>,
            k: usize,
            a: Lhs<'_, f32>,
            w: WeightView<'_>,
            init: Init<'_>,
            c: Target<f32>,
            scratch: &mut [f32],
        ) {
            // SAFETY: passed on.
            unsafe {
                match m {
                    1 => $tile::<1, 4>(m, cols, k, a, w, init, c, scratch),
                    _ => $tile::<ROWS, 2>(m, cols, k, a, w, init, c, scratch),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $tile<const M: usize, const SIDE: usize>(
            m: usize,
            cols: Range<usize>,
            k: usize,
            a: Lhs<'_, f32>,
            w: WeightView<'_>,
            init: Init<'_>,
            c: Target<f32>,
            scratch: &mut [f32],
        ) {
            const PER_STEP: usize = if $pairs { 2 } else { 1 };
            let source = Source::weight(&w);
            // As much depth as the scratch holds of the left factor.
            let most = (PER_STEP * scratch.len() / M / GROUP * GROUP).min(k);
            for k0 in (0..k).step_by(most) {
                let depth = most.min(k - k0);
                let steps = depth / PER_STEP;
                let from = if k0 == 0 { init } else { Init::Accumulate };
                for (i, row) in scratch.chunks_exact_mut(steps).take(M).enumerate() {
                    // Rows past the last repeat it; they are not stored.
                    let start = i.min(m - 1) * a.row_stride + k0 * a.col_stride;
                    let (strides, size) = ([0, a.col_stride], [1, depth]);
                    match a.data {
                        Values::Full(a) if $pairs => {
                            super::pack32::round_tile(row, &a[start..], strides, size)
                        }
                        Values::Full(a) => {
                            row.iter_mut().enumerate().for_each(|(p, x)| *x = a[start + p * strides[1]]);
                        }
                        Values::Bf16(a) if $pairs => {
                            super::pack32::pair_tile(row, &a[start..], strides, size)
                        }
                        Values::Bf16(a) => super::rounded::widened(row, &a[start..], strides, size),
                    }
                }
                let x = scratch.as_ptr();
                for j in cols.clone().step_by(SIDE * LANES) {
                    // SAFETY: the caller's promise; the scratch holds `M` rows of `steps`.
                    unsafe { group::<M, SIDE, $pairs>(m, j, [k0, depth], x, source, from, c) };
                }
            }
        }
    };
}

entry!(full, full_of, false, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");
entry!(pairs, pairs_of, true, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma");

/// Sixteen columns, `SIDE` times.
#[inline(always)]
#[allow(clippy::inline_always, reason = "as above")]
unsafe fn group<const M: usize, const SIDE: usize, const PAIRS: bool>(
    m: usize,
    j: usize,
    [k0, depth]: [usize; 2],
    x: *const f32,
    w: Source,
    init: Init<'_>,
    c: Target<f32>,
) {
    let stride = if PAIRS { depth / 2 } else { depth };
    // SAFETY: as above.
    unsafe {
        let place = |side: usize, i: usize| c.start.add(i * c.row_stride + (j + side * LANES) * c.col_stride);
        let mut all: [Rows<M, PAIRS>; SIDE] =
            std::array::from_fn(|_| Rows { acc: [_mm512_setzero_ps(); M], x, stride });
        for (side, rows) in all.iter_mut().enumerate() {
            for i in 0..m.min(M) {
                rows.acc[i] = match init {
                    Init::Zero => _mm512_setzero_ps(),
                    Init::Bias(bias) => _mm512_loadu_ps(bias[j + side * LANES..][..LANES].as_ptr()),
                    Init::Accumulate => {
                        let values: [f32; LANES] =
                            std::array::from_fn(|l| *place(side, i).add(l * c.col_stride));
                        _mm512_loadu_ps(values.as_ptr())
                    }
                };
            }
        }
        across_side_by_side(w, j, k0, depth / GROUP, &mut all);
        for (side, rows) in all.iter().enumerate() {
            for i in 0..m.min(M) {
                let mut values = [0.0; LANES];
                _mm512_storeu_ps(values.as_mut_ptr(), rows.acc[i]);
                for (l, v) in values.into_iter().enumerate() {
                    *place(side, i).add(l * c.col_stride) = v;
                }
            }
        }
    }
}
