//! A Hugging Face directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp_device::{Dtype, Mapping, Weight};
use mesp_formats::safetensors_file::{self, TensorInfo};
use mesp_formats::{Dtype as FileDtype, Error as FileError, ModelConfig, ModelDir, Stored};

use super::{Base, encode, in_file, kernel_dtype, most_bytes};
use crate::arch::{Config, EMBEDDING, HEAD};
use crate::model::WeightSource;
use crate::{Error, ErrorKind, Result};

struct Shard {
    path: PathBuf,
    map: Arc<Mapping>,
}

/// Weights of a model directory, mapped. Those of a type that products do not take are converted into memory.
pub struct HfSource {
    dir: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, (usize, TensorInfo)>,
    /// By the index: in which file each tensor should be.
    index: BTreeMap<String, usize>,
    base: Base,
    /// Whether weights are given with their values.
    values: bool,
    notes: Vec<String>,
}

impl HfSource {
    /// Maps every file of the directory and reads their headers.
    ///
    /// # Errors
    /// When a file is missing, truncated or not what it should be, or two of them contradict each other.
    pub fn open(dir: &Path, base: Base) -> Result<Self> {
        let files = ModelDir::open(dir)?;
        let mut source = Self {
            dir: dir.to_path_buf(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            index: BTreeMap::new(),
            base,
            values: true,
            notes: Vec::new(),
        };
        for path in &files.shards {
            let map = Mapping::open(path).map_err(|e| FileError::io("map", path, e))?;
            let header = safetensors_file::parse(path, map.bytes())?;
            source.shards.push(Shard { path: path.clone(), map: Arc::new(map) });
            for tensor in header.tensors {
                source.add(tensor)?;
            }
        }
        if let Some(index) = files.index() {
            source.index = index.iter().map(|(name, shard)| (full_name(name), *shard)).collect();
        }
        source.refuse_scales()?;
        source.note_types();
        Ok(source)
    }

    /// The directory with its configuration; a head of its own is told from one that is the embeddings.
    ///
    /// # Errors
    /// As [`HfSource::open`], and when the configuration cannot be read or is of no supported model.
    pub fn with_config(dir: &Path, base: Base) -> Result<(Self, ModelConfig, Config)> {
        let mut source = Self::open(dir, base)?;
        let mut file = ModelConfig::read(dir)?;
        if file.tie_word_embeddings && source.has_own_head() {
            file.tie_word_embeddings = false;
            source.notes.push(format!(
                "{}: config.json says that the head is the embeddings (tie_word_embeddings), and {HEAD} is stored \
                 with other values: the stored head is used, as transformers 5 does",
                dir.display()
            ));
        }
        if dir.join(mesp_formats::peft::CONFIG_FILE).is_file() {
            source.notes.push(format!(
                "{}: an adapter lies beside the model ({}), which transformers would attach: it is used only where \
                 it is named as the adapter",
                dir.display(),
                mesp_formats::peft::CONFIG_FILE
            ));
        }
        let config = Config::new(&file).map_err(|e| in_file(dir, e))?;
        Ok((source, file, config))
    }

    /// Gives shapes and types of matrices from now on, and no values.
    pub(super) fn without_values(mut self) -> Self {
        self.values = false;
        self
    }

    /// What is worth knowing of the files.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The type that most of the weights' bytes are held in where they are mapped.
    pub fn dtype(&self) -> Dtype {
        let read = self.tensors.values().filter(|(_, t)| t.dtype.held().is_some());
        most_bytes(read.map(|(_, t)| (kernel_dtype(t.dtype), t.range.len())))
    }

    /// Names, types and shapes of all tensors, whatever their types.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, FileDtype, &[usize])> {
        self.tensors.iter().map(|(name, (_, t))| (name.as_str(), t.dtype, t.shape.as_slice()))
    }

    /// A tensor's type and bytes as they lie in its file.
    pub(crate) fn stored(&self, name: &str) -> Option<(Stored, &[u8])> {
        let (shard, info) = self.tensors.get(name)?;
        Some((info.dtype.into(), &self.shards[*shard].map.bytes()[info.range.clone()]))
    }

