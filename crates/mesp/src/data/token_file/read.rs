//! Token files, read where they lie.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp_formats::Error as FileError;

use super::super::fnv::Fnv64;
use super::super::positioned::read_at;
use super::super::preferences::Bits;
use super::super::{Example, Examples, Grouping, Origin, RaggedBatch, RowSize, UNTRAINED};
use super::{About, END, ENTRY, Entry, HEAD, MAGIC, OWN, TAIL, TokenKey, VERSION};
use crate::{ErrorKind, Result};

/// Bytes that are read at a time: on the stack, since a step takes no heap.
const PART: usize = 4096;

/// The rows of a token file, read where they lie.
#[derive(Debug)]
pub struct TokenFile {
    file: File,
    path: PathBuf,
    vocab_size: usize,
    key: TokenKey,
    about: About,
    files: Vec<Arc<Path>>,
    rows: usize,
    /// Where the entries begin.
    entries: u64,
}

impl TokenFile {
    /// Opens a file and goes through it once. `path` is for messages; tokens and labels must lie below `vocab_size`.
    /// Nothing is allocated for a length that the file does not have.
    ///
    /// # Errors
    /// When it is not a token file of this version, is damaged or cut short, or holds a token that the model does not
    /// have.
    pub fn open(path: &Path, file: File, vocab_size: usize) -> Result<Self> {
        let size = file.metadata().map_err(|e| FileError::io("read", path, e))?.len();
        let about = About { path: PathBuf::new(), ..About::default() };
        let (key, files) = (TokenKey::default(), Vec::new());
        let path = path.to_path_buf();
        let mut new = Self { file, path, vocab_size, key, about, files, rows: 0, entries: 0 };
        let mut head = new.cursor(0, size);
        if head.array::<8>()? != MAGIC {
            return Err(new.wrong(ErrorKind::Malformed).expected("a file of tokens").found("something else"));
        }
        let version = head.u32()?;
        if version != VERSION {
            return Err(new
                .wrong(ErrorKind::Unsupported)
                .expected(format!("a file of tokens of version {VERSION}"))
                .found(format!("version {version}")));
        }
        let key = TokenKey(u128::from_le_bytes(head.array()?));
        let Some(tail) = size.checked_sub(TAIL as u64) else { return Err(new.cut()) };
        let mut end = new.cursor(tail, size);
        let (entries, rows, _) = (end.u64()?, end.u64()?, end.u64()?);
        if end.array()? != END {
            return Err(new.cut());
        }
        let about = rows.checked_mul(ENTRY as u64).and_then(|bytes| entries.checked_add(bytes));
        let Some(about) = about.filter(|at| *at <= tail && entries >= HEAD as u64 + 8) else {
            return Err(new
                .wrong(ErrorKind::Malformed)
                .expected("an entry for each row")
                .found("fewer bytes"));
        };
        let mut end = new.cursor(about, tail);
        let path: PathBuf = end.text()?.into();
        let [document] = end.array()?;
        let mut notes = Vec::new();
        for _ in 0..end.u32()? {
            notes.push(end.text()?);
        }
        let mut files: Vec<Arc<Path>> = Vec::new();
        for _ in 0..end.u32()? {
            files.push(Arc::from(PathBuf::from(end.text()?)));
        }
        let grouping = new.grouping(&mut end, tail, rows)?;
        if end.at != tail {
            return Err(new.wrong(ErrorKind::Malformed).expected("its end").found("more bytes"));
        }
        new.rows = usize::try_from(rows).map_err(|_| {
            new.wrong(ErrorKind::OutOfRange).what("it has more rows than this machine can count")
        })?;
        (new.entries, new.key, new.files) = (entries, key, files);
        new.about = About { path, document: document == 1, notes, grouping };
        new.verify(size)?;
        Ok(new)
    }

    /// Which rows belong together, as the file's end says it.
    fn grouping(&self, end: &mut Cursor<'_>, tail: u64, rows: u64) -> Result<Grouping> {
        let expected =
            |what: &str| self.wrong(ErrorKind::Malformed).expected(what.to_owned()).found("others");
        match end.array()? {
            [0] => Ok(Grouping::Single),
            [1] if rows.is_multiple_of(2) => Ok(Grouping::Pairs),
            [2] => {
                let count = end.u64()?;
                if count.checked_mul(2) != Some(rows) || count.div_ceil(64) > (tail - end.at) / 8 {
                    return Err(expected("a label for each completion"));
                }
                let mut labels = Bits::default();
                for first in (0..count).step_by(64) {
                    let word = end.u64()?;
                    (0..(count - first).min(64)).for_each(|bit| labels.push(word >> bit & 1 == 1));
                }
                Ok(Grouping::Labeled(labels))
            }
            _ => Err(expected("completions in pairs, or with labels, or rows alone")),
        }
    }

