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
     $splat:ident, $fma:ident, $factor:ident, [$($vectors:literal),*]) => {
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
                    let mut row = [$factor(b); VECTORS];
                    for j in 1..VECTORS {
                        row[j] = $factor(b.add(j * $lane));
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
    avx512,
    tile_avx512,
    "avx512f",
    __m512,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_loadu_ps,
    [1, 2, 3, 4]
);
microkernel!(
    avx2,
    tile_avx2,
    "avx2,fma",
    __m256,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_loadu_ps,
    [1, 2]
);
microkernel!(
    avx512_bf16,
    tile_avx512_bf16,
    "avx512f,avx512bf16",
    __m512,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    splat_pair,
    dot_pairs,
    load_pairs,
    [1, 2, 3, 4]
);

/// [`super::micro::Left`] for bf16 pairs.
pub(super) fn round_tile(out: &mut [f32], a: &[f32], [rows, cols]: [usize; 2], [height, depth]: [usize; 2]) {
    let steps = depth.div_ceil(2);
    for (i, out) in out.chunks_exact_mut(steps.max(1)).take(height).enumerate() {
        // SAFETY: `steps` words of 32 bits are `2·steps` halves, at a larger alignment.
        let halves = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u16>(), 2 * steps) };
        if cols == 1 {
            // SAFETY: used by the kernel of `Isa::Avx512Bf16` only.
            unsafe { round_row(halves, &a[i * rows..i * rows + depth]) };
        } else {
            for (p, h) in halves.iter_mut().enumerate().take(depth) {
                *h = crate::compact::round(a[i * rows + p * cols]);
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
///
/// # Safety
/// The machine has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
fn round_row(out: &mut [u16], x: &[f32]) {
    use std::arch::x86_64::{__m512i, _mm512_cvtne2ps_pbh, _mm512_storeu_si512};
    let (wide, rest) = x.as_chunks::<32>();
    for (out, x) in out.chunks_exact_mut(32).zip(wide) {
        // SAFETY: 32 values on both sides; the conversion's result is 512 bits.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16)));
            let halves: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), halves);
        }
    }
    for (out, x) in out[x.len() - rest.len()..].iter_mut().zip(rest) {
        *out = crate::compact::round(*x);
    }
}

/// Sixteen words of sixteen rows, whose starts lie `stride` bytes apart at any alignment, transposed: lane r of
/// vector p is word p of row r.
///
/// Two rounds of exchanges within groups of four words, two between groups.
///
/// # Safety
/// The machine has AVX-512 F, and all 256 words exist.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transposed16(from: *const u8, stride: usize) -> [std::arch::x86_64::__m512i; 16] {
    use std::arch::x86_64::{
        __m512i, _mm512_loadu_si512, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32,
        _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };
    let mut rows: [__m512i; 16] = [_mm512_setzero_si512(); 16];
    for (r, row) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = unsafe { _mm512_loadu_si512(from.add(r * stride).cast()) };
    }
    // Within groups of four words: afterwards `b[4g + c]` holds column c of each group, for rows 4g..4g+4.
    let mut b = rows;
    for g in (0..16).step_by(4) {
        let (a0, a1) =
            (_mm512_unpacklo_epi32(rows[g], rows[g + 1]), _mm512_unpackhi_epi32(rows[g], rows[g + 1]));
        let (a2, a3) = (
            _mm512_unpacklo_epi32(rows[g + 2], rows[g + 3]),
            _mm512_unpackhi_epi32(rows[g + 2], rows[g + 3]),
        );
        b[g] = _mm512_unpacklo_epi64(a0, a2);
        b[g + 1] = _mm512_unpackhi_epi64(a0, a2);
        b[g + 2] = _mm512_unpacklo_epi64(a1, a3);
        b[g + 3] = _mm512_unpackhi_epi64(a1, a3);
    }
    // Between groups: 128-bit lane l of column c becomes output row 4l + c.
    let mut out = rows;
    for c in 0..4 {
        let (low, high) =
            (_mm512_shuffle_i32x4::<0x88>(b[c], b[4 + c]), _mm512_shuffle_i32x4::<0xdd>(b[c], b[4 + c]));
        let (low2, high2) = (
            _mm512_shuffle_i32x4::<0x88>(b[8 + c], b[12 + c]),
            _mm512_shuffle_i32x4::<0xdd>(b[8 + c], b[12 + c]),
        );
        out[c] = _mm512_shuffle_i32x4::<0x88>(low, low2);
        out[4 + c] = _mm512_shuffle_i32x4::<0x88>(high, high2);
        out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(low, low2);
        out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high, high2);
    }
    out
}

/// One word of `a` in every lane, as pairs.
#[target_feature(enable = "avx512f,avx512bf16")]
fn splat_pair(x: f32) -> std::arch::x86_64::__m512bh {
    // SAFETY: both are 512 bits.
    unsafe { std::mem::transmute(_mm512_set1_ps(x)) }
}

/// Sixteen words of pairs.
///
/// # Safety
/// Sixteen values exist at `p`.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load_pairs(p: *const f32) -> std::arch::x86_64::__m512bh {
    // SAFETY: the caller's promise; both types are 512 bits.
    unsafe { std::mem::transmute(_mm512_loadu_ps(p)) }
}

/// `c + a·b` for each lane, both values of the pair.
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot_pairs(a: std::arch::x86_64::__m512bh, b: std::arch::x86_64::__m512bh, c: __m512) -> __m512 {
    std::arch::x86_64::_mm512_dpbf16_ps(c, a, b)
}
