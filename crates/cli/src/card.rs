//! The model card of a run: `README.md` beside the adapter, with what it was made from, how, and what came of it.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use mesp_formats::atomic::write_atomic;
use mesp_formats::regular;
use serde_json::Value;

/// The file's name in a run directory.
pub(crate) const FILE: &str = "README.md";
/// The line by which a card of ours is known: another's text is not replaced.
const MARK: &str = "<!-- written by mesp train; a file without this line is left as it is -->";

/// Writes the card of a finished run from its `run.json`.
pub(crate) fn write(dir: &Path, run: &Value, data: &Path, rows: usize) -> Result<()> {
    let path = dir.join(FILE);
    let card = || regular::read_text(&path, regular::CONFIG_LIMIT).unwrap_or_default();
    if path.exists() && !card().contains(MARK) {
        return Ok(());
    }
    let text = text(run, data, rows);
    Ok(write_atomic(&path, |out| std::io::Write::write_all(out, text.as_bytes()))?)
}

fn text(run: &Value, data: &Path, rows: usize) -> String {
    let word = |pointer: &str| match run.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        Some(Value::Null) | None => "none".to_owned(),
        Some(other) => other.to_string(),
    };
    let path = word("/model/path");
    let hub = hub_id(&path);
    let base = hub.clone().unwrap_or_else(|| last_name(&path));
    let named = hub.map_or_else(String::new, |id| format!("base_model: {}\n", Value::from(id)));
    let full = run.pointer("/full/type").and_then(Value::as_str);
    let (library, tag, title, what) = match full {
        Some(_) => (
            "transformers",
            "mesp",
            format!("Fine-tune of {base}"),
            "A {arch} model of {n} parameters, all of them trained from weights that were stored as {stored}. It lies \
             in the folder `model`.",
        ),
        None => (
            "peft",
            "lora\n- mesp",
            format!("LoRA adapter for {base}"),
            "A low-rank adapter for a {arch} model of {n} parameters, its weights stored as {stored}. It works on \
             that model only.",
        ),
    };
    let what = [("{arch}", "/model/arch"), ("{n}", "/model/parameters"), ("{stored}", "/model/stored")]
        .into_iter()
        .fold(what.to_owned(), |text, (name, pointer)| text.replace(name, &word(pointer)));
    let mut out = format!(
        "---\n{named}library_name: {library}\npipeline_tag: text-generation\ntags:\n- {tag}\n---\n\n{MARK}\n\n"
    );
    let _ = writeln!(
        out,
        "# {title}\n\n\
         {what}\n\n\
         ## Data\n\n\
         `{}`: {rows} rows; {} tokens were read in training, {} of them targets.\n\n\
         ## Method\n",
        data.file_name().unwrap_or(data.as_os_str()).to_string_lossy(),
        word("/tokens"),
        word("/target_tokens"),
    );
    let is = |pointer: &str| word(pointer) == "true";
    let kind =
        [("/adapter/rslora", " (rsLoRA)"), ("/adapter/dora", " (DoRA)"), ("/adapter/freeze_a", ", A frozen")];
    let scale: String = kind.into_iter().filter(|(pointer, _)| is(pointer)).map(|(_, name)| name).collect();
    let method = match run.pointer("/estimator/surrogate").and_then(Value::as_str) {
        Some(surrogate) => format!("{}, {surrogate}", word("/method")),
        None => word("/method"),
    };
    let trained = match full {
        Some(held) => vec![("trained parameters", format!("{}, held in {held}", word("/model/parameters")))],
        None => vec![
            ("modules", word("/adapter/targets")),
            ("rank, alpha", format!("{}, {}{scale}", word("/adapter/rank"), word("/adapter/alpha"))),
            ("trained parameters", word("/adapter/parameters")),
        ],
    };
    let objective = preference(run);
    let rows = [
        ("gradients", format!("{}, computed in {}", method, word("/compute"))),
        ("optimizer, learning rate", format!("{}, {}", word("/optimizer"), word("/learning_rate"))),
        ("rows a step", format!("{} × {}", word("/batch_size"), word("/grad_accum"))),
        ("steps, seed", format!("{}, {}", word("/steps"), word("/seed"))),
    ];
    out.push_str("| | |\n|---|---|\n");
    for (name, value) in trained.into_iter().chain(objective).chain(rows) {
        let _ = writeln!(out, "| {name} | {value} |");
    }
    let loss = |name: &str| run.pointer(&format!("/loss/{name}")).and_then(Value::as_f64);
    let shown = |x: Option<f64>| x.map_or_else(|| "not measured".to_owned(), |x| format!("{x:.4}"));
    let mb = |name: &str| {
        let bytes = run.pointer(&format!("/memory/{name}")).and_then(Value::as_u64);
        bytes.map_or_else(|| "not measured".to_owned(), crate::sizes::bytes)
    };
    let over = if run["preference"].is_object() { "pairs or completions" } else { "target tokens, in nats" };
    let _ =
        writeln!(out, "\n## Figures\n\nLosses are means over {over}.\n\n| | first | last |\n|---|---|---|");
    let _ = writeln!(out, "| loss in training | {} | {} |", shown(loss("first")), shown(loss("last")));
    let [before, after] = ["eval_before", "eval_after"].map(|name| shown(loss(name)));
    let _ = writeln!(out, "| held-out loss, before and after | {before} | {after} |");
    for (name, key) in [("margin of rewards", "margins"), ("better completion ahead, share", "accuracies")] {
        let at = |when: &str| run.pointer(&format!("/rewards/{when}/rewards~1{key}")).and_then(Value::as_f64);
        if let (Some(before), Some(after)) = (at("before"), at("after")) {
            let _ = writeln!(out, "| held-out: {name}, before and after | {before:.4} | {after:.4} |");
        }
    }
    let [planned, heap, anonymous] = ["planned_bytes", "heap_peak_bytes", "rss_anon_peak_bytes"].map(mb);
    let _ =
        writeln!(out, "\nPeak memory: {planned} planned, {heap} of heap, {anonymous} of anonymous memory.\n");
    let use_of = if full.is_some() { USE_MODEL } else { USE_ADAPTER };
    let _ = writeln!(out, "## Use\n\n{use_of}");
    out
}

