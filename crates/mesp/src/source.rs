//! Where a model comes from: a Hugging Face directory, or a GGUF file.

use std::path::{Path, PathBuf};

use mesp_device::Dtype;
use mesp_formats::gguf::TensorType;
use mesp_formats::{Dtype as FileDtype, ModelConfig, TokenizerConfig};

use crate::arch::Config;
use crate::data::{Prefix, TokenizerInfo};
use crate::model::{ModelWeights, WeightSource};
use crate::{Error, ErrorKind, Result};

pub(crate) mod adapter;
mod asked;
pub(crate) mod delta;
mod files;
pub mod fingerprint;
mod gguf;
mod hf;
mod shapes;
#[cfg(feature = "text")]
mod text;

pub use adapter::{AdapterFile, check_adapter, load_adapter, load_adapter_config};
pub(crate) use asked::Asked;
pub use files::is_small_file;
pub(crate) use files::{beside, copy, retype, untie};
pub use gguf::GgufSource;
pub use hf::HfSource;
pub use shapes::{HeaderSource, shape_source};
#[cfg(feature = "text")]
pub use text::{no_tokenizer, text_encoder};

/// How base weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// In their file, in their type.
    Mapped,
    /// Converted and copied into memory.
    Resident(Dtype),
}

impl Base {
    /// From the command line's name; `auto` is mapped.
    ///
    /// # Errors
    /// When there is none by that name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "auto" | "mapped" => Ok(Self::Mapped),
            "f32" => Ok(Self::Resident(Dtype::F32)),
            "bf16" => Ok(Self::Resident(Dtype::Bf16)),
            "f16" => Ok(Self::Resident(Dtype::F16)),
            _ => Err(Error::usage(ErrorKind::Unknown, "‘base’")
                .is(format!("{name:?}"))
                .expected("auto, mapped, f32, bf16 or f16")),
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Resident(dtype) => dtype.name(),
        }
    }
}

/// What kind of thing a model path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Hugging Face directory.
    Directory,
    /// A GGUF file.
    Gguf,
}

impl Kind {
    /// What a path is: a file is GGUF, whatever it is called; everything else should be a directory.
    pub fn of(path: &Path) -> Self {
        let named = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if path.is_file() || (named && !path.is_dir()) { Self::Gguf } else { Self::Directory }
    }
}

/// A model that is found and checked, its weights not yet asked for.
pub struct Opened {
    /// The engine's view of the shape.
    pub config: Config,
    /// The shape as the files have it, with the tokens that end a text.
    pub file_config: ModelConfig,
    /// The weights.
    pub source: Box<dyn WeightSource + Send + Sync>,
    /// What the path named.
    pub kind: Kind,
    /// The type that most of the weights' bytes are stored in.
    pub dtype: Dtype,
    /// The file that the tokenizer would be read from.
    pub tokenizer: Option<PathBuf>,
    /// What is worth knowing of the files.
    pub notes: Vec<String>,
}

impl Opened {
    /// The model with its weights.
    ///
    /// # Errors
    /// When a weight is missing or has another shape than the configuration says.
    pub fn load(self) -> Result<ModelWeights> {
        ModelWeights::load(self.config, &*self.source)
    }

    /// [`load`](Self::load), with what is worth knowing of the files: tensors that the model has no use for, too.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with_notes(self, path: &Path) -> Result<(ModelWeights, Vec<String>)> {
        let asked = Asked::new(&*self.source);
        let model = ModelWeights::load(self.config, &asked)?;
        let found = asked.found();
        let unused = self.source.unused(&found.iter().map(|(name, _)| name.as_str()).collect());
        let mut notes = self.notes;
        if let Some(first) = unused.first() {
            notes.push(format!(
                "{}: tensors that the model does not use: {}, the first is {first}",
                path.display(),
                unused.len()
            ));
        }
        Ok((model, notes))
    }
}

