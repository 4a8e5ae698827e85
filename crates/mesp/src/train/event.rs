//! The events that a run reports.

use serde::Serialize;

use super::Notice;
use crate::preference::Metrics;

/// An event of a run; one line of `metrics.jsonl`, described in `docs/metrics.md`. Field names are those of TRL and
/// mlx-lm where these agree.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Event {
    /// The run begins, or resumes.
    Run {
        /// Steps done before: 0, or those of the checkpoint that is resumed.
        step: usize,
        /// The number of steps of the run.
        total_steps: usize,
        /// Rows with at least one target token.
        rows: usize,
        /// Trainable parameters.
        parameters: u64,
        /// The method's name, or its policy.
        method: String,
    },
    /// An optimizer step was made.
    Train {
        /// Counted from 1.
        step: usize,
        /// Epochs so far, with a fraction.
        epoch: f64,
        /// Mean loss of the step's target tokens, in nats.
        loss: f64,
        /// Learning rate of the step.
        learning_rate: f64,
        /// L2 norm of all gradients before clipping.
        grad_norm: f64,
        /// Tokens so far, those before a resume included.
        num_tokens: u64,
        /// Tokens of this step divided by its seconds.
        tokens_per_second: f64,
        /// Seconds since the run began, those before a resume included.
        elapsed: f64,
        /// Estimated seconds left, from the time of the last steps.
        eta: f64,
        /// Whether the update was skipped, so that the adapter did not change.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        skipped: bool,
        /// Of a preference loss: rewards and log-probabilities of the step's completions.
        #[serde(flatten)]
        preference: Option<Metrics>,
    },
    /// Held-out rows were evaluated.
    Eval {
        /// Optimizer steps done.
        step: usize,
        /// Mean loss of target tokens, in nats.
        eval_loss: f64,
        /// Share of target tokens that had the largest logit, 0 to 1.
        eval_accuracy: f64,
        /// Target tokens.
        target_tokens: usize,
        /// Whether this is the lowest loss of a trained adapter so far.
        best: bool,
        /// Evaluations without an improvement until early stopping, if there is early stopping.
        patience_left: Option<usize>,
        /// Of a preference loss: rewards and log-probabilities.
        #[serde(flatten)]
        preference: Option<Metrics>,
    },
    /// Anything else.
    #[serde(rename = "event")]
    Notice {
        /// Optimizer steps done.
        step: usize,
        /// A message for people.
        message: String,
        /// What happened, with its data.
        #[serde(flatten)]
        what: Notice,
    },
    /// The run ends.
    End {
        /// Optimizer steps done.
        step: usize,
        /// `done`, `stopped`, `interrupted` or `failed`.
        status: &'static str,
    },
}
