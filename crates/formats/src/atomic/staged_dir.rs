//! A folder, such as a checkpoint, that appears under its name complete or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{Unfinished, create_dir_all, folder_of, leftovers, name_of, sibling, sync_dir};
use crate::{Error, Result};

/// A folder written under a temporary name; [`commit`](Self::commit) renames it into place.
///
/// Replacing a folder takes two renames, since no portable call exchanges two folders:
///
/// 1. the old `NAME` becomes `.NAME.previous`,
/// 2. the new folder becomes `NAME`,
/// 3. `.NAME.previous` is removed.
///
/// So at every moment a complete folder stands under `NAME`, or, between 1 and 2, under `.NAME.previous`.
/// A reader calls [`recover`](Self::recover) first, which undoes a replacement cut off in between;
/// [`new`](Self::new) does so too.
#[derive(Debug)]
pub struct StagedDir {
    final_path: PathBuf,
    staged: Unfinished,
    /// Locked while this is written to, where folders can be opened and locked.
    _held: Option<File>,
}

impl StagedDir {
    /// Makes an empty folder beside `final_path`, and the folders above it where they are missing.
    ///
    /// # Errors
    /// When a folder cannot be made, or a file stands at `final_path`.
    pub fn new(final_path: impl AsRef<Path>) -> Result<Self> {
        let final_path = final_path.as_ref().to_path_buf();
        create_dir_all(folder_of(&final_path))?;
        if final_path.exists() && !final_path.is_dir() {
            return Err(Error::invalid(&final_path, crate::ErrorKind::WrongType)
                .expected("a folder or nothing")
                .found("a file")
                .hint("Move the file away, or name another folder."));
        }
        Self::recover(&final_path)?;
        let staged = Unfinished::new(sibling(&final_path, "staged")?);
        let path = staged.path();
        fs::create_dir(path).map_err(|e| Error::io("create the folder", path, e))?;
        let held = File::open(path).ok().filter(|folder| folder.try_lock().is_ok());
        Ok(Self { final_path, staged, _held: held })
    }

    /// The folder to write into, until [`commit`](Self::commit).
    pub fn path(&self) -> &Path {
        self.staged.path()
    }

    /// Flushes everything to disk and renames the folder into place.
    ///
    /// # Errors
    /// When the system refuses; the folder at the final path is then as it was before.
    pub fn commit(self) -> Result<()> {
        let Self { final_path, staged, _held } = self;
        sync_tree(staged.path())?;
        let previous = previous_of(&final_path)?;
        let replaces = staged.finish(|staged| {
            let replaces = final_path.exists();
            if replaces {
                fs::rename(&final_path, &previous)
                    .map_err(|e| Error::io("rename, to replace it, the folder", &final_path, e))?;
            }
            if let Err(e) = fs::rename(staged, &final_path) {
                if replaces {
                    // Where this fails too, `recover` finds the old folder.
                    let _ = fs::rename(&previous, &final_path);
                }
                return Err(Error::io("rename a temporary folder to", &final_path, e));
            }
            Ok(replaces)
        })?;
        // The old folder may go only when the new name is on disk.
        sync_dir(folder_of(&final_path))?;
        if replaces {
            fs::remove_dir_all(&previous).map_err(|e| Error::io("remove the folder", &previous, e))?;
        }
        Ok(())
    }

    /// Where the old folder lies that a process which is gone was replacing.
    pub fn previous(final_path: &Path) -> Option<PathBuf> {
        previous_of(final_path).ok().filter(|path| path.is_dir() && !leftovers::is_written(final_path))
    }

    /// Undoes or finishes a replacement of `final_path` that was cut off; true where the old folder was put back.
    ///
    /// # Errors
    /// When a folder cannot be renamed or removed.
    pub fn recover(final_path: &Path) -> Result<bool> {
        let previous = previous_of(final_path)?;
        // Another process may be between the two renames.
        if !previous.is_dir() || leftovers::is_written(final_path) {
            return Ok(false);
        }
        if final_path.exists() {
            // Cut off after the new folder had its name: only the cleaning up is left.
            fs::remove_dir_all(&previous).map_err(|e| Error::io("remove the folder", &previous, e))?;
            return Ok(false);
        }
        fs::rename(&previous, final_path).map_err(|e| Error::io("rename the folder", &previous, e))?;
        sync_dir(folder_of(final_path))?;
        Ok(true)
    }
}

/// Removes a folder; cut off, it leaves the whole folder or none under its name.
///
/// # Errors
/// When the system refuses.
pub fn remove_dir(path: &Path) -> Result<()> {
    let removed = sibling(path, "removed")?;
    fs::rename(path, &removed).map_err(|e| Error::io("rename, to remove it, the folder", path, e))?;
    match fs::remove_dir_all(&removed) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove the folder", &removed, e)),
        _ => Ok(()),
    }
}

pub(super) fn previous_of(path: &Path) -> Result<PathBuf> {
    // Hidden: a folder of the user's is not called that.
    let mut name = OsString::from(".");
    name.push(name_of(path)?);
    name.push(".previous");
    Ok(path.with_file_name(name))
}

/// Flushes every file, then the folder that names it, so that no name on disk lacks its content.
fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(|e| Error::io("list the folder", dir, e))? {
        let path = entry.map_err(|e| Error::io("list the folder", dir, e))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            // Opened for writing, since some systems flush only such handles.
            let file = File::options().write(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
            file.sync_all().map_err(|e| Error::io("flush to disk", &path, e))?;
        }
    }
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_new(path: &Path, content: &str) {
        let staged = StagedDir::new(path).unwrap();
        fs::create_dir(staged.path().join("sub")).unwrap();
        fs::write(staged.path().join("sub/a"), content).unwrap();
        staged.commit().unwrap();
    }

    #[test]
    fn appears_on_commit_and_replaces_the_old_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs/step-10");
        for content in ["one", "two"] {
            write_new(&path, content);
            assert_eq!(fs::read_to_string(path.join("sub/a")).unwrap(), content);
        }
        assert_eq!(fs::read_dir(dir.path().join("runs")).unwrap().count(), 1);
    }

    #[test]
    fn dropping_it_leaves_the_old_folder_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("step-10");
        write_new(&path, "old");
        let staged = StagedDir::new(&path).unwrap();
        fs::write(staged.path().join("b"), "new").unwrap();
        drop(staged);
        assert!(path.join("sub/a").exists() && !path.join("b").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_replacement_cut_off_is_undone_or_finished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("step-10");
        let previous = dir.path().join(".step-10.previous");
        write_new(&path, "old");
        fs::rename(&path, &previous).unwrap();
        assert!(StagedDir::recover(&path).unwrap());
        assert_eq!(fs::read_to_string(path.join("sub/a")).unwrap(), "old");

        // What only looks like it is the user's.
        let user = dir.path().join("step-10.previous");
        fs::create_dir(&user).unwrap();
        fs::create_dir(&previous).unwrap();
        assert!(!StagedDir::recover(&path).unwrap());
        assert!(!previous.exists() && path.join("sub/a").exists());
        assert!(!StagedDir::recover(&path).unwrap());
        write_new(&path, "new");
        assert!(user.exists());
    }

    #[test]
    fn a_file_in_its_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "").unwrap();
        let error = StagedDir::new(&path).unwrap_err();
        assert!(error.to_string().contains("expected a folder or nothing, found a file"), "{error}");
    }
}
