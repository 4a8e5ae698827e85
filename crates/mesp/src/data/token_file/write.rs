//! Token files, written.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use tempfile::SpooledTempFile;

use super::super::fnv::{Fnv64, Hashed};
use super::super::{Example, Grouping, UNTRAINED};
use super::{About, END, Entry, HEAD, MAGIC, OWN, TokenKey, VERSION};

/// Bytes of entries that are kept in memory before a temporary file takes them.
const SPOOL: usize = 1 << 16;

/// Writes a token file, row by row.
#[derive(Debug)]
pub struct TokenWriter<W: Write> {
    out: Hashed<W>,
    entries: BufWriter<SpooledTempFile>,
    files: Vec<Arc<Path>>,
    rows: u64,
    at: u64,
    row: Vec<u8>,
}

impl<W: Write> TokenWriter<W> {
    /// Begins a file. Entries of many rows wait in a temporary file in the folder `beside`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(out: W, key: TokenKey, beside: &Path) -> io::Result<Self> {
        let mut out = Hashed::new(out);
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&key.0.to_le_bytes())?;
        let entries = BufWriter::new(tempfile::spooled_tempfile_in(SPOOL, beside));
        Ok(Self { out, entries, files: Vec::new(), rows: 0, at: HEAD as u64, row: Vec::new() })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn row(&mut self, row: &Example) -> io::Result<()> {
        let Example { tokens, labels, origin } = row;
        let size = row.size();
        let masked = labels.iter().take_while(|l| **l == UNTRAINED).count();
        let own = tokens[masked..].iter().zip(&labels[masked..]).any(|(t, l)| t.cast_signed() != *l);
        if self.files.last().is_none_or(|file| !Arc::ptr_eq(file, &origin.path) && *file != origin.path) {
            self.files.push(Arc::clone(&origin.path));
        }
        let entry = Entry {
            start: self.at,
            line: origin.line as u64,
            tokens: length(size.tokens)?,
            targets: length(size.targets)?,
            masked: if own { OWN } else { length(masked)? },
            file: length(self.files.len() - 1)?,
        };
        self.row.clear();
        self.row.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
        if own {
            self.row.extend(labels.iter().flat_map(|l| l.to_le_bytes()));
        }
        self.out.write_all(&self.row)?;
        self.entries.write_all(&entry.bytes())?;
        self.at += entry.length();
        self.rows += 1;
        Ok(())
    }

    /// Ends the file and gives back what it was written to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self, about: &About) -> io::Result<W> {
        let Self { mut out, entries, files, rows, at, .. } = self;
        let sum = out.hash.0;
        out.inner.write_all(&sum.to_le_bytes())?;
        out.hash = Fnv64::default();
        let mut entries = entries.into_inner().map_err(io::IntoInnerError::into_error)?;
        entries.seek(SeekFrom::Start(0))?;
        io::copy(&mut entries, &mut out)?;
        text(&mut out, &about.path.to_string_lossy())?;
        out.write_all(&[u8::from(about.document)])?;
        out.write_all(&length(about.notes.len())?.to_le_bytes())?;
        for note in &about.notes {
            text(&mut out, note)?;
        }
        out.write_all(&length(files.len())?.to_le_bytes())?;
        for file in files {
            text(&mut out, &file.to_string_lossy())?;
        }
        match &about.grouping {
            Grouping::Single => out.write_all(&[0])?,
            Grouping::Pairs => out.write_all(&[1])?,
            Grouping::Labeled(labels) => {
                out.write_all(&[2])?;
                out.write_all(&(labels.counts()[0] as u64).to_le_bytes())?;
                for word in labels.words() {
                    out.write_all(&word.to_le_bytes())?;
                }
            }
        }
        out.write_all(&(at + 8).to_le_bytes())?;
        out.write_all(&rows.to_le_bytes())?;
        let sum = out.hash.0;
        out.write_all(&sum.to_le_bytes())?;
        out.write_all(&END)?;
        Ok(out.inner)
    }
}

fn length(n: usize) -> io::Result<u32> {
    u32::try_from(n)
        .map_err(|_| io::Error::other("a row or a text of more than 2^32 is no part of the format"))
}

fn text(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(&length(text.len())?.to_le_bytes())?;
    out.write_all(text.as_bytes())
}
