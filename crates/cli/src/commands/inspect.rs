//! `mesp inspect`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use mesp::ErrorKind;
use mesp::source::{Base, HfSource};
use mesp::train::checkpoint as checkpoints;
use mesp_device::Mapping;
use mesp_formats::atomic::{StagedDir, leftovers_in, leftovers_of};
use mesp_formats::gguf;
use mesp_formats::lora::{Layout, Lora, Pair};
use mesp_formats::peft::CONFIG_FILE;
use mesp_formats::safetensors_file::{self, Header};
use mesp_formats::{Error as FileError, TokenizerConfig, regular};
use serde_json::{Map, Value, json};

use super::inspect_gguf;
use super::listed::listed;
use crate::args::InspectArgs;
use crate::failure::usage;
use crate::replaced::Replaced;
use crate::run_files::{self, CHECKPOINTS};
use crate::run_json::pattern;
use crate::sizes::{bytes, count};
use crate::{run_json, tokens, ui};

pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let path = &args.path;
    for name in [run_files::DOCUMENT, "state.json", CONFIG_FILE, "config.json"] {
        regular::refuse_other(&path.join(name))?;
    }
    let has = |name: &str| path.join(name).is_file();
    let (mut document, mut text) = if path.is_file() && is_gguf(path)? {
        if is_adapter(path)? { adapter(path)? } else { inspect_gguf::file(path)? }
    } else if path.is_file() {
        tensors(path)?
    } else if has(run_files::DOCUMENT) {
        finished_run(path)?
    } else if has("state.json") {
        checkpoint(path)?
    } else if has(CONFIG_FILE) {
        adapter(path)?
    } else if has("config.json") {
        model(path)?
    } else {
        let found = if path.exists() { "none of their files" } else { "nothing" };
        let found = regular::other_than_file(path).filter(|_| !path.is_dir()).unwrap_or(found);
        let mut problem = format!(
            "{}: expected a model, an adapter, a checkpoint, a run or a safetensors file, found {found}",
            path.display()
        );
        for left in left_over(path) {
            let _ = write!(problem, "\n  left over by a killed process: {}", left.display());
        }
        return Err(usage(problem, "check the path"));
    };
    let left = left_over(path);
    if !left.is_empty() {
        let _ =
            writeln!(text, "\nleft over by killed processes; the next command that writes there removes it");
        for path in &left {
            let _ = writeln!(text, "  {}", path.display());
        }
    }
    document["leftovers"] = left.iter().map(|path| path.display().to_string()).collect();
    if args.shared.json { ui::json(&document) } else { ui::print(&text) }
}

/// What processes that were killed have left of a file or a folder, beside it or in it.
fn left_over(path: &Path) -> Vec<PathBuf> {
    let mut left = leftovers_of(path);
    for folder in ["", CHECKPOINTS, tokens::FOLDER] {
        left.extend(leftovers_in(&path.join(folder)));
    }
    left.extend(Replaced::left_in(path));
    left.extend(
        [path.to_path_buf(), path.join(checkpoints::MODEL)]
            .iter()
            .filter_map(|path| StagedDir::previous(path)),
    );
    left
}

/// Whether a file begins as GGUF, or is called so.
fn is_gguf(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    regular::open(path)?.take(4).read_to_end(&mut start).map_err(|e| FileError::io("read", path, e))?;
    Ok(start == b"GGUF" || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")))
}

/// Whether a GGUF file is an adapter.
fn is_adapter(path: &Path) -> Result<bool> {
    let map = Mapping::open(path).map_err(|e| FileError::io("read", path, e))?;
    Ok(gguf::parse(path, map.bytes())?.str("general.type")? == Some("adapter"))
}

fn model(dir: &Path) -> Result<(Value, String)> {
    let (source, file, c) = HfSource::with_config(dir, Base::Mapped)?;
    let tokenizer = TokenizerConfig::read(dir)?;
    let tensors: Vec<_> = source.tensors().collect();
    let size: usize =
        tensors.iter().map(|(_, dtype, s)| s.iter().product::<usize>() * dtype.bits() / 8).sum();
    let mut types: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, dtype, _) in &tensors {
        *types.entry(dtype.name()).or_default() += 1;
    }
    let document = json!({
        "kind": "model",
        "arch": c.arch,
        "parameters": c.parameters(),
        "dtype": source.dtype().name(),
        "tensors": tensors.len(),
        "types": types,
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
        "tokenizer": dir.join("tokenizer.json").is_file(),
        "chat_template": tokenizer.chat_template.is_some(),
        "notes": Some(source.notes()).filter(|notes| !notes.is_empty()),
    });
    let text = listed(&document);
    Ok((document, text))
}

fn adapter(path: &Path) -> Result<(Value, String)> {
    let layout = Layout::of(path)?;
    let file = layout.tensors(path);
    let map = Mapping::open(&file).map_err(|e| FileError::io("read", &file, e))?;
    let Lora { config: c, pairs, .. } = Lora::read(path, layout, map.bytes())?;
    let numbers = |p: &Pair| (p.rank * (p.input + p.output) + usize::from(p.magnitudes) * p.output) as u64;
    let mut document = json!({
        "kind": "adapter",
        "layout": layout.name(),
        "rank": c.r,
        "alpha": c.lora_alpha,
        "rslora": c.use_rslora,
        "dora": c.use_dora,
        "scale": c.scale(),
        "target_modules": c.target_modules,
        "rank_pattern": pattern(&c.rank_pattern),
        "alpha_pattern": pattern(&c.alpha_pattern),
        "layers": c.layers,
        "parameters": pairs.iter().map(numbers).sum::<u64>(),
        "tensors": pairs.iter().map(|p| 2 + usize::from(p.magnitudes)).sum::<usize>(),
        "base_model": c.base_model,
    });
    if let Some(places) = c.places {
        document["places"] = json!(places.to_string());
    }
    let text = listed(&document);
    Ok((document, text))
}

