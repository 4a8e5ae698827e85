//! Adapters in files, whichever program wrote them: PEFT's directories, llama.cpp's GGUF files and mlx-lm's
//! directories as one list of pairs, and such a list as any of them.
//!
//! | | A in the file | B in the file | scale |
//! |---|---|---|---|
//! | [`Layout::Peft`] | `[r, in]` | `[out, r]` | `lora_alpha / r`, or `/ √r`, by module |
//! | [`Layout::Gguf`] | `[r, in]` | `[out, r]`, rows as the base file has them | `adapter.lora.alpha / r`, of 0: 1 |
//! | [`Layout::Mlx`] | `[in, r]` | `[r, out]` | `scale`, one for all |
//!
//! What is read is accounted for: a tensor that is not of a pair, a half without its other one, and a setting
//! whose result these layouts do not share are refused.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::peft::{AdapterConfig, CONFIG_FILE, MODEL_FILE, Matrix, PICKLED_FILE};
use crate::safetensors_file::TensorInfo;
use crate::{Dtype, Error, ErrorKind, Result, Stored, regular};

mod gguf;
mod mlx;
mod peft;
mod scales;
#[cfg(test)]
mod tests;

pub use gguf::write as write_gguf;
pub use mlx::{MODEL_FILE as MLX_MODEL_FILE, write as write_mlx};
pub use peft::write as write_peft;

/// How an adapter lies in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A directory as PEFT writes it.
    Peft,
    /// A GGUF file of type adapter.
    Gguf,
    /// A directory as mlx-lm writes it.
    Mlx,
}

impl Layout {
    /// The layout of what stands at a path.
    ///
    /// # Errors
    /// When it is none of the three.
    pub fn of(path: &Path) -> Result<Self> {
        let has = |name: &str| path.join(name).is_file();
        let ends = |end: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(end));
        if path.is_file() && ["safetensors", "bin", "json"].into_iter().any(ends) {
            Err(Error::invalid(path, ErrorKind::WrongType)
                .expected("an adapter: a GGUF file, or the folder of PEFT or mlx-lm")
                .found("a file of such a folder")
                .hint("Name the folder that holds the file."))
        } else if path.is_file() {
            Ok(Self::Gguf)
        } else if has(MODEL_FILE) {
            Ok(Self::Peft)
        } else if has(mlx::MODEL_FILE) {
            Ok(Self::Mlx)
        } else {
            for name in [MODEL_FILE, mlx::MODEL_FILE, CONFIG_FILE] {
                regular::refuse_other(&path.join(name))?;
            }
            let found = if let Some(found) = regular::other_than_file(path).filter(|_| !path.is_dir()) {
                found
            } else if !path.exists() {
                "nothing"
            } else if has(PICKLED_FILE) {
                return Err(crate::peft::pickled(path));
            } else if has("config.json") {
                "a model (config.json)"
            } else if has(CONFIG_FILE) {
                "adapter_config.json alone"
            } else {
                "neither"
            };
            Err(Error::invalid(path, ErrorKind::Missing)
                .expected(format!(
                    "an adapter: a GGUF file, or a folder with {MODEL_FILE} (PEFT) or {} (mlx-lm)",
                    mlx::MODEL_FILE
                ))
                .found(found)
                .hint("Check the path."))
        }
    }

    /// The file with the tensors.
    pub fn tensors(self, path: &Path) -> PathBuf {
        match self {
            Self::Peft => path.join(MODEL_FILE),
            Self::Gguf => path.to_path_buf(),
            Self::Mlx => path.join(mlx::MODEL_FILE),
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peft => "peft",
            Self::Gguf => "gguf",
            Self::Mlx => "mlx",
        }
    }
}

