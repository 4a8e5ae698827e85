//! `metrics.jsonl`: one event a line, on disk as soon as it has happened. `docs/metrics.md` has the fields.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mesp::ErrorKind;
use mesp_formats::{Error as FileError, regular};
use serde::{Deserialize, Serialize};

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

/// What decides whether a line stays when a run goes on from a checkpoint.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    step: Option<usize>,
    loss: Option<f64>,
}

impl Metrics {
    /// Begins the file anew.
    pub(crate) fn begin(dir: &Path) -> mesp::Result<Self> {
        Self::open(dir, OpenOptions::new().create(true).write(true).truncate(true))
    }

    /// Opens the file of a run that goes on after so many steps, without what came after them. Gives the losses
    /// of the steps that stay.
    pub(crate) fn go_on(dir: &Path, step: usize) -> mesp::Result<(Self, Vec<f64>)> {
        let mut metrics =
            Self::open(dir, OpenOptions::new().create(true).read(true).write(true).truncate(false))?;
        let path = &metrics.path;
        let failed = |action| move |e| FileError::io(action, path, e);
        let (mut keep, mut losses) = (0, Vec::new());
        let mut lines = BufReader::new(&metrics.file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = lines.read_until(b'\n', &mut line).map_err(failed("read"))?;
            // A line without an end was cut off while it was written.
            if !line.ends_with(b"\n") {
                break;
            }
            if let Ok(event) = serde_json::from_slice::<Line>(&line) {
                let at = event.step.unwrap_or(0);
                // A process that went on from the same checkpoint, and left none of its own, is done again.
                if at > step || (event.kind == "run" && at == step && keep > 0) {
                    break;
                }
                if event.kind == "train" {
                    losses.push(event.loss.unwrap_or(f64::NAN));
                }
            }
            keep += length as u64;
        }
        metrics.file.set_len(keep).map_err(failed("cut"))?;
        metrics.file.seek(SeekFrom::Start(keep)).map_err(failed("write"))?;
        metrics.len = keep;
        Ok((metrics, losses))
    }

    fn open(dir: &Path, how: &OpenOptions) -> mesp::Result<Self> {
        let path = dir.join(FILE);
        // Opening a pipe waits for somebody who reads it, and nothing is kept there.
        if let Some(found) = regular::other_than_file(&path).filter(|found| *found != "a device") {
            return Err(FileError::invalid(&path, ErrorKind::WrongType)
                .expected("a file or nothing to write events to")
                .found(found)
                .hint("Move it away.")
                .into());
        }
        let file = how.open(&path).map_err(|e| FileError::io("open", &path, e))?;
        let len = file.metadata().map_err(|e| FileError::io("read", &path, e))?.len();
        Ok(Self { path, file, len, line: Vec::with_capacity(1024) })
    }

    /// The folder has been made again: the file is another.
    pub(crate) fn open_again(&mut self) -> mesp::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        *self = Self::open(dir, OpenOptions::new().create(true).append(true))?;
        Ok(())
    }

    /// Writes an event.
    pub(crate) fn write(&mut self, event: &impl Serialize) -> mesp::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, event).map_err(|e| {
            let what = format!("an event cannot be written as JSON: {e}");
            FileError::invalid(&self.path, ErrorKind::Malformed).what(what)
        })?;
        self.line.push(b'\n');
        // One call for the whole line: a reader that follows the file never sees half of one that was written.
        self.file.write_all(&self.line).map_err(|e| {
            // What of the line found room goes again; if even that fails there is nothing more to say.
            let _ = self.file.set_len(self.len);
            let _ = self.file.seek(SeekFrom::Start(self.len));
            FileError::io("write", &self.path, e)
        })?;
        self.len += self.line.len() as u64;
        // One line is long, the plan's; the others do not pay for it.
        self.line.clear();
        self.line.shrink_to(1024);
        Ok(())
    }

    /// Flushes what was written to the disk.
    pub(crate) fn sync(&self) -> mesp::Result<()> {
        Ok(self.file.sync_data().map_err(|e| FileError::io("flush to disk", &self.path, e))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    fn train(step: usize) -> String {
        format!("{{\"type\":\"train\",\"step\":{step},\"loss\":{step}.5}}\n")
    }

    fn run(step: usize) -> String {
        format!("{{\"type\":\"run\",\"step\":{step}}}\n")
    }

    fn go_on(text: &str, step: usize) -> (String, Vec<f64>) {
        let dir = std::env::temp_dir().join(format!("mesp-metrics-{}-{step}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join(FILE), text).expect("written");
        let (mut metrics, losses) = Metrics::go_on(&dir, step).expect("opened");
        metrics.write(&json!({ "type": "run", "step": step })).expect("written");
        let text = fs::read_to_string(dir.join(FILE)).expect("text");
        fs::remove_dir_all(dir).expect("removed");
        (text, losses)
    }

    #[test]
    fn what_came_after_the_checkpoint_goes() {
        let before = [run(0), train(1), train(2)].concat();
        let text = [before.clone(), train(3), run(2), train(3)].concat() + "{\"type\":\"tra";
        assert_eq!(go_on(&text, 2), (before.clone() + &run(2), vec![1.5, 2.5]));
        // Killed again and again at the same place, before a step of its own.
        let text = [before.clone(), run(2), run(2)].concat();
        assert_eq!(go_on(&text, 2).0, before + &run(2));
    }

    #[test]
    fn a_torn_line_goes_and_the_start_stays() {
        let text = run(0) + &train(1) + &train(2)[..20];
        assert_eq!(go_on(&text, 5), (run(0) + &train(1) + &run(5), vec![1.5]));
        assert_eq!(go_on("", 0).0, run(0));
    }
}
