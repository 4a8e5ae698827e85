//! Values kept in 16 bits: the upper half of a single precision number, two in the place of one.
//!
//! ```text
//! compact   to[i] = bf16(x[i]),  x[i] ← bf16(x[i])     nearest, ties to even
//! expand    x[i] = to[i]
//! ```
//! The rounded value takes the place of the original as well: whoever goes on computes with what was kept.

use crate::Real;
use crate::par::Par;

/// Values that one task works on.
const CHUNK: usize = 16 * 1024;

/// Places of `R` that hold `values` of 16 bits.
pub const fn compact_len<R>(values: usize) -> usize {
    (2 * values).div_ceil(size_of::<R>())
}

/// Rounds `x` to bf16 and keeps the bits in `to`.
///
/// # Panics
/// When `to` is shorter than [`compact_len`].
#[track_caller]
pub fn compact<R: Real>(to: &mut [R], x: &mut [R], par: Par<'_>) {
    let halves = halves(to);
    assert!(halves.len() >= x.len(), "compact: {} places for {} values", halves.len(), x.len());
    let n = x.len();
    par.chunks2(x, CHUNK, &mut halves[..n], CHUNK, |_, x, to| {
        for (x, to) in x.iter_mut().zip(to) {
            *to = round(x.to_f64() as f32);
            *x = R::from_f32(f32::from_bits(u32::from(*to) << 16));
        }
    });
}

/// Brings back what [`compact`] kept.
///
/// # Panics
/// When `from` is shorter than [`compact_len`].
#[track_caller]
pub fn expand<R: Real>(x: &mut [R], from: &[R], par: Par<'_>) {
    assert!(from.len() >= compact_len::<R>(x.len()), "expand: {} places for {} values", from.len(), x.len());
    // SAFETY: as in `halves`, for reading.
    let halves = unsafe { std::slice::from_raw_parts(from.as_ptr().cast::<u16>(), x.len()) };
    par.chunks(x, CHUNK, |i, x| {
        for (x, half) in x.iter_mut().zip(&halves[i * CHUNK..]) {
            *x = R::from_f32(f32::from_bits(u32::from(*half) << 16));
        }
    });
}

/// To the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
pub(crate) fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
    if x.is_nan() { 0x7fc0 } else { rounded as u16 }
}

fn halves<R: Real>(x: &mut [R]) -> &mut [u16] {
    // SAFETY: `Real` is f32 or f64: plain bits, aligned for u16, `size_of_val` bytes of them; any bits are a
    // valid u16 and a valid `R`.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), size_of_val(x) / 2) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::Rng;

    fn check<R: Real>() {
        let mut rng = Rng(30);
        for n in [0, 1, 2, 33] {
            let x: Vec<R> = rng.vec(n);
            let (mut kept, mut rounded) = (vec![R::ZERO; compact_len::<R>(n)], x.clone());
            compact(&mut kept, &mut rounded, Par::serial());
            let mut back = vec![R::ONE; n];
            expand(&mut back, &kept, Par::serial());
            assert_eq!(back, rounded);
            for (r, x) in rounded.iter().zip(&x) {
                assert_eq!(r.to_f64(), f64::from(half::bf16::from_f32(x.to_f64() as f32).to_f32()));
            }
        }
    }

    #[test]
    fn rounds_as_bf16_and_comes_back() {
        check::<f32>();
        check::<f64>();
        assert_eq!(round(f32::NAN), 0x7fc0);
        assert_eq!(round(f32::from_bits(0xffff_ffff)), 0x7fc0);
        assert_eq!(round(f32::INFINITY), 0x7f80);
    }
}
