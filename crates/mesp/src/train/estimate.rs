//! A step's gradient, or its directional derivatives, by the session's estimator.

use mesp_device::Backend;

use super::{Outcome, Session, Total};
use crate::method::zeroth::{derivative, points};
use crate::method::{Derivative, Directional, Estimator};
use crate::model::Batch;

/// Passes the micro-batches of a step to a visitor one by one; every call passes the same ones.
pub type MicroBatches<'a> = dyn FnMut(&mut dyn FnMut(&Batch)) + 'a;

/// The directional derivatives of a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probed {
    /// Sum of the losses of all target tokens, in nats; the mean over all passes through the model.
    pub nats: f64,
    /// Tokens of the step.
    pub tokens: u64,
    /// Target tokens of the step.
    pub targets: usize,
    /// The directional derivative along each direction, in the precision of the log.
    pub derivatives: Vec<f32>,
}

impl Probed {
    /// Root mean square of the directional derivatives.
    pub fn norm(&self) -> f64 {
        let squares: f64 = self.derivatives.iter().map(|s| f64::from(*s).powi(2)).sum();
        (squares / self.derivatives.len() as f64).sqrt()
    }
}

impl<B: Backend> Session<B> {
    /// Directional derivatives of the mean loss of a step's micro-batches, which have `total` target tokens or pairs,
    /// along the directions drawn for `(seed, step)`. Parameters do not change.
    pub fn derivatives(
        &mut self,
        along: &Directional,
        (seed, step): (u64, u64),
        total: impl Into<Total>,
        batches: &mut MicroBatches<'_>,
    ) -> Probed {
        let total = total.into();
        if self.bounds().values().is_empty() && along.sparsity > 0.0 {
            self.bound(along.sparsity);
        }
        let mut probed = Probed { derivatives: Vec::with_capacity(along.directions), ..Probed::default() };
        self.set_total(Some(total));
        let (mut passes, mut at_rest) = (0, None);
        for number in 0..along.directions {
            let direction = along.direction(seed, step, number);
            let Derivative::Difference { eps, one_sided } = along.derivative else {
                let mut exact = 0.0;
                batches(&mut |batch| {
                    let (outcome, derivative) = self.derivative(batch, total, direction);
                    probed.tokens += batch.rows() as u64;
                    probed.targets += batch.targets();
                    probed.nats += outcome.nats;
                    exact += derivative;
                });
                passes += 1;
                probed.derivatives.push(exact as f32);
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
                    probed.targets += batch.targets();
                    *end += self.probe(batch, by, direction).nats;
                });
                probed.nats += *end;
                passes += 1;
                if by == 0.0 {
                    at_rest = Some(*end);
                }
            }
            probed.derivatives.push(derivative(ends, points, total.count));
        }
        self.set_total(None);
        probed.nats /= f64::from(passes);
        probed.tokens /= passes as u64;
        probed.targets /= passes as usize;
        probed
    }

    /// The gradient of the mean loss of a step's micro-batches, which have `total` target tokens or pairs, or its
    /// estimate with the random numbers of `(seed, step)`. It is then in [`Session::grads`]; parameters do not change.
    ///
    /// # Panics
    /// When the session keeps no gradients ([`super::Options::gradients`]).
    pub fn gradient(
        &mut self,
        (seed, step): (u64, u64),
        total: impl Into<Total>,
        batches: &mut MicroBatches<'_>,
    ) -> Outcome {
        let total = total.into();
        self.zero_grads();
        match self.options().estimator {
            Estimator::Exact | Estimator::Subset(_) => {
                let mut sum = Outcome::default();
                batches(&mut |batch| {
                    let outcome = self.accumulate_at((seed, step), batch, total);
                    sum.nats += outcome.nats;
                    sum.targets += outcome.targets;
                    sum.count += outcome.count;
                });
                sum
            }
            Estimator::Directional(along) => {
                let probed = self.derivatives(&along, (seed, step), total, batches);
                for (number, derivative) in probed.derivatives.iter().enumerate() {
                    let weight = f64::from(*derivative) / along.directions as f64;
                    self.add_to_grads(weight, along.direction(seed, step, number));
                }
                Outcome { nats: probed.nats, targets: probed.targets, count: total.count }
            }
        }
    }
}
