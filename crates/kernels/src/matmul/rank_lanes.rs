//! Rank-r products whose right factor lies along the depth: `h = x·Aᵀ` and `dh = dy·B` of adapters.
//!
//! ```text
//! out[i, j] = init + Σ_p (alpha·a[i, p]) · b[p, j]        i a rank, in a lane    j a row of x, read in place    p along it
//! ```
//!
//! The few values `a[·, p]` fill a vector, and values of `b` are broadcast from where they are, so nothing large is packed;
//! a vector of eight takes two multiply-adds a cycle where one of sixteen takes one. Every element is the chain of
//! [`super::rank_r`], to the bit.

use std::ops::Range;

use super::{Init, Lhs, PACKED, Target, start};
use crate::compact::wide;
use crate::{Real, Values};

/// `sums[row, lane] += Σ_p b[row, p] · packed[p, lane]` for some rows, which begin so many values apart: rows (one of
/// [`HEIGHTS`]), depth, b, distance of its rows, packed, sums.
/// The function is unsafe: all of these elements must exist, and the sums must be the caller's alone.
type Run<R> = unsafe fn(usize, usize, *const R, usize, *const R, *mut R);

/// A microkernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct RankLanes<R> {
    /// Ranks that it takes.
    pub(super) lanes: usize,
    pub(super) run: Run<R>,
}

/// Rows of tiles.
const HEIGHTS: [usize; 3] = [12, 4, 1];
/// Most lanes of any.
const LANES: usize = 16;
/// Depth of a block: what it packs stays in the second-level cache.
const DEPTH: usize = 4096;

const _: () = assert!(DEPTH * LANES <= PACKED);

/// Columns `rows` of the result. They are rows of `b`, `b_rows` values apart, and the ranks of each lie together.
///
/// # Safety
/// All operands have the values that the shape names, `c.row_stride` is 1, and these rows' part of the result is the
/// caller's alone.
pub(super) unsafe fn rows<R: Real>(
    [narrower, wider]: [RankLanes<R>; 2],
    rows: &Range<usize>,
    [m, k]: [usize; 2],
    alpha: R,
    a: &Lhs<'_, R>,
    (b, b_rows): (&[R], usize),
    init: Init<'_>,
    c: Target<R>,
    packed: &mut [R],
) {
    let mut sums = [R::ZERO; HEIGHTS[0] * LANES];
    for k0 in (0..k.max(1)).step_by(DEPTH) {
        let depth = k0..(k0 + DEPTH).min(k);
        let init = if k0 == 0 { init } else { Init::Accumulate };
        let mut done = 0;
        while done < m {
            let RankLanes { lanes, run } = if m - done <= narrower.lanes { narrower } else { wider };
            let ranks = done..(done + lanes).min(m);
            pack(packed, lanes, a, &ranks, &depth, alpha);
            let mut row = rows.start;
            while row < rows.end {
                let height = HEIGHTS.into_iter().find(|h| *h <= rows.end - row).unwrap_or(1);
                // SAFETY: the caller's promise: `height` rows of this depth of `b`, and `ranks` of as many columns of the
                // result; the sums have room for them.
                unsafe {
                    let origin = c.start.add(row * c.col_stride + ranks.start);
                    let at = sums.as_mut_ptr();
                    start(at, lanes, origin, [c.col_stride, 1], height, &(0..ranks.len()), init);
                    run(height, depth.len(), b.as_ptr().add(row * b_rows + k0), b_rows, packed.as_ptr(), at);
                    for (i, sums) in sums.chunks_exact(lanes).enumerate().take(height) {
                        for (j, sum) in sums[..ranks.len()].iter().enumerate() {
                            *origin.add(i * c.col_stride + j) = *sum;
                        }
                    }
                }
                row += height;
            }
            done = ranks.end;
        }
    }
}

