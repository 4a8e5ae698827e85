//! Hugging Face directories to GGUF files.
//!
//! Matrices are converted and written some rows at a time. Norms and biases stay in single precision. Of
//! architectures that llama.cpp rotates in neighbours the rows of q and k are reordered; norms around 1 are
//! written with the 1.

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::Path;

use mesp_device::Weight;
use mesp_formats::gguf::{self, TensorType, Value, can_quantize, dequantize_row, quantize_row};
use mesp_formats::{Dtype as FileDtype, Error as FileError, ModelConfig};
use rayon::prelude::*;

use crate::model::{Config, Model, WeightSource};
use crate::source::{Base, HfSource};
use crate::{Error, Result};

mod vocabulary;

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
    squares: [f64; 2],
}

/// Values that are converted at once.
const CHUNK: usize = 1 << 20;

/// A tensor to be written.
struct Job {
    /// Checkpoint name; none for the rotary divisors.
    from: Option<String>,
    name: String,
    ty: TensorType,
    shape: Vec<usize>,
    /// Where each row comes from, if not from its own place.
    rows: Option<Vec<usize>>,
    /// What is added to each value.
    add: f32,
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
    if !can_quantize(ty) {
        let problem = format!(
            "type {} is read and trained on, not written; expected f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1",
            ty.name().to_lowercase()
        );
        return Err(Error::usage(problem).hint("make it with llama-quantize from a file of type f16"));
    }
    let source = HfSource::open(dir, Base::Mapped)?;
    let file = ModelConfig::read(dir)?;
    let config = Config::new(&file)?;
    if let Some(problem) = gguf::inexpressible(&file) {
        return Err(Error::usage(problem).hint("train on the directory itself"));
    }
    let mut report = Report::default();
    let jobs = jobs(&source, &file, &config, ty, &mut report.notes)?;
    let metadata = metadata(dir, &file, ty, &mut report.notes)?;
    let heads: Vec<_> = jobs.iter().map(|j| (j.name.clone(), j.ty, j.shape.clone())).collect();
    let total = jobs.iter().map(|j| j.shape.iter().product::<usize>()).sum();
    let (mut done, mut refused) = (0, None);
    let written = gguf::write(out, &metadata, &heads, &mut |i, w| {
        let job = &jobs[i];
        let Some(from) = &job.from else {
            let mut bytes = Vec::new();
            quantize_row(TensorType::F32, &gguf::rope_factors(&file).unwrap_or_default(), &mut bytes);
            return w.write_all(&bytes);
        };
        let Some((dtype, stored)) = source.stored(from) else {
            return Err(io::Error::other("no such tensor"));
        };
        let squares = convert(job, dtype, stored, w, &mut |values| {
            done += values;
            progress(done, total);
        })?;
        match squares {
            Ok(squares) if job.shape.len() == 2 => count(&mut report.errors, job.ty, from, squares),
            Ok(_) => {}
            Err(row) => {
                refused = Some((from.clone(), row));
                return Err(io::Error::other("a value does not fit"));
            }
        }
        Ok(())
    });
    if let Some((name, row)) = refused {
        let problem = format!(
            "tensor {name}, row {row}: expected finite values that fit {}, found others",
            ty.name().to_lowercase()
        );
        return Err(FileError::invalid(dir, problem)
            .hint("the weights are damaged, or need a wider type: bf16 or f32")
            .into());
    }
    written?;
    report.tensors = jobs.len();
    report.bytes = std::fs::metadata(out).map_err(|e| FileError::io("read", out, e))?.len();
    Ok(report)
}

/// Passes a model's questions on and keeps them: names and shapes, in order.
struct Asked<'a> {
    source: &'a HfSource,
    found: RefCell<Vec<(String, Vec<usize>)>>,
}

impl WeightSource for Asked<'_> {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>> {
        let weight = self.source.matrix(name, rows, cols)?;
        if weight.is_some() {
            self.found.borrow_mut().push((name.to_owned(), vec![rows, cols]));
        }
        Ok(weight)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let values = self.source.vector(name, len)?;
        if values.is_some() {
            self.found.borrow_mut().push((name.to_owned(), vec![len]));
        }
        Ok(values)
    }

    fn missing(&self, name: &str) -> Error {
        self.source.missing(name)
    }
}

