//! Follows a file that grows: whole lines as they come, whatever happens to the file.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mesp_formats::{Error, regular};

use crate::sizes::bytes as shown;

/// Bytes that are read at once, and bytes of a line at most.
const PIECE: usize = 256 << 10;
const LONGEST_LINE: usize = 4 << 20;

/// A file of more bytes is no run's: it would not be read to its end in a reasonable time.
const LONGEST_FILE: u64 = 4 << 30;

/// Bytes before the place of reading that must still be what they were.
const WITNESS: usize = 64;

/// What tells that a file is as it was when it was last looked at: which it is, its length, its time of change.
pub(super) type Stamp = ((u64, u64), u64, Option<SystemTime>);

/// A file and how far it was read.
pub(super) struct Tail {
    folder: PathBuf,
    name: &'static str,
    offset: u64,
    /// What stood just before `offset`: a file that was replaced is longer perhaps, but it is another.
    witness: Vec<u8>,
    /// The state of the file when it was last looked at and read to its end.
    seen: Option<Stamp>,
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
    pub(super) fn new(folder: &Path, name: &'static str) -> Self {
        let folder = folder.to_owned();
        Self { folder, name, offset: 0, witness: Vec::new(), seen: None, skipping: false }
    }

    /// When the file was last changed.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        self.seen.and_then(|seen| seen.2)
    }

    /// Reads what is new. A line without an end is left until it has one.
    ///
    /// # Errors
    /// When it is no regular file of the folder, or cannot be read. It is read again when that is mended.
    pub(super) fn poll(&mut self) -> Result<News, Error> {
        let mut news = News::default();
        let Some(mut file) = self.open()? else {
            news.reset = self.offset > 0;
            self.restart();
            return Ok(news);
        };
        let failed = |e| Error::io("read", self.folder.join(self.name), e);
        let data = file.metadata().map_err(failed)?;
        if data.len() > LONGEST_FILE {
            return Err(Error::invalid(self.folder.join(self.name), mesp::ErrorKind::OutOfRange)
                .expected(format!("at most {}", shown(LONGEST_FILE)))
                .found(shown(data.len())));
        }
        let now = stamp(&data);
        if self.seen == Some(now) {
            return Ok(news);
        }
        if !self.continues(&mut file, data.len()).map_err(failed)? {
            news.reset = true;
            self.restart();
        }
        let (mut bytes, more) =
            self.some(&mut file).map_err(|e| Error::io("read", self.folder.join(self.name), e))?;
        match bytes.iter().rposition(|b| *b == b'\n') {
            Some(end) => bytes.truncate(end + 1),
            None if more => {
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
        news.more = more;
        self.seen = if more { None } else { Some(now) };
        Ok(news)
    }

    /// The last line of a file that nobody writes any more, where it lacks its end.
    pub(super) fn rest(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        if let Some(mut file) = self.open()? {
            let read = file
                .seek(SeekFrom::Start(self.offset))
                .and_then(|_| file.take(LONGEST_LINE as u64).read_to_end(&mut bytes));
            read.map_err(|e| Error::io("read", self.folder.join(self.name), e))?;
        }
        Ok(if self.skipping { Vec::new() } else { bytes })
    }

    /// The file; none where there is none.
    fn open(&self) -> Result<Option<File>, Error> {
        match regular::open_inside(&self.folder, self.name) {
            // Of a link that leads nowhere it is said as well, and that is a trouble.
            Err(Error::Io { source, .. })
                if source.kind() == ErrorKind::NotFound && !self.folder.join(self.name).is_symlink() =>
            {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// What follows the place of reading, at least to a line's end if that is not too far, and whether there is more.
    fn some(&self, file: &mut File) -> io::Result<(Vec<u8>, bool)> {
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        loop {
            let before = bytes.len();
            file.take(PIECE as u64).read_to_end(&mut bytes)?;
            if bytes.len() - before < PIECE {
                return Ok((bytes, false));
            }
            if bytes[before..].contains(&b'\n') || bytes.len() >= LONGEST_LINE {
                return Ok((bytes, true));
            }
        }
    }

    fn restart(&mut self) {
        *self = Self::new(&self.folder, self.name);
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
        match file.read_exact(&mut there) {
            // Cut shorter just now.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
            read => read.map(|()| there == self.witness),
        }
    }
}

pub(super) fn stamp(data: &Metadata) -> Stamp {
    #[cfg(unix)]
    let which = {
        use std::os::unix::fs::MetadataExt as _;
        (data.dev(), data.ino())
    };
    #[cfg(not(unix))]
    let which = (0, 0);
    (which, data.len(), data.modified().ok())
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
        let mut tail = Tail::new(dir.path(), "log");
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
        let mut tail = Tail::new(dir.path(), "log");
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
        append(&path, &("x".repeat(2 * LONGEST_LINE + 5) + "\nnext\n"));
        let mut tail = Tail::new(dir.path(), "log");
        let (mut lines, mut skipped) = (String::new(), 0);
        for _ in 0..4 {
            let news = tail.poll().expect("read");
            lines += text(&news);
            skipped += news.skipped;
        }
        assert_eq!((lines.as_str(), skipped), ("next\n", 1));
    }

    #[test]
    fn a_long_line_comes_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let long = "x".repeat(3 * PIECE) + "\n";
        append(&path, &(long.clone() + "next\n"));
        let mut tail = Tail::new(dir.path(), "log");
        let mut lines = String::new();
        while lines.len() < long.len() + 5 {
            lines += text(&tail.poll().expect("read"));
        }
        assert!(lines == long + "next\n");
    }

    /// Each of these in the file's place is said, and nothing of it is read; a file there is read from its start.
    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_named_until_it_is_one() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().expect("a folder");
        let run = dir.path().join("run");
        fs::create_dir(&run).expect("a folder");
        let path = run.join("log");
        fs::write(dir.path().join("secret"), "secret\n").expect("written");
        let mut tail = Tail::new(&run, "log");
        let pipe = |path: &Path| {
            assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
        };
        let cases: [(&dyn Fn(), &str); 6] = [
            (&|| pipe(&path), "found a pipe"),
            (&|| symlink("/dev/zero", &path).expect("a link"), "a link that leaves it"),
            (&|| symlink("../secret", &path).expect("a link"), "a link that leaves it"),
            (&|| symlink("none", &path).expect("a link"), "cannot open"),
            (&|| fs::create_dir(&path).expect("a folder"), "found a folder"),
            (&|| File::create(&path).and_then(|f| f.set_len(1 << 40)).expect("a file"), "expected at most"),
        ];
        for (make, said) in cases {
            make();
            let error = tail.poll().expect_err("no file").to_string();
            assert!(error.contains(said), "{said}: {error}");
            assert!(tail.rest().map_or(true, |rest| rest.len() <= LONGEST_LINE));
            let gone = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            gone.expect("removed");
            fs::write(&path, format!("{said}\n")).expect("written");
            assert_eq!(text(&tail.poll().expect("read")), format!("{said}\n"));
            fs::remove_file(&path).expect("removed");
            assert!(tail.poll().expect("read").reset);
        }
    }
}
