//! Random numbers by counter: a value is a function of (seed, stream, index), so nothing is stored, nothing
//! drifts, and any value can be had again.

pub use mesp_device::random_bits as bits;

/// Uniform in [0, 1), of 53 bits.
pub fn uniform(seed: u64, stream: u64, index: u64) -> f64 {
    (bits(seed, stream, index) >> 11) as f64 / (1u64 << 53) as f64
}

/// Standard normal, by Box and Muller from two uniform values.
pub fn normal(seed: u64, stream: u64, index: u64) -> f64 {
    let (u, v) = (uniform(seed, stream, 2 * index), uniform(seed, stream, 2 * index + 1));
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let n = 40_000;
        let mean: f64 = (0..n).map(|i| normal(1, 2, i)).sum::<f64>() / n as f64;
        let square: f64 = (0..n).map(|i| normal(1, 2, i).powi(2)).sum::<f64>() / n as f64;
        // Standard errors 1/√n = 0.005 and √(2/n) = 0.007; four of each.
        assert!(mean.abs() < 0.02 && (square - 1.0).abs() < 0.03, "{mean} {square}");
        assert!((0..n).all(|i| (0.0..1.0).contains(&uniform(3, 4, i))));
        assert_ne!(bits(1, 0, 0), bits(0, 1, 0));
    }
}
