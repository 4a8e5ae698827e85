//! Merges an adapter into its base model: W + s·B·A replaces W; with DoRA its rows are scaled to the trained
//! magnitudes.
//!
//! | base | written | how |
//! |---|---|---|
//! | directory | directory | every tensor in its type, or in one that is asked for; beside them what a model needs |
//! | directory | GGUF | as [`quantize`](crate::quantize) does, with the change added first |
//! | GGUF | GGUF | tensors without an adapter byte for byte |
//! | GGUF | directory | dequantized, rows and norms as checkpoints have them |
//!
//! If the base has tied embeddings and an adapter changes the head or the embeddings, the merged model gets a separate
//! head, and its configuration says that they are not tied.
//!
//! A merged matrix of a quantized base is stored in 16 bits unless [`Options::ty`] asks for another type: quantizing it
//! again loses part of the change, which [`Report::errors`] measures. Only some rows and one adapter are in memory at a
//! time.

use std::path::Path;

use mesp_formats::gguf::TensorType;

use crate::quantize::TypeError;
use crate::source::delta::Change;
use crate::source::{Kind, shape_source};
use crate::{Error, ErrorKind, Result};

mod directory;
mod gguf;

/// The options of a merge.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The type of merged matrices; `None` for the base's type, or 16 bits if that is quantized.
    pub ty: Option<TensorType>,
    /// The most bytes of one weight file of a directory, unless a single tensor is larger.
    pub max_shard: u64,
}

/// The result of a merge.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The number of tensors.
    pub tensors: usize,
    /// The number of tensors that the adapter changed.
    pub merged: usize,
    /// Bytes of the weight files.
    pub bytes: u64,
    /// The number of weight files.
    pub files: usize,
    /// Notes for the user.
    pub notes: Vec<String>,
    /// The rounding error of merged matrices as stored, compared with W + s·B·A, by type.
    pub errors: Vec<TypeError>,
}

/// Writes `model` with `adapter` merged in. `output` is a GGUF file if its name ends in `.gguf`, else a directory.
/// `progress(done, total)` is called with the numbers of values written.
///
/// # Errors
/// When the adapter is for another model, a value does not fit the type, or a file cannot be written.
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
            return Err(Error::usage(ErrorKind::Unsupported, format!("type {}", ty.name().to_lowercase()))
                .is("of GGUF files")
                .expected("f32, f16 or bf16")
                .hint("name an ‘output’ that ends in .gguf"));
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
