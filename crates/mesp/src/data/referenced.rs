//! Log-probabilities of completions under a reference model, in a file beside the tokens, and rows that have them.
//!
//! Little-endian throughout: `MESPREF\n`, version `u32`, key `u128`, rows `u64`; of each row two `f64`: of a pair those of
//! the chosen and the rejected completion, of a completion with a label its own and that of the mismatched one; NaN where
//! a row was not asked for; at last FNV-1a of all bytes before, `u64`. Values are read by position, so that memory does
//! not grow with rows.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp_formats::Error as FileError;

use super::fnv::{Fnv64, Hashed};
use super::positioned::read_at;
use super::{Example, Examples, RaggedBatch, RowSize};
use crate::{ErrorKind, Result};

const MAGIC: [u8; 8] = *b"MESPREF\n";
const VERSION: u32 = 1;
const HEAD: usize = MAGIC.len() + 4 + 16 + 8;
/// Bytes of a row's values.
const ROW: usize = 16;

/// The beginning of a file.
fn head(key: u128, rows: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..28].copy_from_slice(&key.to_le_bytes());
    head[28..].copy_from_slice(&(rows as u64).to_le_bytes());
    head
}

/// Writes a file, row by row.
#[derive(Debug)]
pub struct ReferenceWriter<W: Write> {
    out: Hashed<W>,
}

impl<W: Write> ReferenceWriter<W> {
    /// Begins the file of so many rows.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(out: W, key: u128, rows: usize) -> io::Result<Self> {
        let mut out = Hashed::new(out);
        out.write_all(&head(key, rows))?;
        Ok(Self { out })
    }

    /// Writes the next row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn row(&mut self, values: [f64; 2]) -> io::Result<()> {
        values.iter().try_for_each(|value| self.out.write_all(&value.to_le_bytes()))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> io::Result<W> {
        let Hashed { mut inner, hash } = self.out;
        inner.write_all(&hash.0.to_le_bytes())?;
        Ok(inner)
    }
}

/// A file of log-probabilities, read where they lie.
#[derive(Debug)]
pub struct ReferenceFile {
    file: File,
    path: PathBuf,
}

impl ReferenceFile {
    /// Opens a file and goes through it once; none where it is not that of this key and these rows, or is damaged.
    /// `path` is for messages.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path, file: File, key: u128, rows: usize) -> Result<Option<Self>> {
        let failed = |e| FileError::io("read", path, e);
        let size = file.metadata().map_err(failed)?.len();
        let body = HEAD as u64 + rows as u64 * ROW as u64;
        if size != body + 8 {
            return Ok(None);
        }
        let mut bytes = BufReader::new(&file);
        let (mut found, mut sum) = ([0; HEAD], Fnv64::default());
        bytes.read_exact(&mut found).map_err(failed)?;
        sum.add(&found);
        let mut part = [0; 4096];
        let mut left = rows as u64 * ROW as u64;
        while left > 0 {
            let n = usize::try_from(left).map_or(part.len(), |left| left.min(part.len()));
            bytes.read_exact(&mut part[..n]).map_err(failed)?;
            sum.add(&part[..n]);
            left -= n as u64;
        }
        let mut end = [0; 8];
        bytes.read_exact(&mut end).map_err(failed)?;
        let sound = found == head(key, rows) && u64::from_le_bytes(end) == sum.0;
        Ok(sound.then(|| Self { file, path: path.to_path_buf() }))
    }

    /// A value of a row, the first or the second.
    fn value(&self, row: usize, which: usize) -> Result<f64> {
        let (mut bytes, mut done) = ([0; 8], 0);
        let at = (HEAD + row * ROW + which * 8) as u64;
        while done < bytes.len() {
            match read_at(&self.file, &mut bytes[done..], at + done as u64) {
                Ok(0) => {
                    return Err(FileError::invalid(&self.path, ErrorKind::Malformed)
                        .expected("more bytes")
                        .found("the end of the file")
                        .into());
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(FileError::io("read", &self.path, e).into()),
            }
        }
        Ok(f64::from_le_bytes(bytes))
    }
}

/// Rows for preference losses, with the log-probabilities of their completions under a reference model.
#[derive(Debug, Clone)]
pub struct ReferencedRows {
    /// The rows.
    pub rows: Arc<dyn Examples>,
    /// Those of the same rows, in their order.
    pub values: Arc<ReferenceFile>,
}

impl Examples for ReferencedRows {
    fn count(&self) -> usize {
        self.rows.count()
    }

    fn size(&self, row: usize) -> Result<RowSize> {
        self.rows.size(row)
    }

    fn append(&self, row: usize, batch: &mut RaggedBatch) -> Result<()> {
        let first = batch.preferences.len();
        self.rows.append(row, batch)?;
        for (which, label) in batch.preferences[first..].iter_mut().enumerate() {
            label.reference = self.values.value(row, which)?;
        }
        Ok(())
    }

    fn append_mismatched(&self, row: usize, batch: &mut RaggedBatch) -> Result<bool> {
        let first = batch.preferences.len();
        let some = self.rows.append_mismatched(row, batch)?;
        for label in &mut batch.preferences[first..] {
            label.reference = self.values.value(row, 1)?;
        }
        Ok(some)
    }

    fn mismatched_size(&self, row: usize) -> Result<Option<RowSize>> {
        self.rows.mismatched_size(row)
    }

    fn has_reference(&self) -> bool {
        true
    }

    fn read(&self, row: usize) -> Result<Example> {
        self.rows.read(row)
    }

    fn each_size(&self, visit: &mut dyn FnMut(usize, RowSize)) -> Result<()> {
        self.rows.each_size(visit)
    }

    fn heap_bytes(&self) -> usize {
        self.rows.heap_bytes() + size_of::<ReferenceFile>() + self.values.path.capacity()
    }
}
