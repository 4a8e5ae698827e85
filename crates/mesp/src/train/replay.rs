//! The log of a run with a gradient estimator: the seed, and one directional derivative for each direction of
//! each step.
//!
//! ```text
//! MESPRPL2   u32 length   header as JSON   then for each step: n · f32 derivatives, u32 check       little endian
//! ```
//! The check covers the record and all before it, so an incomplete record ends the log. With the adapter that the run
//! started from, or its seed, the log reproduces every later adapter bit for bit, without data and without a forward
//! pass (MeZO, section 2.1). In full fine-tuning the model takes the adapter's place.

mod run;

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mesp_device::Elem;
use mesp_formats::Error as FileError;
use mesp_formats::atomic::write_atomic;
use mesp_formats::regular;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::optim::Schedule;
use crate::{Error, ErrorKind, Result, rng};

pub use run::digest;

/// Its name in a run directory.
pub const FILE: &str = "slopes.replay";

const MAGIC: &[u8; 8] = b"MESPRPL2";
/// Far more than any header.
const LONGEST_HEADER: u32 = 1 << 20;
/// Bytes of a log at most: millions of steps.
const LONGEST_LOG: u64 = 256 << 20;

/// Everything that determines a run besides its directional derivatives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Seed of the directions.
    pub seed: u64,
    /// λ, the decoupled weight decay.
    pub weight_decay: f64,
    /// Fingerprint of the adapter, or of all weights, that the run started from.
    pub start: String,
    /// The settings that fix the result, by name: [`RunConfig::settings`](super::RunConfig::settings).
    pub settings: Map<String, Value>,
    /// The learning rate of each step.
    pub schedule: Schedule,
    /// For each matrix the size up to which its values move; empty where all do.
    #[serde(default)]
    pub bounds: Vec<f32>,
    /// Directions of a step.
    pub directions: usize,
    /// Blocks of the model.
    pub layers: usize,
    /// Trainable parameters.
    pub parameters: u64,
    /// How the model's weights are held, `f32` or `bf16`, where these are trained and no adapter.
    #[serde(default)]
    pub full: Option<String>,
}

impl Replay {
    /// How the model's weights are held, where these were trained.
    ///
    /// # Errors
    /// When the type is unknown.
    pub fn full(&self) -> Result<Option<Elem>> {
        self.full.as_deref().map(elem).transpose()
    }
}

/// A way of storing by its name.
fn elem(name: &str) -> Result<Elem> {
    match name {
        "f32" => Ok(Elem::Full),
        "bf16" => Ok(Elem::Bf16),
        other => Err(Error::usage(ErrorKind::Unknown, format!("values in {other:?} are unknown"))
            .expected("f32 or bf16")),
    }
}

/// The check of a record that follows one with check `before`.
fn check(before: u32, derivatives: &[f32]) -> u32 {
    derivatives.iter().fold(u64::from(before), |h, s| rng::bits(h, 2, u64::from(s.to_bits()))) as u32
}

/// A log that is open for appending, and its contents.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: Log,
    /// The directional derivatives of its steps.
    pub derivatives: Vec<Vec<f32>>,
    /// [`Replay::bounds`].
    pub bounds: Vec<f32>,
}

/// A log that grows.
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
    check: u32,
    record: Vec<u8>,
}

impl Log {
    /// Creates a log, or, when `steps` steps are done, continues the existing one and returns their directional
    /// derivatives. Later steps, which no checkpoint has, are cut off.
    ///
    /// # Errors
    /// When the file cannot be written, or is not the log of this run or shorter than it.
    pub fn open(path: &Path, header: &Replay, steps: usize) -> Result<Opened> {
        if steps == 0 {
            let head = head(path, header)?;
            let file = File::create(path)
                .and_then(|mut file| file.write_all(&head).map(|()| file))
                .map_err(|e| FileError::io("write", path, e))?;
            let log = Self { file, path: path.to_owned(), check: 0, record: Vec::new() };
            return Ok(Opened { log, derivatives: Vec::new(), bounds: header.bounds.clone() });
        }
        let Contents { header: found, mut derivatives, begin } = read(path)?;
        // The digest and the bounds are of the adapter at the start, which is not at hand here.
        let like = Replay { start: found.start.clone(), bounds: found.bounds.clone(), ..header.clone() };
        if found != like {
            return Err(FileError::invalid(path, ErrorKind::Mismatch)
                .what("the log of a run with other settings")
                .into());
        }
        if derivatives.len() < steps {
            return Err(FileError::invalid(path, ErrorKind::Mismatch)
                .what(format!("a log of {} steps", derivatives.len()))
                .expected(format!("the {steps} of the checkpoint"))
                .into());
        }
        derivatives.truncate(steps);
        let check = derivatives.iter().fold(0, |c, s| check(c, s));
        let end = begin + (steps * (header.directions + 1) * 4) as u64;
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| {
                file.set_len(end)?;
                file.seek(SeekFrom::Start(end))?;
                Ok(file)
            })
            .map_err(|e| FileError::io("write", path, e))?;
        let log = Self { file, path: path.to_owned(), check, record: Vec::new() };
        Ok(Opened { log, derivatives, bounds: found.bounds })
    }

    /// Adds a step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&mut self, derivatives: &[f32]) -> Result<()> {
        self.record.clear();
        self.check = record(&mut self.record, self.check, derivatives);
        Ok(self.file.write_all(&self.record).map_err(|e| FileError::io("write", &self.path, e))?)
    }
}

