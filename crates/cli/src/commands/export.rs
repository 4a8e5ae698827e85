//! `mesp export`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mesp::export::export;
use mesp_formats::AdapterConfig;
use mesp_formats::lora::Layout;
use serde_json::json;

use crate::args::{ExportArgs, LayoutArg};
use crate::inputs::{self, usage};
use crate::outputs::{self, Inputs};
use crate::sizes::count;
use crate::ui;

pub(crate) fn run(args: &ExportArgs) -> Result<()> {
    let output = &args.output;
    let file = output.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let to = match args.to {
        Some(LayoutArg::Peft) => Layout::Peft,
        Some(LayoutArg::Gguf) => Layout::Gguf,
        Some(LayoutArg::Mlx) => Layout::Mlx,
        None if file => Layout::Gguf,
        None => {
            let problem = format!("{}: a directory can be PEFT's or mlx-lm's", output.display());
            return Err(usage(problem, "give --to peft or --to mlx"));
        }
    };
    if file != (to == Layout::Gguf) {
        let expected = if file { "the name of a folder" } else { "a name that ends in .gguf" };
        let problem = format!("{}: expected {expected} for {}", output.display(), to.name());
        return Err(usage(problem, "name another --output, or another layout with --to"));
    }
    let model = args.model.clone().or_else(|| named(&args.adapter));
    let read = Inputs::default().model(model.as_deref()).adapter("--adapter", args.adapter.as_path());
    if file {
        outputs::file(output, &read, args.replace.overwrite)?;
    } else {
        outputs::folder(output, &read, args.replace.overwrite)?;
    }
    let pool = inputs::conversion_pool(args.shared.threads)?;
    let report = pool.install(|| export(&args.adapter, to, model.as_deref(), output))?;
    for note in &report.notes {
        ui::note(note);
    }
    let shown = output.display().to_string();
    if args.shared.json {
        return ui::json(&json!({
            "output": shown,
            "from": report.from.name(),
            "to": to.name(),
            "matrices": report.pairs,
            "parameters": report.parameters,
            "notes": report.notes,
        }));
    }
    ui::print(&format!(
        "{shown}: {} to {}, adapters of {} matrices, {} parameters\n",
        report.from.name(),
        to.name(),
        report.pairs,
        count(report.parameters)
    ))
}

/// The model that a PEFT adapter names, where that is here.
fn named(adapter: &Path) -> Option<PathBuf> {
    let path = PathBuf::from(AdapterConfig::read(adapter).ok()?.base_model?);
    (path.join("config.json").is_file() || path.is_file()).then_some(path)
}
