//! An adapter folded into its base: W + s·B·A in W's place, with DoRA its rows brought to their magnitudes.
//!
//! | base | written | how |
//! |---|---|---|
//! | directory | directory | every tensor in its type, or in one that is asked for; beside them what a model needs |
//! | directory | GGUF | as [`quantize`](crate::quantize) does, with the change added first |
//! | GGUF | GGUF | tensors without an adapter byte for byte |
//! | GGUF | directory | dequantized, rows and norms as checkpoints have them |
//!
//! Of a base whose head is its embeddings, a change of either makes them two: the head is written beside the embeddings,
//! and the configuration says that they are not tied.
//!
//! A changed matrix of a quantized base is stored in 16 bits unless asked otherwise: to round it to blocks once
//! more loses a part of the change, which [`Report`] gives. Some rows are in memory at a time, and one pair.

use std::collections::BTreeMap;
use std::path::Path;

use mesp_formats::gguf::TensorType;
use mesp_formats::peft::Matrix;

use crate::adapter::AdapterFile;
use crate::adapter::file::reordered;
use crate::model::{Config, EMBEDDING, HEAD};
use crate::quantize::TypeError;
use crate::source::{Kind, shape_source};
use crate::{Error, Result};

mod directory;
mod gguf;

/// How a merged model is written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The type of the merged matrices; none for the base's own, or 16 bits where that is quantized.
    pub ty: Option<TensorType>,
    /// Bytes of a weight file of a directory, at most, unless one tensor is larger.
    pub max_shard: u64,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Tensors.
    pub tensors: usize,
    /// Of them with an adapter.
    pub merged: usize,
    /// Bytes of the weight files.
    pub bytes: u64,
    /// Weight files.
    pub files: usize,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// How far merged matrices are, as stored, from W + s·B·A, by type.
    pub errors: Vec<TypeError>,
}

/// Writes a model with an adapter folded in; `output` is a directory, or a file where it ends in `.gguf`.
/// `progress(done, total)` hears of values.
///
/// # Errors
/// When the two do not belong together, a value does not fit the type, or nothing can be written.
pub fn merge(
    model: &Path,
    adapter: &Path,
    output: &Path,
    options: Options,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    let into_file = output.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if let Some(ty) = options.ty {
        if into_file {
            crate::quantize::writable(ty)?;
        } else if !matches!(ty, TensorType::F32 | TensorType::F16 | TensorType::BF16) {
            let problem =
                format!("type {} is of GGUF files, expected f32, f16 or bf16", ty.name().to_lowercase());
            return Err(Error::usage(problem).hint("name an --output that ends in .gguf"));
        }
    }
    let shape = shape_source(model)?;
    let change = Change::open(adapter, &shape.config)?;
    change.file.check_tables_of(model)?;
    match (shape.kind, into_file) {
        (Kind::Directory, true) => gguf::from_directory(model, &change, output, options, progress),
        (Kind::Gguf, true) => gguf::from_file(model, &change, output, options, progress),
        (Kind::Directory, false) => directory::from_directory(model, &change, output, options, progress),
        (Kind::Gguf, false) => directory::from_file(model, &change, output, options, progress),
    }
}

/// An adapter by the checkpoint names of what it changes.
pub(crate) struct Change {
    file: AdapterFile,
    names: BTreeMap<String, usize>,
}

impl Change {
    fn open(path: &Path, config: &Config) -> Result<Self> {
        let file = AdapterFile::open(path, Some(config))?;
        let names =
            file.lora().pairs.iter().enumerate().map(|(i, p)| (format!("{}.weight", p.path()), i)).collect();
        Ok(Self { file, names })
    }

    /// Whether a weight is changed.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Whether a model's head is no longer its embeddings afterwards.
    pub(crate) fn unties(&self, config: &Config) -> bool {
        config.tied && (self.has(HEAD) || self.has(EMBEDDING))
    }

    /// Weights that are changed.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// The change of a weight; row `r` is that of the checkpoint's row `rows[r]`, if given.
    pub(crate) fn of(&self, name: &str, rows: Option<&[usize]>) -> Result<Option<Delta>> {
        let Some(&i) = self.names.get(name) else { return Ok(None) };
        let pair = &self.file.lora().pairs[i];
        let (a, mut b) = (self.file.values(i, Matrix::A)?, self.file.values(i, Matrix::B)?);
        let mut m = if pair.magnitudes { Some(self.file.values(i, Matrix::M)?) } else { None };
        if let Some(rows) = rows {
            b = reordered(&b, pair.rank, rows);
            m = m.map(|m| reordered(&m, 1, rows));
        }
        Ok(Some(Delta { a, b, m, rank: pair.rank, scale: pair.scale as f32 }))
    }
}

/// s·B·A, and magnitudes where there are any, row by row.
pub(crate) struct Delta {
    a: Vec<f32>,
    b: Vec<f32>,
    m: Option<Vec<f32>>,
    rank: usize,
    scale: f32,
}

impl Delta {
    /// `x ← x + s·B·A` of a row, with magnitudes `m·(x + s·B·A)/‖x + s·B·A‖`; gives the sum of squares of the change.
    pub(crate) fn apply(&self, row: usize, x: &mut [f32], scratch: &mut [f32]) -> f64 {
        scratch.fill(0.0);
        for (b, a) in self.b[row * self.rank..][..self.rank].iter().zip(self.a.chunks_exact(x.len())) {
            for (d, a) in scratch.iter_mut().zip(a) {
                *d += b * a;
            }
        }
        let mut gain = 1.0;
        if let Some(m) = &self.m {
            let square = |(x, d): (&f32, &f32)| f64::from(*x + self.scale * d).powi(2);
            gain = f64::from(m[row]) / x.iter().zip(&*scratch).map(square).sum::<f64>().sqrt();
        }
        let mut change = 0.0;
        for (x, d) in x.iter_mut().zip(scratch) {
            let mut new = *x + self.scale * *d;
            if self.m.is_some() {
                new = (f64::from(new) * gain) as f32;
                change += f64::from(new - *x).powi(2);
            } else {
                change += f64::from(self.scale * *d).powi(2);
            }
            *x = new;
        }
        change
    }
}

/// What is said where [`Change::unties`].
pub(crate) const UNTIED: &str = "the base's head is its embeddings, and the adapter changes them apart: the merged model has \
     a head of its own, one table larger than the base";

/// Why merged matrices of a quantized base are not stored as it is.
fn sixteen_bits(ty: TensorType, stored: TensorType) -> String {
    format!(
        "the base is quantized ({}): merged matrices are stored as {}, since rounding them to blocks again would \
         lose a part of what was learned",
        stored.name().to_lowercase(),
        ty.name().to_lowercase()
    )
}
