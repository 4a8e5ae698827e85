//! An adapter folded into its base: W + s·B·A in W's place, with DoRA its rows brought to their magnitudes.
//!
//! | base | written | how |
//! |---|---|---|
//! | directory | directory | every tensor in its type, or in one that is asked for; beside them what a model needs |
//! | directory | GGUF | as [`quantize`](crate::quantize) does, with the change added first |
//! | GGUF | GGUF | tensors without an adapter byte for byte |
//! | GGUF | directory | dequantized, rows and norms as checkpoints have them |
//!
//! Where the base's head is its embeddings, a change of either makes them two: the head is written beside the embeddings,
//! and the configuration says that they are not tied.
//!
//! A changed matrix of a quantized base is stored in 16 bits unless asked otherwise: to round it to blocks once
//! more loses a part of the change, which [`Report`] gives. Some rows are in memory at a time, and one pair.

use std::path::Path;

use mesp_formats::gguf::TensorType;

use crate::quantize::TypeError;
use crate::source::delta::Change;
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
    /// Tensors that an adapter changed.
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
            return Err(Error::usage(problem).hint("name an ‘output’ that ends in .gguf"));
        }
    }
    let shape = shape_source(model)?;
    let change = Change::open(adapter, &shape.config)?;
    change.check_tables(model)?;
    match (shape.kind, into_file) {
        (Kind::Directory, true) => gguf::from_directory(model, &change, output, options, progress),
        (Kind::Gguf, true) => gguf::from_file(model, &change, output, options, progress),
        (Kind::Directory, false) => directory::from_directory(model, &change, output, options, progress),
        (Kind::Gguf, false) => directory::from_file(model, &change, output, options, progress),
    }
}

/// Why merged matrices of a quantized base are not stored as it is.
fn sixteen_bits(ty: TensorType, stored: TensorType) -> String {
    format!(
        "the base is quantized ({}): merged matrices are stored as {}, since rounding them to blocks again would \
         lose a part of what was learned",
        stored.name().to_lowercase(),
        ty.name().to_lowercase()
    )
}
