//! Learning-rate schedules.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// The schedule after the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Constant.
    Constant,
    /// Linear decay to zero.
    Linear,
    /// Cosine decay to zero.
    Cosine,
}

impl ScheduleKind {
    /// From the name on the command line.
    ///
    /// # Errors
    /// When there is none by that name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "constant" => Ok(Self::Constant),
            "linear" => Ok(Self::Linear),
            "cosine" => Ok(Self::Cosine),
            _ => Err(Error::usage(ErrorKind::Unknown, "‘lr_schedule’")
                .is(format!("{name:?}"))
                .expected("constant, linear or cosine")),
        }
    }

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        }
    }
}

/// A learning-rate schedule: linear warmup to a peak, then a decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Learning rate at the end of the warmup.
    pub peak: f64,
    /// Steps of the warmup.
    pub warmup: usize,
    /// Steps of the run.
    pub total: usize,
    /// What follows the warmup.
    pub kind: ScheduleKind,
}

impl Schedule {
    /// The learning rate of a step, counted from 0. The first step of the warmup has the rate peak/(warmup+1), not 0,
    /// so no step is wasted. The decay would reach zero one step after the last.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / (self.warmup + 1) as f64;
        }
        let done = (step - self.warmup) as f64 / (self.total.saturating_sub(self.warmup).max(1)) as f64;
        let done = done.min(1.0);
        match self.kind {
            ScheduleKind::Constant => self.peak,
            ScheduleKind::Linear => self.peak * (1.0 - done),
            ScheduleKind::Cosine => self.peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let s = |kind| Schedule { peak: 1.0, warmup: 3, total: 13, kind };
        let rates = |kind| (0..13).map(|i| s(kind).rate(i)).collect::<Vec<_>>();
        for kind in [ScheduleKind::Constant, ScheduleKind::Linear, ScheduleKind::Cosine] {
            assert_eq!(rates(kind)[..4], [0.25, 0.5, 0.75, 1.0]);
        }
        assert_eq!(rates(ScheduleKind::Constant)[12], 1.0);
        assert!((rates(ScheduleKind::Linear)[8] - 0.5).abs() < 1e-15);
        assert!((rates(ScheduleKind::Cosine)[8] - 0.5).abs() < 1e-15);
        assert!(rates(ScheduleKind::Linear).windows(2).skip(3).all(|w| w[1] < w[0]));
    }
}
