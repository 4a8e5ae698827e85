//! The log of a run with a gradient estimator: the seed, and one directional derivative (*slope*) for each direction of
//! each step.
//!
//! ```text
//! MESPRPL1   u32 length   header as JSON   then for each step: n · f32 slopes, u32 check       little endian
//! ```
//! The check covers the record and all before it, so an incomplete record ends the log. With the adapter that the run
//! started from, or its seed, the log reproduces every later adapter bit for bit, without data and without a forward
//! pass (MeZO, section 2.1). In full fine-tuning the model takes the adapter's place.

mod run;

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mesp_device::{Distribution, Elem};
use mesp_formats::Error as FileError;
use mesp_formats::atomic::write_atomic;
use mesp_formats::peft::{Pattern, Places};
use mesp_formats::regular;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::adapter::AdapterConfig;
use crate::method::{Blocks, Directional, Slope};
use crate::{Error, Result, rng};

pub use run::digest;

/// Its name in a run directory.
pub const FILE: &str = "slopes.replay";

const MAGIC: &[u8; 8] = b"MESPRPL1";
/// Names of [`Slope`]s.
const DIFFERENCE: &str = "difference";
const TANGENT: &str = "tangent";

/// What logs without the field hold.
fn difference() -> String {
    DIFFERENCE.to_owned()
}

/// Far more than any header.
const LONGEST_HEADER: u32 = 1 << 20;
/// Bytes of a log at most: millions of steps.
const LONGEST_LOG: u64 = 256 << 20;

/// Everything that determines a run besides its directional derivatives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Seed of the directions, and of the adapter's start.
    pub seed: u64,
    /// Fingerprint of the adapter, or of all weights, that the run started from.
    pub start: String,
    /// How directional derivatives are computed: `difference` of losses or forward-mode `tangent`.
    #[serde(default = "difference")]
    pub slope: String,
    /// ε of the difference; 0 for forward mode.
    pub eps: f64,
    /// `gaussian` or `rademacher`.
    pub distribution: String,
    /// Directions per step.
    pub directions: usize,
    /// Whether differences are one-sided.
    pub one_sided: bool,
    /// μ, the momentum.
    pub momentum: f64,
    /// The blocks whose adapters are trained; `None` for all.
    #[serde(default)]
    pub blocks: Option<String>,
    /// The share of each matrix that is not perturbed.
    #[serde(default)]
    pub sparsity: f64,
    /// For each matrix the bound on |θ| up to which values are perturbed; empty for all values.
    #[serde(default)]
    pub bounds: Vec<f32>,
    /// λ, the decoupled weight decay.
    pub weight_decay: f64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the learning-rate schedule.
    pub lr_schedule: String,
    /// Steps of the warmup.
    pub warmup_steps: usize,
    /// The number of steps of the run.
    pub total_steps: usize,
    /// r.
    pub rank: usize,
    /// `lora_alpha`.
    pub alpha: f64,
    /// Whether the scale is alpha/√r.
    pub rslora: bool,
    /// Target modules.
    pub targets: Vec<String>,
    /// r of some modules.
    #[serde(default)]
    pub rank_pattern: Vec<(String, usize)>,
    /// `lora_alpha` of some modules.
    #[serde(default)]
    pub alpha_pattern: Vec<(String, f64)>,
    /// The layers that have adapters; none for all.
    #[serde(default)]
    pub adapted_layers: Option<Vec<usize>>,
    /// PEFT's `target_modules`, where the list of names alone does not determine which modules have adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<Value>,
    /// Blocks of the model.
    pub layers: usize,
    /// Trainable parameters.
    pub parameters: u64,
    /// How adapters are stored, `f32` or `bf16`.
    pub adapter_type: String,
    /// In full fine-tuning the type of the model's weights, `f32` or `bf16`.
    #[serde(default, rename = "whole")]
    pub full: Option<String>,
}

impl Replay {
    /// How directions were drawn.
    ///
    /// # Errors
    /// When a name is unknown.
    pub fn along(&self) -> Result<Directional> {
        Ok(Directional {
            slope: match self.slope.as_str() {
                DIFFERENCE => Slope::Difference { eps: self.eps, one_sided: self.one_sided },
                TANGENT => Slope::Tangent,
                other => return Err(Error::usage(format!("slopes by {other:?} are unknown"))),
            },
            distribution: distribution(&self.distribution)?,
            directions: self.directions,
            momentum: self.momentum,
            blocks: self.blocks.as_deref().map_or(Ok(Blocks::ALL), Blocks::parse)?,
            sparsity: self.sparsity,
        })
    }

    /// How adapters are stored.
    ///
    /// # Errors
    /// When the type is unknown.
    pub fn elem(&self) -> Result<Elem> {
        elem(&self.adapter_type)
    }

    /// How the model's weights are held, where these were trained.
    ///
    /// # Errors
    /// When the type is unknown.
    pub fn full(&self) -> Result<Option<Elem>> {
        self.full.as_deref().map(elem).transpose()
    }

    /// The adapter's placement.
    ///
    /// # Errors
    /// When a target or a pattern is unknown.
    pub fn adapter(&self) -> Result<AdapterConfig> {
        if self.full.is_some() {
            return Ok(AdapterConfig::none());
        }
        let targets = AdapterConfig::parse_targets(&self.targets.join(","))?;
        let wrong = |name: String| Error::usage(format!("a pattern of the log names no modules: {name}"));
        Ok(AdapterConfig {
            ranks: Pattern::new(self.rank_pattern.clone()).map_err(wrong)?,
            alphas: Pattern::new(self.alpha_pattern.clone()).map_err(wrong)?,
            layers: self.adapted_layers.clone(),
            places: self.places.as_ref().and_then(Places::from_json),
            ..AdapterConfig::new(self.rank, self.alpha, self.rslora, targets)
        })
    }
}

