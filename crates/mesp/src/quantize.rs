//! Hugging Face directories to GGUF files.
//!
//! Matrices are converted and written some rows at a time. Norms and biases stay in single precision. Of
//! architectures that llama.cpp rotates in neighbours the rows of q and k are reordered; norms around 1 are
//! written with the 1.

use std::io;
use std::path::Path;

use mesp_formats::gguf::{self, TensorType, Value, can_quantize, quantize_row};
use mesp_formats::{Error as FileError, ModelConfig};

use crate::arch::{Config, EMBEDDING, HEAD};
use crate::model::ModelWeights;
use crate::source::delta::{Change, UNTIED};
use crate::source::{Asked, Base, HfSource};
use crate::{Error, ErrorKind, Result};

pub(crate) mod convert;
mod vocabulary;

use convert::{Job, Squares, convert, count};

/// What was written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Tensors.
    pub tensors: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// What is worth knowing: other types than asked for, what was left out.
    pub notes: Vec<String>,
    /// How far the values are from the originals, by type.
    pub errors: Vec<TypeError>,
}

/// How far the matrices of a type are from the originals.
#[derive(Debug, Clone, PartialEq)]
pub struct TypeError {
    /// The type.
    pub ty: TensorType,
    /// Matrices of it.
    pub tensors: usize,
    /// ‖x′ − x‖ / ‖x‖ over all of them.
    pub mean: f64,
    /// The largest ‖x′ − x‖ / ‖x‖ of one.
    pub max: f64,
    /// The checkpoint name of that one.
    pub worst: String,
    squares: Squares,
}

impl TypeError {
    /// ‖x′ − x‖ / ‖s·B·A‖, where an adapter was added: how much of what it says is lost.
    pub fn of_change(&self) -> Option<f64> {
        let Squares { error, change, .. } = self.squares;
        (change > 0.0).then(|| (error / change).sqrt())
    }
}

/// Writes the model of a directory as a GGUF file of a type. `progress(done, total)` hears of values.
///
/// # Errors
/// When the directory is not a model that the engine knows, a value is not finite or does not fit the type, or
/// the file cannot be written; what stood there before stays.
pub fn quantize(
    dir: &Path,
    out: &Path,
    ty: TensorType,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    write(dir, out, ty, None, progress)
}

/// Refuses types that cannot be written.
pub(crate) fn writable(ty: TensorType) -> Result<()> {
    if can_quantize(ty) {
        return Ok(());
    }
    Err(Error::usage(ErrorKind::Unsupported, format!("type {}", ty.name().to_lowercase()))
        .is("read and trained on, not written")
        .expected("f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1")
        .hint("make it with llama-quantize from a file of type f16"))
}

/// [`quantize`], with a change to some weights. The errors are then those of the changed matrices.
pub(crate) fn write(
    dir: &Path,
    out: &Path,
    ty: TensorType,
    change: Option<&Change>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    writable(ty)?;
    let (source, file, config) = HfSource::with_config(dir, Base::Mapped)?;
    if let Some(problem) = gguf::inexpressible(&file) {
        return Err(Error::usage(ErrorKind::Unsupported, problem).hint("train on the directory itself"));
    }
    let mut report = Report { notes: source.notes().to_vec(), ..Report::default() };
    let mut jobs = jobs(&source, &file, &config, ty, &mut report.notes)?;
    if change.is_some_and(|change| change.unties(&config)) {
        let table = jobs.iter().find(|job| job.hf == EMBEDDING).map(|job| Job {
            hf: HEAD.to_owned(),
            name: gguf::tensor_name(&config.arch, HEAD).unwrap_or_default(),
            from: job.from.clone(),
            shape: job.shape.clone(),
            rows: None,
            ..*job
        });
        jobs.extend(table);
        report.notes.push(UNTIED.to_owned());
    }
    let metadata = metadata(dir, &file, ty, &mut report.notes)?;
    let heads: Vec<_> = jobs.iter().map(|j| (j.name.clone(), j.ty, j.shape.clone())).collect();
    let total = jobs.iter().map(|j| j.shape.iter().product::<usize>()).sum();
    let (mut done, mut refused) = (0, None);
    let written = gguf::write(out, &metadata, &heads, &mut |i, w| {
        let job = &jobs[i];
        let Some(from) = &job.from else {
            let mut bytes = Vec::new();
            let divisors = gguf::rope_tensors(&file);
            let numbers = divisors.iter().find(|(name, _)| *name == job.name).map(|(_, of)| of.as_slice());
            quantize_row(TensorType::F32, numbers.unwrap_or_default(), &mut bytes);
            return w.write_all(&bytes);
        };
        let Some((dtype, stored)) = source.stored(from) else {
            return Err(io::Error::other("no such tensor"));
        };
        let delta = match change {
            Some(change) => change.of(&job.hf, job.rows.as_deref()).map_err(io::Error::other)?,
            None => None,
        };
        let squares = convert(job, dtype, stored, delta.as_ref(), w, &mut |values| {
            done += values;
            progress(done, total);
        })?;
        source.let_go(from);
        let counted = if change.is_some() { delta.is_some() } else { job.shape.len() == 2 };
        match squares {
            Ok(squares) if counted => count(&mut report.errors, job.ty, &job.hf, squares),
            Ok(_) => {}
            Err(row) => {
                refused = Some((from.clone(), row));
                return Err(io::Error::other("a value does not fit"));
            }
        }
        Ok(())
    });
    if let Some((name, row)) = refused {
        return Err(not_finite(dir, &name, row, ty));
    }
    written?;
    report.tensors = jobs.len();
    report.bytes = std::fs::metadata(out).map_err(|e| FileError::io("read", out, e))?.len();
    Ok(report)
}