/// What a log begins with.
fn head(path: &Path, header: &Replay) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(header).map_err(|e| {
        FileError::invalid(path, ErrorKind::Malformed)
            .what(format!("the header cannot be written as JSON: {e}"))
    })?;
    let mut head = MAGIC.to_vec();
    head.extend((json.len() as u32).to_le_bytes());
    head.extend(json);
    Ok(head)
}

/// Adds a record to bytes and gives its check.
fn record(to: &mut Vec<u8>, before: u32, derivatives: &[f32]) -> u32 {
    let check = check(before, derivatives);
    for derivative in derivatives {
        to.extend(derivative.to_le_bytes());
    }
    to.extend(check.to_le_bytes());
    check
}

/// The bytes of a complete log; `path` is for error messages only.
///
/// # Errors
/// When the header cannot be written as JSON.
pub fn to_bytes(path: &Path, header: &Replay, derivatives: &[f32]) -> Result<Vec<u8>> {
    let mut bytes = head(path, header)?;
    derivatives.chunks(header.directions.max(1)).fold(0, |before, step| record(&mut bytes, before, step));
    Ok(bytes)
}

/// Writes what [`to_bytes`] gives.
///
/// # Errors
/// When it cannot be written; what stood there before stays.
pub(super) fn write(path: &Path, header: &Replay, derivatives: &[f32]) -> Result<()> {
    let bytes = to_bytes(path, header, derivatives)?;
    Ok(write_atomic(path, |out| out.write_all(&bytes))?)
}

/// What a log holds.
#[derive(Debug)]
pub struct Contents {
    /// Settings.
    pub header: Replay,
    /// The directional derivatives of each step.
    pub derivatives: Vec<Vec<f32>>,
    /// Where records begin, in bytes.
    pub begin: u64,
}

/// Reads a log up to its last complete record.
///
/// # Errors
/// When it is not a log, or a record in its middle is damaged.
pub fn read(path: &Path) -> Result<Contents> {
    let bytes = regular::read(path, LONGEST_LOG)?;
    parse(path, &bytes)
}

/// As [`read`], from bytes; `path` is for error messages only.
///
/// # Errors
/// As [`read`].
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Contents> {
    parsed(bytes).map_err(|problem| FileError::invalid(path, ErrorKind::Malformed).what(problem).into())
}

/// The error says what is wrong.
fn parsed(bytes: &[u8]) -> std::result::Result<Contents, String> {
    let (magic, rest) = bytes.split_at_checked(8).ok_or("too short for a replay log")?;
    if magic == b"MESPRPL1" {
        return Err("a log of an earlier version of mesp, which named settings otherwise: replay it with the program \
                    that wrote it"
            .to_owned());
    }
    if magic != MAGIC {
        return Err(format!("not a replay log, expected it to begin with {:?}", "MESPRPL2"));
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or("it ends inside its header")?;
    let length = u32::from_le_bytes(*length);
    if length > LONGEST_HEADER {
        return Err(format!("its header says {length} bytes, expected at most {LONGEST_HEADER}"));
    }
    let (json, records) = rest.split_at_checked(length as usize).ok_or("it ends inside its header")?;
    let header: Replay = serde_json::from_slice(json).map_err(|e| format!("its header is damaged: {e}"))?;
    if header.directions == 0 || header.directions > 1 << 16 {
        return Err(format!("{} directions a step, expected 1 to 65536", header.directions));
    }
    // Single precision does not hold every number that JSON does.
    if let Some(bound) = header.bounds.iter().find(|bound| !bound.is_finite()) {
        return Err(format!("its header is damaged: a bound of {bound}, expected a finite one"));
    }
    let size = 4 * (header.directions + 1);
    let (mut derivatives, mut before) = (Vec::new(), 0);
    for record in records.chunks_exact(size) {
        let mut words = record.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w));
        let step: Vec<f32> = words.by_ref().take(header.directions).map(f32::from_bits).collect();
        before = check(before, &step);
        if words.next() != Some(before) {
            // A record that a crash left half written is the last.
            let last = (derivatives.len() + 1) * size + size > records.len();
            if last {
                break;
            }
            return Err(format!("the record of step {} is damaged", derivatives.len() + 1));
        }
        derivatives.push(step);
    }
    Ok(Contents { header, derivatives, begin: 12 + u64::from(length) })
}
