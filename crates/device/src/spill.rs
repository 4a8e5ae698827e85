//! Checkpoints in a file: written once, read once, never mapped.
//!
//! Plain writes and reads by offset, not a mapping: a full disk is then an error to report where a mapping
//! would end the process by a signal, and the pages are the page cache's, which the system drops as it needs.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use mesp_kernels::Real;

/// A file of equal slots, without a name: it is gone when the run ends, however it ends.
#[derive(Debug)]
pub struct Spill {
    file: File,
    slot_bytes: u64,
}

impl Spill {
    /// In a folder, with all its space taken at once, so that a full disk is found before the run begins.
    ///
    /// # Errors
    /// When the file cannot be made or there is no room for it.
    pub fn create(dir: &Path, slots: usize, slot_bytes: usize) -> io::Result<Self> {
        let path = dir.join(format!(".mesp-checkpoints.tmp-{}-0", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        let spill = Self { file, slot_bytes: slot_bytes as u64 };
        spill.take_space(slots as u64 * spill.slot_bytes)?;
        Ok(spill)
    }

    /// Writes zeros over the whole length: this takes the space on every file system.
    fn take_space(&self, bytes: u64) -> io::Result<()> {
        let zeros = vec![0u8; 1 << 16];
        let mut at = 0;
        while at < bytes {
            let n = (bytes - at).min(zeros.len() as u64);
            self.write_at(&zeros[..n as usize], at)?;
            at += n;
        }
        Ok(())
    }

    pub(crate) fn write<R: Real>(&self, slot: usize, values: &[R]) -> io::Result<()> {
        // SAFETY: `Real` is f32 or f64: plain bits, all of them initialized.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        assert!(bytes.len() as u64 <= self.slot_bytes, "a checkpoint fits its slot");
        self.write_at(bytes, slot as u64 * self.slot_bytes)
    }

    pub(crate) fn read<R: Real>(&self, slot: usize, values: &mut [R]) -> io::Result<()> {
        // SAFETY: as above; any bits are a valid f32 or f64.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), size_of_val(values)) };
        self.read_at(bytes, slot as u64 * self.slot_bytes)
    }

    #[cfg(unix)]
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, at)
    }

    #[cfg(unix)]
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, bytes, at)
    }

    #[cfg(not(unix))]
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = &self.file;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    }

    #[cfg(not(unix))]
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = &self.file;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(bytes)
    }
}
