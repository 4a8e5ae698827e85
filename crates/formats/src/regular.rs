//! Files that are read: regular ones, and small ones within a limit.
//!
//! Opening a pipe waits for somebody who writes to it, reading a device may never end, and a file may be larger than
//! the memory there is. Here each of them is told from a file that can be read before anything waits for it.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::Read as _;
use std::path::Path;

use crate::{Error, ErrorKind, Result};

/// Bytes of a configuration at most: those of published models have up to some hundred thousand.
pub const CONFIG_LIMIT: u64 = 4 << 20;
/// Bytes of a tokenizer's configuration or a chat template at most: those that list all added tokens have millions.
pub const TOKENIZER_CONFIG_LIMIT: u64 = 16 << 20;
/// Bytes of an index of weight files at most: the largest published have some ten millions.
pub const INDEX_LIMIT: u64 = 32 << 20;
/// Bytes of a vocabulary or a tokenizer at most: the largest published have some ten millions.
pub const VOCABULARY_LIMIT: u64 = 128 << 20;

/// Opens a file to read it.
///
/// # Errors
/// When it is no regular file (a pipe, a device, a socket, a folder), or the system refuses.
pub fn open(path: &Path) -> Result<File> {
    open_by(path, 0).map_err(|e| about(path, "open", e))
}

/// [`open`] for a file of a folder that others may write to: a link in its place that leaves the folder is not
/// followed.
///
/// # Errors
/// As [`open`], and where there is such a link.
pub fn open_inside(folder: &Path, name: &str) -> Result<File> {
    let path = folder.join(name);
    let failed = |e| Error::io("open", &path, e);
    let found = fs::symlink_metadata(&path).map_err(failed)?;
    let whole = if found.is_symlink() {
        let target = fs::canonicalize(&path).map_err(failed)?;
        if !target.starts_with(fs::canonicalize(folder).map_err(failed)?) {
            return Err(Error::invalid(&path, ErrorKind::WrongType)
                .expected("a file of this folder")
                .found(format!("a link that leaves it, to {}", target.display()))
                .hint("Put the file itself there."));
        }
        target
    } else {
        path.clone()
    };
    open_by(&whole, no_follow()).map_err(|e| about(&path, "open", e))
}

/// [`open`] for a file of at most `limit` bytes.
///
/// # Errors
/// As [`open`], and when it has more.
pub fn open_within(path: &Path, limit: u64) -> Result<File> {
    let file = open(path)?;
    let size = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    if size > limit {
        return Err(too_large(path, limit, &format!("one of {}; nothing of it was read", megabytes(size))));
    }
    Ok(file)
}

/// Reads a small file.
///
/// # Errors
/// As [`open`], and when it has more than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open_by(path, 0).map_err(|e| about(path, "read", e))?;
    read_from(&file, path, limit)
}

/// [`read`] of a file that is open.
///
/// # Errors
/// When it has more than `limit` bytes, or the system refuses.
pub fn read_from(file: &File, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let size = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    if size > limit {
        return Err(too_large(path, limit, &format!("one of {}; nothing of it was read", megabytes(size))));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // One byte over the limit says that there are more.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > limit {
        let found = format!("one that grows; reading stopped after {}", megabytes(limit));
        return Err(too_large(path, limit, &found));
    }
    Ok(bytes)
}

fn too_large(path: &Path, limit: u64, found: &str) -> Error {
    Error::invalid(path, ErrorKind::OutOfRange)
        .expected(format!("a file of at most {}", megabytes(limit)))
        .found(found)
        .hint("The file is damaged, or another than was meant: check the path.")
}

/// Reads a small file of text.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::invalid(path, ErrorKind::Malformed)
            .expected("UTF-8 text")
            .found(format!("another byte at offset {at}"))
            .hint("The file is damaged or not a text file: get it again.")
    })
}

/// What is there in place of a file that can be read; none where such a file is there, or nothing.
pub fn other_than_file(path: &Path) -> Option<&'static str> {
    let kind = fs::metadata(path).ok()?.file_type();
    (!kind.is_file()).then(|| kind_of(kind))
}

/// Refuses what is there in place of a file that can be read. Nothing there is no reason.
///
/// # Errors
/// When it is a pipe, a device, a socket or a folder.
pub fn refuse_other(path: &Path) -> Result<()> {
    other_than_file(path).map_or(Ok(()), |found| Err(about(path, "open", Refused::Other(found))))
}

