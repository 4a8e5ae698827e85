//! The innermost loop: a tile of the result held in registers while `k` runs.

use std::any::Any;
use std::ops::Range;

use super::rank_lanes::RankLanes;
use super::{Compute, GROUP, Init, KC, Lhs, MR, NR, Out, PACKED, Rhs, Target, Term, pack};
use crate::isa::vectorized;
use crate::par::Par;
use crate::{Dtype, Real, WeightView};

/// `c[height, vectors·lane] += a[height, steps] · packed[steps, vectors·lane]`, the sum of each element in
/// ascending depth, starting from what `c` holds. A step is one value of depth, or a pair of bf16.
///
/// Arguments: height, vectors, steps, a, row and column stride of a, packed and its row stride, c, row stride of c.
/// The function is unsafe: all of these elements must exist and `c` must be the caller's alone.
pub(super) type Run<R> =
    unsafe fn(usize, usize, usize, *const R, usize, usize, *const R, usize, *mut R, usize);

/// Packs `depth × width` of the right factor from `(k0, n0)`, rows padded to `padded`, times alpha.
pub(super) type Pack<R> = fn(&mut [R], Rhs<'_, R>, usize, usize, usize, usize, usize, R);

/// Prepares `height × depth` of the left factor with strides: rows of steps, one after another.
pub(super) type Left<R> = fn(&mut [R], &[R], [usize; 2], [usize; 2]);

/// The same from bf16.
pub(super) type LeftBf16<R> = fn(&mut [R], &[u16], [usize; 2], [usize; 2]);

/// A product of one to four rows with a frozen weight, transposed: rows, columns, depth, left factor, weight, init,
/// result, scratch of [`PACKED`] values.
/// The function is unsafe: columns and depth are in whole groups, all operands have the values that the shapes
/// name, and these columns of the result must be the caller's alone.
pub(super) type RunGemv<R> =
    unsafe fn(usize, Range<usize>, usize, Lhs<'_, R>, WeightView<'_>, Init<'_>, Target<R>, &mut [R]);

/// How products of one to four rows are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gemv<R> {
    /// The most rows.
    pub(super) rows: usize,
    /// Columns of a group.
    pub(super) columns: usize,
    /// For which types of weights.
    pub(super) streams: fn(Dtype) -> bool,
    pub(super) run: RunGemv<R>,
}

/// A whole product of many rows: microkernel, result, size, factors, init, term, scratch, threads.
pub(super) type RunMany<R> = fn(
    &Micro<R>,
    Out<'_, R>,
    [usize; 3],
    Lhs<'_, R>,
    Rhs<'_, R>,
    Init<'_>,
    Option<Term<'_, R>>,
    &mut [R],
    Par<'_>,
);

/// Whether a product is made so: result, size, factors.
pub(super) type Takes<R> = fn(&Out<'_, R>, [usize; 3], &Lhs<'_, R>, &Rhs<'_, R>) -> bool;

/// How products of many rows are made that have a way of their own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Many<R> {
    pub(super) takes: Takes<R>,
    pub(super) run: RunMany<R>,
}

/// A microkernel, its tile, and what its operands must look like.
#[derive(Debug, Clone, Copy)]
pub struct Micro<R> {
    /// Rows of a tile, at most `MR`.
    pub(super) mr: usize,
    /// Columns of a tile, at most `NR`, a multiple of `lane`.
    pub(super) nr: usize,
    /// Columns of one vector.
    pub(super) lane: usize,
    /// Values of depth in a step.
    pub(super) per_step: usize,
    /// Depth packed at a time, at most `KC`.
    pub(super) kc: usize,
    /// Panels packed together: at most what [`PACKED`] values hold.
    pub(super) group: usize,
    pub(super) pack: Pack<R>,
    /// How values of the left factor become what `run` reads; none where it reads them as they are.
    pub(super) left: Option<Left<R>>,
    pub(super) left_bf16: LeftBf16<R>,
    /// The same in place for rows of depth, each of so many values; none where `run` reads them as they are.
    pub(super) transposed: Option<fn(&mut [R], usize)>,
    pub(super) run: Run<R>,
    pub(super) gemv: Option<Gemv<R>>,
    pub(super) many: Option<Many<R>>,
    /// For rank-r products: the one of fewer ranks, and one that takes more ranks where there is one.
    pub(super) rank_lanes: Option<[RankLanes<R>; 2]>,
}

impl<R: Real> Micro<R> {
    /// Plain Rust that the compiler vectorizes: every machine, every [`Real`].
    pub(crate) fn portable() -> Self {
        const { assert!(4 <= MR && 16 <= NR && GROUP * KC <= PACKED) };
        Self {
            mr: 4,
            nr: 16,
            lane: 16,
            per_step: 1,
            kc: KC,
            group: GROUP / 16,
            pack: pack::plain::<R>,
            left: None,
            transposed: None,
            left_bf16: super::rounded::widened::<R>,
            run: portable::<R>,
            gemv: None,
            many: None,
            rank_lanes: None,
        }
    }
}

impl<R: Real> Micro<R> {
    /// The fastest for this type on this machine.
    pub(crate) fn of(compute: Compute) -> Self {
        let single = Micro::for_f32(compute);
        let any: &dyn Any = &single;
        any.downcast_ref::<Self>().copied().unwrap_or_else(Self::portable)
    }
}

impl Micro<f32> {
    /// The fastest for this machine.
    fn for_f32(compute: Compute) -> Self {
        let full = Self::full();
        match compute {
            Compute::Full => full,
            #[cfg(target_arch = "x86_64")]
            Compute::Bf16 if crate::isa() == crate::Isa::Avx512Bf16 => Self {
                gemv: Some(streamed(super::gemv::pairs)),
                many: Some(Many { takes: super::rows_in_lanes::takes, run: super::rows_in_lanes::run }),
                ..Self::pairs(64, 16, super::x86::avx512_bf16)
            },
            #[cfg(target_arch = "aarch64")]
            Compute::Bf16 if crate::isa() == crate::Isa::NeonBf16 => {
                Self::pairs(16, 4, super::neon::neon_bf16)
            }
            // The same numbers without the instruction: factors are rounded, then multiplied in f32.
            Compute::Bf16 => Self {
                pack: super::rounded::pack,
                left: Some(super::rounded::left),
                transposed: Some(super::rounded::transposed),
                gemv: None,
                ..full
            },
        }
    }

    /// Products of bf16 pairs in tiles of 6 rows and `nr` columns.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn pairs(nr: usize, lane: usize, run: Run<f32>) -> Self {
        Self {
            mr: 6,
            nr,
            lane,
            per_step: 2,
            kc: KC,
            group: super::GROUP_PAIRS / nr,
            pack: super::pack32::pairs,
            left: Some(super::pack32::round_tile),
            transposed: Some(super::pack32::pair_rows),
            left_bf16: super::pack32::pair_tile,
            run,
            gemv: None,
            many: None,
            rank_lanes: None,
        }
    }

    fn full() -> Self {
        #[cfg(target_arch = "aarch64")]
        if crate::isa() != crate::Isa::Portable {
            return Self { mr: 6, lane: 4, run: super::neon::neon, ..Self::portable() };
        }
        #[cfg(target_arch = "x86_64")]
        {
            let pack = super::pack32::full;
            let (per_step, left, left_bf16) = (1, None, super::rounded::widened::<f32>);
            match crate::isa() {
                crate::Isa::Avx512 | crate::Isa::Avx512Bf16 => {
                    return Self {
                        mr: 6,
                        nr: 64,
                        lane: 16,
                        per_step,
                        kc: KC,
                        group: GROUP / 64,
                        pack,
                        left,
                        transposed: None,
                        left_bf16,
                        run: super::x86::avx512,
                        gemv: Some(streamed(super::gemv::full)),
                        many: None,
                        rank_lanes: Some(super::rank_lanes::x86::AVX512),
                    };
                }
                crate::Isa::Avx2 => {
                    return Self {
                        mr: 6,
                        nr: 16,
                        lane: 8,
                        per_step,
                        kc: KC,
                        group: GROUP / 16,
                        pack: pack::plain,
                        left,
                        transposed: None,
                        left_bf16,
                        run: super::x86::avx2,
                        gemv: None,
                        many: None,
                        rank_lanes: Some(super::rank_lanes::x86::AVX2),
                    };
                }
                _ => {}
            }
        }
        Self::portable()
    }
}

