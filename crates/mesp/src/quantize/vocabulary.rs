//! The vocabulary of a directory as metadata.

use std::path::Path;

use mesp_formats::gguf::{ADD_BOS, CHAT_TEMPLATE, MOST_ENDS, SpecialTokens, Value, tokenizer_metadata};
use mesp_formats::{Error as FileError, ModelConfig, regular};
use serde_json::Value as Json;

use crate::data::{TOKENIZER_JSON as JSON, TextEncoder};
use crate::source::text_encoder;
use crate::{ErrorKind, Result};

/// The largest `tokenizer.json` that is written as it is: whoever opens the file reads all of it.
const MOST_JSON: usize = 4 << 20;

/// The tokenizer's keys, or where llama.cpp's cannot say it, its text. Without a tokenizer, or with a large one of
/// such, the numbers of the tokens that begin and end a text, and a note.
pub(super) fn metadata(
    dir: &Path,
    file: &ModelConfig,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, Value)>> {
    let Some(encoder) = text_encoder(dir)? else {
        notes.push(
            "no tokenizer.json: the file has no vocabulary, so texts cannot be trained on with it".to_owned(),
        );
        return Ok(numbers(&special(file, None, notes)));
    };
    let path = dir.join("tokenizer.json");
    let text = regular::read_text(&path, regular::VOCABULARY_LIMIT)?;
    let json: Json =
        serde_json::from_str(&text).map_err(|e| FileError::invalid(&path, ErrorKind::Malformed).what(e))?;
    let special = special(file, Some(&encoder), notes);
    match tokenizer_metadata(&path, &json, file.vocab_size, &special) {
        Ok(metadata) => Ok(metadata),
        Err(error) if text.len() > MOST_JSON => {
            notes.push(format!("the vocabulary is left out; keep tokenizer.json beside the file: {error}"));
            Ok(numbers(&special))
        }
        Err(error) => {
            notes.push(format!(
                "the vocabulary is written as the text of tokenizer.json, which mesp reads and llama.cpp does not: {error}"
            ));
            let mut metadata = numbers(&special);
            metadata.push((JSON.to_owned(), text.as_str().into()));
            metadata.extend(special.add_bos.map(|add| (ADD_BOS.to_owned(), Value::Bool(add))));
            metadata
                .extend(special.chat_template.map(|text| (CHAT_TEMPLATE.to_owned(), text.as_str().into())));
            Ok(metadata)
        }
    }
}

/// The tokens that begin and end a text, the tokenizer's own first.
fn special(file: &ModelConfig, encoder: Option<&TextEncoder>, notes: &mut Vec<String>) -> SpecialTokens {
    let mut ends: Vec<u32> = Vec::new();
    for id in encoder.and_then(TextEncoder::eos_id).into_iter().chain(file.eos_token_ids.iter().copied()) {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    if let Some(left_out) = ends.get(MOST_ENDS..).filter(|ids| !ids.is_empty()) {
        notes.push(format!(
            "a file names {MOST_ENDS} tokens that end a text, {:?}; those left out are {left_out:?}",
            &ends[..MOST_ENDS]
        ));
    }
    SpecialTokens {
        bos: encoder.and_then(TextEncoder::bos_id).or(file.bos_token_id),
        ends,
        add_bos: encoder.map(TextEncoder::wants_bos),
        chat_template: encoder.and_then(|e| e.info().chat_template.clone()),
    }
}

fn numbers(special: &SpecialTokens) -> Vec<(String, Value)> {
    special.ids().into_iter().map(|(key, id)| (key, Value::U32(id))).collect()
}
