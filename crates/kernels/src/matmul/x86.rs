//! Microkernels for x86-64 with fused multiply-add.
//!
//! A 6 × 64 tile fills 24 of the 32 AVX-512 registers: per step of depth four loads and six broadcasts feed
//! 24 multiply-adds, so the multipliers are the limit. AVX2 has 16 registers: 6 × 16.

use std::arch::x86_64::{
    __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

/// Writes one `target_feature` tile function, generic in height and vectors, and the [`super::micro::Run`]
/// that picks the instance.
macro_rules! microkernel {
    ($run:ident, $tile:ident, $features:literal, $vec:ty, $lane:literal, $zero:ident, $load:ident, $store:ident,
     $splat:ident, $fma:ident, [$($vectors:literal),*]) => {
        #[target_feature(enable = $features)]
        unsafe fn $tile<const HEIGHT: usize, const VECTORS: usize>(
            depth: usize,
            a: *const f32,
            a_rows: usize,
            a_cols: usize,
            packed: *const f32,
            c: *mut f32,
            c_rows: usize,
        ) {
            let mut acc: [[$vec; VECTORS]; HEIGHT] = [[$zero(); VECTORS]; HEIGHT];
            // SAFETY: the contract of `Run`; every offset below is inside the tile, the panel or `a`.
            unsafe {
                for i in 0..HEIGHT {
                    for j in 0..VECTORS {
                        acc[i][j] = $load(c.add(i * c_rows + j * $lane));
                    }
                }
                let (mut a, mut b) = (a, packed);
                for _ in 0..depth {
                    let mut row = [$zero(); VECTORS];
                    for j in 0..VECTORS {
                        row[j] = $load(b.add(j * $lane));
                    }
                    for i in 0..HEIGHT {
                        let x = $splat(*a.add(i * a_rows));
                        for j in 0..VECTORS {
                            acc[i][j] = $fma(x, row[j], acc[i][j]);
                        }
                    }
                    a = a.wrapping_add(a_cols);
                    b = b.wrapping_add(VECTORS * $lane);
                }
                for i in 0..HEIGHT {
                    for j in 0..VECTORS {
                        $store(c.add(i * c_rows + j * $lane), acc[i][j]);
                    }
                }
            }
        }

        /// [`super::micro::Run`] for this instruction set.
        ///
        /// # Safety
        /// The contract of [`super::micro::Run`], on a machine that has the instructions.
        pub(super) unsafe fn $run(
            height: usize,
            vectors: usize,
            depth: usize,
            a: *const f32,
            a_rows: usize,
            a_cols: usize,
            packed: *const f32,
            c: *mut f32,
            c_rows: usize,
        ) {
            macro_rules! height_of {
                ($v:literal) => {
                    // SAFETY: passed on from the caller.
                    unsafe {
                        match height {
                            1 => $tile::<1, $v>(depth, a, a_rows, a_cols, packed, c, c_rows),
                            2 => $tile::<2, $v>(depth, a, a_rows, a_cols, packed, c, c_rows),
                            3 => $tile::<3, $v>(depth, a, a_rows, a_cols, packed, c, c_rows),
                            4 => $tile::<4, $v>(depth, a, a_rows, a_cols, packed, c, c_rows),
                            5 => $tile::<5, $v>(depth, a, a_rows, a_cols, packed, c, c_rows),
                            _ => $tile::<6, $v>(depth, a, a_rows, a_cols, packed, c, c_rows),
                        }
                    }
                };
            }
            debug_assert!((1..=6).contains(&height), "a tile has 1 to 6 rows");
            match vectors {
                $($vectors => height_of!($vectors),)*
                _ => unreachable!("no tile of {vectors} vectors"),
            }
        }
    };
}

microkernel!(
    avx512, tile_avx512, "avx512f", __m512, 16, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps,
    _mm512_set1_ps, _mm512_fmadd_ps, [1, 2, 3, 4]
);
microkernel!(
    avx2, tile_avx2, "avx2,fma", __m256, 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps,
    _mm256_set1_ps, _mm256_fmadd_ps, [1, 2]
);
