//! Where commands write: never in the place of what they read, and in that of anything else only with --overwrite.

use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};

use anyhow::Result;
use mesp_formats::TokenizerConfig;
use mesp_formats::atomic::{StagedDir, is_stream, remove_leftovers_of};

use crate::failure::usage;
use crate::ui;

/// Files that tell a model's folder what it is, beside its weights and its tokenizer.
const MODEL: &str = "config.json";
/// Ends of names of what is read from a model's folder.
const MODEL_ENDS: [&str; 6] = ["json", "safetensors", "jinja", "model", "txt", "bin"];
/// What is read from an adapter's folder, or a checkpoint's, beside names that begin with `adapter`.
const ADAPTER: [&str; 6] = [
    "README.md",
    "slopes.replay",
    "state.json",
    "first_moment.safetensors",
    "second_moment.safetensors",
    "config.json",
];
/// Ends of names that folders of models and adapters hold: with anything else in it, a folder is not replaced.
const PARTS: [&str; 8] = ["json", "safetensors", "jinja", "model", "txt", "bin", "md", "jsonl"];

/// What a command reads, each with the option that named it.
#[derive(Debug, Default, Clone)]
pub struct Inputs(Vec<(&'static str, PathBuf)>);

impl Inputs {
    /// A file; of a folder, the files in it.
    #[must_use]
    pub fn file<'a>(self, option: &'static str, path: impl Into<Option<&'a Path>>) -> Self {
        self.add(option, path.into(), &|_| true)
    }

    /// A model: a folder, or a GGUF file and what lies beside it.
    #[must_use]
    pub fn model<'a>(self, path: impl Into<Option<&'a Path>>) -> Self {
        let path = path.into();
        let ends = |name: &str| MODEL_ENDS.iter().any(|end| has_end(name, end));
        let mut all = self.add("--model", path, &ends);
        if let Some(folder) = path.filter(|path| path.is_file()).and_then(Path::parent) {
            // A tokenizer that the file does not have may lie beside it.
            let beside = ["tokenizer.json"].into_iter().chain(TokenizerConfig::FILES);
            all.0.extend(beside.map(|name| ("--model", folder.join(name))));
        }
        all
    }

    /// An adapter or a checkpoint: a folder, or a GGUF file.
    #[must_use]
    pub fn adapter<'a>(self, option: &'static str, path: impl Into<Option<&'a Path>>) -> Self {
        self.add(option, path.into(), &|name| name.starts_with("adapter") || ADAPTER.contains(&name))
    }

    fn add(mut self, option: &'static str, path: Option<&Path>, has: &dyn Fn(&str) -> bool) -> Self {
        let Some(path) = path else { return self };
        self.0.push((option, path.to_path_buf()));
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.path().is_file() && entry.file_name().to_str().is_some_and(has) {
                self.0.push((option, entry.path()));
            }
        }
        self
    }

    /// The first that is this file or folder, by whichever name, or that lies in this folder.
    pub fn within(&self, output: &Path) -> Option<(&'static str, &Path)> {
        let there = fs::metadata(output).ok()?;
        let folder = fs::canonicalize(output).ok().filter(|_| there.is_dir());
        let same = |path: &Path| {
            let below = || Some(fs::canonicalize(path).ok()?.starts_with(folder.as_ref()?));
            is_same_file(output, path) || below() == Some(true)
        };
        self.0.iter().find(|(_, path)| same(path)).map(|(option, path)| (*option, path.as_path()))
    }

    /// Refuses a place that one of them has.
    ///
    /// # Errors
    /// With the option that names what is read.
    pub fn spared_by(&self, output: &Path) -> Result<()> {
        let Some((option, input)) = self.within(output) else { return Ok(()) };
        let shown = output.display();
        let problem = if input == output {
            format!("{shown}: this command reads it ({option}), and would replace it")
        } else {
            format!("{shown}: this command reads {} ({option}), and would replace it", input.display())
        };
        Err(usage(problem, "name another place to write to"))
    }
}

#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata, _: &Path, _: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(_: &Metadata, _: &Metadata, a: &Path, b: &Path) -> bool {
    fs::canonicalize(a).is_ok_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
}

