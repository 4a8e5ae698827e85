//! Values kept in 16 bits: bf16, the upper half of a single precision number.
//!
//! ```text
//! narrow         to[i] = bf16(x[i])        nearest, ties to even
//! widen          x[i] = from[i]            exact
//! round_at_random   up with the probability of the part that is cut off, else down: right on average
//! ```

use crate::par::Par;
use crate::{Real, random};

/// Values that one task works on.
const CHUNK: usize = 16 * 1024;

/// Values of a buffer, in either way of storing them.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a, R> {
    /// As they are computed with.
    Full(&'a [R]),
    /// As bf16.
    Bf16(&'a [u16]),
}

impl<R> Values<'_, R> {
    /// Without the first so many.
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    #[track_caller]
    pub fn skip(self, count: usize) -> Self {
        match self {
            Self::Full(x) => Self::Full(&x[count..]),
            Self::Bf16(x) => Self::Bf16(&x[count..]),
        }
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Full(x) => x.len(),
            Self::Bf16(x) => x.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A number as it is stored in a buffer that an operation passes over: as itself, or in bf16, rounded to the nearest.
pub(crate) trait Stored<R>: Copy {
    /// The number.
    fn get(self) -> R;
    /// How it is stored.
    fn put(x: R) -> Self;
}

#[allow(clippy::inline_always, reason = "they must vectorize inside their callers' loops")]
impl<R: Real> Stored<R> for R {
    #[inline(always)]
    fn get(self) -> R {
        self
    }
    #[inline(always)]
    fn put(x: R) -> Self {
        x
    }
}

#[allow(clippy::inline_always, reason = "as above")]
impl<R: Real> Stored<R> for u16 {
    #[inline(always)]
    fn get(self) -> R {
        R::from_f32(wide(self))
    }
    #[inline(always)]
    fn put(x: R) -> Self {
        round(x.to_f64() as f32)
    }
}

/// Rounds `x` to bf16.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn narrow<R: Real>(to: &mut [u16], x: &[R], par: Par<'_>) {
    assert_eq!(to.len(), x.len(), "narrow: lengths");
    par.chunks(to, CHUNK, |i, to| {
        for (to, x) in to.iter_mut().zip(&x[i * CHUNK..]) {
            *to = round(x.to_f64() as f32);
        }
    });
}

/// Copies values as they are.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn copy<T: Copy + Send + Sync>(to: &mut [T], from: &[T], par: Par<'_>) {
    assert_eq!(to.len(), from.len(), "copy: lengths");
    par.chunks(to, CHUNK, |i, to| to.copy_from_slice(&from[i * CHUNK..][..to.len()]));
}

/// Brings back what [`narrow`] kept.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn widen<R: Real>(x: &mut [R], from: &[u16], par: Par<'_>) {
    assert_eq!(from.len(), x.len(), "widen: lengths");
    par.chunks(x, CHUNK, |i, x| widen_into(x, &from[i * CHUNK..][..x.len()]));
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
pub(crate) fn widen_into<R: Real>(x: &mut [R], from: &[u16]) {
    for (x, half) in x.iter_mut().zip(from) {
        *x = R::from_f32(wide(*half));
    }
}

/// The number that 16 bits stand for.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
pub(crate) const fn wide(half: u16) -> f32 {
    f32::from_bits((half as u32) << 16)
}

/// To the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
pub(crate) fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
    if x.is_nan() { 0x7fc0 } else { rounded as u16 }
}

/// Rounds `x`, which are values from `first` of a tensor, up or down by random bits of a key: a function of key
/// and place, whatever pieces the tensor is cut into.
///
/// Adding sixteen random bits below the kept ones carries into them with just the probability of what is cut off
/// (stochastic rounding; Gupta et al. 2015). NaN stays NaN, and infinity, which has no bits to carry, infinity.
#[allow(clippy::inline_always, reason = "it must vectorize inside its callers")]
#[inline(always)]
pub(crate) fn round_at_random<R: Real>(to: &mut [u16], x: &[R], key: u64, first: usize) {
    debug_assert_eq!(to.len(), x.len(), "round_at_random: lengths");
    // Four values share 64 random bits; the first ones may be the last of their four.
    let head = (first.next_multiple_of(4) - first).min(x.len());
    let ((to, later), (x, rest)) = (to.split_at_mut(head), x.split_at(head));
    if head > 0 {
        round_up_to_four(to, x, random::at(key, (first / 4) as u64) >> (16 * (first % 4)));
    }
    let fours = later.chunks_mut(4).zip(rest.chunks(4)).enumerate();
    for (g, (to, x)) in fours {
        round_up_to_four(to, x, random::at(key, ((first + head) / 4 + g) as u64));
    }
}

