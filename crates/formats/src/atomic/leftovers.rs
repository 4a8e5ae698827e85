//! What a process that was killed has left under temporary names.

use std::fs;
use std::path::Path;

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
        let gone = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        gone.map_err(|e| Error::io("remove", &path, e))?;
        count += 1;
    }
    Ok(count)
}

/// `.NAME.KIND-PROCESS-COUNT`, as `sibling` makes it.
fn is_temporary(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let Some((name, end)) = name.strip_prefix('.').and_then(|name| name.rsplit_once('.')) else {
        return false;
    };
    let mut parts = end.split('-');
    !name.is_empty()
        && parts.next().is_some_and(|kind| ["tmp", "staged", "removed"].contains(&kind))
        && parts.next().is_some_and(number)
        && parts.next().is_some_and(number)
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::sibling;

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
