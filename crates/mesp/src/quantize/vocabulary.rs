//! The vocabulary of a directory as metadata.

use std::path::Path;

use mesp_formats::gguf::{SpecialTokens, Value, tokenizer_metadata};
use mesp_formats::{Error as FileError, ModelConfig};
use serde_json::Value as Json;

use crate::Result;
use crate::source::text_encoder;

/// The tokenizer's keys. Without a tokenizer, or with one that GGUF cannot hold, the numbers of the tokens that
/// begin and end a text, and a note.
pub(super) fn metadata(
    dir: &Path,
    file: &ModelConfig,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, Value)>> {
    if let [_, _, ..] = file.eos_token_ids[..] {
        let all = &file.eos_token_ids;
        notes.push(format!("of the tokens that end a text, {all:?}, the file names one"));
    }
    let Some(encoder) = text_encoder(dir)? else {
        notes.push(
            "no tokenizer.json: the file has no vocabulary, so texts cannot be trained on with it".to_owned(),
        );
        return Ok(ends(file));
    };
    let path = dir.join("tokenizer.json");
    let text = std::fs::read_to_string(&path).map_err(|e| FileError::io("read", &path, e))?;
    let json: Json = serde_json::from_str(&text).map_err(|e| FileError::invalid(&path, e.to_string()))?;
    let special = SpecialTokens {
        bos: encoder.bos_id().or(file.bos_token_id),
        eos: encoder.eos_id().or(file.eos_token_ids.first().copied()),
        add_bos: Some(encoder.wants_bos()),
        chat_template: encoder.info().chat_template.clone(),
    };
    match tokenizer_metadata(&path, &json, file.vocab_size, &special) {
        Ok(metadata) => Ok(metadata),
        Err(error) => {
            notes.push(format!("the vocabulary is left out; keep tokenizer.json beside the file: {error}"));
            Ok(ends(file))
        }
    }
}

fn ends(file: &ModelConfig) -> Vec<(String, Value)> {
    [("bos_token_id", file.bos_token_id), ("eos_token_id", file.eos_token_ids.first().copied())]
        .into_iter()
        .filter_map(|(key, id)| Some((format!("tokenizer.ggml.{key}"), Value::U32(id?))))
        .collect()
}
