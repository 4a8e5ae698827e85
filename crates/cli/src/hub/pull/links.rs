//! Snapshots: folders of links to contents; and references, which name them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use mesp_formats::Error as FileError;
use mesp_formats::atomic::{create_dir_all, remove_leftovers_of, temporary_name, write_atomic};
use mesp_formats::hub::is_commit;

/// Makes the snapshot of a commit, or adds to it: files by name, each with its content's name.
pub(super) fn snapshot(repo: &Path, commit: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
    let all = repo.join("snapshots");
    let path = all.join(commit);
    create_dir_all(&all)?;
    if !path.exists() {
        remove_leftovers_of(&path);
        let staged = temporary_name(&path)?;
        fill(repo, &staged, files)?;
        if fs::rename(&staged, &path).is_ok() {
            return Ok(path);
        }
        // Another process has made it meanwhile.
        let _ = fs::remove_dir_all(&staged);
    }
    fill(repo, &path, files)?;
    Ok(path)
}

fn fill(repo: &Path, folder: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, etag) in files {
        let (link, blob) = (folder.join(name), repo.join("blobs").join(etag));
        create_dir_all(link.parent().unwrap_or(folder))?;
        // The folder's own depth, and that of folders in it.
        let up = "../".repeat(2 + name.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        if fs::read_link(&link).is_ok_and(|found| found == target) {
            continue;
        }
        remove_leftovers_of(&link);
        let temporary = temporary_name(&link)?;
        let made = point(&target, &blob, &temporary).and_then(|()| fs::rename(&temporary, &link));
        made.map_err(|e| {
            let _ = fs::remove_file(&temporary);
            FileError::io("create", &link, e)
        })?;
    }
    Ok(())
}

/// A link to a content; where the file system has none, another name of it, or a copy.
fn point(target: &Path, blob: &Path, link: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    if std::os::unix::fs::symlink(target, link).is_ok() {
        return Ok(());
    }
    #[cfg(windows)]
    if std::os::windows::fs::symlink_file(target, link).is_ok() {
        return Ok(());
    }
    let _ = target;
    fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(|_| ()))
}

/// Lets a revision name a commit.
pub(super) fn reference(repo: &Path, revision: &str, commit: &str) -> Result<()> {
    if is_commit(revision) {
        return Ok(());
    }
    let path = repo.join("refs").join(revision);
    create_dir_all(path.parent().unwrap_or(repo))?;
    remove_leftovers_of(&path);
    Ok(write_atomic(&path, |out| out.write_all(commit.as_bytes()))?)
}