fn checkpoint(dir: &Path) -> Result<(Value, String)> {
    let state = read_json(&dir.join("state.json"))?;
    let fixed = |part: &str| state["fixed"][part].as_object().cloned().unwrap_or_default();
    let mut settings = fixed("settings");
    let mut document =
        if settings.get("train").is_some_and(|what| what == "full") { json!({}) } else { adapter(dir)?.0 };
    settings.retain(|_, value| !value.is_null());
    settings.extend(fixed("identity"));
    if let Some(map) = document.as_object_mut() {
        map.insert("kind".to_owned(), json!("checkpoint"));
        map.insert("step".to_owned(), state["progress"]["step"].clone());
        map.insert("tokens".to_owned(), state["progress"]["tokens"].clone());
        map.insert("settings".to_owned(), settings.into());
        map.insert("made_with".to_owned(), state["made_with"].clone());
    }
    let mut brief = document.clone();
    let mut part = |name| brief.as_object_mut().and_then(|map| map.remove(name)).unwrap_or_default();
    let (settings, made_with) = (part("settings"), made_with(&part("made_with")));
    let mut text = format!("{}settings\n{}", listed(&brief), listed(&settings));
    if !made_with.is_null() {
        let _ = write!(text, "made with\n{}", listed(&made_with));
    }
    Ok((document, text))
}

/// What a checkpoint was made with, a line each: fingerprints with what has them, options with their values.
fn made_with(made: &Value) -> Value {
    let line = |(name, value): (&String, &Value)| {
        let shown = match value {
            Value::Object(mark) => {
                json!(format!("{} ({})", mark["print"].as_str()?, mark["of"].as_str()?))
            }
            Value::Array(options) => {
                let option = |o: &Value| Some(format!("{} {}", o[0].as_str()?, o[1].as_str()?));
                options.iter().filter_map(option).collect::<Vec<_>>().join(", ").into()
            }
            other => other.clone(),
        };
        Some((name.clone(), shown))
    };
    made.as_object().map_or(Value::Null, |map| map.iter().filter_map(line).collect::<Map<_, _>>().into())
}

fn finished_run(dir: &Path) -> Result<(Value, String)> {
    let run = read_json(&dir.join(run_files::DOCUMENT))?;
    // All weights were trained where there is none.
    let adapter = if run["full"].is_null() { adapter(dir)?.0 } else { Value::Null };
    let brief = json!({
        "kind": "run",
        "status": run["status"],
        "model": run["model"]["path"],
        "weights": run["model"]["fingerprint"]["weights"],
        "arch": run["model"]["arch"],
        "method": run["method"],
        "steps": run["steps"],
        "first_loss": run["loss"]["first"],
        "last_loss": run["loss"]["last"],
        "eval_before": run["loss"]["eval_before"],
        "eval_after": run["loss"]["eval_after"],
        "seconds": run["seconds"]["total"],
        "planned_bytes": run["memory"]["planned_bytes"],
        "heap_peak_bytes": run["memory"]["heap_peak_bytes"],
        "rank": adapter["rank"],
        "target_modules": adapter["target_modules"],
    });
    let text = listed(&brief);
    Ok((json!({ "kind": "run", "run": run, "adapter": adapter }), text))
}

fn tensors(path: &Path) -> Result<(Value, String)> {
    let header = header(path)?;
    let list: Vec<Value> = header
        .tensors
        .iter()
        .map(|t| json!({ "name": t.name, "dtype": t.dtype.name(), "shape": t.shape, "bytes": t.range.len() }))
        .collect();
    let rows: Vec<Vec<String>> = header
        .tensors
        .iter()
        .map(|t| {
            vec![
                t.name.clone(),
                t.dtype.name().to_owned(),
                format!("{:?}", t.shape),
                bytes(t.range.len() as u64),
            ]
        })
        .collect();
    let mut text = ui::table(&rows);
    let _ = writeln!(text, "{} tensors, {} parameters", rows.len(), count(parameters(&header)));
    for (key, value) in &header.metadata {
        let _ = writeln!(text, "  {key}: {value}");
    }
    let document = json!({
        "kind": "safetensors",
        "parameters": parameters(&header),
        "tensors": list,
        "skipped": header.tensors.iter().filter(|t| t.dtype.held().is_none()).map(|t| &t.name).collect::<Vec<_>>(),
        "metadata": header.metadata,
    });
    Ok((document, text))
}

fn parameters(header: &Header) -> u64 {
    header.tensors.iter().map(|t| t.shape.iter().product::<usize>() as u64).sum()
}

fn header(path: &Path) -> Result<Header> {
    let map = Mapping::open(path).map_err(|e| FileError::io("read", path, e))?;
    Ok(safetensors_file::parse(path, map.bytes())?)
}

fn read_json(path: &Path) -> Result<Value> {
    let text = regular::read(path, run_json::LIMIT)?;
    let value = serde_json::from_slice(&text)
        .map_err(|e| FileError::invalid(path, ErrorKind::Malformed).what(format!("expected JSON: {e}")))?;
    Ok(value)
}