    /// Lets a tensor's pages go.
    pub(crate) fn let_go(&self, name: &str) {
        if let Some((shard, info)) = self.tensors.get(name) {
            self.shards[*shard].map.let_go(info.range.clone());
        }
    }

    /// Takes in a tensor of the last file. One that is in two of them must be the same in both.
    fn add(&mut self, mut tensor: TensorInfo) -> Result<()> {
        let here = self.shards.len() - 1;
        tensor.name = full_name(&tensor.name);
        if let Some((there, other)) = self.tensors.get(&tensor.name) {
            let bytes = |shard: usize, t: &TensorInfo| self.shards[shard].map.bytes().get(t.range.clone());
            let same = (other.dtype, &other.shape) == (tensor.dtype, &tensor.shape)
                && bytes(*there, other) == bytes(here, &tensor);
            if !same {
                let [here, there] = [here, *there].map(|i| &self.shards[i].path);
                let at = if here == there {
                    "twice in this file".to_owned()
                } else {
                    format!("in {}, too", there.display())
                };
                return Err(FileError::invalid(here, ErrorKind::Conflict)
                    .tensor(&tensor.name)
                    .is(at)
                    .expected("once, or twice with the same values")
                    .hint("the files are of different models, or damaged: fetch them again")
                    .into());
            }
            return Ok(());
        }
        self.tensors.insert(tensor.name.clone(), (here, tensor));
        Ok(())
    }

    /// Numbers of 8 bits stand for other values where a scale belongs to them.
    fn refuse_scales(&self) -> Result<()> {
        let small = |dtype| matches!(dtype, FileDtype::F8E4M3 | FileDtype::F8E5M2);
        for (name, (shard, info)) in self.tensors.iter().filter(|(_, (_, t))| small(t.dtype)) {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let scales = ["weight_scale", "weight_scale_inv", "weight_scale_2", "scale_weight", "scale"];
            let found = scales.map(|scale| format!("{module}.{scale}"));
            if let Some(scale) = found.iter().find(|scale| self.tensors.contains_key(*scale)) {
                return Err(FileError::invalid(&self.shards[*shard].path, ErrorKind::Unsupported)
                    .tensor(name)
                    .is(format!("stored as {} with a scale beside it, {scale}", info.dtype.name()))
                    .expected("weights without one")
                    .hint("use the original model: such quantized weights are not read")
                    .into());
            }
        }
        Ok(())
    }

    fn note_types(&mut self) {
        for dtype in [FileDtype::F64, FileDtype::F8E4M3, FileDtype::F8E5M2] {
            let count = self.tensors.values().filter(|(_, t)| t.dtype == dtype).count();
            let held = dtype.held().unwrap_or(dtype).name();
            let how = if dtype == FileDtype::F64 { "rounded to" } else { "held in memory as" };
            if count > 0 {
                let (dir, name) = (self.dir.display(), dtype.name());
                self.notes.push(format!("{dir}: tensors stored as {name}: {count}, which are {how} {held}"));
            }
        }
    }

