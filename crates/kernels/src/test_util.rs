//! Random values and comparisons for the tests beside each operation.

use crate::Real;

/// A small generator (SplitMix64); values uniform in [−1, 1).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn value(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub(crate) fn vec<R: Real>(&mut self, n: usize) -> Vec<R> {
        (0..n).map(|_| R::from_f32(self.value() as f32)).collect()
    }
}

/// ‖a − b‖ / ‖b‖.
pub(crate) fn relative<A: Real, B: Real>(a: &[A], b: &[B]) -> f64 {
    assert_eq!(a.len(), b.len());
    let diff: f64 = a.iter().zip(b).map(|(x, y)| (x.to_f64() - y.to_f64()).powi(2)).sum();
    let norm: f64 = b.iter().map(|y| y.to_f64().powi(2)).sum();
    if norm == 0.0 { diff.sqrt() } else { (diff / norm).sqrt() }
}

/// Central differences of `loss` at `x`, for every element, step 1e-5: the truncation error is O(1e-10),
/// the rounding error about 1e-16 / 1e-5, so 1e-8 relative is a safe bound for well scaled functions.
pub(crate) fn differences(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let h = 1e-5;
    let mut at = x.to_vec();
    (0..x.len())
        .map(|i| {
            at[i] = x[i] + h;
            let up = loss(&at);
            at[i] = x[i] - h;
            let down = loss(&at);
            at[i] = x[i];
            (up - down) / (2.0 * h)
        })
        .collect()
}

/// Σ aᵢ·bᵢ.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// How far `x` is from the exact value, in units of the exact value's last place in `f32`.
pub(crate) fn ulps(x: f32, exact: f64) -> f64 {
    let size = (exact.abs() as f32).max(f32::MIN_POSITIVE);
    let unit = f64::from(f32::from_bits(size.to_bits() + 1)) - f64::from(size);
    (f64::from(x) - exact).abs() / unit
}
