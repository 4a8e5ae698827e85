//! What completions came to, in sums that add up over micro-batches, and in means under TRL's names.

use serde::{Deserialize, Serialize};

use super::Side;

/// Sums over completions of one side.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sums {
    count: usize,
    reward: f64,
    logp: f64,
}

impl Sums {
    fn take(&mut self, [reward, logp]: [f64; 2]) {
        self.count += 1;
        self.reward += reward;
        self.logp += logp;
    }

    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.reward += other.reward;
        self.logp += other.logp;
    }

    fn mean(&self, sum: f64) -> Option<f64> {
        (self.count > 0).then(|| sum / self.count as f64)
    }
}

/// What completions came to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Sum of the losses of pairs, or of marked completions: the step's loss is it over their number.
    pub loss: f64,
    /// Pairs, or marked completions.
    pub examples: usize,
    /// κ of kto, 0 otherwise.
    pub kl: f64,
    /// Examples that are pairs, and those whose chosen completion has the larger reward.
    pairs: usize,
    correct: usize,
    chosen: Sums,
    rejected: Sums,
}

impl Score {
    /// Nothing yet.
    pub(super) fn with_kl(kl: f64) -> Self {
        Self { kl, ..Self::default() }
    }

    /// Takes a pair: its loss, reward and log-probability of each side.
    pub(super) fn pair(&mut self, loss: f64, [chosen, rejected]: [[f64; 2]; 2]) {
        self.loss += loss;
        self.examples += 1;
        self.pairs += 1;
        self.correct += usize::from(chosen[0] > rejected[0]);
        self.chosen.take(chosen);
        self.rejected.take(rejected);
    }

    /// Takes a marked completion.
    pub(super) fn marked(&mut self, loss: f64, side: Side, seen: [f64; 2]) {
        self.loss += loss;
        self.examples += 1;
        match side {
            Side::Chosen => self.chosen.take(seen),
            Side::Rejected => self.rejected.take(seen),
        }
    }

    /// Adds what others came to, of the same step or of the same evaluation.
    pub fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.examples += other.examples;
        self.kl = other.kl;
        self.pairs += other.pairs;
        self.correct += other.correct;
        self.chosen.add(other.chosen);
        self.rejected.add(other.rejected);
    }

    /// Mean loss.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.examples as f64
    }

    /// Means.
    pub fn metrics(&self) -> Metrics {
        let Self { chosen, rejected, .. } = self;
        let [good, bad] = [chosen, rejected].map(|side| side.mean(side.reward));
        Metrics {
            rewards_chosen: good,
            rewards_rejected: bad,
            rewards_accuracies: (self.pairs > 0).then(|| self.correct as f64 / self.pairs as f64),
            rewards_margins: good.zip(bad).map(|(good, bad)| good - bad),
            logps_chosen: chosen.mean(chosen.logp),
            logps_rejected: rejected.mean(rejected.logp),
        }
    }
}

/// Means over the completions of a step or an evaluation, under TRL's names; none of a side that has no completion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// β times what the loss compares, of chosen completions.
    #[serde(rename = "rewards/chosen", skip_serializing_if = "Option::is_none")]
    pub rewards_chosen: Option<f64>,
    /// The same of rejected ones.
    #[serde(rename = "rewards/rejected", skip_serializing_if = "Option::is_none")]
    pub rewards_rejected: Option<f64>,
    /// Share of pairs whose chosen completion has the larger reward.
    #[serde(rename = "rewards/accuracies", skip_serializing_if = "Option::is_none")]
    pub rewards_accuracies: Option<f64>,
    /// By how much the reward of chosen completions is larger.
    #[serde(rename = "rewards/margins", skip_serializing_if = "Option::is_none")]
    pub rewards_margins: Option<f64>,
    /// Log-probability of chosen completions, in sum or a token as the loss reads it.
    #[serde(rename = "logps/chosen", skip_serializing_if = "Option::is_none")]
    pub logps_chosen: Option<f64>,
    /// The same of rejected ones.
    #[serde(rename = "logps/rejected", skip_serializing_if = "Option::is_none")]
    pub logps_rejected: Option<f64>,
}

impl Metrics {
    /// Each by its name, as in JSON.
    pub fn named(&self) -> [(&'static str, Option<f64>); 6] {
        [
            ("rewards/chosen", self.rewards_chosen),
            ("rewards/rejected", self.rewards_rejected),
            ("rewards/accuracies", self.rewards_accuracies),
            ("rewards/margins", self.rewards_margins),
            ("logps/chosen", self.logps_chosen),
            ("logps/rejected", self.logps_rejected),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_json() {
        let mut score = Score::default();
        score.pair(0.5, [[3.0, -4.0], [1.0, -5.0]]);
        let metrics = score.metrics();
        let named: Vec<_> = metrics.named().into_iter().map(|(name, value)| (name, value.unwrap())).collect();
        let json = serde_json::to_value(metrics).unwrap();
        assert_eq!(json.as_object().unwrap().len(), named.len());
        for (name, value) in named {
            assert_eq!(json[name], value);
        }
        assert_eq!(
            (json["rewards/margins"].as_f64(), json["rewards/accuracies"].as_f64()),
            (Some(2.0), Some(1.0))
        );
    }
}
