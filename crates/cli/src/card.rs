//! The model card of a run: `README.md` beside the adapter, with what it was made from, how, and what came of it.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use mesp_formats::atomic::write_atomic;
use serde_json::Value;

/// The file's name in a run directory.
pub(crate) const FILE: &str = "README.md";
/// The line by which a card of ours is known: another's text is not replaced.
const MARK: &str = "<!-- written by mesp train; a file without this line is left as it is -->";

/// Writes the card of a finished run from its `run.json`.
pub(crate) fn write(dir: &Path, run: &Value, data: &Path, rows: usize) -> Result<()> {
    let path = dir.join(FILE);
    if path.exists() && !std::fs::read_to_string(&path).unwrap_or_default().contains(MARK) {
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
    let base = word("/model/path");
    let quoted = Value::from(base.as_str());
    let mut out = format!(
        "---\nbase_model: {quoted}\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n- mesp\n---\n\n{MARK}\n\n"
    );
    let _ = writeln!(
        out,
        "# LoRA adapter for {base}\n\n\
         A low-rank adapter for a {} model of {} parameters, its weights stored as {}. It works on that model only.\n\n\
         ## Data\n\n\
         `{}`: {rows} rows; {} tokens were read in training, {} of them targets.\n\n\
         ## Method\n",
        word("/model/arch"),
        word("/model/parameters"),
        word("/model/stored"),
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
    let rows = [
        ("modules", word("/adapter/targets")),
        ("rank, alpha", format!("{}, {}{scale}", word("/adapter/rank"), word("/adapter/alpha"))),
        ("trained parameters", word("/adapter/parameters")),
        ("gradients", format!("{}, computed in {}", method, word("/compute"))),
        ("optimizer, learning rate", format!("{}, {}", word("/optimizer"), word("/learning_rate"))),
        ("rows a step", format!("{} × {}", word("/batch_size"), word("/grad_accum"))),
        ("steps, seed", format!("{}, {}", word("/steps"), word("/seed"))),
    ];
    out.push_str("| | |\n|---|---|\n");
    for (name, value) in rows {
        let _ = writeln!(out, "| {name} | {value} |");
    }
    let loss = |name: &str| run.pointer(&format!("/loss/{name}")).and_then(Value::as_f64);
    let shown = |x: Option<f64>| x.map_or_else(|| "not measured".to_owned(), |x| format!("{x:.4}"));
    let mb = |name: &str| {
        let bytes = run.pointer(&format!("/memory/{name}")).and_then(Value::as_u64);
        bytes.map_or_else(|| "not measured".to_owned(), crate::sizes::bytes)
    };
    let _ = writeln!(
        out,
        "\n## Figures\n\n\
         Losses are means over target tokens, in nats.\n\n\
         | | first | last |\n|---|---|---|\n\
         | loss in training | {} | {} |\n\
         | held-out loss, before and after | {} | {} |\n\n\
         Peak memory: {} planned, {} of heap, {} of anonymous memory.\n",
        shown(loss("first")),
        shown(loss("last")),
        shown(loss("eval_before")),
        shown(loss("eval_after")),
        mb("planned_bytes"),
        mb("heap_peak_bytes"),
        mb("rss_anon_peak_bytes"),
    );
    let _ = writeln!(
        out,
        "## Use\n\n\
         ```sh\n\
         mesp generate --model BASE --adapter ADAPTER --prompt TEXT\n\
         mesp merge --model BASE --adapter ADAPTER --output MERGED\n\
         mesp export --adapter ADAPTER --model BASE --output adapter.gguf    # for llama.cpp\n\
         mesp export --adapter ADAPTER --to mlx --output DIR                 # for mlx-lm\n\
         ```\n\n\
         ```python\n\
         from peft import AutoPeftModelForCausalLM\n\
         model = AutoPeftModelForCausalLM.from_pretrained(\"ADAPTER\")\n\
         ```"
    );
    out
}
