//! Softmax cross-entropy of tiles of logits. Its gradient through a frozen table: [`crate::softmax_sum`].
//!
//! ```text
//! forward   loss_t = ℓ_t − z_t[y_t],          ℓ_t = ln Σ_v exp z_t[v]
//! backward  dz_t[v] = c·w_t·(exp(z_t[v] − ℓ_t) − [v = y_t])     in z's place, c = 1 / targets of the optimizer step,
//!                                                           w_t the row's weight
//! reads     z, y; the backward also ℓ                       scratch  none
//! shapes    z [n, w]: rows × a range of the vocabulary      y [n]      derivation: docs/math/cross_entropy.md
//! ```
//!
//! Rows × vocabulary need never exist: the vocabulary may come in ranges. The running sum is rescaled at fixed
//! places, every [`VOCAB_STEP`] columns, whatever the ranges are: so the loss is the same to the bit for any of
//! them. From `f32` logits the loss is within 4 ULP of the exact one.

use crate::Real;
use crate::isa::vectorized;
use crate::par::Par;
use crate::real::{maximum, sum};

/// Ranges of the vocabulary begin at multiples of this.
pub const VOCAB_STEP: usize = 1024;

/// What is known of a row's logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowStat {
    /// Largest logit so far.
    pub top: f64,
    /// Where it is, the first of equals.
    pub best: u32,
    /// Σ exp(z − top) so far.
    pub total: f64,
    /// Logit of the label.
    pub label_logit: f64,
    /// By what the row's loss, and its gradient, are multiplied.
    pub weight: f32,
}

impl RowStat {
    /// Nothing is known; the weight is 1.
    pub const EMPTY: Self =
        Self { top: f64::NEG_INFINITY, best: u32::MAX, total: 0.0, label_logit: f64::NAN, weight: 1.0 };

    /// −ln p(label), in nats.
    pub fn nats(&self) -> f64 {
        self.total.ln() - (self.label_logit - self.top)
    }

    /// The row's part of the loss: its weight times −ln p(label), in nats.
    pub fn loss(&self) -> f64 {
        f64::from(self.weight) * self.nats()
    }
}

/// Takes a range of the vocabulary, which begins at `first`, into the rows' statistics.
///
/// # Panics
/// When lengths disagree or `first` is not a multiple of [`VOCAB_STEP`].
#[track_caller]
pub fn softmax_stats<R: Real>(z: &[R], labels: &[u32], first: usize, stats: &mut [RowStat], par: Par<'_>) {
    let Some(width) = check(z.len(), labels, first, stats) else { return };
    par.chunks(stats, 1, |t, stat| {
        update_row(&z[t * width..(t + 1) * width], labels[t] as usize, first, &mut stat[0]);
    });
}

/// Turns logits of a range of the vocabulary, which begins at `first`, into `c` times the gradient of their rows'
/// weighted losses, once all ranges were taken into the statistics.
///
/// # Panics
/// When lengths disagree or `first` is not a multiple of [`VOCAB_STEP`].
#[track_caller]
pub fn softmax_gradient<R: Real>(
    z: &mut [R],
    labels: &[u32],
    first: usize,
    c: f64,
    stats: &[RowStat],
    par: Par<'_>,
) {
    let Some(width) = check(z.len(), labels, first, stats) else { return };
    par.chunks(z, width, |t, z| {
        let stat = &stats[t];
        let c = c * f64::from(stat.weight);
        share_of(z, R::from_f64(stat.top), R::from_f64(c / stat.total));
        if let Some(z) = (labels[t] as usize).checked_sub(first).and_then(|at| z.get_mut(at)) {
            *z -= R::from_f64(c);
        }
    });
}

vectorized! {
fn share_of<R: Real>(z: &mut [R], top: R, share: R) {
    for z in z.iter_mut() {
        *z = (*z - top).exp() * share;
    }
}
}

#[track_caller]
pub(crate) fn check(values: usize, labels: &[u32], first: usize, stats: &[RowStat]) -> Option<usize> {
    assert_eq!(stats.len(), labels.len(), "softmax: statistics");
    assert!(first.is_multiple_of(VOCAB_STEP), "softmax: a range that begins at {first}");
    if labels.is_empty() {
        return None;
    }
    let width = values / labels.len();
    assert!(width > 0 && values == width * labels.len(), "softmax: rows of logits");
    Some(width)
}

vectorized! {
fn update_row<R: Real>(z: &[R], label: usize, first: usize, stat: &mut RowStat) {
    for (i, z) in z.chunks(VOCAB_STEP).enumerate() {
        take_step(z, label, first + i * VOCAB_STEP, stat);
        let top = R::from_f64(stat.top);
        // NaN anywhere makes the sum NaN, and with it the loss: nothing hides it.
        stat.total += sum(z.len(), |v| (z[v] - top).exp()).to_f64();
    }
}
}

