//! Rows as tokens in a compact file, so that neither a tokenizer nor the rows need be in memory while they are used.
//!
//! Little-endian throughout. A text is a `u32` length and UTF-8 bytes.
//!
//! | part | content |
//! |---|---|
//! | head | `MESPTOK\n`, version `u32`, key `u128` |
//! | rows | of each its tokens `u32`, and its labels `i32` where its entry says so |
//! | sum | FNV-1a of all bytes before, `u64` |
//! | entries | of each row where it begins `u64`, its line `u64`, its tokens `u32`, its targets `u32`, how many of its first labels are untrained while the others are the tokens `u32` or 2³² − 1 where labels follow the tokens, its file `u32` |
//! | about | the path of the data, `u8` 1 if it is a plain text, `u32` notes, each a text, `u32` files, each its path, `u8` 0 if rows stand alone, 1 if two are a pair of completions, 2 if they are completions with a label; then how many `u64`, and 64 labels a `u64` |
//! | end | where the entries begin `u64`, rows `u64`, FNV-1a of all bytes from the entries to here `u64`, `MESPTEND` |
//!
//! Rows follow each other without gaps in the order of their entries. A file is written from front to end, and read
//! by position: nothing of it is in memory but the batch that is laid out.

mod read;
mod write;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mesp_formats::Error as FileError;

pub use self::read::TokenFile;
pub use self::write::TokenWriter;
use super::fnv::Fnv128;
use super::{Grouping, ReadOptions, RowSize};
use crate::Result;

const MAGIC: [u8; 8] = *b"MESPTOK\n";
const END: [u8; 8] = *b"MESPTEND";
const VERSION: u32 = 6;
/// Counts changes of what rows become; tokens that were kept under earlier rules are made anew.
const RULES: u32 = 2;

const HEAD: usize = MAGIC.len() + 4 + 16;
const ENTRY: usize = 32;
const TAIL: usize = 4 * 8;
/// In an entry: the labels follow the tokens.
const OWN: u32 = u32::MAX;

/// What a token file was made from: it is of use only for the same data, tokenizer and options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenKey(pub u128);

impl TokenKey {
    /// The key of some files' content and of what else rows depend on.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn new<'a>(
        files: impl IntoIterator<Item = (&'a Path, &'a mut dyn Read)>,
        options: &ReadOptions,
    ) -> Result<Self> {
        let mut hash = Fnv128::default();
        hash.add(format!("{VERSION} {RULES} {options:?}").as_bytes());
        let mut buffer = vec![0; 1 << 16];
        for (path, file) in files {
            // Between files, so that bytes cannot move from one to the next; the same bytes are something else in
            // another file.
            hash.add(b"\0file\0");
            hash.add(path.file_name().unwrap_or_default().as_encoded_bytes());
            hash.add(b"\0");
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => hash.add(&buffer[..n]),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(FileError::io("read", path, e).into()),
                }
            }
        }
        Ok(Self(hash.0))
    }
}

/// What a token file says of its rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The file that was read, or the directory of several.
    pub path: PathBuf,
    /// Whether it is one plain text, and its rows are windows of it.
    pub document: bool,
    /// What a reader of the log should know.
    pub notes: Vec<String>,
    /// Which rows belong together.
    pub grouping: Grouping,
}

/// Whether bytes begin a token file.
pub fn is_token_file(start: &[u8]) -> bool {
    start.starts_with(&MAGIC)
}

/// One row's entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Entry {
    start: u64,
    line: u64,
    tokens: u32,
    targets: u32,
    masked: u32,
    file: u32,
}

impl Entry {
    fn bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.line.to_le_bytes());
        let words = [self.tokens, self.targets, self.masked, self.file];
        for (place, word) in bytes[16..].as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        bytes
    }

    fn read(bytes: &[u8; ENTRY]) -> Self {
        let words = bytes.as_chunks::<4>().0;
        let word = |at: usize| u32::from_le_bytes(words[at]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 1)) << 32;
        let [tokens, targets, masked, file] = [4, 5, 6, 7].map(word);
        Self { start: long(0), line: long(2), tokens, targets, masked, file }
    }

    /// Bytes of the row.
    fn length(self) -> u64 {
        u64::from(self.tokens) * if self.masked == OWN { 8 } else { 4 }
    }

    fn size(self) -> RowSize {
        RowSize::of_sequence(self.tokens as usize, self.targets as usize)
    }
}

#[cfg(test)]
mod tests;