/// Why a file was not opened.
enum Refused {
    Other(&'static str),
    System(std::io::Error),
}

impl From<std::io::Error> for Refused {
    fn from(e: std::io::Error) -> Self {
        Self::System(e)
    }
}

fn about(path: &Path, action: &'static str, refused: Refused) -> Error {
    match refused {
        Refused::System(e) => Error::io(action, path, e),
        Refused::Other(found) => {
            let advice = if found == "a folder" {
                "Check the path."
            } else {
                "Write what it gives to a file, and name that."
            };
            Error::invalid(path, ErrorKind::WrongType).expected("a regular file").found(found).hint(advice)
        }
    }
}

fn open_by(path: &Path, flags: i32) -> std::result::Result<File, Refused> {
    // Looked at before it is opened, which of a device may do something.
    let other = |kind: FileType| if kind.is_file() { Ok(()) } else { Err(Refused::Other(kind_of(kind))) };
    other(fs::metadata(path)?.file_type())?;
    let mut options = OpenOptions::new();
    options.read(true);
    without_waiting(&mut options, flags);
    let file = options.open(path)?;
    // And again: another may have taken its place in between.
    other(file.metadata()?.file_type())?;
    Ok(file)
}

#[cfg(unix)]
fn without_waiting(options: &mut OpenOptions, flags: i32) {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY);
}

#[cfg(not(unix))]
fn without_waiting(_: &mut OpenOptions, _: i32) {}

#[cfg(unix)]
fn no_follow() -> i32 {
    libc::O_NOFOLLOW
}

#[cfg(not(unix))]
fn no_follow() -> i32 {
    0
}

fn kind_of(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a folder" } else { "something else" }
}

fn megabytes(bytes: u64) -> String {
    if bytes < 10_000_000_000 {
        format!("{:.1} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.1} GB", bytes as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_read_and_what_does_not_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(&path, 10).unwrap(), b"0123456789");
        let error = read(&path, 9).unwrap_err().to_string();
        assert!(
            error.contains("expected a file of at most") && error.contains("nothing of it was read"),
            "{error}"
        );
        fs::write(&path, b"ab\xff").unwrap();
        assert!(read_text(&path, 10).unwrap_err().to_string().contains("offset 2"));
        let none = read(&dir.path().join("none"), 9).unwrap_err();
        assert!(matches!(none, Error::Io { action: "read", .. }), "{none}");
        let folder = open(dir.path()).unwrap_err().to_string();
        assert!(folder.contains("expected a regular file, found a folder"), "{folder}");
    }

    /// A file without a length: the kernel's own have none.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_grows_ends_at_the_limit() {
        let path = Path::new("/proc/self/status");
        assert!(read(path, 1 << 20).unwrap().len() > 100);
        let error = read(path, 100).unwrap_err().to_string();
        assert!(error.contains("reading stopped after"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_of_a_terabyte_takes_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read(&path, CONFIG_LIMIT).unwrap_err().to_string();
        assert!(error.contains("1099.5 GB"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn nothing_else_is_waited_for() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let socket = dir.path().join("socket");
        let _held = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = dir.path().join("link");
        symlink(&pipe, &link).unwrap();
        let cases = [
            (&*pipe, "a pipe"),
            (&socket, "a socket"),
            (&link, "a pipe"),
            (Path::new("/dev/zero"), "a device"),
        ];
        for (path, found) in cases {
            assert_eq!(other_than_file(path), Some(found));
            let error = open(path).unwrap_err().to_string();
            assert!(error.contains(&format!("expected a regular file, found {found}")), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_in_their_folder() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let (run, other) = (dir.path().join("run"), dir.path().join("secret"));
        fs::create_dir_all(run.join("sub")).unwrap();
        fs::write(&other, "secret").unwrap();
        fs::write(run.join("sub/a"), "mine").unwrap();
        symlink("sub/a", run.join("near")).unwrap();
        symlink("../secret", run.join("far")).unwrap();
        symlink(&other, run.join("away")).unwrap();
        symlink("none", run.join("nowhere")).unwrap();
        let text = |name: &str| open_inside(&run, name).map(|file| std::io::read_to_string(file).unwrap());
        assert_eq!(text("near").unwrap(), "mine");
        for name in ["far", "away"] {
            let error = text(name).unwrap_err().to_string();
            assert!(error.contains("a link that leaves it"), "{error}");
        }
        assert!(matches!(text("nowhere"), Err(Error::Io { .. })));
    }
}
