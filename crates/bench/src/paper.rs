//! `mesp bench paper`: the published tables that need no phone, measured here, on one page.

mod page;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result};
use mesp_console::outputs::{self, Inputs};
use mesp_console::ui;
use mesp_formats::atomic::{create_dir_all, write_atomic};
use serde_json::{Value, json};

use super::models;
use crate::args::BenchPaperArgs;

/// Bytes of a measurement's document at most.
const LIMIT: u64 = 32 << 20;

/// The three measurements that the page is made of.
struct Documents {
    memory: Value,
    gradients: Value,
    convergence: Value,
}

pub(super) fn run(args: &BenchPaperArgs) -> Result<()> {
    let documents = ["memory", "gradients", "convergence"].map(|what| args.results.join(document(what)));
    let read = documents.iter().fold(Inputs::default(), |read, path| read.file("--results", path.as_path()));
    outputs::file(&args.page, &read, args.replace.overwrite)?;
    create_dir_all(&args.results)?;
    let cache = models::cache(args.cache.as_deref())?;
    let mut memory = vec!["--parts=table-1,table-2,table-3,table-5,mebp".to_owned()];
    memory.extend(args.limit.map(|seconds| format!("--limit={seconds}")));
    memory.extend(args.quick.then(|| "--plan-only".to_owned()));
    let gradients: &[&str] = if args.quick {
        &["--preset=tiny", "--tokens=16", "--rows=1", "--seeds=20", "--descents=1"]
    } else {
        &[
            "--methods=mesp,mesp-bf16,lcsb,forward,mezo,mezo-signs",
            "--preset=qwen2.5-0.5b",
            "--type=q4_0",
            "--tokens=32",
            "--rows=1",
            "--seeds=100",
            "--descents=4",
        ]
    };
    let convergence: &[&str] = if args.quick {
        &["--methods=mesp,mezo", "--rates=mesp=3e-3", "--rates=mezo=1e-3", "--steps=4", "--factor=2"]
    } else {
        &["--methods=mesp,mesp-sgd,lcsb,forward,mezo,mezo-sparse", "--steps=100", "--factor=100"]
    };
    let owned = |options: &[&str]| options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>();
    let documents = Documents {
        memory: measured(args, &cache, "memory", memory)?,
        gradients: measured(args, &cache, "gradients", owned(gradients))?,
        convergence: measured(args, &cache, "convergence", owned(convergence))?,
    };
    let text = page::text(&documents);
    if let Some(folder) = args.page.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        create_dir_all(folder)?;
    }
    write_atomic(&args.page, |out| out.write_all(text.as_bytes()))?;
    if args.shared.json {
        let page = args.page.display().to_string();
        let Documents { memory, gradients, convergence } = documents;
        ui::json(
            &json!({ "page": page, "memory": memory, "gradients": gradients, "convergence": convergence }),
        )?;
    }
    ui::note(format!("page: {}", args.page.display()));
    Ok(())
}

/// The name of a measurement's document.
fn document(what: &str) -> String {
    format!("{what}-paper.json")
}

/// A measurement: the one that is there, or a new one.
fn measured(args: &BenchPaperArgs, cache: &Path, what: &str, mut options: Vec<String>) -> Result<Value> {
    let path = args.results.join(document(what));
    if path.is_file() && !args.again {
        ui::note(format!("{what}: as measured in {}", path.display()));
        let text = mesp_formats::regular::read_text(&path, LIMIT)?;
        return serde_json::from_str(&text).with_context(|| {
            format!("{}: expected a document of mesp bench {what}; --again measures it anew", path.display())
        });
    }
    ui::note(format!("{what}: measuring"));
    options.extend(["--name=paper".to_owned(), "--overwrite".to_owned()]);
    options.extend(args.shared.threads.map(|n| format!("--threads={n}")));
    let mut files: Vec<OsString> = vec![what.into()];
    files.extend(["--output".into(), args.results.clone().into(), "--cache".into(), cache.into()]);
    models::call(&models::program()?, cache, "bench", &files, &options)
}
