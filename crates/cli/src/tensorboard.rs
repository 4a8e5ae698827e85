//! Event files for `TensorBoard`: records of length, masked CRC-32C and a protocol buffer.
//!
//! ```text
//! record   u64 length   u32 masked crc(length)   bytes   u32 masked crc(bytes)        little-endian
//! Event    1 double wall_time   2 int64 step   3 string file_version   5 Summary   7 SessionLog
//! Summary  1 repeated Value { 1 string tag   2 float simple_value }       SessionLog { 1 status = START (1) }
//! ```

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};
use mesp_formats::Error as FileError;
use mesp_formats::atomic::create_dir_all;

/// The folder in a run directory.
pub(crate) const FOLDER: &str = "tensorboard";

static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// An open event file.
pub(crate) struct Board {
    path: PathBuf,
    file: File,
    record: Vec<u8>,
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl Board {
    /// A new file of a run that begins after so many steps. `TensorBoard` forgets what an earlier process wrote of
    /// later ones.
    pub(crate) fn open(dir: &Path, step: usize) -> mesp::Result<Self> {
        let dir = dir.join(FOLDER);
        create_dir_all(&dir)?;
        let (seconds, process) = (now(), std::process::id());
        // Read in the order of their names.
        let path = dir.join(format!("events.out.tfevents.{:010}.mesp.{process}.{step}", seconds as u64));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(|e| FileError::io("open", &path, e))?;
        let mut board = Self { path, file, record: Vec::with_capacity(512) };
        board.write(0, |event| bytes(event, 3, b"brain.Event:2"))?;
        if step > 0 {
            board.write(step + 1, |event| bytes(event, 7, &[0x08, 1]))?;
        }
        Ok(board)
    }

    /// Writes figures of a step.
    pub(crate) fn scalars(&mut self, step: usize, values: &[(&str, f64)]) -> mesp::Result<()> {
        let mut summary = Vec::with_capacity(64 * values.len());
        for (tag, value) in values {
            let mut one = Vec::with_capacity(tag.len() + 8);
            bytes(&mut one, 1, tag.as_bytes());
            one.push(2 << 3 | 5);
            one.extend((*value as f32).to_le_bytes());
            bytes(&mut summary, 1, &one);
        }
        self.write(step, |event| bytes(event, 5, &summary))
    }

    fn write(&mut self, step: usize, what: impl FnOnce(&mut Vec<u8>)) -> mesp::Result<()> {
        let mut event = vec![1 << 3 | 1];
        event.extend(now().to_le_bytes());
        event.push(2 << 3);
        varint(&mut event, step as u64);
        what(&mut event);
        self.record.clear();
        let length = (event.len() as u64).to_le_bytes();
        self.record.extend(length);
        self.record.extend(masked(&length).to_le_bytes());
        self.record.extend(&event);
        self.record.extend(masked(&event).to_le_bytes());
        self.file.write_all(&self.record).map_err(|e| FileError::io("write", &self.path, e))?;
        Ok(())
    }
}

/// A field of bytes, a text or a message.
fn bytes(out: &mut Vec<u8>, field: u8, content: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A checksum that is not one of data with checksums in it.
fn masked(data: &[u8]) -> u32 {
    CRC.checksum(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        // The check value of the catalogue, and a record's own masked length as TensorFlow writes it.
        assert_eq!(CRC.checksum(b"123456789"), 0xe306_9283);
        assert_eq!(masked(&24u64.to_le_bytes()), u32::from_le_bytes([0xa3, 0x7f, 0x4b, 0x22]));
    }

    #[test]
    fn numbers_of_variable_length() {
        let mut out = Vec::new();
        varint(&mut out, 300);
        varint(&mut out, 127);
        assert_eq!(out, [0xac, 0x02, 0x7f]);
    }
}
