//! Follows a file that grows: whole lines as they come, whatever happens to the file.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes that are read at once; no line is longer.
const CHUNK: usize = 4 << 20;

/// Bytes before the place of reading that must still be what they were.
const WITNESS: usize = 64;

/// A file and how far it was read.
pub(super) struct Tail {
    path: PathBuf,
    offset: u64,
    /// What stood just before `offset`: a file that was replaced is longer perhaps, but it is another.
    witness: Vec<u8>,
    /// Length and time of change when the file was last looked at and read to its end.
    seen: Option<(u64, Option<SystemTime>)>,
    /// Inside a line that is too long to read.
    skipping: bool,
}

/// What a look at the file found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct News {
    /// What was read before no longer holds: the file is another, or gone.
    pub(super) reset: bool,
    /// Whole lines, each with its end.
    pub(super) lines: Vec<u8>,
    /// Lines that were too long.
    pub(super) skipped: u64,
    /// More can be read at once.
    pub(super) more: bool,
}

impl Tail {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), offset: 0, witness: Vec::new(), seen: None, skipping: false }
    }

    /// When the file was last changed.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        self.seen.and_then(|seen| seen.1)
    }

    /// Reads what is new. A line without an end is left until it has one.
    pub(super) fn poll(&mut self) -> io::Result<News> {
        let mut news = News::default();
        let mut file = match File::open(&self.path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                news.reset = self.offset > 0;
                self.restart();
                return Ok(news);
            }
            other => other?,
        };
        let data = file.metadata()?;
        let now = (data.len(), data.modified().ok());
        if self.seen == Some(now) {
            return Ok(news);
        }
        if !self.continues(&mut file, data.len())? {
            news.reset = true;
            self.restart();
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.take(CHUNK as u64).read_to_end(&mut bytes)?;
        let full = bytes.len() == CHUNK;
        match bytes.iter().rposition(|b| *b == b'\n') {
            Some(end) => bytes.truncate(end + 1),
            None if full => {
                self.skipping = true;
                self.advance(&bytes);
                bytes.clear();
            }
            None => bytes.clear(),
        }
        self.advance(&bytes);
        if self.skipping
            && let Some(end) = bytes.iter().position(|b| *b == b'\n')
        {
            bytes.drain(..=end);
            self.skipping = false;
            news.skipped = 1;
        }
        news.lines = bytes;
        news.more = full;
        self.seen = if full { None } else { Some(now) };
        Ok(news)
    }

    /// The last line of a file that nobody writes any more, where it lacks its end.
    pub(super) fn rest(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.path) {
            file.seek(SeekFrom::Start(self.offset))?;
            file.take(CHUNK as u64).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    fn restart(&mut self) {
        *self = Self::new(&self.path);
    }

    fn advance(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        self.witness.extend_from_slice(&bytes[bytes.len().saturating_sub(WITNESS)..]);
        let surplus = self.witness.len().saturating_sub(WITNESS);
        self.witness.drain(..surplus);
    }

    /// Whether the file still begins with what was read.
    fn continues(&self, file: &mut File, len: u64) -> io::Result<bool> {
        if len < self.offset {
            return Ok(false);
        }
        let mut there = vec![0; self.witness.len()];
        file.seek(SeekFrom::Start(self.offset - there.len() as u64))?;
        file.read_exact(&mut there)?;
        Ok(there == self.witness)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use super::*;

    fn text(news: &News) -> &str {
        std::str::from_utf8(&news.lines).expect("text")
    }

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("a file");
        file.write_all(text.as_bytes()).expect("written");
    }

    #[test]
    fn lines_come_whole_and_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let mut tail = Tail::new(&path);
        assert_eq!(tail.poll().expect("no file is no failure"), News::default());
        append(&path, "one\ntw");
        assert_eq!(text(&tail.poll().expect("read")), "one\n");
        assert_eq!(tail.rest().expect("read"), b"tw");
        append(&path, "o\nthree\n");
        assert_eq!(text(&tail.poll().expect("read")), "two\nthree\n");
        assert_eq!(tail.poll().expect("read"), News::default());
    }

    #[test]
    fn another_file_in_its_place_is_read_anew() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let mut tail = Tail::new(&path);
        append(&path, "one\ntwo\n");
        tail.poll().expect("read");
        // Shorter.
        fs::write(&path, "1\n").expect("written");
        let news = tail.poll().expect("read");
        assert!(news.reset);
        assert_eq!(text(&news), "1\n");
        // Longer, but another.
        fs::write(&path, "first\nsecond\n").expect("written");
        let news = tail.poll().expect("read");
        assert!(news.reset);
        assert_eq!(text(&news), "first\nsecond\n");
        fs::remove_file(&path).expect("removed");
        assert!(tail.poll().expect("read").reset);
        assert!(!tail.poll().expect("read").reset);
    }

    #[test]
    fn an_endless_line_is_passed_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        append(&path, &("x".repeat(2 * CHUNK + 5) + "\nnext\n"));
        let mut tail = Tail::new(&path);
        let (mut lines, mut skipped) = (String::new(), 0);
        for _ in 0..4 {
            let news = tail.poll().expect("read");
            lines += text(&news);
            skipped += news.skipped;
        }
        assert_eq!((lines.as_str(), skipped), ("next\n", 1));
    }
}
