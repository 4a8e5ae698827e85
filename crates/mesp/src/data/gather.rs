//! All rows of a file, kept where they take little memory.

use std::fs::File;
use std::io::{self, BufWriter, Seek};
use std::path::Path;
use std::sync::Arc;

use mesp_formats::Error as FileError;

use super::token_file::{About, TokenFile, TokenKey, TokenWriter};
use super::{Example, Examples, FileRows, ReadOptions, TextEncoder};
use crate::{Error, ErrorKind, Result};

/// Bytes of rows that are kept in memory.
const FEW: usize = 1 << 20;

/// Rows that were read, and what is to be said of them.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// What is to be said.
    pub about: About,
    /// The rows.
    pub rows: Arc<dyn Examples>,
}

enum Store {
    Few(Vec<Example>, usize),
    Many(TokenWriter<BufWriter<File>>),
}

impl Gathered {
    /// Reads rows as [`FileRows::read`] does. A megabyte of them is kept in memory; more are written to a temporary file
    /// in the folder `beside`, which has no name and goes with the process, and are read from there when they are
    /// needed.
    ///
    /// # Errors
    /// As [`FileRows::read`], and when the temporary file cannot be written.
    pub fn read(
        path: &Path,
        encoder: Option<&TextEncoder>,
        options: &ReadOptions,
        beside: &Path,
    ) -> Result<Self> {
        Self::each(path, options.vocab_size, beside, |keep| FileRows::each(path, encoder, options, keep))
    }

    /// Keeps the rows that `read` gives away.
    fn each(
        path: &Path,
        vocab_size: usize,
        beside: &Path,
        read: impl FnOnce(&mut dyn FnMut(Example) -> Result<()>) -> Result<About>,
    ) -> Result<Self> {
        let failed = |e: io::Error| FileError::io("keep rows in a temporary file in", beside, e);
        let mut store = Store::Few(Vec::new(), 0);
        let about = read(&mut |example| {
            if let Store::Few(rows, bytes) = &mut store {
                *bytes += size_of::<Example>() + 8 * example.tokens.len();
                rows.push(example);
                if *bytes > FEW {
                    store = Store::Many(written(rows, beside).map_err(failed)?);
                }
            } else if let Store::Many(writer) = &mut store {
                writer.row(&example).map_err(failed)?;
            }
            Ok(())
        })?;
        let rows: Arc<dyn Examples> = match store {
            Store::Few(mut rows, _) => {
                // They are planned by their number.
                rows.shrink_to_fit();
                Arc::new(rows)
            }
            Store::Many(writer) => {
                let file = finished(writer, &about).map_err(failed)?;
                Arc::new(TokenFile::open(path, file, vocab_size)?)
            }
        };
        Self::of(about, rows)
    }

    /// Rows of a store, those together that belong together.
    fn of(about: About, store: Arc<dyn Examples>) -> Result<Self> {
        let rows = about.grouping.of(store).ok_or_else(|| {
            Error::data(&about.path, None, ErrorKind::Malformed, "completions of the rows are missing")
                .hint("make the file of tokens again")
        })?;
        Ok(Self { about, rows })
    }
}

impl TryFrom<TokenFile> for Gathered {
    type Error = Error;

    fn try_from(file: TokenFile) -> Result<Self> {
        Self::of(file.about().clone(), Arc::new(file))
    }
}

/// A temporary file with these rows.
fn written(rows: &[Example], beside: &Path) -> io::Result<TokenWriter<BufWriter<File>>> {
    let file = BufWriter::new(tempfile::tempfile_in(beside)?);
    let mut writer = TokenWriter::new(file, TokenKey::default(), beside)?;
    rows.iter().try_for_each(|row| writer.row(row))?;
    Ok(writer)
}

fn finished(writer: TokenWriter<BufWriter<File>>, about: &About) -> io::Result<File> {
    let mut file = writer.finish(about)?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(file)
}
