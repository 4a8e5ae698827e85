//! What can be wrong with a file: one enum, every message with what, where, expected, found, what to do.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use crate::problem::{ErrorKind, Problem};

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb: `open`, `read`, `write`, `rename`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file's content is not what it should be.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, with the tensor or key where that is known.
        problem: Box<Problem>,
    },
}

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Invalid`] about the whole file, of which nothing is said yet.
    pub fn invalid(path: impl AsRef<Path>, kind: ErrorKind) -> Self {
        Self::Invalid { path: path.as_ref().to_path_buf(), problem: Box::new(Problem::new(kind, "")) }
    }

    /// An [`Error::Io`].
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.as_ref().to_path_buf(), source }
    }

    /// What sort of thing is wrong.
    pub fn kind(&self) -> ErrorKind {
        self.problem().map_or(ErrorKind::System, |problem| problem.kind)
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. } | Self::Invalid { path, .. } => path,
        }
    }

    /// What is wrong in parts, of an [`Error::Invalid`].
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Io { .. } => None,
            Self::Invalid { problem, .. } => Some(problem),
        }
    }

    /// An [`Error::Invalid`] with its problem changed; other errors stay as they are.
    #[must_use]
    pub fn with(self, change: impl FnOnce(Problem) -> Problem) -> Self {
        match self {
            Self::Invalid { path, problem } => Self::Invalid { path, problem: Box::new(change(*problem)) },
            other @ Self::Io { .. } => other,
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

    /// Names the tensor: [`Problem::tensor`].
    #[must_use]
    pub fn tensor(self, name: impl Into<String>) -> Self {
        self.with(|problem| problem.tensor(name))
    }

    /// Names the key: [`Problem::key`].
    #[must_use]
    pub fn key(self, name: impl Into<String>) -> Self {
        self.with(|problem| problem.key(name))
    }
}
