//! A step's gradient, or its slopes along directions, by the session's estimator: the one place where both are made.

use mesp_device::Backend;

use super::{Outcome, Session};
use crate::method::zeroth::{points, slope};
use crate::method::{Directional, Estimator, Slope};
use crate::model::Batch;

/// The micro-batches of a step, each given to the visitor in turn; asked again, the same ones.
pub type MicroBatches<'a> = dyn FnMut(&mut dyn FnMut(&Batch)) + 'a;

/// What the directions of a step came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probed {
    /// Sum of the losses of trained rows, in nats: the mean of all passes through the model.
    pub nats: f64,
    /// Tokens of the step.
    pub tokens: u64,
    /// One a direction, in the precision in which a log keeps it.
    pub slopes: Vec<f32>,
}

impl Probed {
    /// Root mean square of the slopes.
    pub fn norm(&self) -> f64 {
        let squares: f64 = self.slopes.iter().map(|s| f64::from(*s).powi(2)).sum();
        (squares / self.slopes.len() as f64).sqrt()
    }
}

impl<B: Backend> Session<B> {
    /// Slopes of the mean loss of a step's micro-batches, which have `targets` trained rows, along the directions
    /// of `(seed, step)`. The adapters stay as they are.
    pub fn slopes(
        &mut self,
        along: &Directional,
        (seed, step): (u64, u64),
        targets: usize,
        batches: &mut MicroBatches<'_>,
    ) -> Probed {
        if self.bounds().values().is_empty() && along.sparsity > 0.0 {
            self.bound(along.sparsity);
        }
        let mut probed = Probed { slopes: Vec::with_capacity(along.directions), ..Probed::default() };
        let (mut passes, mut at_rest) = (0, None);
        for number in 0..along.directions {
            let direction = along.direction(seed, step, number);
            let Slope::Difference { eps, one_sided } = along.slope else {
                let mut exact = 0.0;
                batches(&mut |batch| {
                    let (outcome, slope) = self.slope(batch, targets, direction);
                    probed.tokens += batch.rows() as u64;
                    probed.nats += outcome.nats;
                    exact += slope;
                });
                passes += 1;
                probed.slopes.push(exact as f32);
                continue;
            };
            let points = points(eps, one_sided);
            let mut ends = [0.0; 2];
            for (end, by) in ends.iter_mut().zip(points) {
                if let (true, Some(known)) = (by == 0.0, at_rest) {
                    *end = known;
                    continue;
                }
                batches(&mut |batch| {
                    probed.tokens += batch.rows() as u64;
                    *end += self.probe(batch, by, direction).nats;
                });
                probed.nats += *end;
                passes += 1;
                if by == 0.0 {
                    at_rest = Some(*end);
                }
            }
            probed.slopes.push(slope(ends, points, targets));
        }
        probed.nats /= f64::from(passes);
        probed.tokens /= passes as u64;
        probed
    }

    /// The gradient of the mean loss of a step's micro-batches, which have `targets` trained rows, or what the
    /// session's estimator takes for it with the random numbers of `(seed, step)`: [`Session::grads`] holds it
    /// afterwards. Nothing is stepped.
    ///
    /// # Panics
    /// When the session keeps no gradients ([`super::Options::gradients`]).
    pub fn gradient(
        &mut self,
        (seed, step): (u64, u64),
        targets: usize,
        batches: &mut MicroBatches<'_>,
    ) -> Outcome {
        self.zero_grads();
        match self.options().estimator {
            Estimator::Exact | Estimator::Subset(_) => {
                let mut sum = Outcome::default();
                batches(&mut |batch| {
                    let outcome = self.accumulate_at((seed, step), batch, targets);
                    sum.nats += outcome.nats;
                    sum.targets += outcome.targets;
                });
                sum
            }
            Estimator::Directional(along) => {
                let probed = self.slopes(&along, (seed, step), targets, batches);
                for (number, slope) in probed.slopes.iter().enumerate() {
                    let weight = f64::from(*slope) / along.directions as f64;
                    self.add_to_grads(weight, along.direction(seed, step, number));
                }
                Outcome { nats: probed.nats, targets }
            }
        }
    }
}