/// The name of a distribution in a log and on the command line.
pub const fn distribution_name(distribution: Distribution) -> &'static str {
    match distribution {
        Distribution::Gaussian => "gaussian",
        Distribution::Rademacher => "rademacher",
    }
}

/// The distribution of a name.
///
/// # Errors
/// When there is none.
pub fn distribution(name: &str) -> Result<Distribution> {
    match name {
        "gaussian" => Ok(Distribution::Gaussian),
        "rademacher" => Ok(Distribution::Rademacher),
        _ => Err(Error::usage(format!("distribution {name:?} is unknown, expected gaussian or rademacher"))),
    }
}

/// A way of storing by its name.
fn elem(name: &str) -> Result<Elem> {
    match name {
        "f32" => Ok(Elem::Full),
        "bf16" => Ok(Elem::Bf16),
        other => Err(Error::usage(format!("values in {other:?} are unknown, expected f32 or bf16"))),
    }
}

/// The check of a record that follows one with check `before`.
fn check(before: u32, slopes: &[f32]) -> u32 {
    slopes.iter().fold(u64::from(before), |h, s| rng::bits(h, 2, u64::from(s.to_bits()))) as u32
}

/// A log that is open for appending, and its contents.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: Log,
    /// The directional derivatives of its steps.
    pub slopes: Vec<Vec<f32>>,
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
            return Ok(Opened { log, slopes: Vec::new(), bounds: header.bounds.clone() });
        }
        let Contents { header: found, mut slopes, begin } = read(path)?;
        // The digest and the bounds are of the adapter at the start, which is not at hand here.
        let like = Replay { start: found.start.clone(), bounds: found.bounds.clone(), ..header.clone() };
        if found != like {
            return Err(FileError::invalid(path, "the log of a run with other settings".to_owned()).into());
        }
        if slopes.len() < steps {
            let problem = format!("a log of {} steps, expected the {steps} of the checkpoint", slopes.len());
            return Err(FileError::invalid(path, problem).into());
        }
        slopes.truncate(steps);
        let check = slopes.iter().fold(0, |c, s| check(c, s));
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
        Ok(Opened { log, slopes, bounds: found.bounds })
    }

    /// Adds a step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&mut self, slopes: &[f32]) -> Result<()> {
        self.record.clear();
        self.check = record(&mut self.record, self.check, slopes);
        Ok(self.file.write_all(&self.record).map_err(|e| FileError::io("write", &self.path, e))?)
    }
}

/// What a log begins with.
fn head(path: &Path, header: &Replay) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(header)
        .map_err(|e| FileError::invalid(path, format!("the header cannot be written as JSON: {e}")))?;
    let mut head = MAGIC.to_vec();
    head.extend((json.len() as u32).to_le_bytes());
    head.extend(json);
    Ok(head)
}

/// Adds a record to bytes and gives its check.
fn record(to: &mut Vec<u8>, before: u32, slopes: &[f32]) -> u32 {
    let check = check(before, slopes);
    for slope in slopes {
        to.extend(slope.to_le_bytes());
    }
    to.extend(check.to_le_bytes());
    check
}

/// The bytes of a complete log; `path` is for error messages only.
///
/// # Errors
/// When the header cannot be written as JSON.
pub fn to_bytes(path: &Path, header: &Replay, slopes: &[f32]) -> Result<Vec<u8>> {
    let mut bytes = head(path, header)?;
    slopes.chunks(header.directions.max(1)).fold(0, |before, step| record(&mut bytes, before, step));
    Ok(bytes)
}

/// Writes what [`to_bytes`] gives.
///
/// # Errors
/// When it cannot be written; what stood there before stays.
pub(super) fn write(path: &Path, header: &Replay, slopes: &[f32]) -> Result<()> {
    let bytes = to_bytes(path, header, slopes)?;
    Ok(write_atomic(path, |out| out.write_all(&bytes))?)
}

/// What a log holds.
#[derive(Debug)]
pub struct Contents {
    /// Settings.
    pub header: Replay,
    /// The directional derivatives of each step.
    pub slopes: Vec<Vec<f32>>,
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
    parsed(bytes).map_err(|problem| FileError::invalid(path, problem).into())
}

/// The error says what is wrong.
fn parsed(bytes: &[u8]) -> std::result::Result<Contents, String> {
    let (magic, rest) = bytes.split_at_checked(8).ok_or("too short for a replay log")?;
    if magic != MAGIC {
        return Err(format!("not a replay log, expected it to begin with {:?}", "MESPRPL1"));
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
    let (mut slopes, mut before) = (Vec::new(), 0);
    for record in records.chunks_exact(size) {
        let mut words = record.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w));
        let step: Vec<f32> = words.by_ref().take(header.directions).map(f32::from_bits).collect();
        before = check(before, &step);
        if words.next() != Some(before) {
            // A record that a crash left half written is the last.
            let last = (slopes.len() + 1) * size + size > records.len();
            if last {
                break;
            }
            return Err(format!("the record of step {} is damaged", slopes.len() + 1));
        }
        slopes.push(step);
    }
    Ok(Contents { header, slopes, begin: 12 + u64::from(length) })
}
