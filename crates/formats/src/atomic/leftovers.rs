//! What a process that was killed has left under temporary names.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Error, Result};

/// Removes temporary files and folders of [`write_atomic`](super::write_atomic), [`StagedDir`](super::StagedDir)
/// and [`remove_dir`](super::remove_dir) from a folder, of processes that are gone, and gives their number. A folder
/// that is not there has none.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_leftovers(dir: &Path) -> Result<usize> {
    let left = leftovers_in(dir);
    for path in &left {
        match remove(path) {
            // Another has removed it.
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("remove", path, e)),
            _ => {}
        }
    }
    Ok(left.len())
}

/// Temporary files and folders that writers of `path` have left: processes that are gone.
pub fn leftovers_of(path: &Path) -> Vec<PathBuf> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    left_in(super::folder_of(path), Some(name))
}

/// Those that lie in a folder, whatever they were to become.
pub fn leftovers_in(dir: &Path) -> Vec<PathBuf> {
    left_in(dir, None)
}

fn left_in(dir: &Path, name: Option<&str>) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let left = |entry: &fs::DirEntry| {
        let found = entry.file_name();
        let named = |t: &Temporary<'_>| name.is_none_or(|name| t.name == name);
        let of_this = found.to_str().and_then(parts).filter(named);
        of_this.is_some_and(|temporary| is_left(&entry.path(), &temporary))
    };
    entries.flatten().filter(left).map(|entry| entry.path()).collect()
}

/// Whether a process is writing what is to become `path`.
pub(super) fn is_written(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let entries = fs::read_dir(super::folder_of(path)).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let found = entry.file_name();
        let temporary = found.to_str().and_then(parts);
        temporary.is_some_and(|t| Some(t.name) == name && holds(&entry.path()) == Held::Yes)
    })
}

/// Removes [`leftovers_of`] a path, and gives their number. What cannot be removed stays: it is in nobody's way.
pub fn remove_leftovers_of(path: &Path) -> usize {
    leftovers_of(path).iter().filter(|left| remove(left).is_ok()).count()
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Whether a writer holds a temporary file or folder, also one on another machine that shares the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Yes,
    No,
    /// The file system has no locks, or the file cannot be opened.
    Unknown,
}

fn holds(path: &Path) -> Held {
    // A link's own name is no file that could be held.
    if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return Held::No;
    }
    match File::open(path).map(|file| file.try_lock()) {
        Ok(Ok(())) => Held::No,
        Ok(Err(TryLockError::WouldBlock)) => Held::Yes,
        _ => Held::Unknown,
    }
}

/// Whether the writer is gone. One that has just begun holds nothing yet; after that, a process of its number is
/// another one: numbers are given again.
fn is_left(path: &Path, temporary: &Temporary<'_>) -> bool {
    let old = || {
        let changed = fs::symlink_metadata(path).and_then(|there| there.modified());
        changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > BEGUN))
    };
    // What is being removed is never held.
    let held_while_written = temporary.kind != "removed";
    holds(path) == Held::No && (!runs(temporary.process) || (held_while_written && old()))
}

/// After this time a writer holds what it writes.
const BEGUN: Duration = Duration::from_mins(1);

/// Whether a process goes on, as far as the system tells.
fn runs(process: &str) -> bool {
    let folder = Path::new("/proc").join(process);
    // One that was killed keeps its number until its parent has asked for its status.
    let dead = fs::read_to_string(folder.join("stat")).is_ok_and(|stat| {
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
    });
    folder.exists() && !dead
}

/// `.NAME.KIND-PROCESS-COUNT`, as `sibling` makes it.
#[derive(Debug)]
struct Temporary<'a> {
    name: &'a str,
    kind: &'a str,
    process: &'a str,
}

