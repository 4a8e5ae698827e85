//! Gradients against the exact one, over many seeds.
//!
//! For ĝ = 1/n·Σ ⟨g, zᵢ⟩zᵢ with d values (`docs/math/zeroth.md`): one direction gives E cos² = 1/d, and
//! E‖ĝ − g‖² = (d + 1)/n·‖g‖² for gaussian z, (d − 1)/n for signs. For several directions E cos² is about
//! n/(d + n − 1), which is right for n = 1 and for n → ∞.

use mesp::method::{Blocks, Estimator};
use mesp_device::Distribution;

/// Sums over the seeds of one tensor, or of all.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    seeds: usize,
    cos: f64,
    cos_squared: f64,
    /// Sum of ‖ĝ − g‖²/‖g‖².
    error: f64,
    /// Sum of ‖ĝ‖²/‖g‖².
    length: f64,
}

impl Sums {
    /// Products of one seed: ⟨ĝ, g⟩, ‖ĝ‖², ‖g‖².
    fn add(&mut self, dot: f64, ours: f64, exact: f64) {
        // A part that is zero has no direction.
        let cos = if ours > 0.0 && exact > 0.0 { dot / (ours * exact).sqrt() } else { 0.0 };
        self.seeds += 1;
        self.cos += cos;
        self.cos_squared += cos * cos;
        if exact > 0.0 {
            self.error += ((ours - 2.0 * dot + exact) / exact).max(0.0);
            self.length += ours / exact;
        }
    }

    pub(super) fn cos_mean(&self) -> f64 {
        self.cos / self.seeds as f64
    }

    /// Root mean square.
    pub(super) fn cos_rms(&self) -> f64 {
        (self.cos_squared / self.seeds as f64).sqrt()
    }

    /// Root mean square of ‖ĝ − g‖/‖g‖.
    pub(super) fn error(&self) -> f64 {
        (self.error / self.seeds as f64).sqrt()
    }

    /// Root mean square of ‖ĝ‖/‖g‖.
    pub(super) fn length(&self) -> f64 {
        (self.length / self.seeds as f64).sqrt()
    }
}

/// A method against the exact gradient.
pub(super) struct Comparison {
    estimator: Estimator,
    /// Values of each tensor.
    pub(super) sizes: Vec<usize>,
    pub(super) tensors: Vec<Sums>,
    pub(super) all: Sums,
    /// Sum of the estimates.
    sum: Vec<Vec<f64>>,
    /// Cosine of the mean of all estimates.
    pub(super) cos_of_mean: f64,
    /// What the loss fell by after a step along the gradient, seed by seed.
    pub(super) gains: Vec<f64>,
}

impl Comparison {
    pub(super) fn new(estimator: Estimator, sizes: Vec<usize>) -> Self {
        Self {
            estimator,
            tensors: vec![Sums::default(); sizes.len()],
            sum: sizes.iter().map(|n| vec![0.0; *n]).collect(),
            sizes,
            all: Sums::default(),
            cos_of_mean: 0.0,
            gains: Vec::new(),
        }
    }

    /// Takes in the gradient of one seed.
    pub(super) fn add(&mut self, exact: &[Vec<f64>], ours: &[Vec<f64>]) {
        let (mut all, mut mean) = ([0.0; 3], [0.0; 3]);
        for (((exact, ours), sums), sum) in exact.iter().zip(ours).zip(&mut self.tensors).zip(&mut self.sum) {
            let mut products = [0.0; 3];
            for ((g, o), s) in exact.iter().zip(ours).zip(sum) {
                *s += o;
                for (to, value) in products.iter_mut().zip([o * g, o * o, g * g]) {
                    *to += value;
                }
                for (to, value) in mean.iter_mut().zip([*s * g, *s * *s, g * g]) {
                    *to += value;
                }
            }
            sums.add(products[0], products[1], products[2]);
            all.iter_mut().zip(products).for_each(|(a, p)| *a += p);
        }
        self.all.add(all[0], all[1], all[2]);
        let [dot, ours, exact] = mean;
        self.cos_of_mean = if ours > 0.0 { dot / (ours * exact).sqrt() } else { 0.0 };
    }

    pub(super) fn seeds(&self) -> usize {
        self.all.seeds
    }

    /// What theory says of the root mean square of the cosine over `values` values.
    pub(super) fn expected_cos(&self, values: usize) -> Option<f64> {
        let n = self.directions()?.0 as f64;
        Some((n / (values as f64 + n - 1.0)).sqrt())
    }

    /// What theory says of the root mean square of the relative error.
    pub(super) fn expected_error(&self) -> Option<f64> {
        let (n, distribution) = self.directions()?;
        let d = self.sizes.iter().sum::<usize>() as f64;
        let more = match distribution {
            Distribution::Gaussian => 1.0,
            Distribution::Rademacher => -1.0,
        };
        Some(((d + more) / n as f64).sqrt())
    }

    /// Theory's figures for an estimate that moves every value.
    fn directions(&self) -> Option<(usize, Distribution)> {
        match self.estimator {
            Estimator::Directional(along) if along.sparsity == 0.0 && along.blocks == Blocks::ALL => {
                Some((along.directions, along.distribution))
            }
            _ => None,
        }
    }

    pub(super) fn gain(&self) -> Option<f64> {
        (!self.gains.is_empty()).then(|| self.gains.iter().sum::<f64>() / self.gains.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_definitions() {
        let exact = vec![vec![3.0, 0.0], vec![4.0]];
        let mut c = Comparison::new(Estimator::Exact, vec![2, 1]);
        c.add(&exact, &[vec![3.0, 0.0], vec![4.0]]);
        c.add(&exact, &[vec![0.0, 5.0], vec![0.0]]);
        assert_eq!(c.seeds(), 2);
        assert!((c.all.cos_mean() - 0.5).abs() < 1e-12 && (c.all.cos_rms() - 0.5f64.sqrt()).abs() < 1e-12);
        // The second is as long as the exact one and at right angles to it: its error is √2 of the length.
        assert!((c.all.error() - 1.0).abs() < 1e-12 && (c.all.length() - 1.0).abs() < 1e-12);
        assert!((c.tensors[1].cos_mean() - 0.5).abs() < 1e-12);
        // The mean of both is (1.5, 2.5 | 2).
        let expected = (1.5 * 3.0 + 2.0 * 4.0) / (5.0 * (1.5f64.powi(2) + 2.5f64.powi(2) + 4.0).sqrt());
        assert!((c.cos_of_mean - expected).abs() < 1e-12);
        assert_eq!((c.expected_cos(3), c.expected_error(), c.gain()), (None, None, None));
    }
}
