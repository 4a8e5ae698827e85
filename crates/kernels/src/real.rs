//! The number that a kernel computes with.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

/// `f32` (what runs) or `f64` (what it is checked against).
pub trait Real:
    Copy
    + Send
    + Sync
    + Debug
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Below every score that can occur; the start of a running maximum.
    const LOWEST: Self;

    /// Rounds to this type.
    fn from_f32(x: f32) -> Self;
    /// Rounds to this type.
    fn from_f64(x: f64) -> Self;
    /// Exact for both types.
    fn to_f64(self) -> f64;
    /// eˣ. For `f32` a branch-free polynomial, within 1 ULP of the exact value for −87.3 ≤ x ≤ 88.3 and clamped
    /// outside; NaN stays NaN.
    #[must_use]
    fn exp(self) -> Self;
    /// √x.
    #[must_use]
    fn sqrt(self) -> Self;
}

/// 1.5·2²³: adding it to a small `f32` leaves the nearest integer in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const LOWEST: Self = Self::MIN;

    fn from_f32(x: f32) -> Self {
        x
    }
    fn from_f64(x: f64) -> Self {
        x as Self
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    /// x = k·ln 2 + r with |r| ≤ ln 2 / 2, eˣ = 2ᵏ·eʳ, eʳ by the degree-6 polynomial of the Cephes
    /// library (S. Moshier, `expf`). ln 2 is split in two so that k·ln 2 is exact.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
    fn exp(self) -> Self {
        // Written as comparisons that are false for NaN, so that NaN passes through.
        let x = if self < -87.336_54 { -87.336_54 } else { self };
        let x = if x > 88.3 { 88.3 } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let k = shifted - ROUND;
        let r = x - k * 0.693_359_4 + k * 2.121_944_4e-4;
        let p = 1.987_569_1e-4;
        let p = p * r + 1.398_199_9e-3;
        let p = p * r + 8.333_452e-3;
        let p = p * r + 4.166_579_6e-2;
        let p = p * r + 1.666_666_5e-1;
        let p = p * r + 5e-1;
        let e = p * r * r + r + 1.0;
        let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
        e * Self::from_bits(power)
    }
    fn sqrt(self) -> Self {
        self.sqrt()
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const LOWEST: Self = Self::MIN;

    fn from_f32(x: f32) -> Self {
        Self::from(x)
    }
    fn from_f64(x: f64) -> Self {
        x
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn exp(self) -> Self {
        self.exp()
    }
    fn sqrt(self) -> Self {
        self.sqrt()
    }
}

/// Sums `f(i)` for `0 ≤ i < n` in sixteen interleaved partial sums, which vectorize, then adds those in order.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
pub(crate) fn sum<R: Real>(n: usize, f: impl Fn(usize) -> R) -> R {
    const LANES: usize = 16;
    let mut lanes = [R::ZERO; LANES];
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(start + l);
        }
    }
    for i in whole..n {
        lanes[i - whole] += f(i);
    }
    lanes.into_iter().fold(R::ZERO, |a, b| a + b)
}

/// The largest value, NaN passed over; [`Real::LOWEST`] when there is none.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
pub(crate) fn maximum<R: Real>(z: &[R]) -> R {
    let mut lanes = [R::LOWEST; 16];
    let (blocks, rest) = z.as_chunks::<16>();
    for block in blocks {
        for (m, x) in lanes.iter_mut().zip(block) {
            *m = if *x > *m { *x } else { *m };
        }
    }
    lanes.iter().chain(rest).fold(R::LOWEST, |m, x| if *x > m { *x } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::ulps;

    /// The error bound against the exact value, in units of the last place.
    const EXP_ULP: f64 = 1.0;

    /// Every 61st `f32` between the clamps (61 is no divisor of a power of two, so that all exponents and all low
    /// bits occur): 36 million values against double precision.
    #[test]
    fn exp_is_within_one_ulp() {
        let mut worst = (0.0, 0.0f32);
        for (sign, end) in [(0, 88.3f32), (1 << 31, 87.336_54)] {
            for bits in (0..=end.to_bits()).step_by(61) {
                let x = f32::from_bits(sign | bits);
                let error = ulps(Real::exp(x), f64::from(x).exp());
                if error > worst.0 {
                    worst = (error, x);
                }
            }
        }
        assert!(worst.0 <= EXP_ULP, "{} ULP at {}", worst.0, worst.1);
        assert!(worst.0 > 0.5 * EXP_ULP, "{} ULP: the bound says more than is true", worst.0);
        assert!(Real::exp(f32::NAN).is_nan());
        assert!(Real::exp(f32::NEG_INFINITY) < 1.3e-38);
        assert_eq!(Real::exp(0.0f32), 1.0);
    }

    #[test]
    fn sum_takes_every_term_once() {
        for n in [0, 1, 15, 16, 17, 33] {
            assert_eq!(sum(n, |i| i as f64), (0..n).sum::<usize>() as f64);
        }
    }
}