/// `packed[p·lanes + i] = alpha·a[ranks.start + i, depth.start + p]`, zeros in the lanes past the ranks.
fn pack<R: Real>(
    packed: &mut [R],
    lanes: usize,
    a: &Lhs<'_, R>,
    ranks: &Range<usize>,
    depth: &Range<usize>,
    alpha: R,
) {
    let first = |i: usize| i * a.row_stride + depth.start * a.col_stride;
    let packed = &mut packed[..depth.len() * lanes];
    match a.data {
        Values::Full(data) if a.col_stride == 1 => {
            let mut of = [&[][..]; LANES];
            for (i, of) in ranks.clone().zip(&mut of) {
                *of = &data[first(i)..][..depth.len()];
            }
            for (p, to) in packed.chunks_exact_mut(lanes).enumerate() {
                for (to, of) in to.iter_mut().zip(&of) {
                    *to = of.get(p).map_or(R::ZERO, |a| alpha * *a);
                }
            }
        }
        data => {
            for (p, to) in packed.chunks_exact_mut(lanes).enumerate() {
                to.fill(R::ZERO);
                let at = p * a.col_stride;
                for (i, to) in ranks.clone().zip(to) {
                    *to = alpha
                        * match data {
                            Values::Full(data) => data[first(i) + at],
                            Values::Bf16(data) => R::from_f32(wide(data[first(i) + at])),
                        };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };

    use super::RankLanes;

    pub(in crate::matmul) const AVX512: [RankLanes<f32>; 2] =
        [RankLanes { lanes: 8, run: half_avx512 }, RankLanes { lanes: 16, run: whole_avx512 }];
    pub(in crate::matmul) const AVX2: [RankLanes<f32>; 2] = [RankLanes { lanes: 8, run: whole_avx2 }; 2];

    macro_rules! kernel {
        ($run:ident, $tile:ident, $features:literal, $vec:ty, $lanes:literal, $zero:ident, $load:ident, $store:ident,
         $splat:ident, $fma:ident) => {
            #[target_feature(enable = $features)]
            unsafe fn $tile<const HEIGHT: usize>(
                depth: usize,
                b: *const f32,
                b_rows: usize,
                packed: *const f32,
                sums: *mut f32,
            ) {
                let mut acc: [$vec; HEIGHT] = [$zero(); HEIGHT];
                // SAFETY: the contract of `Run`.
                unsafe {
                    for (i, acc) in acc.iter_mut().enumerate() {
                        *acc = $load(sums.add(i * $lanes));
                    }
                    for p in 0..depth {
                        let a = $load(packed.add(p * $lanes));
                        for (i, acc) in acc.iter_mut().enumerate() {
                            *acc = $fma($splat(*b.add(i * b_rows + p)), a, *acc);
                        }
                    }
                    for (i, acc) in acc.iter().enumerate() {
                        $store(sums.add(i * $lanes), *acc);
                    }
                }
            }

            /// [`super::Run`] for this instruction set.
            ///
            /// # Safety
            /// The contract of [`super::Run`], on a machine that has the instructions.
            unsafe fn $run(
                height: usize,
                depth: usize,
                b: *const f32,
                b_rows: usize,
                packed: *const f32,
                sums: *mut f32,
            ) {
                // SAFETY: passed on from the caller.
                unsafe {
                    match height {
                        12 => $tile::<12>(depth, b, b_rows, packed, sums),
                        4 => $tile::<4>(depth, b, b_rows, packed, sums),
                        _ => $tile::<1>(depth, b, b_rows, packed, sums),
                    }
                }
            }
        };
    }

    kernel!(
        half_avx512,
        tile_half_avx512,
        "avx512f,avx512vl,avx2,fma",
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps
    );
    kernel!(
        whole_avx512,
        tile_whole_avx512,
        "avx512f",
        __m512,
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps
    );
    kernel!(
        whole_avx2,
        tile_whole_avx2,
        "avx2,fma",
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps
    );
}
