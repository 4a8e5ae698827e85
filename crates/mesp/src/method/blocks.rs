//! Ranges of blocks.

use std::fmt;

use crate::{Error, ErrorKind, Result};

/// Some blocks in a row: whose adapters move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// The first.
    pub first: usize,
    /// The last, it included.
    pub last: usize,
}

impl Blocks {
    /// All there are.
    pub const ALL: Self = Self { first: 0, last: usize::MAX };

    /// Whether a block is one of them.
    pub const fn has(self, block: usize) -> bool {
        self.first <= block && block <= self.last
    }

    /// From `2` or `0-3`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(Error::usage(ErrorKind::Malformed, format!("‘blocks’ {text:?} are unknown"))
                .expected("a number or two such as 0-3")),
        }
    }

    /// Whether a model has them.
    ///
    /// # Errors
    /// When it does not.
    pub fn fits(self, layers: usize) -> Result<()> {
        if self == Self::ALL || self.last < layers {
            return Ok(());
        }
        Err(Error::usage(
            ErrorKind::OutOfRange,
            format!("block {} was named, and the model has {layers}, counted from 0", self.last),
        ))
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => write!(f, "all"),
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}