/// Takes the largest logit of a step and the label's; gives what sums over earlier steps are to be multiplied
/// by, now that they are relative to a new largest.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
pub(crate) fn take_step<R: Real>(z: &[R], label: usize, start: usize, stat: &mut RowStat) -> R {
    let (top, mut factor) = (maximum(z), R::ONE);
    if top.to_f64() > stat.top {
        factor = R::from_f64(stat.top - top.to_f64()).exp();
        stat.total *= factor.to_f64();
        stat.top = top.to_f64();
        stat.best = (start + z.iter().position(|x| *x == top).unwrap_or(0)) as u32;
    }
    if let Some(x) = label.checked_sub(start).and_then(|at| z.get(at)) {
        stat.label_logit = x.to_f64();
    }
    factor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{Rng, ulps};

    fn stats_of<R: Real>(z: &[R], labels: &[u32]) -> Vec<RowStat> {
        let mut stats = vec![RowStat::EMPTY; labels.len()];
        softmax_stats(z, labels, 0, &mut stats, Par::serial());
        stats
    }

    #[test]
    fn ranges_of_the_vocabulary_change_no_bit() {
        let mut rng = Rng(21);
        let (v, labels) = (5 * VOCAB_STEP + 77, [3u32, 4000]);
        let z: Vec<f32> = rng.vec::<f32>(2 * v).iter().map(|x| 9.0 * x).collect();
        let whole = stats_of(&z, &labels);
        for step in [VOCAB_STEP, 2 * VOCAB_STEP, 4 * VOCAB_STEP] {
            let mut stats = vec![RowStat::EMPTY; 2];
            for first in (0..v).step_by(step) {
                let width = step.min(v - first);
                let part: Vec<f32> = (0..2).flat_map(|t| z[t * v + first..][..width].to_vec()).collect();
                softmax_stats(&part, &labels, first, &mut stats, Par::serial());
            }
            assert_eq!(stats, whole);
        }
    }

    /// Logits as large as models give them, over more entries than any vocabulary has: the loss in `f32`
    /// compared with double precision on the same logits.
    #[test]
    fn loss_is_within_four_ulp() {
        let mut rng = Rng(25);
        let mut worst = 0.0f64;
        for (v, scale) in [(7, 1.0), (1000, 12.0), (151_936, 3.0), (262_144, 30.0), (VOCAB_STEP, 80.0)] {
            let z: Vec<f32> = rng.vec::<f32>(v).iter().map(|x| scale * x).collect();
            let wide: Vec<f64> = z.iter().map(|x| f64::from(*x)).collect();
            for label in [0, v / 2, v - 1] {
                let labels = [label as u32];
                let (ours, exact) = (stats_of(&z, &labels)[0].nats(), stats_of(&wide, &labels)[0].nats());
                worst = worst.max(ulps(ours as f32, exact));
            }
        }
        assert!(worst <= 4.0, "{worst} ULP");
    }

    #[test]
    fn gradient_equals_differences_in_any_ranges() {
        let mut rng = Rng(29);
        let (v, labels, c) = (VOCAB_STEP + 77, [3u32, 1050], 0.5);
        let z: Vec<f64> = rng.vec::<f64>(2 * v).iter().map(|x| 4.0 * x).collect();
        let stats = stats_of(&z, &labels);
        let mut whole = z.clone();
        softmax_gradient(&mut whole, &labels, 0, c, &stats, Par::serial());
        for (t, v) in [(0, 3), (0, 1050), (1, 1050), (1, 0), (1, v - 1)].map(|(t, at)| (t, t * v + at)) {
            let at = |by: f64| {
                let mut z = z.clone();
                z[v] += by;
                c * stats_of(&z, &labels)[t].nats()
            };
            let difference = (at(1e-4) - at(-1e-4)) / 2e-4;
            // The stencil's h², and a loss of about ten rounded at 1e-16 over h.
            assert!((whole[v] - difference).abs() <= 1e-9, "{} {difference}", whole[v]);
        }
        for (first, width) in [(0, VOCAB_STEP), (VOCAB_STEP, 77)] {
            let mut part: Vec<f64> = (0..2).flat_map(|t| z[t * v + first..][..width].to_vec()).collect();
            softmax_gradient(&mut part, &labels, first, c, &stats, Par::serial());
            assert!((0..2).all(|t| part[t * width..][..width] == whole[t * v + first..][..width]));
        }
    }

    #[test]
    fn large_logits_and_nan() {
        let stats = stats_of(&[1e4f32, 0.0, 0.0, 0.0, 1e4, 0.0], &[0, 0]);
        assert!(stats[0].nats().abs() < 1e-6 && stats[0].best == 0);
        assert!((stats[1].nats() - 1e4).abs() < 1.0 && stats[1].best == 1);
        assert!(stats_of(&[1.0, f32::NAN, 0.0], &[0])[0].nats().is_nan());
        assert!(stats_of(&[f32::NAN, f32::NAN], &[0])[0].nats().is_nan());
    }
}
