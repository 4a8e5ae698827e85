//! Reading at a place of a file.

use std::fs::File;
use std::io;
#[cfg(not(unix))]
use std::io::{Read as _, Seek as _, SeekFrom};

/// What is read at a place; a file of ours is read from one thread.
pub(super) fn read_at(file: &File, part: &mut [u8], at: u64) -> io::Result<usize> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_at(file, part, at);
    #[cfg(not(unix))]
    {
        let mut file = file;
        file.seek(SeekFrom::Start(at))?;
        file.read(part)
    }
}
