//! The files of a model directory that are no weights, for one that is made from it.

use std::io::Write;
use std::path::Path;

use mesp_formats::atomic::write_atomic;
use mesp_formats::{Dtype, Error as FileError};

use crate::Result;

/// Copies all of them.
pub(crate) fn beside(model: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(model).map_err(|e| FileError::io("list the folder", model, e))? {
        copy(&entry.map_err(|e| FileError::io("list the folder", model, e))?.path(), to)?;
    }
    Ok(())
}

/// Copies what is not weights: tokenizer, templates, settings. What tells of the base alone stays there.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let Some(name) = from.file_name() else { return Ok(()) };
    let text = name.to_string_lossy().to_lowercase();
    if from.is_dir() {
        if text == "additional_chat_templates" {
            let inner = to.join(name);
            mesp_formats::atomic::create_dir_all(&inner)?;
            beside(from, &inner)?;
        }
        return Ok(());
    }
    let weights = ["safetensors", "bin", "pt", "pth", "gguf", "onnx", "h5", "msgpack"];
    let ending =
        |end: &str| text.ends_with(&format!(".{end}")) || text.ends_with(&format!(".{end}.index.json"));
    if text.starts_with('.') || text == "readme.md" || weights.into_iter().any(ending) {
        return Ok(());
    }
    // Read and written, so that a link becomes a file and nothing is half there.
    let bytes = std::fs::read(from).map_err(|e| FileError::io("read", from, e))?;
    Ok(write_atomic(&to.join(name), |out| out.write_all(&bytes))?)
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
pub(crate) fn with_key(path: &Path, change: &dyn Fn(&mut serde_json::Value)) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|e| FileError::io("read", path, e))?;
    let damaged = |e: serde_json::Error| FileError::invalid(path, e.to_string());
    let mut json: serde_json::Value = serde_json::from_str(&text).map_err(damaged)?;
    change(&mut json);
    Ok(write_atomic(path, |out| writeln!(out, "{json:#}"))?)
}
