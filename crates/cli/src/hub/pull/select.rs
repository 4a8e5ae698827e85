//! Which files of a repository are fetched.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use mesp::source::is_small_file;
use mesp_formats::hub::RepoKind;
use mesp_formats::regular;
use serde_json::Value;

use super::client::{Listed, Listing};
use crate::failure::usage;
use crate::sizes::bytes;

pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Files of an adapter, its weights last.
const ADAPTER: [&str; 3] = ["adapter_config.json", ADAPTER_WEIGHTS[0], ADAPTER_WEIGHTS[1]];
const ADAPTER_WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapters.safetensors"];

/// Ends of files of rows; each may be compressed.
const ROWS: [&str; 8] = ["jsonl", "json", "csv", "tsv", "parquet", "txt", "text", "md"];
const COMPRESSED: [&str; 3] = ["gz", "zst", "xz"];

/// The files to fetch before all others are known; the index of weights, whose files come after it, among them.
pub(super) fn first(kind: RepoKind, id: &str, listing: &Listing, asked: &[String]) -> Result<Vec<Listed>> {
    let found = |name: &str| listing.files.iter().find(|file| file.name == name);
    if !asked.is_empty() {
        let one = |name: &String| {
            found(name).cloned().ok_or_else(|| {
                let problem = format!("{id}: expected the file {name}, found {}", names(&listing.files));
                usage(problem, "name one of them with --file")
            })
        };
        return asked.iter().map(one).collect();
    }
    if kind == RepoKind::Dataset {
        let rows: Vec<Listed> = listing.files.iter().filter(|file| is_rows(&file.name)).cloned().collect();
        if rows.is_empty() {
            let problem = format!("{id}: expected files of rows, found {}", names(&listing.files));
            return Err(usage(problem, "name a file with --file; a model needs no --dataset"));
        }
        return Ok(rows);
    }
    let wanted = |file: &&Listed| is_small_file(&file.name) || ADAPTER.contains(&file.name.as_str());
    let mut files: Vec<Listed> = listing.files.iter().filter(wanted).cloned().collect();
    let weights = found("model.safetensors").or_else(|| found(INDEX));
    files.extend(weights.cloned());
    let adapter = ADAPTER_WEIGHTS.into_iter().any(|name| found(name).is_some());
    if weights.is_none() && !adapter {
        return Err(without_weights(id, &listing.files));
    }
    Ok(files)
}

/// The files that an index of weights names.
pub(super) fn shards(id: &str, index: &Path, listing: &Listing) -> Result<Vec<Listed>> {
    let text = regular::read(index, regular::INDEX_LIMIT).ok();
    let read: Option<Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
    let map = read.as_ref().and_then(|index| index.get("weight_map")?.as_object());
    let map = map.ok_or_else(|| {
        usage(
            format!("{id}: {INDEX}: expected `weight_map`, found none"),
            "the repository is damaged: use another revision",
        )
    })?;
    let files: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let one = |name: &str| {
        listing.files.iter().find(|file| file.name == name).cloned().ok_or_else(|| {
            let problem = format!("{id}: {INDEX} names {name:?}, which the repository does not have");
            usage(problem, "the repository is damaged: use another revision")
        })
    };
    files.into_iter().map(one).collect()
}

fn is_rows(name: &str) -> bool {
    let has = |path: &Path, ends: &[&str]| {
        path.extension().is_some_and(|e| ends.iter().any(|end| e.eq_ignore_ascii_case(end)))
    };
    let path = Path::new(name);
    let stem = path.file_stem().map(Path::new).filter(|_| has(path, &COMPRESSED)).unwrap_or(path);
    let about = ["readme.md", "license.txt", "license.md", "dataset_infos.json", ".gitattributes"];
    let last = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    has(stem, &ROWS) && !about.contains(&last.as_str())
}

fn without_weights(id: &str, files: &[Listed]) -> anyhow::Error {
    let of = |end: &str| -> Vec<Listed> {
        files
            .iter()
            .filter(|file| Path::new(&file.name).extension().is_some_and(|e| e == end))
            .cloned()
            .collect()
    };
    let (ggufs, pickles) = (of("gguf"), of("bin"));
    if let Some(one) = ggufs.first() {
        let problem =
            format!("{id}: expected model.safetensors or {INDEX}, found GGUF files: {}", names(&ggufs));
        return usage(problem, format!("choose one, as in mesp pull {id} --file {}", one.name));
    }
    if !pickles.is_empty() {
        let problem = format!("{id}: expected weights as safetensors, found {}", names(&pickles));
        let hint = "Python's pickles can run programs and are not read: look for a conversion among the repository's pull \
                    requests (--revision refs/pr/N), or load and save the model in transformers";
        return usage(problem, hint);
    }
    usage(
        format!("{id}: expected model.safetensors, {INDEX} or an adapter, found {}", names(files)),
        "name files with --file; rows need --dataset",
    )
}

fn names(files: &[Listed]) -> String {
    let shown = |file: &Listed| {
        let size = file.size.map_or_else(String::new, |size| format!(" ({})", bytes(size)));
        format!("{}{size}", file.name)
    };
    match files {
        [] => "no file".to_owned(),
        _ if files.len() > 12 => {
            format!(
                "{} and {} more",
                files[..11].iter().map(shown).collect::<Vec<_>>().join(", "),
                files.len() - 11
            )
        }
        _ => files.iter().map(shown).collect::<Vec<_>>().join(", "),
    }
}
