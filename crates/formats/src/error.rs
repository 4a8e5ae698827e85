//! What can be wrong with a file: one enum, every message with what, where, expected, found, what to do.

use std::path::{Path, PathBuf};

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
    #[error("{}: {problem}{}", path.display(), hint_text(.hint.as_ref()))]
    Invalid {
        /// The file, with the tensor or key where that helps.
        path: PathBuf,
        /// What is wrong, with what was expected and what was found.
        problem: String,
        /// What the user can do about it.
        hint: Option<String>,
    },
}

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Invalid`] without advice.
    pub fn invalid(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Self::Invalid { path: path.as_ref().to_path_buf(), problem: problem.into(), hint: None }
    }

    /// Adds advice to an [`Error::Invalid`]; other errors stay as they are.
    #[must_use]
    pub fn hint(mut self, advice: impl Into<String>) -> Self {
        if let Self::Invalid { hint, .. } = &mut self {
            *hint = Some(advice.into());
        }
        self
    }

    /// An [`Error::Io`].
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.as_ref().to_path_buf(), source }
    }
}

fn hint_text(hint: Option<&String>) -> String {
    hint.map_or_else(String::new, |h| format!("\n  {h}"))
}