/// An adapter of one matrix of the base: `y = W·x + scale·B·(A·x)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The block, counted from 0; 0 outside the blocks.
    pub layer: usize,
    /// The matrix, one of [`MODULES`](crate::peft::MODULES) or of [`OUTSIDE_BLOCKS`](crate::peft::OUTSIDE_BLOCKS). An adapter of
    /// embeddings is one of the table `[words, features]`, in any layout.
    pub module: String,
    /// r.
    pub rank: usize,
    /// Columns of A.
    pub input: usize,
    /// Rows of B.
    pub output: usize,
    /// The factor on its output.
    pub scale: f64,
    /// Whether the rows of W + scale·B·A are brought to magnitudes of their own (DoRA).
    pub magnitudes: bool,
}

impl Pair {
    /// Rows and columns of a matrix, as PEFT has it.
    pub fn shape(&self, matrix: Matrix) -> [usize; 2] {
        match matrix {
            Matrix::A => [self.rank, self.input],
            Matrix::B => [self.output, self.rank],
            Matrix::M => [self.output, 1],
        }
    }

    /// PEFT's name of the module.
    pub fn path(&self) -> String {
        crate::peft::path(self.layer, &self.module)
    }

    /// Whether it is outside the blocks.
    pub fn is_outside_blocks(&self) -> bool {
        crate::peft::path_outside_blocks(&self.module).is_some()
    }
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// The file with the tensors.
    pub path: PathBuf,
    /// How they lie in it.
    pub layout: Layout,
    /// The pairs, by layer and module.
    pub pairs: Vec<Pair>,
    /// What the pairs are, as PEFT says it: the adapter's own configuration, or one made of the pairs.
    pub config: AdapterConfig,
    /// GGUF's architecture of the base; none in other layouts.
    pub architecture: Option<String>,
    /// Whole tables of the base.
    pub tables: Vec<Table>,
    places: Vec<Places>,
}

/// A table of the base, whole, as PEFT writes it beside an adapter of it, or where the vocabulary was resized.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its name in the file.
    pub name: String,
    /// The module, one of [`OUTSIDE_BLOCKS`](crate::peft::OUTSIDE_BLOCKS).
    pub module: String,
    /// Words and features.
    pub shape: Vec<usize>,
    /// Whether an adapter is on the module, too.
    pub adapted: bool,
    dtype: Dtype,
    place: Place,
}

impl Lora {
    /// Reads what belongs to an adapter's tensors; `bytes` is the whole file that [`Layout::tensors`] names.
    ///
    /// # Errors
    /// When it is damaged, has tensors that are not of a pair, or a setting that changes what the pairs mean.
    pub fn read(path: &Path, layout: Layout, bytes: &[u8]) -> Result<Self> {
        match layout {
            Layout::Peft => peft::read(path, bytes),
            Layout::Gguf => gguf::read(path, bytes),
            Layout::Mlx => mlx::read(path, bytes),
        }
    }

    /// The numbers of a matrix in PEFT's orientation, rows as the file has them.
    ///
    /// # Errors
    /// When the file is no longer as long as it was.
    ///
    /// # Panics
    /// When magnitudes are asked of a pair that has none.
    pub fn values(&self, pair: usize, matrix: Matrix, bytes: &[u8]) -> Result<Vec<f32>> {
        let Some(place) = &self.places[pair][matrix as usize] else {
            panic!("{} has no magnitudes", self.pairs[pair].path())
        };
        let [rows, cols] = self.pairs[pair].shape(matrix);
        let stored = self.stored(place, bytes)?;
        let mut values = vec![0.0; rows * cols];
        let width = if place.transposed { rows } else { cols };
        let row_bytes = place.ty.row_bytes(width).unwrap_or(0).max(1);
        let rows = stored.chunks_exact(row_bytes).zip(values.chunks_exact_mut(width));
        let read = rows.map(|(stored, row)| place.ty.read(stored, row)).collect::<Option<()>>();
        if read.is_none() {
            return Err(Error::invalid(&self.path, ErrorKind::Unsupported)
                .what("its numbers are of a type that is not read")
                .hint("Start again."));
        }
        Ok(if place.transposed { transposed(&values, cols) } else { values })
    }

