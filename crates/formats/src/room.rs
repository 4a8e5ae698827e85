//! Room on a disk.

use std::path::Path;

use crate::{Error, ErrorKind, Result};

/// Bytes that this user may still write to the file system of a folder that is there; `None` where the system does not
/// say.
#[cfg(unix)]
pub fn available(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// As on Unix; not asked for on other systems.
#[cfg(not(unix))]
pub fn available(_: &Path) -> Option<u64> {
    None
}

/// Refuses a folder on whose disk there is no room for `bytes` of what is called `what`. A folder that is not there yet
/// has the room of the nearest one above it.
///
/// # Errors
/// [`ErrorKind::System`] with both figures.
pub fn require(folder: &Path, bytes: u64, what: &str) -> Result<()> {
    let above = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    match available(above) {
        Some(free) if free < bytes => Err(Error::invalid(folder, ErrorKind::System)
            .what(format!("there is no room for {what}"))
            .expected(format!("{bytes} bytes free"))
            .found(free)
            .hint("make room, or name a folder on another disk")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_too_small_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let inside = dir.path().join("not/there/yet");
        require(&inside, 1, "a byte").expect("room");
        if let Some(free) = available(dir.path()) {
            assert!(free > 0);
            let error = require(&inside, u64::MAX, "everything").expect_err("no room").to_string();
            assert!(error.contains("no room for everything") && error.contains("not/there/yet"), "{error}");
        }
    }
}