/// Opens a directory or a GGUF file.
///
/// # Errors
/// When it is not a model, is damaged, or of an architecture that is not supported.
pub fn open_model(path: &Path, base: Base) -> Result<Opened> {
    let kind = Kind::of(path);
    match kind {
        Kind::Directory => {
            let (source, file_config, config) = HfSource::with_config(path, base)?;
            let (dtype, notes) = (source.dtype(), source.notes().to_vec());
            let tokenizer = Some(path.join("tokenizer.json")).filter(|p| p.is_file());
            Ok(Opened { config, file_config, source: Box::new(source), kind, dtype, tokenizer, notes })
        }
        Kind::Gguf => {
            let source = GgufSource::open(path, base)?;
            let (config, file_config) = (source.model_config()?, source.config().clone());
            let (dtype, tokenizer) = (source.dtype(), source.tokenizer_file());
            let notes = Vec::new();
            Ok(Opened { config, file_config, source: Box::new(source), kind, dtype, tokenizer, notes })
        }
    }
}

/// What a directory's files say about its tokenizer.
///
/// # Errors
/// When one of them cannot be read, or has a key of another kind than expected.
pub fn tokenizer_info(dir: &Path) -> Result<TokenizerInfo> {
    let config = TokenizerConfig::read(dir)?;
    Ok(TokenizerInfo {
        prefix: prefix(&config),
        bos_token: config.bos_token,
        eos_token: config.eos_token,
        chat_template: config.chat_template,
        tool_template: config.tool_template,
        add_bos_token: config.add_bos_token,
        named_tokens: config.named_tokens,
        special_tokens: config.special_tokens,
        end_tokens: config.end_tokens,
        end_ids: config.end_ids,
    })
}

/// transformers makes the tokenizers of this class anew from their vocabulary, whatever `tokenizer.json` does with
/// spaces, but for models of other types that name the class.
fn prefix(config: &TokenizerConfig) -> Option<Prefix> {
    let named = matches!(config.tokenizer_class.as_deref(), Some("LlamaTokenizer" | "LlamaTokenizerFast"));
    let llama = named && config.model_type.as_deref().is_none_or(|name| name == "llama");
    llama.then_some(match (config.add_prefix_space, config.legacy) {
        (Some(false), _) => Prefix::Never,
        (_, Some(true)) => Prefix::Always,
        _ => Prefix::First,
    })
}

/// A directory's configuration.
fn read_config(dir: &Path) -> Result<(ModelConfig, Config)> {
    let file = ModelConfig::read(dir)?;
    let config = Config::new(&file).map_err(|e| in_file(dir, e))?;
    Ok((file, config))
}

/// An error that does not know its file, with the file.
fn in_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Usage { problem } => mesp_formats::Error::Invalid { path: path.to_path_buf(), problem }.into(),
        other => other,
    }
}

/// The type with the most bytes.
fn most_bytes(tensors: impl Iterator<Item = (Dtype, usize)>) -> Dtype {
    let mut sums: Vec<(Dtype, usize)> = Vec::new();
    for (dtype, bytes) in tensors {
        match sums.iter_mut().find(|(d, _)| *d == dtype) {
            Some((_, sum)) => *sum += bytes,
            None => sums.push((dtype, bytes)),
        }
    }
    sums.into_iter().max_by_key(|(_, bytes)| *bytes).map_or(Dtype::F32, |(dtype, _)| dtype)
}

/// The kernels' name of the type that a file's type is held in; `F32` for one that is not read.
pub fn kernel_dtype(dtype: FileDtype) -> Dtype {
    match dtype.held() {
        Some(FileDtype::F16) => Dtype::F16,
        Some(FileDtype::BF16) => Dtype::Bf16,
        _ => Dtype::F32,
    }
}

/// The kernels' name of a GGUF type.
pub fn tensor_dtype(ty: TensorType) -> Dtype {
    match ty {
        TensorType::F32 => Dtype::F32,
        TensorType::F16 => Dtype::F16,
        TensorType::BF16 => Dtype::Bf16,
        TensorType::Q8_0 => Dtype::Q8_0,
        TensorType::Q4_0 => Dtype::Q4_0,
        TensorType::Q4_1 => Dtype::Q4_1,
        TensorType::Q5_0 => Dtype::Q5_0,
        TensorType::Q5_1 => Dtype::Q5_1,
        TensorType::Q4_K => Dtype::Q4_K,
        TensorType::Q5_K => Dtype::Q5_K,
        TensorType::Q6_K => Dtype::Q6_K,
    }
}

/// GGUF's name of a type.
pub(crate) fn tensor_type(dtype: Dtype) -> TensorType {
    TensorType::ALL.into_iter().find(|ty| tensor_dtype(*ty) == dtype).unwrap_or(TensorType::F32)
}

/// Values rounded to a stored type, little-endian.
pub fn encode(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}
