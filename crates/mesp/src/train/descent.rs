//! Optimizer steps of gradient estimators: a step needs only the directional derivatives of the loss, so the
//! log of these repeats the run without data.

use std::collections::VecDeque;

use mesp_device::Backend;

use super::{Session, replay};
use crate::Result;
use crate::method::Directional;

/// A descent, and where its derivatives are kept.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) descent: Descent,
    pub(super) log: Option<replay::Log>,
}

impl Logged {
    /// Logs a step's derivatives, then steps; without derivatives the step is left out, which the log says too.
    pub(super) fn descend<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        derivatives: Option<&[f32]>,
        learning_rate: f64,
    ) -> Result<()> {
        let left_out = vec![f32::NAN; if derivatives.is_none() { self.descent.along.directions } else { 0 }];
        let derivatives = derivatives.unwrap_or(&left_out);
        if let Some(log) = &mut self.log {
            log.append(derivatives)?;
        }
        if let Some(history) = session.moved_mut().and_then(|moved| moved.log.as_mut()) {
            history.derivatives.extend_from_slice(derivatives);
        }
        self.descent.descend(session, derivatives, learning_rate);
        Ok(())
    }
}

/// Steps whose derivatives have room from the start: with a momentum of 0.999 there are 4603.
const MOST_KEPT: usize = 1 << 13;

/// The directional derivatives of the latest steps, as many as the momentum needs.
#[derive(Debug)]
pub struct Descent {
    along: Directional,
    seed: u64,
    weight_decay: f64,
    /// Newest last, each with one derivative a direction.
    recent: VecDeque<Vec<f32>>,
}

impl Descent {
    /// The state before the first step, or, with the directional derivatives of `earlier` steps, before the next one.
    pub fn new(along: Directional, seed: u64, weight_decay: f64, earlier: &[Vec<f32>]) -> Self {
        let window = along.window();
        let mut recent = VecDeque::with_capacity(window.min(MOST_KEPT) + 1);
        let sound = |s: &Vec<f32>| s.iter().map(|s| if s.is_nan() { 0.0 } else { *s }).collect();
        recent.extend(earlier[earlier.len().saturating_sub(window)..].iter().map(sound));
        Self { along, seed, weight_decay, recent }
    }

    /// Makes a step from the directional derivatives, the seed and the learning rate alone. Values that are not finite
    /// stand for a skipped step.
    pub fn descend<B: Backend>(&mut self, session: &mut Session<B>, derivatives: &[f32], learning_rate: f64) {
        let step = session.advance();
        let mut latest = if self.recent.len() == self.along.window() {
            self.recent.pop_front().unwrap_or_default()
        } else {
            Vec::with_capacity(derivatives.len())
        };
        latest.clear();
        let left_out = derivatives.iter().any(|s| s.is_nan());
        latest.extend(derivatives.iter().map(|s| if left_out { 0.0 } else { *s }));
        self.recent.push_back(latest);
        if left_out {
            return;
        }
        let mut keep = 1.0 - learning_rate * self.weight_decay;
        let mut weight = learning_rate / self.along.directions as f64;
        for (age, derivatives) in self.recent.iter().rev().enumerate() {
            for (number, derivative) in derivatives.iter().enumerate() {
                let direction = self.along.direction(self.seed, step - age as u64, number);
                session.perturb_in_place(keep, -weight * f64::from(*derivative), direction);
                keep = 1.0;
            }
            weight *= self.along.momentum;
        }
    }

    /// The estimator's settings.
    pub fn along(&self) -> &Directional {
        &self.along
    }

    /// Seed of the directions.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}