    /// The key it was written under.
    pub fn key(&self) -> TokenKey {
        self.key
    }

    /// What it says of its rows.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Goes through all rows, their entries, and both sums.
    fn verify(&self, size: u64) -> Result<()> {
        let mut rows = self.cursor(0, self.entries);
        rows.array::<HEAD>()?;
        let mut entries = self.cursor(self.entries, size);
        for row in 0..self.rows {
            let entry = Entry::read(&entries.array()?);
            if entry.start != rows.at || entry.length() > self.entries - 8 - rows.at {
                return Err(self
                    .row_wrong(row, ErrorKind::Malformed)
                    .expected("to begin where the row before ends")
                    .found("another place"));
            }
            if entry.file as usize >= self.files.len() {
                return Err(self
                    .row_wrong(row, ErrorKind::Malformed)
                    .expected(format!("one of {} files", self.files.len())));
            }
            let (count, mut targets) = (entry.tokens as usize, 0);
            self.words(row, count, false, &mut |part| rows.fill(part), &mut |_| {})?;
            if entry.masked == OWN {
                let mut first = true;
                self.words(row, count, true, &mut |part| rows.fill(part), &mut |word| {
                    targets += u32::from(!first && word.cast_signed() != UNTRAINED);
                    first = false;
                })?;
            } else {
                targets = entry.tokens.saturating_sub(entry.masked.max(1));
            }
            if targets != entry.targets {
                return Err(self
                    .row_wrong(row, ErrorKind::Malformed)
                    .expected(format!("{} trained tokens", entry.targets))
                    .found(targets));
            }
        }
        if rows.at + 8 != self.entries {
            return Err(self.wrong(ErrorKind::Malformed).expected("the end of its rows").found("more bytes"));
        }
        let (sum, found) = (rows.hash.0, rows.u64()?);
        let mut part = [0; PART];
        while entries.at < size - 16 {
            let n = usize::try_from(size - 16 - entries.at).map_or(PART, |left| left.min(PART));
            entries.fill(&mut part[..n])?;
        }
        if (sum, entries.hash.0) != (found, entries.u64()?) {
            return Err(self
                .wrong(ErrorKind::Malformed)
                .expected("the check sums of its content")
                .found("others"));
        }
        Ok(())
    }

    fn wrong(&self, kind: ErrorKind) -> crate::Error {
        FileError::invalid(&self.path, kind).hint("remove it; it is made again from the data").into()
    }

    fn row_wrong(&self, row: usize, kind: ErrorKind) -> crate::Error {
        self.wrong(kind).with(|problem| problem.what(format!("row {row}")))
    }

    fn cut(&self) -> crate::Error {
        self.wrong(ErrorKind::Malformed).expected("more bytes").found("the end of the file")
    }