    fn stored<'a>(&self, place: &Place, bytes: &'a [u8]) -> Result<&'a [u8]> {
        bytes.get(place.range.clone()).ok_or_else(|| {
            Error::invalid(&self.path, ErrorKind::Malformed)
                .what("the file became shorter while it was read")
                .hint("Start again.")
        })
    }

    /// Whether a row of one of [`tables`](Self::tables) is this one of the base, whose numbers are stored as `base`: equal,
    /// or where one file's type is the narrower, equal when they are rounded to it.
    ///
    /// # Errors
    /// When the file is no longer as long as it was.
    pub fn same_row(&self, table: usize, row: usize, of: (Dtype, &[f32]), bytes: &[u8]) -> Result<bool> {
        let Table { dtype, place, .. } = &self.tables[table];
        let (base, ours) = of;
        let width = place.ty.row_bytes(ours.len()).unwrap_or(0);
        let stored = self.stored(place, bytes)?;
        let mut theirs = vec![0.0; ours.len()];
        let read = stored.get(row * width..(row + 1) * width).and_then(|row| place.ty.read(row, &mut theirs));
        if read.is_none() {
            return Err(Error::invalid(&self.path, ErrorKind::Unsupported)
                .what("its numbers are of a type that is not read"));
        }
        Ok(ours.iter().zip(&theirs).all(|(x, y)| rounded(*x, *dtype) == rounded(*y, base)))
    }

    /// Reads every number once.
    ///
    /// # Errors
    /// When one is not finite: with the tensor.
    pub fn check_values(&self, bytes: &[u8]) -> Result<()> {
        for (pair, places) in self.places.iter().enumerate() {
            for matrix in [Matrix::A, Matrix::B, Matrix::M] {
                let Some(place) = &places[matrix as usize] else { continue };
                let values = self.values(pair, matrix, bytes)?;
                if let Some(value) = values.iter().find(|x| !x.is_finite()) {
                    return Err(Error::invalid(&self.path, ErrorKind::NotFinite)
                        .tensor(&place.name)
                        .expected("finite numbers")
                        .found(value)
                        .hint(
                        "The training that made this adapter diverged, or the file is damaged: use an earlier checkpoint.",
                    ));
                }
            }
        }
        Ok(())
    }
}

