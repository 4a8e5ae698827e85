//! Models to measure with, made once and kept, and this program as a process of its own.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};
use mesp_console::child::Bound;
use mesp_console::{memory, ui};
use mesp_formats::atomic::{create_dir_all, remove_leftovers_of, write_atomic};
use serde_json::{Value, json};

/// Writes the built-in model into `model` of a folder, and its rows beside it: `train.jsonl` and `eval.jsonl`.
pub type BuiltIn = fn(&Path) -> Result<()>;

/// This program.
pub(super) fn program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot tell where this program is")
}

/// The folder where models are kept between runs.
pub(super) fn cache(asked: Option<&Path>) -> Result<PathBuf> {
    let cache = asked.map_or_else(|| std::env::temp_dir().join("mesp-bench"), Path::to_path_buf);
    create_dir_all(&cache)?;
    Ok(cache)
}

/// A model of random weights of a published shape.
pub(super) fn random(program: &Path, cache: &Path, preset: &str, dtype: &str) -> Result<PathBuf> {
    let suffix = if dtype.starts_with('q') { ".gguf" } else { "" };
    let path = cache.join(format!("{preset}-{dtype}{suffix}"));
    if !path.exists() {
        ui::note(format!("writing {preset} in {dtype} with random weights"));
        // It has its name when it is whole; another process may have been faster.
        let to: [OsString; 2] = ["--output".into(), path.clone().into()];
        let options = [format!("--preset={preset}"), format!("--type={dtype}")];
        let made = call(program, cache, "init-model", &to, &options);
        if !path.exists() {
            made?;
        }
    }
    Ok(path)
}

/// Rows of a length, of tokens that mean nothing.
pub(super) fn rows(cache: &Path, vocabulary: usize, tokens: usize) -> Result<PathBuf> {
    let path = cache.join(format!("rows-{vocabulary}-{tokens}.jsonl"));
    remove_leftovers_of(&path);
    write_atomic(&path, |out| {
        for row in 1..=4 {
            let tokens: Vec<usize> = (0..tokens).map(|t| (row * 7919 + t * 104_729) % vocabulary).collect();
            writeln!(out, "{}", json!({ "input_ids": tokens, "labels": tokens }))?;
        }
        Ok(())
    })?;
    Ok(path)
}

/// A command of this program in a process of its own; its JSON document.
pub(super) fn call(
    program: &Path,
    cache: &Path,
    command: &str,
    files: &[OsString],
    options: &[String],
) -> Result<Value> {
    let mut process = Command::new(program);
    process.arg(command).args(files).args(options).arg("--json");
    let done =
        Bound::start(process).and_then(|child| child.wait(memory::Child::Measured)).map(|(output, _)| output);
    let done = done.with_context(|| format!("cannot start mesp {command}"))?;
    if !done.status.success() {
        bail!("mesp {command} {}: {}", options.join(" "), last_words(&done.stderr, cache));
    }
    serde_json::from_slice(&done.stdout)
        .map_err(|e| anyhow!("mesp {command}: expected JSON on its standard output: {e}"))
}

/// The error at the end of what a program said, without this machine's folders.
fn last_words(stderr: &[u8], cache: &Path) -> String {
    let text = String::from_utf8_lossy(stderr);
    let at = text.find("error: ").map_or(0, |at| at + "error: ".len());
    text[at..].trim().replace(&*cache.to_string_lossy(), "[cache]")
}
