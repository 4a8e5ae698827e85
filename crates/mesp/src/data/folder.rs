//! Which files of a data directory are trained on, held out, or kept for a test: by their names.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// Extensions of files that are read, in the order in which they are preferred. Every other place that lists data
/// files of a directory asks here.
const READ: [&str; 4] = ["jsonl", "ndjson", "json", "txt"];

/// Extensions of data that is not read.
const OTHER: [&str; 8] = ["csv", "tsv", "parquet", "arrow", "xlsx", "zip", "gz", "zst"];

/// Names of files to train on, to hold out, and to test with, each in the order in which they are preferred.
const NAMES: [&[&str]; 3] =
    [&["train", "training"], &["eval", "valid", "validation", "val", "dev"], &["test"]];

/// Files that lie in data directories and hold no rows.
const NO_ROWS: [&str; 5] =
    ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json"];

/// The data files of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folder {
    /// The file to train on.
    pub train: Option<PathBuf>,
    /// The file of held-out rows.
    pub held: Option<PathBuf>,
    /// The file for a test.
    pub test: Option<PathBuf>,
    /// Every data file, in the order of names.
    pub all: Vec<PathBuf>,
}

impl Folder {
    /// Looks into a directory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(directory: &Path) -> Result<Self> {
        let failed = |e| mesp_formats::Error::io("read", directory, e);
        let mut all = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if is_data(&path) && path.is_file() {
                all.push(path);
            }
        }
        all.sort();
        let [train, held, test] = NAMES.map(|names| first(&all, names));
        Ok(Self { train, held, test, all })
    }

    /// The names of the data files that are not among `used`.
    pub fn unused(&self, used: &[&Path]) -> Vec<String> {
        let rest = self.all.iter().filter(|path| !used.contains(&path.as_path()));
        rest.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
    }

    /// The file that is meant by a name: that one, or the preferred one of its kind.
    pub(super) fn named(&self, name: &str) -> Option<PathBuf> {
        if let Some(path) = self.all.iter().find(|path| path.file_name() == Some(OsStr::new(name))) {
            return Some(path.clone());
        }
        let stem = name.split('.').next().unwrap_or_default();
        let kind = NAMES.iter().position(|names| names.contains(&stem))?;
        [&self.train, &self.held, &self.test][kind].clone()
    }
}

/// The first of some files by name, then by extension.
fn first(files: &[PathBuf], names: &[&str]) -> Option<PathBuf> {
    let place = |list: &[&str], part: Option<&OsStr>| {
        let part = part?.to_str()?.to_lowercase();
        list.iter().position(|one| *one == part)
    };
    let ranked = files
        .iter()
        .filter_map(|path| Some(((place(names, path.file_stem())?, place(&READ, path.extension())?), path)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, path)| path.clone())
}

fn is_data(path: &Path) -> bool {
    let (Some(name), Some(extension)) =
        (path.file_name().and_then(OsStr::to_str), path.extension().and_then(OsStr::to_str))
    else {
        return false;
    };
    let (name, extension) = (name.to_lowercase(), extension.to_lowercase());
    let known = READ.contains(&extension.as_str()) || OTHER.contains(&extension.as_str());
    let aside = name.starts_with('.')
        || NO_ROWS.contains(&name.as_str())
        || ["readme", "license", "requirements"].iter().any(|word| name.starts_with(word));
    known && !aside
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> (tempfile::TempDir, Folder) {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(directory.path().join(name), "{}").unwrap();
        }
        let folder = Folder::open(directory.path()).unwrap();
        (directory, folder)
    }

    fn name(path: Option<&PathBuf>) -> &str {
        path.map_or("", |path| path.file_name().unwrap().to_str().unwrap())
    }

    #[test]
    fn names_say_what_a_file_is_for() {
        for held in ["eval.jsonl", "valid.jsonl", "validation.jsonl", "val.json", "dev.jsonl", "Dev.ndjson"] {
            let (_directory, folder) = folder(&["train.jsonl", held, "test.jsonl"]);
            assert_eq!(name(folder.train.as_ref()), "train.jsonl");
            assert_eq!(name(folder.held.as_ref()), held);
            assert_eq!(name(folder.test.as_ref()), "test.jsonl");
        }
        let (directory, folder) = folder(&[
            "train.json",
            "train.jsonl",
            "dev.jsonl",
            "validation.jsonl",
            "notes.csv",
            "README.md",
            "script.py",
            "dataset_info.json",
            "more.jsonl",
        ]);
        assert_eq!(name(folder.train.as_ref()), "train.jsonl");
        assert_eq!(name(folder.held.as_ref()), "validation.jsonl");
        assert_eq!(folder.test, None);
        let used = [folder.train.as_deref().unwrap(), folder.held.as_deref().unwrap()];
        assert_eq!(folder.unused(&used), ["dev.jsonl", "more.jsonl", "notes.csv", "train.json"]);
        assert_eq!(name(folder.named("dev.jsonl").as_ref()), "dev.jsonl");
        assert_eq!(name(folder.named("eval.jsonl").as_ref()), "validation.jsonl");
        assert_eq!(folder.named("other.jsonl"), None);
        drop(directory);
    }

    #[test]
    fn a_train_file_may_have_another_extension() {
        for train in ["train.json", "train.ndjson", "train.txt"] {
            assert_eq!(name(folder(&[train]).1.train.as_ref()), train);
        }
        assert_eq!(folder(&["train.csv"]).1.train, None);
    }
}