/// What is written, in order: what the engine asks a source for, so that nothing is missing or has another shape.
fn jobs(
    source: &HfSource,
    file: &ModelConfig,
    config: &Config,
    ty: TensorType,
    notes: &mut Vec<String>,
) -> Result<Vec<Job>> {
    let asked = Asked { source, found: RefCell::default() };
    Model::load(config.clone(), &asked)?;
    let found = asked.found.into_inner();
    let unused: Vec<&str> = source
        .tensors()
        .map(|(name, ..)| name)
        .filter(|name| !found.iter().any(|(f, _)| f == name))
        .collect();
    // A tied head is the embedding; to leave it out loses nothing.
    if let Some(first) = unused.iter().find(|name| !(config.tied && **name == "lm_head.weight")) {
        notes.push(format!(
            "tensors that the model does not use are left out: {}, the first is {first}",
            unused.len()
        ));
    }
    if config.arch == "mistral" && file.layers.windowed.contains(&true) {
        notes.push(
            "the file says the attention window; programs that do not read it for llama files see all tokens"
                .to_owned(),
        );
    }
    if config.arch == "smollm3"
        && file.layers.unrotated.iter().zip(1..).any(|(n, l): (_, usize)| *n != l.is_multiple_of(4))
    {
        notes.push("layers that are not rotated are not every fourth: programs that do not read the file's period take them for that".to_owned());
    }
    let mut narrow = 0;
    let mut jobs = Vec::with_capacity(found.len() + 1);
    for (from, shape) in found {
        // A tied table may be stored as the head.
        let hf = if config.tied && from == "lm_head.weight" { "model.embed_tokens.weight" } else { &from };
        let name = gguf::tensor_name(&config.arch, hf)
            .ok_or_else(|| Error::usage(format!("tensor {from} has no counterpart in GGUF")))?;
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
        jobs.push(Job { from: Some(from), name, ty, shape, rows, add });
    }
    if narrow > 0 {
        notes.push(format!(
            "{narrow} matrices are written as f16: their rows are not whole blocks of {}, which {} needs",
            ty.block_len(),
            ty.name().to_lowercase()
        ));
    }
    if let Some(divisors) = gguf::rope_factors(file) {
        let (name, shape) = (gguf::ROPE_FACTORS.to_owned(), vec![divisors.len()]);
        jobs.push(Job { from: None, name, ty: TensorType::F32, shape, rows: None, add: 0.0 });
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

/// Writes a tensor; gives Σ(x′ − x)² and Σx², or the first row with a value that cannot be written.
fn convert(
    job: &Job,
    dtype: FileDtype,
    stored: &[u8],
    out: &mut dyn Write,
    progress: &mut dyn FnMut(usize),
) -> io::Result<std::result::Result<[f64; 2], usize>> {
    let cols = job.shape.last().copied().unwrap_or(1);
    // A bias is a column: that of q or k is reordered value by value.
    let (rows, width) = if job.shape.len() == 1 { (cols, 1) } else { (job.shape[0], cols) };
    let each = (CHUNK / width).max(1);
    let mut sums = [0.0; 2];
    for first in (0..rows).step_by(each) {
        let part: Vec<(Vec<u8>, Option<[f64; 2]>)> = (first..(first + each).min(rows))
            .into_par_iter()
            .map(|row| {
                let from = job.rows.as_ref().map_or(row, |rows| rows[row]);
                let bytes = &stored[from * width * dtype.size()..][..width * dtype.size()];
                row_of(job.ty, dtype, bytes, width, job.add)
            })
            .collect();
        for (i, (bytes, squares)) in part.iter().enumerate() {
            let Some(squares) = squares else { return Ok(Err(first + i)) };
            sums[0] += squares[0];
            sums[1] += squares[1];
            out.write_all(bytes)?;
        }
        progress(part.len() * width);
    }
    Ok(Ok(sums))
}

/// A row's bytes, with Σ(x′ − x)² and Σx²; none where a value is not finite before or after.
fn row_of(
    ty: TensorType,
    dtype: FileDtype,
    stored: &[u8],
    cols: usize,
    add: f32,
) -> (Vec<u8>, Option<[f64; 2]>) {
    let source = match dtype {
        FileDtype::F32 => TensorType::F32,
        FileDtype::F16 => TensorType::F16,
        FileDtype::BF16 => TensorType::BF16,
    };
    let (mut x, mut back, mut bytes) = (vec![0.0; cols], vec![0.0; cols], Vec::new());
    dequantize_row(source, stored, &mut x);
    for x in &mut x {
        *x += add;
    }
    quantize_row(ty, &x, &mut bytes);
    dequantize_row(ty, &bytes, &mut back);
    let squares = x.iter().zip(&back).try_fold([0.0; 2], |[e, s], (x, b)| {
        let (x, b) = (f64::from(*x), f64::from(*b));
        (x.is_finite() && b.is_finite()).then_some([e + (b - x).powi(2), s + x.powi(2)])
    });
    (bytes, squares)
}

fn count(errors: &mut Vec<TypeError>, ty: TensorType, name: &str, squares: [f64; 2]) {
    let relative = |[e, s]: [f64; 2]| if e > 0.0 { (e / s).sqrt() } else { 0.0 };
    let found = relative(squares);
    if let Some(all) = errors.iter_mut().find(|e| e.ty == ty) {
        all.tensors += 1;
        all.squares = [all.squares[0] + squares[0], all.squares[1] + squares[1]];
        all.mean = relative(all.squares);
        if found > all.max {
            (all.max, all.worst) = (found, name.to_owned());
        }
    } else {
        errors.push(TypeError { ty, tensors: 1, mean: found, max: found, worst: name.to_owned(), squares });
    }
}
