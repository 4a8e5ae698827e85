//! Adapters and gradients in PEFT's file format.
//!
//! Files have the rows of `lora_B` in the order of Hugging Face checkpoints. Where the base's order differs
//! ([`Pair::interleaved`](super::Pair)), rows are permuted while they are written and read, so that an adapter fits the
//! model whichever file it was trained on. Matrices of embeddings are transposed ([`peft::is_transposed`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use mesp_device::{Act, Backend, Elem, Mapping, View};
use mesp_formats::peft::{self, Matrix};
use mesp_formats::safetensors_file;
use mesp_formats::{AdapterConfig as FileConfig, Dtype, Error as FileError, gguf};

use super::{AdapterConfig, BlockPairs, matrices, matrices_mut, params};
use crate::arch::{Config, Module, Param, Tensor};
use crate::{Error, ErrorKind, Result};

/// Where a matrix's rows are, against another order.
pub(crate) struct Rows {
    /// Rows of a head, of one for all where the order is the same.
    map: Vec<usize>,
    /// Whether rows are columns in the file.
    turned: bool,
}

impl Rows {
    /// The file's order of a tensor in memory, or of an optimizer's state of it, which has that order where it has the
    /// parameter's shape.
    fn of_param(param: &Param, shape: [usize; 2]) -> Self {
        Self::ordered(param, shape, gguf::to_halves)
    }

    /// The order in memory of the same in a file.
    fn in_memory(param: &Param, shape: [usize; 2]) -> Self {
        Self::ordered(param, shape, gguf::to_interleaved)
    }

    fn ordered(param: &Param, shape: [usize; 2], map: fn(usize, usize) -> Vec<usize>) -> Self {
        let matrix = if let Tensor::Adapter(_, matrix) = param.tensor { matrix } else { Matrix::B };
        let alike = shape == param.shape;
        let interleaved = param.interleaved.filter(|_| alike).map(usize::from);
        Self { map: Self::head(matrix, interleaved, map), turned: alike && param.turned() }
    }

    /// The order in memory of a matrix in a file.
    pub(crate) fn in_file(matrix: Matrix, interleaved: Option<usize>, turned: bool) -> Self {
        Self { map: Self::head(matrix, interleaved, gguf::to_interleaved), turned }
    }

    fn head(matrix: Matrix, interleaved: Option<usize>, map: fn(usize, usize) -> Vec<usize>) -> Vec<usize> {
        interleaved.filter(|_| matrix != Matrix::A).map_or_else(|| vec![0], |head| map(1, head))
    }

    /// The place of a row.
    pub(crate) fn at(&self, row: usize) -> usize {
        let head = self.map.len();
        row / head * head + self.map[row % head]
    }
}

/// Writes adapter matrices under PEFT's names, each in its storage type, f32 or bf16.
///
/// # Errors
/// When the file cannot be written; an existing file is then unchanged.
pub fn write_tensors<B: Backend>(
    be: &B,
    path: &Path,
    blocks: &[BlockPairs],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let params = params(blocks);
    let views: Vec<_> = params.iter().zip(matrices(blocks).map(Act::view)).collect();
    write_params(be, path, &views, metadata)
}