#[cfg(target_arch = "x86_64")]
fn streamed(run: RunGemv<f32>) -> Gemv<f32> {
    use super::gemv::{COLUMNS, ROWS, streams};
    Gemv { rows: ROWS, columns: COLUMNS, streams, run }
}

vectorized! {
/// [`Run`] in plain Rust for tiles of at most 4 × 16.
fn portable<R: Real>(
    height: usize,
    vectors: usize,
    depth: usize,
    a: *const R,
    a_rows: usize,
    a_cols: usize,
    packed: *const R,
    b_rows: usize,
    c: *mut R,
    c_rows: usize,
) {
    debug_assert!(height <= 4 && vectors == 1, "a portable tile is 4 × 16");
    let mut acc = [[R::ZERO; 16]; 4];
    // SAFETY: `Run`'s contract: `height` rows of 16 columns of `c`, `depth` rows of `packed`, and
    // `height × depth` of `a` exist.
    unsafe {
        for (i, row) in acc.iter_mut().enumerate().take(height) {
            for (j, x) in row.iter_mut().enumerate() {
                *x = *c.add(i * c_rows + j);
            }
        }
        for p in 0..depth {
            let b = &*packed.add(p * b_rows).cast::<[R; 16]>();
            for (i, row) in acc.iter_mut().enumerate() {
                // Rows past the height repeat the last one; they are not stored.
                let x = *a.add(i.min(height - 1) * a_rows + p * a_cols);
                for (s, y) in row.iter_mut().zip(b) {
                    *s += x * *y;
                }
            }
        }
        for (i, row) in acc.iter().enumerate().take(height) {
            for (j, x) in row.iter().enumerate() {
                *c.add(i * c_rows + j) = *x;
            }
        }
    }
}
}