/// The row of a preference loss: its name, its numbers, its reference.
fn preference(run: &Value) -> Option<(&'static str, String)> {
    let all = run["preference"].as_object()?;
    let names =
        [("beta", "β"), ("simpo_gamma", "γ"), ("label_smoothing", "label smoothing"), ("rpo_alpha", "α")];
    let numbers = names.iter().filter_map(|(name, label)| Some(format!("{label} {}", all.get(*name)?)));
    // A path of this machine says nothing to others.
    let reference = match all["reference"].as_str()? {
        known @ ("base" | "start" | "none") => known.to_owned(),
        path => format!("adapter {}", last_name(path)),
    };
    let numbers = numbers.collect::<Vec<_>>().join(", ");
    Some(("preference loss", format!("{}, {numbers}; reference {reference}", all["loss_type"].as_str()?)))
}

/// The name of a model on the hub, where that is what a run was given, or where it lies in the hub's cache. A card is
/// read by others, to whom a path of this machine says nothing.
fn hub_id(path: &str) -> Option<String> {
    let word = |s: &str| {
        let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !s.is_empty() && !s.starts_with(['.', '-']) && s.chars().all(sound)
    };
    let cached = |part: &str| {
        let (owner, name) = part.strip_prefix("models--")?.split_once("--")?;
        (word(owner) && word(name)).then(|| format!("{owner}/{name}"))
    };
    if let Some(id) = path.split(['/', '\\']).find_map(cached) {
        return Some(id);
    }
    let (owner, name) = path.split_once('/')?;
    // What is there is a folder of this machine, whatever it is called.
    (word(owner) && word(name) && !Path::new(path).exists()).then(|| path.to_owned())
}

/// The last name of a path.
fn last_name(path: &str) -> String {
    let full = Path::new(path).canonicalize().unwrap_or_else(|_| path.into());
    full.file_name().map_or_else(|| "a local model".to_owned(), |name| name.to_string_lossy().into_owned())
}

const USE_ADAPTER: &str = "\
```sh
mesp generate --model BASE --adapter ADAPTER --prompt TEXT
mesp merge --model BASE --adapter ADAPTER --output MERGED
mesp export --adapter ADAPTER --model BASE --output adapter.gguf    # for llama.cpp
mesp export --adapter ADAPTER --to mlx --output DIR                 # for mlx-lm
mesp export --adapter ADAPTER --model BASE --to ollama --output DIR # for Ollama
```

```python
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(\"ADAPTER\")
```";

const USE_MODEL: &str = "\
```sh
mesp generate --model MODEL --prompt TEXT
mesp quantize --model MODEL --output model.gguf    # for llama.cpp
```

```python
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(\"MODEL\")
```";

#[cfg(test)]
mod tests {
    use super::*;

    /// Names as the hub has them: an owner and a name of letters, digits, `-`, `_` and `.`; folders of its cache as
    /// `huggingface_hub` calls them.
    #[test]
    fn only_a_name_of_the_hub_is_a_base_model() {
        let here = tempfile::tempdir().expect("a folder");
        let local = here.path().join("org/name");
        std::fs::create_dir_all(&local).expect("a folder");
        assert_eq!(hub_id("Qwen/Qwen2.5-0.5B-Instruct").as_deref(), Some("Qwen/Qwen2.5-0.5B-Instruct"));
        let cached = "/home/u/.cache/huggingface/hub/models--Qwen--Qwen2.5-0.5B/snapshots/0a1b";
        assert_eq!(hub_id(cached).as_deref(), Some("Qwen/Qwen2.5-0.5B"));
        for path in [
            &*local.to_string_lossy(),
            "/home/u/models/llama",
            "./org/name",
            "../name",
            "~/name",
            "model",
            "a/b/c",
            "C:\\models\\x",
            "src/card.rs",
        ] {
            assert_eq!(hub_id(path), None, "{path}");
        }
        assert_eq!(last_name(&local.to_string_lossy()), "name");
        assert_eq!(last_name("/home/u/models/llama"), "llama");
    }
}