    /// Whether the head is stored beside the embeddings with other values.
    fn has_own_head(&self) -> bool {
        let (Some((i, table)), Some((j, head))) = (self.tensors.get(EMBEDDING), self.tensors.get(HEAD))
        else {
            return false;
        };
        if table.shape != head.shape {
            return true;
        }
        let cols = table.shape.last().copied().unwrap_or(1);
        let rows = |shard: &usize, t: &TensorInfo| {
            let ty = Stored::from(t.dtype);
            let bytes = self.shards[*shard].map.bytes().get(t.range.clone()).unwrap_or_default();
            (ty, bytes.chunks(ty.row_bytes(cols).unwrap_or(1).max(1)))
        };
        let ((a_type, a), (b_type, b)) = (rows(i, table), rows(j, head));
        let (mut x, mut y) = (vec![0.0f32; cols], vec![0.0f32; cols]);
        let mut same = |(a, b): (&[u8], &[u8])| {
            if a_type == b_type {
                return a == b;
            }
            a_type.read(a, &mut x).is_some() && b_type.read(b, &mut y).is_some() && x == y
        };
        let own = !a.zip(b).all(&mut same);
        self.let_go(EMBEDDING);
        self.let_go(HEAD);
        own
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<Option<(&Shard, &TensorInfo)>> {
        let Some((shard, info)) = self.tensors.get(name) else { return Ok(None) };
        let shard = &self.shards[*shard];
        if info.shape != shape {
            return Err(FileError::invalid(&shard.path, ErrorKind::Mismatch)
                .tensor(name)
                .has(format!("shape {:?}", info.shape))
                .expected(format!("{shape:?} from config.json"))
                .hint("the configuration and the weights do not belong together; fetch both again")
                .into());
        }
        info.held(&shard.path)?;
        Ok(Some((shard, info)))
    }
}

/// The name with what checkpoints of a base model, without a head, leave out. transformers reads both.
fn full_name(name: &str) -> String {
    if ["embed_tokens.", "layers.", "norm."].iter().any(|start| name.starts_with(start)) {
        return format!("model.{name}");
    }
    name.to_owned()
}

impl WeightSource for HfSource {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>> {
        let Some((shard, info)) = self.find(name, &[rows, cols])? else { return Ok(None) };
        let stored = kernel_dtype(info.dtype);
        let (dtype, mapped) = match self.base {
            Base::Mapped => (stored, info.dtype.is_native()),
            Base::Resident(dtype) => (dtype, false),
        };
        if !self.values {
            let shape = if mapped { Weight::shape_only } else { Weight::shape_held };
            return Ok(Some(shape(dtype, rows, cols)));
        }
        if mapped {
            return Ok(Some(Weight::mapped(stored, rows, cols, Arc::clone(&shard.map), info.range.clone())));
        }
        if info.dtype.is_native() && dtype == stored {
            let bytes = shard.map.bytes()[info.range.clone()].to_vec();
            return Ok(Some(Weight::owned(dtype, rows, cols, bytes)));
        }
        // A row at a time: the matrix in single precision is never whole.
        let mut bytes = Vec::with_capacity(rows * dtype.row_bytes(cols));
        let row_bytes = cols * info.dtype.size();
        for row in 0..rows {
            let start = info.range.start + row * row_bytes;
            let range = start..start + row_bytes;
            let row = TensorInfo { name: info.name.clone(), shape: vec![cols], dtype: info.dtype, range };
            let values = safetensors_file::read_f32(&shard.path, shard.map.bytes(), &row)?;
            bytes.extend(encode(dtype, &values));
        }
        shard.map.let_go(info.range.clone());
        Ok(Some(Weight::owned(dtype, rows, cols, bytes)))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let Some((shard, info)) = self.find(name, &[len])? else { return Ok(None) };
        let values = safetensors_file::read_f32(&shard.path, shard.map.bytes(), info)?;
        // A page brings up to 2 MB with it, and there is a vector in every part of the file.
        shard.map.let_go(info.range.clone());
        Ok(Some(values))
    }

    fn missing(&self, name: &str) -> Error {
        if let Some(shard) = self.index.get(name) {
            return FileError::invalid(&self.shards[*shard].path, ErrorKind::Missing)
                .what(format!(
                    "tensor {name} is not in this file, where the index says it is, nor in another"
                ))
                .hint("the index and the weight files do not belong together; fetch the model's files again")
                .into();
        }
        FileError::invalid(&self.dir, ErrorKind::Missing)
            .what(format!("tensor {name} is in none of the weight files"))
            .tensor(name)
            .hint("config.json says it should be there; fetch the model's files again")
            .into()
    }

    fn unused(&self, asked: &BTreeSet<&str>) -> Vec<String> {
        // Some checkpoints hold a table of the rotation, and a copy of a tied head is no other tensor.
        let expected = |name: &str| name == HEAD || name.ends_with(".rotary_emb.inv_freq");
        self.tensors.keys().filter(|n| !asked.contains(n.as_str()) && !expected(n)).cloned().collect()
    }
}
