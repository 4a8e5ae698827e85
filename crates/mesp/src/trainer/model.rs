//! A model that is open.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp_device::Dtype;
use mesp_formats::hub::{RepoKind, RepoName, cache};

use crate::arch::Config;
use crate::data::TextEncoder;
use crate::model::ModelWeights;
use crate::source::{Base, open_model, text_encoder};
use crate::{Error, Result};

/// A model: its weights, mapped or in memory, and where its files are. Copies share the weights.
#[derive(Debug, Clone)]
pub struct Model {
    weights: Arc<ModelWeights>,
    path: PathBuf,
    dtype: Dtype,
    end_tokens: Vec<u32>,
    notes: Vec<String>,
}

impl Model {
    /// Maps a model's weights: of a Hugging Face directory, a GGUF file, or a repository (`ORG/NAME`, `ORG/NAME@REVISION`)
    /// in the local Hugging Face cache.
    ///
    /// # Errors
    /// When there is none, or it is damaged or of an architecture that is not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_as(&found(path.as_ref())?, Base::Mapped)
    }

    /// The same, with weights held in another way.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_as(path: &Path, base: Base) -> Result<Self> {
        let opened = open_model(path, base)?;
        let (dtype, end_tokens) = (opened.dtype, opened.file_config.eos_token_ids.clone());
        let (weights, notes) = opened.load_with_notes(path)?;
        Ok(Self { weights: Arc::new(weights), path: path.to_path_buf(), dtype, end_tokens, notes })
    }

    /// Shape and family.
    pub fn config(&self) -> &Config {
        &self.weights.config
    }

    /// The weights, as the engine has them.
    pub fn weights(&self) -> &Arc<ModelWeights> {
        &self.weights
    }

    /// The directory or file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The type that most of the weights' bytes are stored in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The tokens that end a text, by the model's configuration.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// What is worth knowing of the files, such as tensors that the model does not use.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Reads the tokenizer, if there is one. It may take more memory than training; it is not kept.
    ///
    /// # Errors
    /// When it is damaged or of a kind that is not supported.
    pub fn tokenizer(&self) -> Result<Option<TextEncoder>> {
        text_encoder(&self.path)
    }
}

/// The path itself, or the snapshot of a repository in the cache.
fn found(path: &Path) -> Result<PathBuf> {
    let name = path.to_str().filter(|_| !path.exists()).and_then(RepoName::parse);
    let Some((name, cache)) = name.filter(|name| name.id.contains('/')).zip(cache()) else {
        return Ok(path.to_path_buf());
    };
    let revision = name.revision.as_deref();
    let snapshot = cache.snapshot(RepoKind::Model, &name.id, revision).map_err(|_| {
        let problem = format!("{name}: neither a path nor a model in the Hugging Face cache");
        Error::usage(problem).hint(format!("fetch it with `mesp pull {name}`, or give the path of a model"))
    })?;
    Ok(name.inside.map_or(snapshot.clone(), |inside| snapshot.join(inside)))
}