    fn cursor(&self, at: u64, end: u64) -> Cursor<'_> {
        let bytes = BufReader::with_capacity(1 << 16, Bytes { file: &self.file, at, end });
        Cursor { from: self, bytes, at, hash: Fnv64::default() }
    }

    /// Fills a part of memory from a place of the file.
    fn fill(&self, mut at: u64, mut part: &mut [u8]) -> Result<()> {
        while !part.is_empty() {
            match read_at(&self.file, part, at) {
                Ok(0) => return Err(self.cut()),
                Ok(n) => (at, part) = (at + n as u64, &mut part[n..]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(FileError::io("read", &self.path, e).into()),
            }
        }
        Ok(())
    }

    fn entry(&self, row: usize) -> Result<Entry> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let mut bytes = [0; ENTRY];
        self.fill(self.entries + (row * ENTRY) as u64, &mut bytes)?;
        Ok(Entry::read(&bytes))
    }

    /// Reads so many tokens or labels of a row, part by part, and holds them against the vocabulary: also after the
    /// file was verified, since another program may have changed it.
    fn words(
        &self,
        row: usize,
        count: usize,
        labels: bool,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<()>,
        each: &mut dyn FnMut(u32),
    ) -> Result<()> {
        let (mut left, mut part) = (count, [0; PART]);
        while left > 0 {
            let n = left.min(PART / 4);
            fill(&mut part[..4 * n])?;
            for word in part[..4 * n].as_chunks().0 {
                let word = u32::from_le_bytes(*word);
                if word as usize >= self.vocab_size && !(labels && word.cast_signed() == UNTRAINED) {
                    return Err(self
                        .row_wrong(row, ErrorKind::Malformed)
                        .expected(format!("tokens below {}", self.vocab_size))
                        .found("others"));
                }
                each(word);
            }
            left -= n;
        }
        Ok(())
    }

    /// Adds a row's tokens and labels to lists.
    fn lists(&self, row: usize, tokens: &mut Vec<u32>, labels: &mut Vec<i32>) -> Result<Origin> {
        let entry = self.entry(row)?;
        let (first, count, mut at) = (tokens.len(), entry.tokens as usize, entry.start);
        let mut fill = |part: &mut [u8]| {
            self.fill(at, part)?;
            at += part.len() as u64;
            Ok(())
        };
        self.words(row, count, false, &mut fill, &mut |word| tokens.push(word))?;
        if entry.masked == OWN {
            self.words(row, count, true, &mut fill, &mut |word| labels.push(word.cast_signed()))?;
        } else {
            let masked = count.min(entry.masked as usize);
            labels.extend(std::iter::repeat_n(UNTRAINED, masked));
            labels.extend(tokens[first + masked..].iter().map(|token| token.cast_signed()));
        }
        let Some(path) = self.files.get(entry.file as usize) else {
            return Err(self
                .row_wrong(row, ErrorKind::Malformed)
                .what("the file was changed while it was read"));
        };
        Ok(Origin { path: Arc::clone(path), line: entry.line as usize })
    }
}

impl Examples for TokenFile {
    fn count(&self) -> usize {
        self.rows
    }

    fn size(&self, row: usize) -> Result<RowSize> {
        Ok(self.entry(row)?.size())
    }

    fn append(&self, row: usize, batch: &mut RaggedBatch) -> Result<()> {
        let origin = self.lists(row, &mut batch.tokens, &mut batch.labels)?;
        batch.close(origin);
        Ok(())
    }

    fn read(&self, row: usize) -> Result<Example> {
        let (mut tokens, mut labels) = (Vec::new(), Vec::new());
        let origin = self.lists(row, &mut tokens, &mut labels)?;
        Ok(Example { tokens, labels, origin })
    }

    fn each_size(&self, visit: &mut dyn FnMut(usize, RowSize)) -> Result<()> {
        let mut part = [0; PART];
        for first in (0..self.rows).step_by(PART / ENTRY) {
            let n = (self.rows - first).min(PART / ENTRY);
            self.fill(self.entries + (first * ENTRY) as u64, &mut part[..n * ENTRY])?;
            for (row, entry) in part[..n * ENTRY].as_chunks().0.iter().enumerate() {
                visit(first + row, Entry::read(entry).size());
            }
        }
        Ok(())
    }

    fn heap_bytes(&self) -> usize {
        let texts = self.about.notes.iter().map(String::capacity).sum::<usize>();
        let paths =
            self.files.iter().map(|path| path.as_os_str().len() + 4 * size_of::<usize>()).sum::<usize>();
        size_of::<Self>() + self.path.capacity() + self.about.path.capacity() + texts + paths
    }
}

/// Bytes of a file from a place on.
struct Bytes<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Bytes<'_> {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let n = part.len().min(left);
        let read = read_at(self.file, &mut part[..n], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The same, with a sum of what was read.
struct Cursor<'a> {
    from: &'a TokenFile,
    bytes: BufReader<Bytes<'a>>,
    at: u64,
    hash: Fnv64,
}

impl Cursor<'_> {
    fn fill(&mut self, part: &mut [u8]) -> Result<()> {
        match self.bytes.read_exact(part) {
            Ok(()) => {
                self.hash.add(part);
                self.at += part.len() as u64;
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(self.from.cut()),
            Err(e) => Err(FileError::io("read", &self.from.path, e).into()),
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

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String> {
        let mut left = self.u32()? as usize;
        let (mut bytes, mut part) = (Vec::new(), [0; PART]);
        while left > 0 {
            let n = left.min(PART);
            self.fill(&mut part[..n])?;
            bytes.extend_from_slice(&part[..n]);
            left -= n;
        }
        String::from_utf8(bytes)
            .map_err(|_| self.from.wrong(ErrorKind::Malformed).expected("UTF-8 text").found("other bytes"))
    }
}
