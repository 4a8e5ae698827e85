//! Training data: files in, token sequences with labels out, and batches of them in a repeatable order.
//!
//! [`FileRows::read`] turns a file into [`Example`]s: JSON in one of several [`Form`]s, told apart row by
//! row, or a plain text as one document. A row that cannot be used is an error that names file and
//! line; what is legal but worth knowing (rows cut, rows with nothing to train) is counted in
//! [`FileRows::notes`]. [`Batches`] fixes which rows a step sees, and [`RaggedBatch`] lays them end to
//! end, without padding, with each label moved to the position that predicts it.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod batch;
#[cfg(feature = "text")]
mod chat;
mod check;
mod columns;
mod compressed;
mod dataset;
mod date;
mod examples;
mod fnv;
mod forms;
mod gather;
#[cfg(feature = "text")]
mod gguf_tokenizer;
#[cfg(feature = "text")]
mod jinja;
mod keys;
mod layout;
mod long_row;
#[cfg(feature = "text")]
mod missing;
#[cfg(not(feature = "text"))]
mod no_text;
mod notes;
#[cfg(feature = "parquet")]
mod parquet;
mod positioned;
mod preferences;
#[cfg(feature = "text")]
mod python;
mod ragged;
mod referenced;
mod remarks;
mod rows;
mod shuffle;
pub(crate) mod source;
mod split;
mod subset;
mod table;
#[cfg(feature = "text")]
mod template;
#[cfg(test)]
pub(crate) mod test_util;
pub mod token_file;
#[cfg(feature = "text")]
mod tokenizer;
mod tokenizer_info;
mod told;
mod turns;
mod vocabulary;
#[cfg(any(feature = "parquet", feature = "text"))]
mod wall;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use batch::{BatchSize, Batches};
#[cfg(feature = "text")]
pub use chat::{ChatFormat, Marked};
pub use check::Checked;
pub use columns::Columns;
pub(crate) use columns::Seen;
pub use dataset::{FileRows, LongRows, PromptStyle, ReadOptions, TrainOn};
pub use date::Date;
pub use examples::{Examples, Mismatched, Part, RowSize, Rows, totals};
pub use forms::Form;
pub use gather::Gathered;
#[cfg(feature = "text")]
pub use gguf_tokenizer::from_gguf;
pub use layout::{HELD_OUT, TEST, all_files, files, refuse_stream, split_of, unused};
#[cfg(not(feature = "text"))]
pub use no_text::{ChatFormat, TextEncoder};
pub use preferences::{Bits, Grouping, are_pairs};
pub use ragged::RaggedBatch;
pub use referenced::{ReferenceFile, ReferenceWriter, ReferencedRows};
pub use source::unpacks;
pub use split::split;
pub use subset::Subset;
#[cfg(feature = "text")]
pub use tokenizer::TextEncoder;
pub(crate) use tokenizer_info::{JSON as TOKENIZER_JSON, has_tokenizer};
pub use tokenizer_info::{Prefix, Token, TokenizerInfo};
pub use turns::Conversation;
pub(crate) use turns::type_of;
pub use vocabulary::in_vocabulary;

/// The label of a position that is not trained; the value other tools use in token files too.
pub const UNTRAINED: i32 = -100;

/// Where a row was read, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub path: Arc<Path>,
    /// The line on which the row begins, counted from 1; in a Parquet file the number of the row.
    pub line: usize,
}

impl Origin {
    /// Whether both are the same row.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.line == other.line && (Arc::ptr_eq(&self.path, &other.path) || self.path == other.path)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// One sequence: tokens, and beside each token its label or [`UNTRAINED`].
///
/// Labels stand at the token they name; the label at position t is predicted from the positions before
/// t. So nothing can predict the label at position 0, and it never counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// The labels, as many as there are tokens.
    pub labels: Vec<i32>,
    /// Where the row was read.
    pub origin: Origin,
}

impl Example {
    /// Tokens that are all trained but the first, which nothing predicts. Its origin is of no file.
    pub fn of(tokens: Vec<u32>) -> Self {
        let labels = tokens.iter().map(|token| *token as i32).collect();
        Self { tokens, labels, origin: Origin { path: Arc::from(Path::new("rows")), line: 1 } }
    }

    /// The number of positions whose label is predicted and trained.
    pub fn targets(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&label| label != UNTRAINED).count()
    }
}
