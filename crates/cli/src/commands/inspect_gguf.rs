//! `mesp inspect` of a GGUF file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use mesp::source::{Base, GgufSource};
use mesp_formats::gguf::Value as Metadata;
use serde_json::{Value, json};

use super::listed::listed;
use crate::sizes::bytes;
use crate::ui;

/// Texts of metadata are cut to so many characters.
const SHOWN: usize = 60;

pub(super) fn file(path: &Path) -> Result<(Value, String)> {
    let source = GgufSource::open(path, Base::Mapped)?;
    let (c, file, header) = (source.model_config()?, source.config(), source.header());
    let mut types: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for t in &header.tensors {
        let of = types.entry(t.ty.name()).or_default();
        *of = (of.0 + 1, of.1 + t.range.len());
    }
    let size: usize = header.tensors.iter().map(|t| t.range.len()).sum();
    // Of the specification's other key the whole tokenizer.json is the value.
    let whole = header.value("tokenizer.huggingface.json").map(|_| "tokenizer.json");
    let tokenizer = header.str("tokenizer.ggml.model")?.or(whole);
    let document = json!({
        "kind": "gguf",
        "version": header.version,
        "arch": c.arch,
        "parameters": c.parameters(),
        "dtype": source.dtype().name(),
        "tensors": header.tensors.len(),
        "weight_bytes": size,
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "layers": c.layers,
        "heads": c.heads,
        "kv_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "max_positions": c.max_positions,
        "tied": c.tied,
        "eos_token_ids": file.eos_token_ids,
        "tokenizer": tokenizer,
        "chat_template": header.value("tokenizer.chat_template").is_some(),
    });
    let mut text = listed(&document);
    text += "types\n";
    let row = |(ty, (n, size)): (&&str, &(usize, usize))| {
        vec![ty.to_lowercase(), format!("{n} tensors"), bytes(*size as u64)]
    };
    text += &ui::table(&types.iter().map(row).collect::<Vec<_>>());
    text += "metadata\n";
    for (key, value) in &header.metadata {
        let _ = writeln!(text, "  {key}: {}", brief(value));
    }
    let mut document = document;
    document["types"] = types
        .iter()
        .map(|(ty, (n, size))| json!({ "type": ty.to_lowercase(), "tensors": n, "bytes": size }))
        .collect();
    document["metadata"] =
        header.metadata.iter().map(|(key, value)| (key.clone(), Value::String(brief(value)))).collect();
    Ok((document, text))
}

/// A value in a line.
fn brief(value: &Metadata) -> String {
    let text = match (value.as_str(), value.as_array(), value.as_f64()) {
        (Some(text), ..) => text.replace('\n', "\\n"),
        (_, Some(array), _) => format!("{} values", array.len),
        (.., Some(number)) => number.to_string(),
        _ => value.describe(),
    };
    if text.chars().count() <= SHOWN {
        return text;
    }
    text.chars().take(SHOWN).chain("...".chars()).collect()
}
