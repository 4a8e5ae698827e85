//! What a process that was killed has left under temporary names.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Removes temporary files and folders of [`write_atomic`](super::write_atomic), [`StagedDir`](super::StagedDir)
/// and [`remove_dir`](super::remove_dir) from a folder, and gives their number. Only for a folder that no other
/// process writes to at the time. A folder that is not there has none.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_leftovers(dir: &Path) -> Result<usize> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(0) };
    let mut count = 0;
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(is_temporary) {
            continue;
        }
        let path = entry.path();
        remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        count += 1;
    }
    Ok(count)
}

/// Temporary files and folders that writers of `path` have left: processes that are gone.
pub fn leftovers_of(path: &Path) -> Vec<PathBuf> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    left_in(super::parent_of(path), Some(name))
}

/// Those that lie in a folder, whatever they were to become.
pub fn leftovers_in(dir: &Path) -> Vec<PathBuf> {
    left_in(dir, None)
}

fn left_in(dir: &Path, name: Option<&str>) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let of_this = |entry: &fs::DirEntry| {
        let found = entry.file_name();
        let named = |(of, process): (&str, &str)| name.is_none_or(|name| of == name) && !runs(process);
        found.to_str().and_then(parts).is_some_and(named) && nobody_holds(&entry.path())
    };
    entries.flatten().filter(of_this).map(|entry| entry.path()).collect()
}

/// Removes [`leftovers_of`] a path, and gives their number. What cannot be removed stays: it is in nobody's way.
pub fn remove_leftovers_of(path: &Path) -> usize {
    leftovers_of(path).iter().filter(|left| remove(left).is_ok()).count()
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Whether no writer holds a temporary file or folder, also none on another machine that shares the disk.
fn nobody_holds(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// Whether a process goes on, as far as the system tells.
fn runs(process: &str) -> bool {
    Path::new("/proc").join(process).exists()
}

fn is_temporary(name: &str) -> bool {
    parts(name).is_some()
}

/// The name and the process of `.NAME.KIND-PROCESS-COUNT`, as `sibling` makes it.
fn parts(name: &str) -> Option<(&str, &str)> {
    let number = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (name, end) = name.strip_prefix('.')?.rsplit_once('.')?;
    let mut parts = end.split('-');
    parts.next().filter(|kind| ["tmp", "staged", "removed"].contains(kind))?;
    let process = parts.next().filter(number)?;
    parts.next().filter(number)?;
    (!name.is_empty() && parts.next().is_none()).then_some((name, process))
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
        let path = dir.path().join("step-10");
        fs::create_dir(&path).unwrap();
        fs::create_dir_all(sibling(&path, "staged").unwrap().join("sub")).unwrap();
        fs::create_dir(sibling(&path, "removed").unwrap()).unwrap();
        fs::write(sibling(&dir.path().join("run.json"), "tmp").unwrap(), "half").unwrap();
        let mine =
            [".tmp-1-2", ".a.tmp-x-2", ".a.tmp-1", "a.tmp-1-2", ".a.tmp-1-2-3", ".gitignore", ".a.old-1-2"];
        for name in mine {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(remove_leftovers(dir.path()).unwrap(), 3);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), mine.len() + 1);
        assert_eq!(remove_leftovers(&dir.path().join("none")).unwrap(), 0);
    }
}
