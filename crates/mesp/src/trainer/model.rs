//! An open model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp_device::Dtype;
use mesp_formats::hub::RepoKind;

use crate::arch::Config;
use crate::model::ModelWeights;
use crate::source::{Base, open_model};
use crate::{Result, hub};

/// A model: its weights, memory-mapped or in memory, and the path of its files. Clones share the weights.
#[derive(Debug, Clone)]
pub struct Model {
    weights: Arc<ModelWeights>,
    path: PathBuf,
    dtype: Dtype,
    end_tokens: Vec<u32>,
    notes: Vec<String>,
}

impl Model {
    /// Opens a Hugging Face directory, a GGUF file, or a repository in the local Hugging Face cache (`ORG/NAME`,
    /// `ORG/NAME@REVISION`), and memory-maps its weights in the type they are stored in. Uses no network.
    ///
    /// # Errors
    /// When there is no model at `path`, or its files are damaged or of an architecture that is not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let found = hub::find(RepoKind::Model, path, None)?;
        Self::open_as(&found.map_or_else(|| path.to_path_buf(), |(_, snapshot)| snapshot), Base::Mapped)
    }

    /// [`Model::open`] for a path, with the weights mapped or copied into memory in another type.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_as(path: &Path, base: Base) -> Result<Self> {
        hub::weights_are_there(path)?;
        let opened = open_model(path, base)?;
        let (dtype, end_tokens) = (opened.dtype, opened.file_config.eos_token_ids.clone());
        let (weights, notes) = opened.load_with_notes(path)?;
        Ok(Self { weights: Arc::new(weights), path: path.to_path_buf(), dtype, end_tokens, notes })
    }

    /// Sizes and architecture.
    pub fn config(&self) -> &Config {
        &self.weights.config
    }

    /// The weights, for the lower-level modules.
    pub fn weights(&self) -> &Arc<ModelWeights> {
        &self.weights
    }

    /// The model's directory or file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The type in which most of the weights' bytes are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The end-of-text tokens of the model's configuration.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Notes for the user about the files, such as tensors that the model does not use.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}