/// A value that a type cannot hold.
pub(crate) fn not_finite(path: &Path, name: &str, row: usize, ty: TensorType) -> Error {
    FileError::invalid(path, ErrorKind::NotFinite)
        .what(format!("tensor {name}, row {row}"))
        .tensor(name)
        .expected(format!("finite values that fit {}", ty.name().to_lowercase()))
        .found("others")
        .hint("the weights are damaged, or need a wider type: bf16 or f32")
        .into()
}

/// What is written, in order: what the engine asks a source for, so that nothing is missing or has another shape.
fn jobs(
    source: &HfSource,
    file: &ModelConfig,
    config: &Config,
    ty: TensorType,
    notes: &mut Vec<String>,
) -> Result<Vec<Job>> {
    let asked = Asked::new(source);
    ModelWeights::load(config.clone(), &asked)?;
    let found = asked.found();
    let unused: Vec<&str> = source
        .tensors()
        .map(|(name, ..)| name)
        .filter(|name| !found.iter().any(|(f, _)| f == name))
        .collect();
    // A tied head is the embedding; to leave it out loses nothing.
    if let Some(first) = unused.iter().find(|name| !(config.tied && **name == HEAD)) {
        notes.push(format!(
            "tensors that the model does not use are left out: {}, the first is {first}",
            unused.len()
        ));
    }
    if matches!(&*config.arch, "mistral" | "phi3") && file.layers.windowed.contains(&true) {
        notes.push(format!(
            "the file says the attention window; programs that do not read it for {} files see all tokens",
            gguf::architecture(&config.arch)
        ));
    }
    if config.arch == "smollm3"
        && file.layers.unrotated.iter().zip(1..).any(|(n, l): (_, usize)| *n != l.is_multiple_of(4))
    {
        notes.push("layers that are not rotated are not every fourth: programs that do not read the file's period take them for that".to_owned());
    }
    if let Some(scalar) = file.layers.query_pre_attn_scalar {
        // llama.cpp divides by the head's width, in models of 62 layers by that of heads that fill the stream.
        let usual = if config.layers == 62 { config.hidden_size / config.heads } else { config.head_dim };
        if config.arch == "gemma3_text" && scalar != usual as f64 {
            notes.push(format!(
                "scores are divided by the root of {scalar} (query_pre_attn_scalar): programs that do not read \
                 attention.scale of gemma3 files take {usual}"
            ));
        }
    }
    let mut narrow = 0;
    let mut jobs = Vec::with_capacity(found.len() + 1);
    for (from, shape) in found {
        // A tied table may be stored as the head.
        let hf = if config.tied && from == HEAD { EMBEDDING } else { &from }.to_owned();
        let name = gguf::tensor_name(&config.arch, &hf).ok_or_else(|| {
            Error::usage(ErrorKind::Unsupported, format!("tensor {from} has no counterpart in GGUF"))
        })?;
        let ty = match shape[..] {
            [_, cols] if cols.is_multiple_of(ty.block_len()) => ty,
            [_, _] => {
                narrow += 1;
                TensorType::F16
            }
            _ => TensorType::F32,
        };
        let heads = [(".q_proj.", config.heads), (".k_proj.", config.kv_heads)];
        let heads = heads.iter().find(|(part, _)| gguf::interleaved(&config.arch) && from.contains(part));
        let rows = heads.map(|(_, heads)| gguf::to_interleaved(*heads, config.head_dim));
        let add = if from.ends_with("norm.weight") { config.norm_offset } else { 0.0 };
        jobs.push(Job { from: Some(from), hf, name, ty, shape, rows, add });
    }
    if narrow > 0 {
        notes.push(format!(
            "{narrow} matrices are written as f16: their rows are not whole blocks of {}, which {} needs",
            ty.block_len(),
            ty.name().to_lowercase()
        ));
    }
    for (name, divisors) in gguf::rope_tensors(file) {
        jobs.push(Job {
            from: None,
            hf: String::new(),
            name: name.to_owned(),
            ty: TensorType::F32,
            shape: vec![divisors.len()],
            rows: None,
            add: 0.0,
        });
    }
    Ok(jobs)
}

fn metadata(
    dir: &Path,
    file: &ModelConfig,
    ty: TensorType,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, Value)>> {
    let name = dir.canonicalize().ok();
    let name = name.as_deref().unwrap_or(dir).file_name().map(|n| n.to_string_lossy().into_owned());
    let mut metadata = gguf::metadata_for(file, name.as_deref().unwrap_or("model"));
    metadata.push(("general.file_type".to_owned(), Value::U32(gguf::file_type(ty))));
    metadata.extend(vocabulary::metadata(dir, file, notes)?);
    Ok(metadata)
}
