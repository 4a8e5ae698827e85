//! The library's one error: every message says what, where, expected, found, and what to do.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use mesp_device::TooLarge;
use mesp_formats::{ErrorKind, Problem};

use crate::limits::{ByteSize, OverBudget};

/// Why an operation of the library failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read, written or understood.
    #[error(transparent)]
    File(#[from] mesp_formats::Error),
    /// Training or evaluation data that cannot be used.
    #[error("{}{}: {problem}", path.display(), line.map_or_else(String::new, |l| format!(":{l}")))]
    Data {
        /// The data file.
        path: PathBuf,
        /// The line, counted from 1.
        line: Option<usize>,
        /// What is wrong, with the key of the row where it is of one.
        problem: Box<Problem>,
    },
    /// A choice that cannot be carried out.
    #[error("{problem}")]
    Usage {
        /// What is wrong, with the settings at fault where it is of settings.
        problem: Box<Problem>,
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
        Self::usage(ErrorKind::OutOfRange, format!("the plan cannot be kept: {error}"))
            .hint("lower what it grows with: ‘rank’, ‘max_seq_len’, ‘batch_size’, ‘max_tokens’")
    }
}

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Data`] of a kind, and what is wrong: [`Problem::new`].
    pub fn data(
        path: impl AsRef<Path>,
        line: Option<usize>,
        kind: ErrorKind,
        what: impl Into<String>,
    ) -> Self {
        Self::Data { path: path.as_ref().to_path_buf(), line, problem: Box::new(Problem::new(kind, what)) }
    }

    /// An [`Error::Usage`] of a kind, and what is wrong: [`Problem::new`]. Settings at fault stand between ‘ and ’ in it.
    pub fn usage(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self::Usage { problem: Box::new(Problem::new(kind, what)) }
    }

    /// The error with its problem changed, where it has one; others stay as they are.
    #[must_use]
    pub fn with(self, change: impl FnOnce(Problem) -> Problem) -> Self {
        match self {
            Self::File(error) => Self::File(error.with(change)),
            Self::Data { path, line, problem } => {
                Self::Data { path, line, problem: Box::new(change(*problem)) }
            }
            Self::Usage { problem } => Self::Usage { problem: Box::new(change(*problem)) },
            other => other,
        }
    }

    /// Says more of what is wrong: [`Problem::what`].
    #[must_use]
    pub fn what(self, what: impl Display) -> Self {
        self.with(|problem| problem.what(what))
    }

    /// Says what was expected: [`Problem::expected`].
    #[must_use]
    pub fn expected(self, expected: impl Display) -> Self {
        self.with(|problem| problem.expected(expected))
    }

    /// Says what was found: [`Problem::found`].
    #[must_use]
    pub fn found(self, found: impl Display) -> Self {
        self.with(|problem| problem.found(found))
    }

    /// Says what was found: [`Problem::is`].
    #[must_use]
    pub fn is(self, found: impl Display) -> Self {
        self.with(|problem| problem.is(found))
    }

    /// Says what was found: [`Problem::has`].
    #[must_use]
    pub fn has(self, found: impl Display) -> Self {
        self.with(|problem| problem.has(found))
    }

    /// Adds advice: [`Problem::hint`].
    #[must_use]
    pub fn hint(self, advice: impl Into<String>) -> Self {
        self.with(|problem| problem.hint(advice))
    }

    /// Names the key: [`Problem::key`].
    #[must_use]
    pub fn key(self, name: impl Into<String>) -> Self {
        self.with(|problem| problem.key(name))
    }

    /// What sort of thing is wrong.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            Self::Data { problem, .. } | Self::Usage { problem } => problem.kind,
            Self::NonFinite { .. } => ErrorKind::NotFinite,
            Self::Spike { .. } => ErrorKind::Diverged,
            Self::OverBudget(_) | Self::OutOfMemory { .. } => ErrorKind::Memory,
            Self::Ended { cause, .. } => cause.kind(),
        }
    }

    /// What is wrong in parts: of a file's content, of data, of usage. A run that ended has its cause's.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::File(error) => error.problem(),
            Self::Data { problem, .. } | Self::Usage { problem } => Some(problem),
            Self::Ended { cause, .. } => cause.problem(),
            _ => None,
        }
    }

    /// The settings at fault, by the names that [`Settings`](crate::settings::Settings) has for them, in the message's
    /// order: more than one where they exclude each other. What only the hint names is no part of them.
    pub fn settings(&self) -> impl Iterator<Item = &str> {
        self.problem().into_iter().flat_map(Problem::settings)
    }

    /// The first of the settings at fault.
    pub fn setting(&self) -> Option<&str> {
        self.settings().next()
    }

    /// The file or folder it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(error) => Some(error.path()),
            Self::Data { path, .. } => Some(path),
            Self::Ended { cause, .. } => cause.path(),
            _ => None,
        }
    }

    /// The line of a data file, counted from 1.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Data { line, .. } => *line,
            Self::Ended { cause, .. } => cause.line(),
            _ => None,
        }
    }

    /// The data that a problem of usage is about, where it turns out to be of a row or of a whole file.
    pub(crate) fn at(self, path: &Path, line: Option<usize>) -> Self {
        match self {
            Self::Usage { problem } => Self::Data { path: path.to_path_buf(), line, problem },
            other => other,
        }
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
