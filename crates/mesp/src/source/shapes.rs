//! Shapes and types of weights without their values: enough to plan.

use std::path::Path;

use mesp_device::{Dtype, Weight};
use mesp_formats::ModelConfig;

use super::{Base, GgufSource, HfSource, Kind, kernel_dtype, read_config};
use crate::arch::Config;
use crate::model::{ShapeSource, WeightSource};
use crate::{Error, Result};

/// The headers of a model's files: each weight with its own type, none with values.
pub struct HeaderSource {
    /// The engine's view of the shape.
    pub config: Config,
    /// The shape as the files have it.
    pub file_config: ModelConfig,
    /// What the path named.
    pub kind: Kind,
    /// The type that most of the weights' bytes are stored in.
    pub dtype: Dtype,
    /// What is worth knowing of the files.
    pub notes: Vec<String>,
    weights: Box<dyn WeightSource + Send + Sync>,
}

/// A directory or a GGUF file as a source of shapes: reads headers and norms, and no matrix. A directory without
/// weight files is enough; its weights have the type that `config.json` names.
///
/// # Errors
/// When it is not a model, is damaged, or of an architecture that is not supported.
pub fn shape_source(path: &Path) -> Result<HeaderSource> {
    let kind = Kind::of(path);
    if kind == Kind::Gguf {
        let source = GgufSource::open(path, Base::Mapped)?;
        let (config, file_config, dtype) = (source.model_config()?, source.config().clone(), source.dtype());
        let notes = Vec::new();
        return Ok(HeaderSource { config, file_config, kind, dtype, notes, weights: Box::new(source) });
    }
    let weights =
        ["model.safetensors", "model.safetensors.index.json"].iter().any(|f| path.join(f).is_file());
    if weights || !path.join("config.json").is_file() {
        // Says what is there instead of a model.
        let (source, file_config, config) = HfSource::with_config(path, Base::Mapped)?;
        let (dtype, notes) = (source.dtype(), source.notes().to_vec());
        let weights = Box::new(source.without_values());
        return Ok(HeaderSource { config, file_config, kind, dtype, notes, weights });
    }
    let (file_config, config) = read_config(path)?;
    let dtype = file_config.dtype.map_or(Dtype::Bf16, kernel_dtype);
    let notes = Vec::new();
    Ok(HeaderSource { config, file_config, kind, dtype, notes, weights: Box::new(ShapeSource(dtype)) })
}

impl WeightSource for HeaderSource {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>> {
        let weight = self.weights.matrix(name, rows, cols)?;
        let held = |w: &Weight| w.resident_bytes() > 0;
        Ok(weight.map(|w| {
            let shape = if held(&w) { Weight::shape_held } else { Weight::shape_only };
            shape(w.dtype(), rows, cols)
        }))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        self.weights.vector(name, len)
    }

    fn missing(&self, name: &str) -> Error {
        self.weights.missing(name)
    }
}
