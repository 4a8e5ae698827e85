//! Rows as tokens in a compact file, so that a tokenizer need not be in memory while they are used.
//!
//! Little-endian throughout. A text is a `u32` length and UTF-8 bytes.
//!
//! | part | content |
//! |---|---|
//! | head | `MESPTOK\n`, version `u32`, key `u128` |
//! | about | the path of the data, `u8` 1 if it is a plain text, `u32` notes, each a text |
//! | files | `u32` files, each its path and `u64` rows; the rows of all stand in this order |
//! | row | line `u64`, tokens `u32`, kind of labels `u8`, the tokens `u32`, labels `i32` where kind is 1 |
//! | end | FNV-1a of all bytes before, `u64` |
//!
//! Labels of kind 0 are the tokens themselves; of kind 1 they follow; of kind 2 a `u32` says how many of the
//! first are untrained, and the others are the tokens.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp_formats::Error as FileError;

use super::{Dataset, Example, Origin, ReadOptions, UNTRAINED};
use crate::Result;

const MAGIC: [u8; 8] = *b"MESPTOK\n";
const VERSION: u32 = 4;
/// Counts changes of what rows become; tokens that were kept under earlier rules are made anew.
const RULES: u32 = 2;

/// What a token file was made from: it is of use only for the same data, tokenizer and options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenKey(pub u128);

impl TokenKey {
    /// Of some files' content and of what else rows depend on.
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

/// Whether bytes begin a token file.
pub fn is_token_file(start: &[u8]) -> bool {
    start.starts_with(&MAGIC)
}

/// Writes rows.
///
/// # Errors
/// When they cannot be written.
pub fn write(out: &mut dyn Write, key: TokenKey, data: &Dataset) -> io::Result<()> {
    let mut out = Hashed { inner: out, hash: Fnv64::default() };
    out.write_all(&MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&key.0.to_le_bytes())?;
    text(&mut out, &data.path.to_string_lossy())?;
    out.write_all(&[u8::from(data.document)])?;
    out.write_all(&length(data.notes.len())?.to_le_bytes())?;
    for note in &data.notes {
        text(&mut out, note)?;
    }
    let files: Vec<&[Example]> =
        data.examples.chunk_by(|a, b| Arc::ptr_eq(&a.origin.path, &b.origin.path)).collect();
    out.write_all(&length(files.len())?.to_le_bytes())?;
    for rows in files {
        text(&mut out, &rows[0].origin.path.to_string_lossy())?;
        out.write_all(&(rows.len() as u64).to_le_bytes())?;
    }
    let mut bytes = Vec::new();
    for row in &data.examples {
        bytes.clear();
        bytes.extend((row.origin.line as u64).to_le_bytes());
        bytes.extend(length(row.tokens.len())?.to_le_bytes());
        let masked = row.labels.iter().take_while(|l| **l == UNTRAINED).count();
        let trained = |from: usize| {
            row.tokens[from..].iter().zip(&row.labels[from..]).all(|(t, l)| t.cast_signed() == *l)
        };
        let kind: u8 = if trained(0) {
            0
        } else if trained(masked) {
            2
        } else {
            1
        };
        bytes.push(kind);
        bytes.extend(row.tokens.iter().flat_map(|t| t.to_le_bytes()));
        match kind {
            1 => bytes.extend(row.labels.iter().flat_map(|l| l.to_le_bytes())),
            2 => bytes.extend(length(masked)?.to_le_bytes()),
            _ => {}
        }
        out.write_all(&bytes)?;
    }
    let sum = out.hash.0;
    out.inner.write_all(&sum.to_le_bytes())
}

fn length(n: usize) -> io::Result<u32> {
    u32::try_from(n)
        .map_err(|_| io::Error::other("a row or a text of more than 2^32 is no part of the format"))
}

fn text(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(&length(text.len())?.to_le_bytes())?;
    out.write_all(text.as_bytes())
}

/// Reads rows, with the key they were written under. `path` is for messages; tokens and labels must lie below
/// `vocab_size`. Nothing is allocated for a length that the bytes do not bear out.
///
/// # Errors
/// When the bytes are not a token file of this version, are damaged or cut short, or hold a token that the model
/// does not have.
pub fn read(path: &Path, input: &mut dyn Read, vocab_size: usize) -> Result<(TokenKey, Dataset)> {
    let mut from = Source { input, hash: Fnv64::default(), path };
    if from.array::<8>()? != MAGIC {
        return Err(from.wrong("expected a file of tokens, found something else"));
    }
    let version = from.u32()?;
    if version != VERSION {
        return Err(
            from.wrong(&format!("expected a file of tokens of version {VERSION}, found version {version}"))
        );
    }
    let key = TokenKey(u128::from_le_bytes(from.array()?));
    let data: PathBuf = from.text()?.into();
    let [document] = from.array()?;
    let mut notes = Vec::new();
    for _ in 0..from.u32()? {
        notes.push(from.text()?);
    }
    let mut files = Vec::new();
    for _ in 0..from.u32()? {
        let path: Arc<Path> = Arc::from(PathBuf::from(from.text()?));
        files.push((path, u64::from_le_bytes(from.array()?)));
    }
    let mut examples = Vec::new();
    for (origin, rows) in &files {
        for _ in 0..*rows {
            examples.push(from.row(examples.len(), origin, vocab_size)?);
        }
    }
    examples.shrink_to_fit();
    let expected = from.hash.0;
    if u64::from_le_bytes(from.array()?) != expected {
        return Err(from.wrong("expected the check sum of its content, found another"));
    }
    Ok((key, Dataset { path: data, examples, notes, document: document == 1 }))
}

struct Source<'a> {
    input: &'a mut dyn Read,
    hash: Fnv64,
    path: &'a Path,
}