#[allow(clippy::inline_always, reason = "as its caller")]
#[inline(always)]
fn round_up_to_four<R: Real>(to: &mut [u16], x: &[R], random: u64) {
    for (i, (to, x)) in to.iter_mut().zip(x).enumerate() {
        let (x, random) = (x.to_f64() as f32, random >> (16 * i) & 0xffff);
        let rounded = x.to_bits().wrapping_add(random as u32) >> 16;
        *to = if x.is_nan() { 0x7fc0 } else { rounded as u16 };
    }
}

/// Calls `step(at, values)` for stretches of `p`, which begins `first` values into its tensor, and rounds what
/// became of them back.
#[allow(clippy::inline_always, reason = "it must vectorize inside its callers")]
#[inline(always)]
pub(crate) fn widened<R: Real>(p: &mut [u16], first: usize, key: u64, mut step: impl FnMut(usize, &mut [R])) {
    const STRETCH: usize = 256;
    let mut values = [R::ZERO; STRETCH];
    for (i, p) in p.chunks_mut(STRETCH).enumerate() {
        let (at, values) = (i * STRETCH, &mut values[..p.len()]);
        widen_into(values, p);
        step(at, values);
        round_at_random(p, values, key, first + at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::Rng;

    fn check<R: Real>() {
        let mut rng = Rng(30);
        for n in [0, 1, 2, 33] {
            let x: Vec<R> = rng.vec(n);
            let (mut kept, mut back) = (vec![0; n], vec![R::ONE; n]);
            narrow(&mut kept, &x, Par::serial());
            widen(&mut back, &kept, Par::serial());
            for (r, x) in back.iter().zip(&x) {
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

    #[test]
    fn rounding_at_random_is_right_on_average_and_to_a_neighbour() {
        const N: usize = 1 << 16;
        for x in [1.001f32, -0.333_333, 1e-7, 7.25] {
            let mut to = vec![0; N];
            round_at_random(&mut to, &vec![x; N], 42, 0);
            let (low, high) = (wide((x.to_bits() >> 16) as u16), wide((x.to_bits() >> 16) as u16 + 1));
            assert!(to.iter().all(|t| [low, high].contains(&wide(*t))), "{x}");
            let mean = to.iter().map(|t| f64::from(wide(*t))).sum::<f64>() / N as f64;
            // The standard error is at most half a step over √N; five of them.
            let bound = 5.0 * f64::from(high - low).abs() / 2.0 / (N as f64).sqrt();
            assert!((mean - f64::from(x)).abs() <= bound, "{x}: {mean}");
        }
        // What bf16 holds stays; numbers that are none stay none.
        let exact = [1.5f32, -0.0, f32::INFINITY, f32::NEG_INFINITY];
        let mut to = [0; 4];
        round_at_random(&mut to, &exact, 7, 0);
        assert_eq!(to.map(|t| wide(t).to_bits()), exact.map(f32::to_bits));
        round_at_random(&mut to, &[f32::NAN; 4], 7, 0);
        assert!(to.iter().all(|t| wide(*t).is_nan()));
        // Pieces are the whole, wherever they begin.
        let x: Vec<f32> = Rng(31).vec(20);
        let mut whole = [0; 20];
        round_at_random(&mut whole, &x, 9, 0);
        for cut in 0..=20 {
            let mut pieces = [0; 20];
            round_at_random(&mut pieces[..cut], &x[..cut], 9, 0);
            let end = (cut + 2).min(20);
            round_at_random(&mut pieces[cut..end], &x[cut..end], 9, cut);
            round_at_random(&mut pieces[end..], &x[end..], 9, end);
            assert_eq!(whole, pieces, "{cut}");
        }
    }
}
