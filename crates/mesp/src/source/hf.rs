//! A Hugging Face directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp_device::{Dtype, Mapping, Weight};
use mesp_formats::safetensors_file::{self, TensorInfo};
use mesp_formats::{Dtype as FileDtype, Error as FileError, ModelDir};

use super::{Base, encode, kernel_dtype, most_bytes};
use crate::model::WeightSource;
use crate::{Error, Result};

struct Shard {
    path: PathBuf,
    map: Arc<Mapping>,
}

/// Weights of a model directory, mapped.
pub struct HfSource {
    dir: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, (usize, TensorInfo)>,
    base: Base,
}

impl HfSource {
    /// Maps every file of the directory and reads their headers.
    ///
    /// # Errors
    /// When a file is missing, truncated or not what it should be.
    pub fn open(dir: &Path, base: Base) -> Result<Self> {
        let files = ModelDir::open(dir)?;
        let mut shards = Vec::new();
        let mut tensors = BTreeMap::new();
        for (i, path) in files.shards.iter().enumerate() {
            let map = Mapping::open(path).map_err(|e| FileError::io("map", path, e))?;
            let header = safetensors_file::parse(path, map.bytes())?;
            for tensor in header.tensors {
                tensors.insert(tensor.name.clone(), (i, tensor));
            }
            shards.push(Shard { path: path.clone(), map: Arc::new(map) });
        }
        if let Some(index) = files.index() {
            for (name, shard) in index {
                if tensors.get(name).is_none_or(|(i, _)| i != shard) {
                    let problem = format!("tensor {name} is not in this file, where the index says it is");
                    return Err(FileError::invalid(&files.shards[*shard], problem).into());
                }
            }
        }
        Ok(Self { dir: dir.to_path_buf(), shards, tensors, base })
    }

    /// The type that most of the weights' bytes are stored in.
    pub fn dtype(&self) -> Dtype {
        most_bytes(self.tensors.values().map(|(_, t)| (kernel_dtype(t.dtype), t.range.len())))
    }

    /// Names, types and shapes of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Dtype, &[usize])> {
        self.tensors.iter().map(|(name, (_, t))| (name.as_str(), kernel_dtype(t.dtype), t.shape.as_slice()))
    }

    /// A tensor's type and bytes as they lie in its file.
    pub(crate) fn stored(&self, name: &str) -> Option<(FileDtype, &[u8])> {
        let (shard, info) = self.tensors.get(name)?;
        Some((info.dtype, &self.shards[*shard].map.bytes()[info.range.clone()]))
    }

    /// Lets a tensor's pages go.
    pub(crate) fn let_go(&self, name: &str) {
        if let Some((shard, info)) = self.tensors.get(name) {
            self.shards[*shard].map.let_go(info.range.clone());
        }
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<Option<(&Shard, &TensorInfo)>> {
        let Some((shard, info)) = self.tensors.get(name) else { return Ok(None) };
        let shard = &self.shards[*shard];
        if info.shape != shape {
            let problem =
                format!("tensor {name} has shape {:?}, expected {shape:?} from config.json", info.shape);
            return Err(FileError::invalid(&shard.path, problem)
                .hint("the configuration and the weights do not belong together; fetch both again")
                .into());
        }
        Ok(Some((shard, info)))
    }
}

impl WeightSource for HfSource {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>> {
        let Some((shard, info)) = self.find(name, &[rows, cols])? else { return Ok(None) };
        let stored = kernel_dtype(info.dtype);
        match self.base {
            Base::Resident(dtype) if dtype != stored => {
                let values = safetensors_file::read_f32(&shard.path, shard.map.bytes(), info)?;
                Ok(Some(Weight::owned(dtype, rows, cols, encode(dtype, &values))))
            }
            Base::Resident(dtype) => {
                Ok(Some(Weight::owned(dtype, rows, cols, shard.map.bytes()[info.range.clone()].to_vec())))
            }
            Base::Mapped => {
                Ok(Some(Weight::mapped(stored, rows, cols, Arc::clone(&shard.map), info.range.clone())))
            }
        }
    }

    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let Some((shard, info)) = self.find(name, &[len])? else { return Ok(None) };
        let values = safetensors_file::read_f32(&shard.path, shard.map.bytes(), info)?;
        // A page brings up to 2 MB with it, and there is a vector in every part of the file.
        shard.map.let_go(info.range.clone());
        Ok(Some(values))
    }

    fn missing(&self, name: &str) -> Error {
        FileError::invalid(&self.dir, format!("tensor {name} is in none of the weight files"))
            .hint("config.json says it should be there; fetch the model's files again")
            .into()
    }
}
