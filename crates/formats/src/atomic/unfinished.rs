//! What this process has begun to write and not finished, so that it can go when the process is asked to end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn all() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file or folder under a temporary name, which goes when this goes.
#[derive(Debug)]
pub(super) struct Unfinished(PathBuf);

impl Unfinished {
    /// Takes a name that nothing has yet.
    pub(super) fn new(path: PathBuf) -> Self {
        all().insert(path.clone());
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Gives it its name, which is done whole or not at all while [`remove_unfinished`] works.
    pub(super) fn finish<T>(self, rename: impl FnOnce(&Path) -> T) -> T {
        let _all = all();
        rename(&self.0)
        // What is left under the temporary name, if that failed, goes with this.
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // An error is on its way to the user already, or the name is free: nothing to add.
        let _ = remove(&self.0);
        all().remove(&self.0);
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// As long as this lives, nothing of this process gets its name.
pub struct Stopped(#[expect(dead_code, reason = "held")] MutexGuard<'static, BTreeSet<PathBuf>>);

/// Removes what this process has begun to write, for one that ends before it is finished: see [`Stopped`].
pub fn remove_unfinished() -> Stopped {
    let mut unfinished = all();
    for path in std::mem::take(&mut *unfinished) {
        // Other threads may still add to a folder.
        let _ = (0..3).any(|_| remove(&path).is_ok() || !path.exists());
    }
    Stopped(unfinished)
}
