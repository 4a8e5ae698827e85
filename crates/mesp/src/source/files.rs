//! The files of a model directory that are no weights, for one that is made from it: merged, or trained whole.

use std::io::Write;
use std::path::Path;

use mesp_formats::atomic::write_atomic;
use mesp_formats::{Dtype, Error as FileError, regular};

use crate::{ErrorKind, Result};

/// Files of a model that are neither weights nor about how it came to be: shape, generation, vocabulary, templates,
/// processors of inputs.
const NAMES: [&str; 22] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "tokenizer.model.v3",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "feature_extractor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "audio_processor_config.json",
];
/// A folder of further ones.
const TEMPLATES: &str = "additional_chat_templates";
/// How code begins that `auto_map` of `config.json` names.
const CODE: [&str; 6] =
    ["configuration_", "modeling_", "modular_", "tokenization_", "processing_", "image_processing_"];
/// How terms begin under which the model is passed on.
const TERMS: [&str; 6] = ["license", "licence", "notice", "copying", "use_policy", "acceptable_use_policy"];

/// Whether a name below a model's folder, parts with `/` between them, is that of one of these files.
pub fn is_small_file(name: &str) -> bool {
    let template = |rest: &str| rest.strip_suffix(".jinja").is_some_and(|name| !name.contains('/'));
    let inside = |name: &str| name.strip_prefix(TEMPLATES)?.strip_prefix('/').map(template);
    NAMES.contains(&name) || inside(name) == Some(true)
}

/// Whether a file belongs to a model that is made from one. A list of what does: a folder also holds what tells of the
/// base alone (its card), of a run, or an adapter, which transformers would put on the new model.
fn belongs(name: &str) -> bool {
    let lower = name.to_lowercase();
    let ends = |end: &str| lower.ends_with(end);
    is_small_file(name)
        || ends(".tiktoken")
        || (ends(".py") && CODE.iter().any(|start| lower.starts_with(start)))
        || TERMS.iter().any(|start| lower.starts_with(start))
}

/// Copies those that belong to a model.
pub(crate) fn beside(model: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(model).map_err(|e| FileError::io("list the folder", model, e))? {
        let path = entry.map_err(|e| FileError::io("list the folder", model, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !path.is_dir() {
            if belongs(&name) {
                copy(&path, to)?;
            }
        } else if name == TEMPLATES {
            let inner = to.join(&*name);
            mesp_formats::atomic::create_dir_all(&inner)?;
            for file in std::fs::read_dir(&path).map_err(|e| FileError::io("list the folder", &path, e))? {
                let file = file.map_err(|e| FileError::io("list the folder", &path, e))?.path();
                let inside = file.file_name().unwrap_or_default().to_string_lossy();
                if is_small_file(&format!("{TEMPLATES}/{inside}")) {
                    copy(&file, &inner)?;
                }
            }
        }
    }
    Ok(())
}

/// Copies a file.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let Some(name) = from.file_name() else { return Ok(()) };
    // Read and written, so that a link becomes a file and nothing is half there.
    let mut file = regular::open_within(from, regular::VOCABULARY_LIMIT)?;
    let to = to.join(name);
    Ok(write_atomic(&to, |out| std::io::copy(&mut file, out).map(|_| ()))?)
}

/// Puts a type into a configuration.
pub(crate) fn retype(path: &Path, dtype: Dtype) -> Result<()> {
    with_key(path, &|json| {
        let key = if json.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        json[key] = dtype.torch_name().into();
    })
}

/// Says that the head is not the embeddings.
pub(crate) fn untie(path: &Path) -> Result<()> {
    with_key(path, &|json| json["tie_word_embeddings"] = false.into())
}

/// Changes a configuration.
fn with_key(path: &Path, change: &dyn Fn(&mut serde_json::Value)) -> Result<()> {
    let text = regular::read_text(path, regular::CONFIG_LIMIT)?;
    let damaged = |e: serde_json::Error| FileError::invalid(path, ErrorKind::Malformed).what(e);
    let mut json: serde_json::Value = serde_json::from_str(&text).map_err(damaged)?;
    change(&mut json);
    Ok(write_atomic(path, |out| writeln!(out, "{json:#}"))?)
}
