//! The library's one error: every message says what, where, expected, found, and what to do.

use std::path::{Path, PathBuf};

use mesp_device::TooLarge;

use crate::limits::{ByteSize, OverBudget};

/// Why an operation of the library failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read, written or understood.
    #[error(transparent)]
    File(#[from] mesp_formats::Error),
    /// Training or evaluation data that cannot be used.
    #[error("{}{}: {problem}{}", path.display(), line.map_or_else(String::new, |l| format!(":{l}")), hint_text(.hint.as_ref()))]
    Data {
        /// The data file.
        path: PathBuf,
        /// The line, counted from 1.
        line: Option<usize>,
        /// What is wrong, with what was expected and what was found.
        problem: String,
        /// What the user can do about it.
        hint: Option<String>,
    },
    /// A choice that cannot be carried out.
    #[error("{problem}{}", hint_text(.hint.as_ref()))]
    Usage {
        /// What is wrong.
        problem: String,
        /// What the user can do about it.
        hint: Option<String>,
    },
    /// The run produced a value that is not a number.
    #[error("step {step}: the {what} is {value}; rows of this step: {rows}\n  {}", last_good(*.step, .what, *.whole_steps))]
    NonFinite {
        /// The optimizer step, counted from 1.
        step: usize,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The value found.
        value: f64,
        /// File and line of the rows in the step.
        rows: String,
        /// Whether nothing is stepped before all of a step's gradients are known.
        whole_steps: bool,
    },
    /// The gradients were far larger than before, and the run was to stop then.
    #[error(
        "step {step}: the gradient norm is {norm:.3}, its running mean was {mean:.3}; rows of this step: {rows}\n  the adapter is as it was before the step; resume with ‘on_spike’ skip or report, or look at these rows"
    )]
    Spike {
        /// The optimizer step, counted from 1.
        step: usize,
        /// The norm.
        norm: f64,
        /// The mean before.
        mean: f64,
        /// File and line of the rows in the step.
        rows: String,
    },
    /// A run that cannot be done in the memory it may have.
    #[error(transparent)]
    OverBudget(Box<OverBudget>),
    /// The system gave no memory for a plan that seemed to fit.
    #[error("the system has not enough memory for the plan's {bytes} bytes ({})", ByteSize(*.bytes))]
    OutOfMemory {
        /// What was asked for.
        bytes: u64,
    },
    /// A run ended since a file could not be written.
    #[error("{cause}\n  {left}")]
    Ended {
        /// Why.
        cause: Box<Error>,
        /// What of the run is on disk.
        left: String,
    },
}

impl From<OverBudget> for Error {
    fn from(over: OverBudget) -> Self {
        Self::OverBudget(Box::new(over))
    }
}

impl From<TooLarge> for Error {
    fn from(error: TooLarge) -> Self {
        Self::usage(format!("the plan cannot be kept: {error}"))
            .hint("lower what it grows with: ‘rank’, ‘max_seq_len’, ‘batch_size’, ‘max_tokens’")
    }
}

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Data`] without advice.
    pub fn data(path: impl AsRef<Path>, line: Option<usize>, problem: impl Into<String>) -> Self {
        Self::Data { path: path.as_ref().to_path_buf(), line, problem: problem.into(), hint: None }
    }

    /// An [`Error::Usage`] without advice.
    pub fn usage(problem: impl Into<String>) -> Self {
        Self::Usage { problem: problem.into(), hint: None }
    }

    /// Adds advice where the error has room for it.
    #[must_use]
    pub fn hint(mut self, advice: impl Into<String>) -> Self {
        match &mut self {
            Self::Data { hint, .. }
            | Self::Usage { hint, .. }
            | Self::File(mesp_formats::Error::Invalid { hint, .. }) => *hint = Some(advice.into()),
            _ => {}
        }
        self
    }
}

/// Which adapter is good, where a step has produced a value that is not a number: one is once a finite loss was seen
/// with it.
fn last_good(step: usize, what: &str, whole_steps: bool) -> String {
    let lower = "lower ‘learning_rate’ or set ‘max_grad_norm’";
    let before = step.saturating_sub(1);
    if step <= 1 {
        return "no step was made: what the run started from has it, the model or the adapter; look at these rows, and \
                at the weights"
            .to_owned();
    }
    match (what, whole_steps) {
        ("loss", _) => format!(
            "the adapter after step {before} has it and is of no use, also where it is kept; the last finite loss was \
             step {before}'s, of the adapter before that step: {lower}, and start again or from an earlier checkpoint"
        ),
        (_, true) => format!("the adapter is as it was after step {before}, and its loss is finite; {lower}"),
        (_, false) => format!(
            "blocks behind the first such gradient were stepped: the adapter is neither that of step {before} nor of \
             step {step}, and its loss was not seen; start again, or resume from a checkpoint; lower ‘learning_rate’"
        ),
    }
}

fn hint_text(hint: Option<&String>) -> String {
    hint.map_or_else(String::new, |h| format!("\n  {h}"))
}
