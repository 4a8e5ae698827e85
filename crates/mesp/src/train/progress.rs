//! The progress of a run: everything that a checkpoint holds besides tensors.

use serde::{Deserialize, Serialize};

use crate::preference::Metrics;

/// The progress of a run. The order of rows follows from the seed and the step, the learning rate from the step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Optimizer steps done, skipped ones included.
    pub step: usize,
    /// Updates made, which is the step count of the optimizer.
    pub updates: u64,
    /// Tokens so far.
    pub tokens: u64,
    /// Target tokens so far.
    pub target_tokens: u64,
    /// Seconds so far.
    pub elapsed: f64,
    /// Loss of the first step.
    pub first_loss: Option<f64>,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// Held-out loss before the first step.
    pub eval_before: Option<f64>,
    /// Of a preference loss: rewards and log-probabilities of held-out rows before the first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference_before: Option<Metrics>,
    /// The last evaluation.
    pub evaluated: Option<Evaluated>,
    /// The lowest held-out loss of a trained adapter.
    pub best: Option<Evaluated>,
    /// The state of early stopping.
    pub patience: Patience,
    /// The running mean of gradient norms.
    pub norms: Norms,
    /// Consecutive steps skipped because of a NaN or infinite value.
    pub skipped: usize,
}

/// A held-out loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The number of steps before it.
    pub step: usize,
    /// Mean loss; `None` if it was not finite.
    pub loss: Option<f64>,
    /// Of a preference loss: rewards and log-probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<Metrics>,
}

/// Consecutive evaluations without an improvement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Patience {
    /// Their number.
    pub used: usize,
    /// The loss to improve on.
    pub reference: Option<f64>,
}

impl Progress {
    /// Takes a held-out loss; true when it is the lowest so far of a trained adapter.
    pub(super) fn evaluate(&mut self, loss: f64, preference: Option<Metrics>, min_delta: f64) -> bool {
        let seen = Evaluated { step: self.step, loss: Some(loss).filter(|l| l.is_finite()), preference };
        self.evaluated = Some(seen);
        if self.step == 0 {
            (self.eval_before, self.preference_before) = (seen.loss, preference);
            return false;
        }
        if self.patience.reference.is_none_or(|r| loss < r - min_delta) && loss.is_finite() {
            self.patience = Patience { used: 0, reference: Some(loss) };
        } else {
            self.patience.used += 1;
        }
        let best = loss.is_finite() && self.best.and_then(|b| b.loss).is_none_or(|b| loss < b);
        if best {
            self.best = Some(seen);
        }
        best
    }
}

/// A running mean of gradient norms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Norms {
    /// The mean: of all norms at first, later exponential with weight 1/20 for the last.
    pub mean: f64,
    /// The number of norms seen.
    pub seen: u32,
}

impl Norms {
    /// Norms before any is called a spike.
    const FEW: u32 = 10;
    /// What the mean remembers.
    const MEMORY: u32 = 20;

    /// Takes a norm; gives the mean before it when it is a spike: more than `factor` times that mean. A spike
    /// counts as `factor` times the mean, so that one does not hide the next, and a new level is learned.
    pub(super) fn spike(&mut self, norm: f64, factor: f64) -> Option<f64> {
        let (before, limit) = (self.mean, factor * self.mean);
        let spike = factor > 0.0 && self.seen >= Self::FEW && norm > limit;
        self.seen = self.seen.saturating_add(1);
        let weight = 1.0 / f64::from(self.seen.min(Self::MEMORY));
        self.mean += weight * (if spike { limit } else { norm } - self.mean);
        spike.then_some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_a_multiple_of_the_mean_and_a_new_level_is_learned() {
        let mut norms = Norms::default();
        assert!((0..10).all(|i| norms.spike(if i == 3 { 50.0 } else { 1.0 }, 10.0).is_none()), "too few yet");
        let mut norms = Norms::default();
        assert!((0..30).all(|i| norms.spike(1.0 + 0.1 * f64::from(i % 3), 10.0).is_none()));
        let mean = norms.spike(11.5, 10.0).expect("a spike");
        assert!((1.0..1.2).contains(&mean), "{mean}");
        assert!(norms.spike(1.1, 10.0).is_none());
        let again = (0..20).take_while(|_| norms.spike(30.0, 10.0).is_some()).count();
        assert!((1..10).contains(&again), "{again}");
        assert!(Norms { mean: 1.0, seen: 30 }.spike(1e9, 0.0).is_none());
    }

    #[test]
    fn patience_counts_what_is_no_improvement() {
        let mut p = Progress::default();
        assert!(!p.evaluate(5.0, None, 0.1), "the start is not the best");
        let mut at = |loss| {
            p.step += 1;
            (p.evaluate(loss, None, 0.1), p.patience.used)
        };
        assert_eq!(at(4.0), (true, 0));
        assert_eq!(at(3.95), (true, 1), "lower, but not by enough");
        assert_eq!(at(3.85), (true, 0));
        assert_eq!(at(f64::NAN), (false, 1));
        assert_eq!(at(3.9), (false, 2));
        assert_eq!(p.best, Some(Evaluated { step: 3, loss: Some(3.85), preference: None }));
        assert_eq!(p.eval_before, Some(5.0));
    }
}
