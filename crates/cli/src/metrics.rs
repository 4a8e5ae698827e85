//! `metrics.jsonl`: one event a line, on disk as soon as it has happened.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use mesp::train::Event;
use mesp_formats::Error as FileError;

/// The file's name in a run directory.
pub(crate) const FILE: &str = "metrics.jsonl";

/// The open file.
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    len: u64,
    line: Vec<u8>,
}

impl Metrics {
    /// Begins the file, or appends to it when a run is resumed.
    pub(crate) fn open(dir: &Path, resumed: bool) -> mesp::Result<Self> {
        let path = dir.join(FILE);
        let mut options = OpenOptions::new();
        options.create(true);
        let file =
            if resumed { options.append(true) } else { options.write(true).truncate(true) }.open(&path);
        let file = file.map_err(|e| FileError::io("open", &path, e))?;
        let len = file.metadata().map_err(|e| FileError::io("read", &path, e))?.len();
        Ok(Self { path, file, len, line: Vec::with_capacity(512) })
    }

    /// Writes an event.
    pub(crate) fn write(&mut self, event: &Event) -> mesp::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, event).map_err(|e| {
            FileError::invalid(&self.path, format!("an event cannot be written as JSON: {e}"))
        })?;
        self.line.push(b'\n');
        // One call for the whole line: a reader that follows the file never sees half of one that was written.
        self.file.write_all(&self.line).map_err(|e| {
            // What of the line found room goes again; if even that fails there is nothing more to say.
            let _ = self.file.set_len(self.len);
            FileError::io("write", &self.path, e)
        })?;
        self.len += self.line.len() as u64;
        Ok(())
    }
}
