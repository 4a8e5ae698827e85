//! Microkernels for x86-64 with fused multiply-add.
//!
//! A 6 × 64 tile fills 24 of the 32 AVX-512 registers: per step of depth four loads and six broadcasts feed
//! 24 multiply-adds, so the multipliers are the limit. AVX2 has 16 registers: 6 × 16.

use super::tile::microkernel;
use std::arch::x86_64::{
    __m256, __m512, __m512i, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_ps, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

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

/// To the nearest bf16, ties to even.
///
/// # Safety
/// The machine has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn round_row(out: &mut [u16], x: &[f32]) {
    use std::arch::x86_64::_mm512_storeu_si512;
    let (wide, rest) = x.as_chunks::<32>();
    for (out, x) in out.chunks_exact_mut(32).zip(wide) {
        // SAFETY: 32 values on both sides.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), rounded(x.as_ptr())) };
    }
    for (out, x) in out[x.len() - rest.len()..].iter_mut().zip(rest) {
        *out = crate::compact::round(*x);
    }
}

/// 32 values to the nearest bf16, ties to even.
///
/// # Safety
/// They exist, and the machine has AVX512-BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn rounded(at: *const f32) -> __m512i {
    // SAFETY: the caller's promise; both types of the result are 512 bits.
    unsafe {
        use std::arch::x86_64::{__m512bh, _mm512_cvtne2ps_pbh};
        let (low, high) = (_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(16)));
        std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// [`super::pack32::pair_rows`] for rows of whole vectors.
///
/// # Safety
/// The machine has AVX512-BF16; `stride` is a multiple of sixteen.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pair_rows(a: &mut [f32], stride: usize) {
    let rows = a.len() / stride;
    let at = a.as_mut_ptr();
    for p in 0..rows.div_ceil(2) {
        for j in (0..stride).step_by(16) {
            // SAFETY: sixteen values of rows `2p`, `2p + 1` where it exists, and `p`, all below `rows`.
            unsafe {
                let low = _mm512_loadu_ps(at.add(2 * p * stride + j));
                let high = if 2 * p + 1 < rows {
                    _mm512_loadu_ps(at.add((2 * p + 1) * stride + j))
                } else {
                    _mm512_setzero_ps()
                };
                let words = super::pack512::round_pairs(low, high);
                std::arch::x86_64::_mm512_storeu_si512(at.add(p * stride + j).cast(), words);
            }
        }
    }
}

/// Sixteen words of sixteen rows, whose starts lie `stride` bytes apart at any alignment, transposed: lane r of
/// vector p is word p of row r.
///
/// # Safety
/// The machine has AVX-512 F, and all 256 words exist.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transposed16(from: *const u8, stride: usize) -> [__m512i; 16] {
    let mut rows: [__m512i; 16] = [_mm512_setzero_si512(); 16];
    for (r, row) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = unsafe { _mm512_loadu_si512(from.add(r * stride).cast()) };
    }
    transposed(&rows)
}

/// Lane r of vector p is lane p of row r.
///
/// Two rounds of exchanges within groups of four words, two between groups.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transposed(rows: &[__m512i; 16]) -> [__m512i; 16] {
    // Within groups of four words: afterwards `b[4g + c]` holds column c of each group, for rows 4g..4g+4.
    let mut b = *rows;
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
    let mut out = *rows;
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
