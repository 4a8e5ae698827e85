//! Events besides steps and evaluations.

use serde::Serialize;

use super::Action;

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Notice {
    /// A checkpoint was written.
    Checkpoint {
        /// Its path below the run directory.
        path: String,
        /// Whether it was written for the best evaluation.
        best: bool,
    },
    /// A checkpoint was removed, since there were too many.
    Removed {
        /// Its path below the run directory.
        path: String,
    },
    /// A loss or a gradient norm was NaN or infinite.
    NonFinite {
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// `NaN`, `inf` or `-inf` as text, since JSON has no such numbers.
        value: String,
        /// Files and lines.
        rows: Vec<String>,
        /// The configured action.
        action: Action,
    },
    /// The gradient norm exceeded a multiple of its running mean.
    Spike {
        /// The norm.
        grad_norm: f64,
        /// The running mean before it.
        mean: f64,
        /// Files and lines.
        rows: Vec<String>,
        /// The configured action.
        action: Action,
    },
    /// Early stopping: evaluations no longer improve.
    EarlyStop {
        /// Steps before the best evaluation.
        best_step: usize,
        /// Its loss.
        best_loss: f64,
    },
    /// The adapter of the best evaluation was loaded at the end of the run.
    BestLoaded {
        /// Its steps.
        best_step: usize,
        /// Its loss.
        best_loss: f64,
    },
    /// The run directory had been deleted, and was created again.
    FolderMadeAgain,
}

impl Notice {
    /// In words.
    pub(super) fn message(&self, step: usize) -> String {
        let what_was_done = |action: &Action| match action {
            Action::Report => "the step is used",
            Action::Skip => "the step is left out",
            Action::Stop => "the run stops before the step",
        };
        match self {
            Self::Checkpoint { path, best: false } => format!("checkpoint of step {step} written: {path}"),
            Self::Checkpoint { path, best: true } => {
                format!("best evaluation so far; checkpoint of step {step} written: {path}")
            }
            Self::Removed { path } => format!("checkpoint removed: {path}"),
            Self::NonFinite { what, value, rows, action } => {
                let done = what_was_done(action);
                format!("step {step}: the {what} is {value}; {done}; rows: {}", rows.join(", "))
            }
            Self::Spike { grad_norm, mean, rows, action } => {
                let done = what_was_done(action);
                format!(
                    "step {step}: the gradient norm is {grad_norm:.3}, {:.0} times its mean of {mean:.3}; {done}; rows: {}",
                    grad_norm / mean,
                    rows.join(", ")
                )
            }
            Self::EarlyStop { best_step, best_loss } => format!(
                "stopped after step {step}: held-out loss was lowest at step {best_step}, {best_loss:.4}"
            ),
            Self::BestLoaded { best_step, best_loss } => {
                format!("the adapter is that of step {best_step}, held-out loss {best_loss:.4}")
            }
            Self::FolderMadeAgain => format!(
                "the run directory has vanished, with all that was in it; it was made again after step {step}"
            ),
        }
    }
}
