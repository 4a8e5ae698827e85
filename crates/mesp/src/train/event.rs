//! What a run tells whoever watches it.

use serde::Serialize;

use super::Notice;

/// Something that happened; a line of `metrics.jsonl`, as `docs/metrics.md` has it. Field names are those of TRL and mlx-lm where they
/// agree.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Event {
    /// The run begins (again, when it resumes).
    Run {
        /// First step of this process, counted from 0.
        step: usize,
        /// Steps of the whole run.
        total_steps: usize,
        /// Rows with something to train.
        rows: usize,
        /// Trainable parameters.
        parameters: u64,
        /// The method's name or policy.
        method: String,
    },
    /// An optimizer step is done.
    Train {
        /// Counted from 1.
        step: usize,
        /// Passes over the data so far.
        epoch: f64,
        /// Mean loss of the step's target tokens, in nats.
        loss: f64,
        /// Rate of the step.
        learning_rate: f64,
        /// Norm of the gradients before clipping.
        grad_norm: f64,
        /// Tokens so far.
        num_tokens: u64,
        /// Tokens of this step over its time.
        tokens_per_second: f64,
        /// Seconds since the run began, those before a resume included.
        elapsed: f64,
        /// Seconds to its end, if steps go on as the last ones did.
        eta: f64,
        /// Whether the adapter was left as it was.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        skipped: bool,
    },
    /// Held-out rows were evaluated.
    Eval {
        /// Optimizer steps done.
        step: usize,
        /// Mean loss of target tokens, in nats.
        eval_loss: f64,
        /// Share of target tokens that were the likeliest.
        eval_accuracy: f64,
        /// Target tokens.
        target_tokens: usize,
        /// Whether no trained adapter had a lower loss before.
        best: bool,
        /// Evaluations without an improvement that are still allowed, if that has a limit.
        patience_left: Option<usize>,
    },
    /// Anything else worth a line.
    Event {
        /// Optimizer steps done.
        step: usize,
        /// In words.
        message: String,
        /// By kind.
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
