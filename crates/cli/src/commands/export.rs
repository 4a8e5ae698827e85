//! `mesp export`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mesp::export::{Contents, MODELFILE, Report, export, export_ollama};
use mesp_console::names::told;
use mesp_formats::AdapterConfig;
use mesp_formats::hub::RepoKind;
use mesp_formats::lora::Layout;
use rayon::ThreadPool;
use serde_json::json;

use crate::args::{ExportArgs, FileType, LayoutArg};
use crate::failure::usage;
use crate::inputs;
use crate::outputs::{self, Inputs};
use crate::progress::Counter;
use crate::sizes::count;
use crate::{made_with, ui};

pub(crate) fn run(args: &ExportArgs) -> Result<()> {
    let output = &args.output;
    let file = output.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    // None is Ollama's folder, which is no layout of adapters.
    let to = match args.to {
        Some(LayoutArg::Peft) => Some(Layout::Peft),
        Some(LayoutArg::Gguf) => Some(Layout::Gguf),
        Some(LayoutArg::Mlx) => Some(Layout::Mlx),
        Some(LayoutArg::Ollama) => None,
        None if file => Some(Layout::Gguf),
        None => {
            let problem = format!("{}: a directory can be PEFT's, mlx-lm's or Ollama's", output.display());
            return Err(usage(problem, "give --to peft, --to mlx or --to ollama"));
        }
    };
    let name = to.map_or("ollama", Layout::name);
    if file != (to == Some(Layout::Gguf)) {
        let expected = if file { "the name of a folder" } else { "a name that ends in .gguf" };
        let problem = format!("{}: expected {expected} for {name}", output.display());
        return Err(usage(problem, "name another --output, or another layout with --to"));
    }
    if to.is_some() && (args.ty.is_some() || args.unmerged) {
        let option = if args.unmerged { "--unmerged" } else { "--type" };
        return Err(usage(format!("{option} is for --to ollama, found --to {name}"), "leave it out"));
    }
    let model = args.model.clone().or_else(|| named(&args.adapter));
    let read = Inputs::default().model(model.as_deref()).adapter("--adapter", args.adapter.as_path());
    if file {
        outputs::file(output, &read, args.replace.overwrite)?;
    } else {
        outputs::folder(output, &read, args.replace.overwrite)?;
    }
    if let Some(model) = &model {
        made_with::note_base_of(&args.adapter, model)?;
    }
    let pool = inputs::conversion_pool(args.shared.threads)?;
    let report = match to {
        Some(to) => pool.install(|| export(&args.adapter, to, model.as_deref(), output))?,
        None => ollama(args, model.as_deref(), &pool)?,
    };
    for note in &report.notes {
        ui::note(note);
    }
    let shown = output.display().to_string();
    if args.shared.json {
        return ui::json(&json!({
            "output": shown,
            "from": report.from.name(),
            "to": name,
            "matrices": report.pairs,
            "parameters": report.parameters,
            "notes": report.notes,
        }));
    }
    let next = match to {
        None => format!("next: ollama create NAME -f {}\n", output.join(MODELFILE).display()),
        Some(_) => String::new(),
    };
    ui::print(&format!(
        "{shown}: {} to {name}, adapters of {} matrices, {} parameters\n{next}",
        report.from.name(),
        report.pairs,
        count(report.parameters)
    ))
}

fn ollama(args: &ExportArgs, model: Option<&Path>, pool: &ThreadPool) -> Result<Report> {
    let Some(model) = model else {
        let problem = "Ollama runs models: the one that the adapter is for is needed";
        return Err(usage(problem, "give it with --model"));
    };
    let contents =
        if args.unmerged { Contents::Adapter } else { Contents::Merged(args.ty.map(FileType::tensor_type)) };
    let mut counter: Option<Counter> = None;
    Ok(pool.install(|| {
        export_ollama(&args.adapter, model, &args.output, contents, &mut |done, total| {
            counter.get_or_insert_with(|| Counter::new("merging", total as u64)).at(done as u64);
        })
    })?)
}

/// The model that a PEFT adapter names, where that is here or in the cache.
fn named(adapter: &Path) -> Option<PathBuf> {
    let path = PathBuf::from(AdapterConfig::read(adapter).ok()?.base_model?);
    let there = path.join("config.json").is_file() || path.is_file();
    if there { Some(path) } else { mesp::hub::find(RepoKind::Model, &path, None).ok()?.map(told) }
}
