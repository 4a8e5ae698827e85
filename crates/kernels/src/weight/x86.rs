//! The step that the compiler does not vectorize well by itself.

use std::arch::x86_64::{
    _mm_loadu_si128, _mm512_add_ps, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_mul_ps, _mm512_set1_ps,
    _mm512_storeu_ps,
};

use super::unpack::{GROUP, Group};

/// `out = scale·q + minimum`, with a scale for each half.
///
/// # Safety
/// On a machine with AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn scale(group: &Group, out: &mut [f32; GROUP]) {
    for (half, scale) in group.scales.into_iter().enumerate() {
        // SAFETY: sixteen bytes and sixteen floats, from the start or the middle of 32.
        unsafe {
            let bytes = _mm_loadu_si128(group.q.as_ptr().add(16 * half).cast());
            let mut x = _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
            if let Some(minimum) = group.minimum {
                x = _mm512_add_ps(x, _mm512_set1_ps(minimum));
            }
            _mm512_storeu_ps(out.as_mut_ptr().add(16 * half), x);
        }
    }
}
