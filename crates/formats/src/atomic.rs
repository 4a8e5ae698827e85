//! Writes that leave either the complete old or the complete new content, whenever they are cut off.
//!
//! A name is only given to content that has reached the disk: write under a temporary name in the same
//! folder (a rename works within one file system only), flush to disk, rename, flush the folder.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileType, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, ErrorKind, Result};

mod leftovers;
mod staged_dir;
mod unfinished;

pub use leftovers::{leftovers_in, leftovers_of, remove_leftovers, remove_leftovers_of};
pub use staged_dir::{StagedDir, remove_dir};
use unfinished::Unfinished;
pub use unfinished::{Stopped, remove_unfinished};

/// Writes a file under a temporary name and renames it into place. What takes bytes as they come
/// ([`is_stream`]) is written to as it stands.
///
/// # Errors
/// When the file cannot be written, or `f` fails; the file under `path` is then as it was before.
pub fn write_atomic(path: &Path, f: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
    write_atomic_with(path, |w| f(w).map_err(|e| Error::io("write", path, e)))
}

/// [`write_atomic`] for a writer that has errors of its own, and a result.
///
/// # Errors
/// Those of `f`, and when the file cannot be written; the file under `path` is then as it was before.
pub fn write_atomic_with<T, E: From<Error>>(
    path: &Path,
    f: impl FnOnce(&mut BufWriter<File>) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    if is_stream(path) {
        let file = OpenOptions::new().append(true).open(path).map_err(|e| Error::io("open", path, e))?;
        let mut writer = BufWriter::new(file);
        let made = f(&mut writer)?;
        writer.flush().map_err(|e| Error::io("write", path, e))?;
        return Ok(made);
    }
    // A rename would put a file in a socket's or a disk's place.
    if fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return Err(Error::invalid(path, ErrorKind::WrongType)
            .expected("a file or a free name to write to")
            .found("a socket or a disk")
            .hint("Name a file in a folder.")
            .into());
    }
    let temporary = Unfinished::new(sibling(path, "tmp")?);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(temporary.path())
        .map_err(|e| Error::io("create", path, e))?;
    // Held while it is written: what nobody holds is left over. A file system without locks has none to hold.
    let _ = file.try_lock();
    let mut writer = BufWriter::new(file);
    let made = f(&mut writer)?;
    writer.flush().map_err(|e| Error::io("write", path, e))?;
    writer.get_ref().sync_all().map_err(|e| Error::io("flush to disk", path, e))?;
    // Closed before the rename: some systems refuse to rename an open file.
    drop(writer);
    temporary.finish(|temporary| {
        fs::rename(temporary, path).map_err(|e| Error::io("rename a temporary file to", path, e))
    })?;
    sync_dir(folder_of(path))?;
    Ok(made)
}

/// Whether what is written to a path goes somewhere as it comes, and no file is there to be replaced: a device such
/// as `/dev/null`, a pipe, or a file that this process has open, `/dev/stdout`.
pub fn is_stream(path: &Path) -> bool {
    let open = ["/dev/fd", "/proc/self/fd"].iter().any(|dir| path.parent() == Some(Path::new(dir)));
    let standard = ["/dev/stdout", "/dev/stderr"].iter().any(|name| path == Path::new(name));
    (cfg!(unix) && (open || standard)) || fs::metadata(path).is_ok_and(|there| takes_bytes(there.file_type()))
}

#[cfg(unix)]
fn takes_bytes(kind: FileType) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    kind.is_char_device() || kind.is_fifo()
}

#[cfg(not(unix))]
fn takes_bytes(_: FileType) -> bool {
    false
}

/// Makes a folder and the folders above it; one that exists is left as it is.
///
/// # Errors
/// When a folder cannot be made, or a file stands in its place.
pub fn create_dir_all(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| {
        if path.exists() && !path.is_dir() {
            Error::invalid(path, ErrorKind::WrongType)
                .expected("a folder")
                .found("a file")
                .hint("Name another folder.")
        } else {
            Error::io("create the folder", path, e)
        }
    })
}

/// A hidden name in the folder of `path` that no other writer uses, and that [`leftovers_of`] the path knows.
///
/// # Errors
/// When the path ends in no name.
pub fn temporary_name(path: &Path) -> Result<PathBuf> {
    sibling(path, "tmp")
}

fn sibling(path: &Path, kind: &str) -> Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = OsString::from(".");
    name.push(name_of(path)?);
    name.push(format!(".{kind}-{}-{count}", std::process::id()));
    Ok(path.with_file_name(name))
}

fn name_of(path: &Path) -> Result<&OsStr> {
    path.file_name().ok_or_else(|| {
        Error::invalid(path, ErrorKind::Malformed)
            .expected("a path that ends in a name")
            .found("none")
            .hint("Name the file or folder to write.")
    })
}

/// The folder that a path names something in: `.` for a name alone.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Flushes the names in a folder to disk.
fn sync_dir(dir: &Path) -> Result<()> {
    // Elsewhere folders cannot be opened as files, and the system journals renames by itself.
    if cfg!(unix) {
        let handle = File::open(dir).map_err(|e| Error::io("open the folder", dir, e))?;
        handle.sync_all().map_err(|e| Error::io("flush to disk the folder", dir, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_the_content_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        for content in [b"one".as_slice(), b"second"] {
            write_atomic(&path, |w| w.write_all(content)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    /// Whoever may write there would have a file in the device's place, for everyone.
    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = write_atomic(&path, |w| w.write_all(b"x")).unwrap_err().to_string();
        assert!(error.contains("found a socket or a disk"), "{error}");
        assert!(!fs::metadata(&path).unwrap().is_file());
        assert_eq!(names(dir.path()), ["a.sock"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_gets_the_bytes_and_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_atomic(&pipe, |w| w.write_all(b"through")).unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(is_stream(&pipe) && is_stream(Path::new("/dev/null")) && is_stream(Path::new("/dev/stdout")));
        write_atomic(Path::new("/dev/null"), |w| w.write_all(b"away")).unwrap();
        assert!(is_stream(Path::new("/dev/null")), "still the device");
        assert!(!is_stream(dir.path()) && !is_stream(&dir.path().join("none")));
        assert_eq!(names(dir.path()), ["pipe"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_atomic(&path, |w| w.write_all(b"old")).unwrap();
        let error = write_atomic(&path, |w| {
            w.write_all(b"half of the n")?;
            Err(std::io::Error::other("disk full"))
        })
        .unwrap_err();
        assert!(error.to_string().contains("disk full"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[test]
    fn a_path_without_a_name_is_refused() {
        assert!(write_atomic(Path::new("/"), |_| Ok(())).is_err());
        assert!(write_atomic(Path::new("a/.."), |_| Ok(())).is_err());
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "").unwrap();
        let error = create_dir_all(&path).unwrap_err();
        assert!(error.to_string().contains("expected a folder, found a file"), "{error}");
    }
}