/// Whether two paths lead to the same file or folder.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(of_a), Ok(of_b)) => is_same(&of_a, &of_b, a, b),
        _ => false,
    }
}

/// Whether an open file is still the one that a path leads to.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => is_same(&open, &there, path, path),
        _ => false,
    }
}

fn has_end(name: &str, end: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case(end))
}

/// Whether something is there, a link that leads nowhere too.
fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn taken(path: &Path) -> anyhow::Error {
    let problem = format!("{}: something is there already", path.display());
    usage(problem, "name another place to write to, or replace what is there by --overwrite")
}

/// Whether a path is standard output, under one of its names.
pub fn is_standard(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}

/// Refuses a file that may not be written, before anything is read for it; what killed processes have left of it goes.
/// A device or a pipe takes what comes.
///
/// # Errors
/// When something is there that is read, is a folder, or may not be replaced.
pub fn file(output: &Path, inputs: &Inputs, overwrite: bool) -> Result<()> {
    if is_stream(output) {
        return Ok(());
    }
    if output.is_dir() {
        let problem = format!("{}: expected a file to write to, found a folder", output.display());
        return Err(usage(problem, "name a file"));
    }
    inputs.spared_by(output)?;
    remove_leftovers_of(output);
    replaces(output, overwrite)
}

/// The same of several files in one folder.
///
/// # Errors
/// As [`file`].
pub fn files(folder: &Path, names: &[&str], inputs: &Inputs, overwrite: bool) -> Result<()> {
    if is_there(folder) && !folder.is_dir() {
        return Err(found_a_file(folder));
    }
    names.iter().try_for_each(|name| file(&folder.join(name), inputs, overwrite))
}

/// The same of a folder that is written as a whole. One that is empty is as good as none; only one of a model or an
/// adapter is replaced, and with nothing else in it.
///
/// # Errors
/// When something is there that is read, is no folder of a model or an adapter alone, or may not be replaced.
pub fn folder(output: &Path, inputs: &Inputs, overwrite: bool) -> Result<()> {
    if is_there(output) && !output.is_dir() {
        return Err(found_a_file(output));
    }
    remove_leftovers_of(output);
    // A replacement that was cut off: the old folder is there again, and is looked at as such.
    StagedDir::recover(output)?;
    let mut entries = fs::read_dir(output).into_iter().flatten().flatten().peekable();
    if entries.peek().is_none() {
        return Ok(());
    }
    inputs.spared_by(output)?;
    if !overwrite {
        return Err(taken(output));
    }
    let part = |name: &str| PARTS.iter().any(|end| has_end(name, end));
    let other = entries.find(|e| !(e.path().is_file() && e.file_name().to_str().is_some_and(part)));
    let known = [MODEL, mesp_formats::peft::CONFIG_FILE].iter().any(|name| output.join(name).is_file());
    if other.is_some() || !known {
        let found = other.map_or_else(
            || "one without config.json".to_owned(),
            |entry| format!("{} in it", entry.file_name().display()),
        );
        let problem = format!(
            "{}: expected a folder of a model or an adapter and nothing else to replace, found {found}",
            output.display()
        );
        return Err(usage(problem, "move what is there away, or name another folder"));
    }
    replaces(output, overwrite)
}

fn found_a_file(folder: &Path) -> anyhow::Error {
    let problem = format!("{}: expected a folder to write to, found a file", folder.display());
    usage(problem, "name another folder")
}

/// Names what is replaced.
fn replaces(output: &Path, overwrite: bool) -> Result<()> {
    if is_there(output) {
        if !overwrite {
            return Err(taken(output));
        }
        ui::note(format!("{}: what is there will be replaced", output.display()));
    }
    Ok(())
}

/// Whether a folder is a model's: its configuration lies there, and weights.
pub fn is_model(folder: &Path) -> bool {
    let weights = |name: &str| {
        let of_adapter = name.starts_with("adapter");
        (has_end(name, "safetensors") && !of_adapter)
            || name.ends_with(".safetensors.index.json")
            || name.starts_with("pytorch_model")
    };
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    folder.join(MODEL).is_file() && entries.any(|e| e.file_name().to_str().is_some_and(weights))
}
