//! A GGUF file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp_device::{Dtype, Layout, Mapping, Weight};
use mesp_formats::gguf::{self, Gguf, GgufModel, TensorInfo, TensorType};
use mesp_formats::{Error as FileError, ModelConfig, RopeScaling};

use super::{Base, encode, in_file, most_bytes, tensor_dtype};
use crate::arch::Config;
use crate::data::has_tokenizer;
use crate::model::WeightSource;
use crate::{Error, ErrorKind, Result};

/// Weights of a GGUF file, mapped.
pub struct GgufSource {
    path: PathBuf,
    map: Arc<Mapping>,
    file: Gguf,
    model: GgufModel,
    base: Base,
}

impl GgufSource {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// When it is missing, truncated or not what it should be, or of an architecture that is not supported.
    pub fn open(path: &Path, base: Base) -> Result<Self> {
        let map = Mapping::open(path).map_err(|e| FileError::io("map", path, e))?;
        let file = gguf::parse(path, map.bytes())?;
        let model = gguf::model(&file, map.bytes())?;
        Ok(Self { path: path.to_path_buf(), map: Arc::new(map), file, model, base })
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// The shape as the engine takes it: with the file's rotary divisors and its order of rows.
    ///
    /// # Errors
    /// When it asks for something that is not supported.
    pub fn model_config(&self) -> Result<Config> {
        let mut config = Config::new(&self.model.config).map_err(|e| in_file(&self.path, e))?;
        let known = matches!(self.model.config.rope_scaling, RopeScaling::Llama3 { .. });
        if let (false, Some(divisors)) = (known, &self.model.rope_factors) {
            config.rope.frequencies.iter_mut().zip(divisors).for_each(|(f, divisor)| *f /= divisor);
        }
        // Files have norms as they are multiplied.
        config.norm_offset = 0.0;
        if self.model.interleaved {
            config.rope.layout = Layout::Interleaved;
        }
        Ok(config)
    }

    /// The type that most of the weights' bytes are stored in.
    pub fn dtype(&self) -> Dtype {
        most_bytes(self.file.tensors.iter().map(|t| (tensor_dtype(t.ty), t.range.len())))
    }

    /// GGUF names, types and shapes of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Dtype, &[usize])> {
        self.file.tensors.iter().map(|t| (t.name.as_str(), tensor_dtype(t.ty), t.shape.as_slice()))
    }

    /// The file's header.
    pub fn header(&self) -> &Gguf {
        &self.file
    }

    /// Whether the rotary divisors are the file's own, and no configuration's.
    pub(crate) fn has_own_divisors(&self) -> bool {
        let known = matches!(self.model.config.rope_scaling, RopeScaling::Llama3 { .. });
        self.model.rope_factors.is_some() && !known
    }

    /// Whether rows of q and k are interleaved.
    pub(crate) fn interleaved(&self) -> bool {
        self.model.interleaved
    }

    /// The whole file.
    pub(crate) fn file_bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    /// The type that most of the bytes are stored in, as the file names it.
    pub(crate) fn stored_type(&self) -> TensorType {
        let bytes =
            |ty| self.file.tensors.iter().filter(|t| t.ty == ty).map(|t| t.range.len()).sum::<usize>();
        TensorType::ALL.into_iter().max_by_key(|ty| bytes(*ty)).unwrap_or(TensorType::F32)
    }

    /// A tensor's type and bytes by its checkpoint name.
    pub(crate) fn stored(&self, name: &str) -> Option<(TensorType, &[u8])> {
        let info = self.file.tensor(&gguf::tensor_name(&self.model.config.model_type, name)?)?;
        Some((info.ty, self.bytes(info)))
    }

    /// Lets a tensor's pages go.
    pub(crate) fn let_go(&self, name: &str) {
        let here = gguf::tensor_name(&self.model.config.model_type, name);
        if let Some(info) = here.and_then(|name| self.file.tensor(&name)) {
            self.map.let_go(info.range.clone());
        }
    }

    /// Lets pages of the file go.
    pub(crate) fn let_go_range(&self, range: std::ops::Range<usize>) {
        self.map.let_go(range);
    }

    /// Whether there is a tokenizer in the file.
    pub fn has_tokenizer(&self) -> bool {
        has_tokenizer(&self.file)
    }

    /// The file that has the tokenizer: this one, or a `tokenizer.json` beside it.
    pub(super) fn tokenizer_file(&self) -> Option<PathBuf> {
        if self.has_tokenizer() {
            return Some(self.path.clone());
        }
        Some(self.path.with_file_name("tokenizer.json")).filter(|p| p.is_file())
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<Option<&TensorInfo>> {
        let Some(info) =
            gguf::tensor_name(&self.model.config.model_type, name).and_then(|name| self.file.tensor(&name))
        else {
            return Ok(None);
        };
        if info.shape != shape {
            return Err(FileError::invalid(&self.path, ErrorKind::Mismatch)
                .what(format!("tensor {} ({name})", info.name))
                .tensor(&info.name)
                .has(format!("shape {:?}", info.shape))
                .expected(format!("{shape:?} from the file's metadata"))
                .hint("the metadata and the weights do not belong together; get the file again, or convert the model again")
                .into());
        }
        Ok(Some(info))
    }

    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        &self.map.bytes()[info.range.clone()]
    }
}

impl WeightSource for GgufSource {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>> {
        let Some(info) = self.find(name, &[rows, cols])? else { return Ok(None) };
        let stored = tensor_dtype(info.ty);
        let weight = match self.base {
            Base::Mapped => Weight::mapped(stored, rows, cols, Arc::clone(&self.map), info.range.clone()),
            Base::Resident(dtype) if dtype == stored => {
                Weight::owned(dtype, rows, cols, self.bytes(info).to_vec())
            }
            Base::Resident(dtype) => {
                // Row by row: the matrix in single precision is never whole.
                let mut bytes = Vec::with_capacity(rows * dtype.row_bytes(cols));
                let mut row = vec![0.0; cols];
                for stored in self.bytes(info).chunks_exact(stored.row_bytes(cols).max(1)) {
                    gguf::dequantize_row(info.ty, stored, &mut row);
                    bytes.extend(encode(dtype, &row));
                }
                Weight::owned(dtype, rows, cols, bytes)
            }
        };
        Ok(Some(weight))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let Some(info) = self.find(name, &[len])? else { return Ok(None) };
        let mut values = vec![0.0; len];
        gguf::dequantize_row(info.ty, self.bytes(info), &mut values);
        // A page brings up to 2 MB with it, and there is a vector in every part of the file.
        self.map.let_go(info.range.clone());
        Ok(Some(values))
    }

    fn unused(&self, asked: &BTreeSet<&str>) -> Vec<String> {
        let arch = &self.model.config.model_type;
        let used: BTreeSet<String> = asked.iter().filter_map(|name| gguf::tensor_name(arch, name)).collect();
        let rope = [gguf::ROPE_FACTORS, gguf::ROPE_FACTORS_SHORT, gguf::ROPE_FACTORS_LONG];
        let names = self.file.tensors.iter().map(|t| t.name.as_str());
        names.filter(|n| !used.contains(*n) && !rope.contains(n)).map(str::to_owned).collect()
    }

    fn missing(&self, name: &str) -> Error {
        let here = gguf::tensor_name(&self.model.config.model_type, name).unwrap_or_default();
        FileError::invalid(&self.path, ErrorKind::Missing)
            .what(format!("tensor {here} ({name}) is not in the file"))
            .tensor(here)
            .hint("the metadata say it should be there; get the file again, or convert the model again")
            .into()
    }
}