fn rounded(x: f32, to: Dtype) -> f32 {
    match to {
        Dtype::F16 => half::f16::from_f32(x).to_f32(),
        Dtype::BF16 => half::bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// Where a pair's matrices lie, by [`Matrix`]; magnitudes may be none.
type Places = [Option<Place>; 3];

/// Where a matrix lies.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    name: String,
    ty: Stored,
    range: Range<usize>,
    transposed: bool,
}

/// A half of a pair as it was found.
struct Half {
    layer: usize,
    module: String,
    matrix: Matrix,
    /// As PEFT has it.
    shape: [usize; 2],
    place: Place,
}

impl Half {
    /// A matrix of a safetensors file.
    fn of(path: &Path, t: &TensorInfo, key: (usize, String, Matrix), transposed: bool) -> Result<Self> {
        let (rows, cols) = match t.shape[..] {
            [rows, cols] if key.2 != Matrix::M => (rows, cols),
            [rows] if key.2 == Matrix::M => (rows, 1),
            _ => {
                let expected = if key.2 == Matrix::M { "a vector" } else { "a matrix" };
                return Err(Error::invalid(path, ErrorKind::WrongType)
                    .tensor(&t.name)
                    .expected(expected)
                    .found(format!("shape {:?}", t.shape)));
            }
        };
        t.held(path)?;
        let shape = if transposed { [cols, rows] } else { [rows, cols] };
        let place = Place { name: t.name.clone(), ty: t.dtype.into(), range: t.range.clone(), transposed };
        Ok(Self { layer: key.0, module: key.1, matrix: key.2, shape, place })
    }
}

/// Joins halves into pairs, in order; `scale` is asked for each.
fn joined(
    path: &Path,
    layout: Layout,
    halves: Vec<Half>,
    mut scale: impl FnMut(&Pair) -> Result<f64>,
) -> Result<Lora> {
    let invalid = |kind| Error::invalid(path, kind).hint("The adapter is damaged: get it or make it again.");
    let order = |half: &Half| {
        let at = |modules: &[&str]| modules.iter().position(|m| *m == half.module);
        match at(&crate::peft::MODULES) {
            Some(module) => (half.layer, module),
            None => (usize::MAX, at(&crate::peft::OUTSIDE_BLOCKS.map(|(module, _)| module)).unwrap_or(0)),
        }
    };
    let mut found: BTreeMap<(usize, usize), [Option<Half>; 3]> = BTreeMap::new();
    for half in halves {
        let slot = &mut found.entry(order(&half)).or_default()[half.matrix as usize];
        if let Some(first) = slot {
            let (first, second) = (&first.place.name, &half.place.name);
            return Err(invalid(ErrorKind::Conflict)
                .what(format!("tensors {first} and {second} are the same matrix")));
        }
        *slot = Some(half);
    }
    let (mut pairs, mut places) = (Vec::new(), Vec::new());
    for halves in found.into_values() {
        let [Some(a), Some(b), m] = halves else {
            let name = halves.iter().flatten().next().map_or("", |half| &half.place.name);
            return Err(invalid(ErrorKind::Missing)
                .tensor(name)
                .expected("its other half beside it")
                .found("none"));
        };
        let ([rank, input], [output, other]) = (a.shape, b.shape);
        if rank != other || rank == 0 {
            return Err(invalid(ErrorKind::Mismatch)
                .what(format!("tensors {} and {}", a.place.name, b.place.name))
                .expected("one rank of 1 or more")
                .found(format!("{rank} and {other}")));
        }
        if let Some(m) = m.as_ref().filter(|m| m.shape[0] != output) {
            let (name, found) = (&m.place.name, m.shape[0]);
            return Err(invalid(ErrorKind::Mismatch)
                .tensor(name)
                .expected(format!("{output} magnitudes"))
                .found(found));
        }
        let magnitudes = m.is_some();
        let mut pair = Pair { layer: a.layer, module: a.module, rank, input, output, scale: 1.0, magnitudes };
        pair.scale = scale(&pair)?;
        if !pair.scale.is_finite() {
            return Err(invalid(ErrorKind::NotFinite)
                .what(pair.path())
                .expected("a finite scale")
                .found(pair.scale));
        }
        pairs.push(pair);
        places.push([Some(a.place), Some(b.place), m.map(|m| m.place)]);
    }
    if pairs.is_empty() {
        return Err(invalid(ErrorKind::Empty).expected("an adapter's tensors").found("none"));
    }
    let config = peft::config_of(&pairs, None, None);
    Ok(Lora { path: path.to_path_buf(), layout, pairs, config, architecture: None, tables: vec![], places })
}

/// A tensor that belongs to no pair.
fn unknown(path: &Path, name: &str, expected: &str) -> Error {
    Error::invalid(path, ErrorKind::Unknown).tensor(name).expected(expected).found("another name").hint(
        "An adapter on the linear layers of the blocks, on the head and on embeddings can be read; magnitudes (DoRA) of \
         embeddings, biases, norms and whole modules cannot.",
    )
}

/// The matrix that has these rows as columns, `cols` of them a row.
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    // Stored as [cols, rows].
    let rows = values.len() / cols.max(1);
    (0..rows * cols).map(|i| values[i % cols * rows + i / cols]).collect()
}

/// Gives the numbers of a matrix of a pair, in PEFT's orientation.
pub type Values<'a> = &'a mut dyn FnMut(usize, Matrix) -> io::Result<Vec<f32>>;

/// Numbers as they are written, single precision.
fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