impl Source<'_> {
    fn wrong(&self, problem: &str) -> crate::Error {
        FileError::invalid(self.path, problem).hint("remove it; it is made again from the data").into()
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        match self.input.read_exact(bytes) {
            Ok(()) => {
                self.hash.add(bytes);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.wrong("expected more bytes, found the end of the file"))
            }
            Err(e) => Err(FileError::io("read", self.path, e).into()),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String> {
        let mut left = self.u32()? as usize;
        let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
        while left > 0 {
            let n = left.min(part.len());
            self.fill(&mut part[..n])?;
            bytes.extend_from_slice(&part[..n]);
            left -= n;
        }
        String::from_utf8(bytes).map_err(|_| self.wrong("expected UTF-8 text, found other bytes"))
    }

    fn words(&mut self, count: usize) -> Result<Vec<u32>> {
        let (mut left, mut words, mut part) = (count, Vec::new(), [0; 4096]);
        while left > 0 {
            let n = left.min(part.len() / 4);
            self.fill(&mut part[..4 * n])?;
            if words.is_empty() && count <= part.len() / 4 {
                words.reserve_exact(count);
            }
            words.extend(part[..4 * n].as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)));
            left -= n;
        }
        words.shrink_to_fit();
        Ok(words)
    }

    fn row(&mut self, row: usize, origin: &Arc<Path>, vocab_size: usize) -> Result<Example> {
        let line = u64::from_le_bytes(self.array()?) as usize;
        let count = self.u32()? as usize;
        let [kind] = self.array()?;
        let tokens = self.words(count)?;
        let masked = match kind {
            0 => 0,
            2 => self.u32()? as usize,
            1 => count,
            _ => return Err(self.wrong(&format!("row {row}: expected labels of kind 0 to 2, found {kind}"))),
        };
        let labels: Vec<i32> = if kind == 1 {
            self.words(count)?.into_iter().map(u32::cast_signed).collect()
        } else {
            let label = |(i, t): (usize, &u32)| if i < masked { UNTRAINED } else { t.cast_signed() };
            tokens.iter().enumerate().map(label).collect()
        };
        let known = |t: &u32| (*t as usize) < vocab_size;
        let labelled = |l: &i32| *l == UNTRAINED || u32::try_from(*l).is_ok_and(|t| known(&t));
        if !(tokens.iter().all(known) && labels.iter().all(labelled)) {
            return Err(self.wrong(&format!("row {row}: expected tokens below {vocab_size}, found others")));
        }
        Ok(Example { tokens, labels, origin: Origin { path: Arc::clone(origin), line } })
    }
}

struct Hashed<'a> {
    inner: &'a mut dyn Write,
    hash: Fnv64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.add(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// FNV-1a: enough to tell files apart and damage from none; it keeps nobody from forging either.
struct Fnv64(u64);

impl Default for Fnv64 {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv64 {
    fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    }
}

struct Fnv128(u128);

impl Default for Fnv128 {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv128 {
    fn add(&mut self, bytes: &[u8]) {
        const PRIME: u128 = (1 << 88) | 0x13b;
        self.0 = bytes.iter().fold(self.0, |h, b| (h ^ u128::from(*b)).wrapping_mul(PRIME));
    }
}

#[cfg(test)]
#[path = "token_file_tests.rs"]
mod tests;