/// Writes one view for each parameter, such as its gradient, under the parameter's name.
///
/// # Errors
/// As [`write_tensors`].
pub fn write_params<B: Backend>(
    be: &B,
    path: &Path,
    views: &[(&Param, View<'_>)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let dtype = |view: &View<'_>| match view.elem() {
        Elem::Full => Dtype::F32,
        Elem::Bf16 => Dtype::BF16,
        Elem::Byte => Dtype::U8,
    };
    let tensors: Vec<_> =
        views.iter().map(|(param, view)| (param.name(), dtype(view), shape(param, view))).collect();
    safetensors_file::write(path, &tensors, metadata, &mut |i, out| {
        let mut result = Ok(());
        // Row by row: a matrix never exists twice.
        let (param, view) = &views[i];
        let rows = Rows::of_param(param, [view.rows(), view.cols()]);
        if rows.turned {
            // Or column by column, each found among all values.
            for col in 0..view.cols() {
                be.store(*view, &mut |at, x| {
                    if at % view.cols() == col && result.is_ok() {
                        result = write_value(out, view.elem(), x);
                    }
                });
            }
            return result;
        }
        for row in (0..view.rows()).map(|row| rows.at(row)) {
            be.store(view.part(row..row + 1), &mut |_, x| {
                if result.is_ok() {
                    result = write_value(out, view.elem(), x);
                }
            });
        }
        result
    })?;
    Ok(())
}

/// A value as its buffer stores it.
fn write_value(out: &mut dyn io::Write, elem: Elem, x: f64) -> io::Result<()> {
    let bytes = (x as f32).to_le_bytes();
    match elem {
        Elem::Full => out.write_all(&bytes),
        // A bf16 is the upper half.
        Elem::Bf16 => out.write_all(&bytes[2..]),
        Elem::Byte => out.write_all(&[x as u8]),
    }
}

/// Names of the matrices that carry adapters.
fn modules(blocks: &[BlockPairs]) -> Vec<String> {
    let on = |p: &Module| blocks.iter().any(|block| block[*p as usize].is_some());
    Module::MODULES.into_iter().filter(on).map(|p| p.name().to_owned()).collect()
}

/// Writes an adapter directory in PEFT's layout.
///
/// # Errors
/// When a file cannot be written.
pub fn save<B: Backend>(
    be: &B,
    dir: &Path,
    config: &AdapterConfig,
    base_model: Option<&str>,
    blocks: &[BlockPairs],
) -> Result<()> {
    mesp_formats::atomic::create_dir_all(dir)?;
    write_tensors(be, &dir.join(peft::MODEL_FILE), blocks, &peft::metadata())?;
    let file = FileConfig {
        base_model: base_model.map(str::to_owned),
        r: config.rank,
        lora_alpha: config.alpha,
        use_rslora: config.rslora,
        use_dora: config.dora,
        lora_dropout: config.dropout,
        target_modules: modules(blocks),
        places: config.places.clone(),
        rank_pattern: config.ranks.clone(),
        alpha_pattern: config.alphas.clone(),
        layers: config.layers.clone(),
    };
    file.write(dir)?;
    Ok(())
}

/// Reads a file of [`write_tensors`] into allocated matrices. It must hold exactly these matrices, with their shapes.
/// Adapters of other programs are read by [`crate::source::load_adapter`].
///
/// # Errors
/// When a tensor is missing, unexpected, or of another shape: the adapter is for another model.
pub fn read_tensors<B: Backend>(
    be: &mut B,
    path: &Path,
    blocks: &mut [BlockPairs],
    config: &Config,
) -> Result<()> {
    let list = params(blocks).into_iter().zip(matrices_mut(blocks));
    read_params(be, path, &mut list.collect::<Vec<_>>(), config)
}

/// Reads a file of [`write_params`], such as an optimizer state.
///
/// # Errors
/// As [`read_tensors`].
pub fn read_params<B: Backend>(
    be: &mut B,
    path: &Path,
    acts: &mut [(Param, &mut Act)],
    config: &Config,
) -> Result<()> {
    let map = Mapping::open(path).map_err(|e| FileError::io("map", path, e))?;
    let header = safetensors_file::parse(path, map.bytes())?;
    let hint = "this adapter was made for another model, or with other target modules";
    let invalid = |kind| FileError::invalid(path, kind).hint(hint);
    let wrong = |kind, name: &str, what: String| -> Error {
        invalid(kind).what(format!("tensor {name} {what}")).tensor(name).into()
    };
    let mut seen = BTreeSet::new();
    // PEFT writes the base's own table beside an adapter of it.
    let table = |name: &str| peft::parse_table_name(name).is_some_and(|(_, adapted)| adapted);
    for tensor in header.tensors.iter().filter(|t| !table(&t.name)) {
        if let Some((param, act)) = acts.iter_mut().find(|(param, _)| param.name() == tensor.name) {
            seen.insert(tensor.name.clone());
            fill(be, (path, map.bytes()), tensor, param, act, hint)?;
            continue;
        }
        let Some((layer, module, matrix)) = peft::parse_tensor_name(&tensor.name) else {
            return Err(wrong(ErrorKind::Unknown, &tensor.name, "is not an adapter's".to_owned()));
        };
        let layers = config.layers;
        if layer >= layers {
            return Err(wrong(
                ErrorKind::Mismatch,
                &tensor.name,
                format!("is of layer {layer}, the model has {layers}"),
            ));
        }
        let place = Module::from_name(&module).map(|p| (p, p.list_index(layer, config)));
        let of = |param: &Param| match (place, param.tensor) {
            (Some((module, place)), Tensor::Adapter(m, matrix)) if (module, place) == (m, param.place) => {
                Some(matrix)
            }
            _ => None,
        };
        if !acts.iter().any(|(param, _)| of(param).is_some()) {
            return Err(wrong(
                ErrorKind::Mismatch,
                &tensor.name,
                "is not among the target modules".to_owned(),
            ));
        }
        // A matrix has a second name, with the adapter's own in it.
        if !seen.insert(peft::tensor_name(layer, &module, matrix)) {
            return Err(wrong(
                ErrorKind::Conflict,
                &tensor.name,
                "is there twice, under two names".to_owned(),
            ));
        }
        let found = acts.iter_mut().find(|(param, _)| of(param) == Some(matrix));
        let Some((param, act)) = found else {
            return Err(wrong(ErrorKind::Mismatch, &tensor.name, "is not of this adapter".to_owned()));
        };
        fill(be, (path, map.bytes()), tensor, param, act, hint)?;
    }
    let missing: Vec<String> =
        acts.iter().map(|(param, _)| param.name()).filter(|name| !seen.contains(name)).collect();
    if let Some(first) = missing.first() {
        return Err(invalid(ErrorKind::Missing)
            .what(format!("{} tensors are missing, the first is {first}", missing.len()))
            .into());
    }
    Ok(())
}

/// Reads one tensor of a file into the buffer of a parameter, or of an optimizer's state of it.
fn fill<B: Backend>(
    be: &mut B,
    (path, bytes): (&Path, &[u8]),
    tensor: &safetensors_file::TensorInfo,
    param: &Param,
    act: &mut Act,
    hint: &str,
) -> Result<()> {
    let (rows, expected) = (Rows::in_memory(param, [act.rows(), act.cols()]), shape(param, &act.view()));
    if tensor.shape != expected {
        return Err(FileError::invalid(path, ErrorKind::Mismatch)
            .hint(hint)
            .tensor(&tensor.name)
            .has(format!("shape {:?}", tensor.shape))
            .expected(format!("{expected:?}"))
            .into());
    }
    if act.elem() == Elem::Byte {
        let codes = bytes.get(tensor.range.clone()).unwrap_or_default();
        if tensor.dtype != Dtype::U8 || codes.len() != act.rows() * act.cols() {
            return Err(FileError::invalid(path, ErrorKind::Mismatch)
                .tensor(&tensor.name)
                .has(tensor.dtype.name())
                .expected("U8")
                .hint(hint)
                .into());
        }
        be.load(act.view_mut(), &mut |i| f64::from(codes[i]));
        return Ok(());
    }
    let values = safetensors_file::read_f32(path, bytes, tensor)?;
    let (cols, all) = (act.cols(), act.rows());
    be.load(act.view_mut(), &mut |i| {
        let (row, col) = (rows.at(i / cols), i % cols);
        f64::from(values[if rows.turned { col * all + row } else { row * cols + col }])
    });
    Ok(())
}

/// The shape in files of a parameter, or of an optimizer's state of another shape, which is written as it lies.
fn shape(param: &Param, view: &View<'_>) -> Vec<usize> {
    let shape = [view.rows(), view.cols()];
    if shape == param.shape { param.file_shape() } else { shape.to_vec() }
}