fn parts(name: &str) -> Option<Temporary<'_>> {
    let number = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (name, end) = name.strip_prefix('.')?.rsplit_once('.')?;
    let mut parts = end.split('-');
    let kind = parts.next().filter(|kind| ["tmp", "staged", "removed"].contains(kind))?;
    let process = parts.next().filter(number)?;
    parts.next().filter(number)?;
    (!name.is_empty() && parts.next().is_none()).then_some(Temporary { name, kind, process })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::sibling;

    /// No process has a number as large: Linux gives them up to 2²².
    const GONE: u32 = u32::MAX;

    #[test]
    fn of_a_path_only_what_nobody_writes_goes() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let left = [format!(".a.gguf.tmp-{GONE}-0"), format!(".a.gguf.staged-{GONE}-1")];
        fs::write(at(&left[0]), "half").unwrap();
        fs::create_dir_all(at(&left[1]).join("sub")).unwrap();
        let held = at(&format!(".a.gguf.tmp-{GONE}-2"));
        fs::write(&held, "being written").unwrap();
        let holder = File::open(&held).unwrap();
        holder.try_lock().unwrap();
        let others = [format!(".b.gguf.tmp-{GONE}-0"), format!(".a.gguf.old-{GONE}-0")];
        for name in &others {
            fs::write(at(name), "").unwrap();
        }
        let mine = sibling(&at("a.gguf"), "tmp").unwrap();
        fs::write(&mine, "of a process that runs").unwrap();
        let mut found = leftovers_of(&at("a.gguf"));
        found.sort();
        let mut expected: Vec<_> = left.iter().map(|name| at(name)).collect();
        expected.sort();
        // Elsewhere nobody tells which processes run.
        if cfg!(target_os = "linux") {
            assert_eq!(found, expected);
            assert_eq!(leftovers_in(dir.path()).len(), 3, "of another path too");
            assert_eq!(remove_leftovers_of(&at("a.gguf")), 2);
            assert!(mine.exists());
        }
        assert!(held.exists() && others.iter().all(|name| at(name).exists()));
        assert_eq!(remove_leftovers_of(&at("none/b")), 0);
    }

    #[test]
    fn only_what_has_a_temporary_name_goes() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: String| dir.path().join(name);
        fs::create_dir_all(at(format!(".step-10.staged-{GONE}-0")).join("sub")).unwrap();
        fs::create_dir(at(format!(".step-10.removed-{GONE}-1"))).unwrap();
        fs::write(at(format!(".run.json.tmp-{GONE}-2")), "half").unwrap();
        let mut mine: Vec<PathBuf> =
            [".tmp-1-2", ".a.tmp-x-2", ".a.tmp-1", "a.tmp-1-2", ".a.tmp-1-2-3", ".gitignore", ".a.old-1-2"]
                .map(|name| at(name.to_owned()))
                .into();
        // What this process is about to write, and what it removes.
        mine.push(sibling(&at("a".to_owned()), "tmp").unwrap());
        mine.push(sibling(&at("b".to_owned()), "removed").unwrap());
        for path in &mine {
            fs::write(path, "").unwrap();
        }
        assert_eq!(remove_leftovers(dir.path()).unwrap(), 3);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), mine.len());
        assert_eq!(remove_leftovers(&dir.path().join("none")).unwrap(), 0);
    }

    /// Process numbers are given again: what nobody holds for a minute is nobody's.
    #[test]
    fn a_number_that_was_given_again_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (left, held) = ["a", "b"].map(|name| sibling(&dir.path().join(name), "tmp").unwrap()).into();
        let hour = std::time::SystemTime::now() - Duration::from_hours(1);
        let make = |path: &Path| {
            let file = File::create(path).unwrap();
            file.set_modified(hour).unwrap();
            file
        };
        let (_left, holder) = (make(&left), make(&held));
        holder.try_lock().unwrap();
        assert_eq!(leftovers_in(dir.path()), [left]);
        assert!(is_written(&dir.path().join("b")) && !is_written(&dir.path().join("a")));
    }
}
