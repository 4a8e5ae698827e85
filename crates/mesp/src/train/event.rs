//! What a run tells whoever watches it.

use serde::Serialize;

/// Something that happened; a line of `metrics.jsonl`. Field names are those of TRL and mlx-lm where they
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
        /// Seconds since the run began.
        elapsed: f64,
        /// Seconds to its end, if steps go on as the last ones did.
        eta: f64,
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
    },
    /// Memory as the program measured it.
    Memory {
        /// Optimizer steps done.
        step: usize,
        /// High-water mark of the counting allocator.
        heap_peak_bytes: u64,
        /// High-water mark of anonymous resident memory, where the system tells.
        rss_anon_peak_bytes: Option<u64>,
        /// High-water mark of resident memory (`VmHWM`), where the system tells.
        rss_peak_bytes: Option<u64>,
        /// What was planned.
        planned_bytes: u64,
    },
    /// Anything else worth a line.
    Event {
        /// Optimizer steps done.
        step: usize,
        /// In words.
        message: String,
    },
    /// The run ends.
    End {
        /// Optimizer steps done.
        step: usize,
        /// `done`, `interrupted` or `failed`.
        status: String,
    },
}
