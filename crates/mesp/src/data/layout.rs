//! The files that a directory of data has, as `datasets` lays them out: `train.jsonl`, `data/train-00000-of-00002.parquet`,
//! `train/…`, and the same for other splits.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use mesp_formats::regular;

use super::compressed::{is_packed, unpacked_name};
use super::source::{EXTENSIONS, Name, REFUSED};
use crate::{Error, ErrorKind, Result};

/// Names of rows to train on, in the order in which they are preferred.
const TRAIN: &[&str] = &["train", "training"];
/// Names of rows that are held out, in the order in which they are preferred.
pub const HELD_OUT: &[&str] = &["eval", "valid", "validation", "val", "dev", "evaluation"];
/// Names of rows for a test, in the order in which they are preferred.
pub const TEST: &[&str] = &["test", "testing"];

/// The names of the splits, those of one split together.
const SPLITS: [&[&str]; 3] = [TRAIN, HELD_OUT, TEST];

/// Files that lie in data directories and hold no rows.
const NO_ROWS: [&str; 5] =
    ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json"];

/// The files that `path` means, in order: itself; in a directory the rows of `split`; `DIR/validation` the rows of
/// that split of a directory.
///
/// # Errors
/// When a directory has no such rows, or more than one set of them, or lacks a file of several.
pub fn files(path: &Path, split: &str) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    refuse_stream(path)?;
    if !path.is_dir() {
        let (folder, name) = (path.parent(), path.file_name().and_then(|name| name.to_str()));
        return match (folder, name) {
            (Some(folder), Some(name)) if folder.is_dir() && SPLITS.iter().any(|s| s.contains(&name)) => {
                Ok(of_split(folder, name)?.unwrap_or_else(|| vec![path.to_path_buf()]))
            }
            _ => Ok(vec![path.to_path_buf()]),
        };
    }
    refuse_saved(path)?;
    let others = SPLITS.iter().find(|names| names.contains(&split)).copied().unwrap_or_default();
    for name in [split].iter().chain(others) {
        if let Some(files) = of_split(path, name)? {
            return Ok(files);
        }
    }
    if split == TRAIN[0]
        && let Some(files) = unnamed(path)?
    {
        return Ok(files);
    }
    let mut found = names_in(path)?;
    let more = if found.len() > 8 { ", ..." } else { "" };
    found.truncate(8);
    let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") + more };
    Err(Error::data(path, None, ErrorKind::Missing, "")
        .expected(format!(
            "a file {split}.jsonl in this directory (or .json, .csv, .tsv, .parquet, packed or not, \
                or shards such as data/{split}-00000-of-00002.parquet)"
        ))
        .found(found)
        .hint("name the data file itself"))
}

/// Refuses what gives its bytes once, or without an end: data are read several times.
///
/// # Errors
/// When it is a pipe, a device or a socket.
pub fn refuse_stream(path: &Path) -> Result<()> {
    let Some(found) = regular::other_than_file(path).filter(|_| !path.is_dir()) else { return Ok(()) };
    Err(Error::data(path, None, ErrorKind::WrongType, "")
        .expected("a data file or a directory of them")
        .found(format!("{found}: data are read several times"))
        .hint("write what it gives to a file first, and name that"))
}

/// Opens a data file.
pub(super) fn open(path: &Path) -> Result<File> {
    refuse_stream(path)?;
    Ok(regular::open(path)?)
}

/// The rows of the first of some splits that a directory has: its one file, or `DIR/split` where it has several.
///
/// # Errors
/// As [`files`].
pub fn split_of(directory: &Path, names: &[&str]) -> Result<Option<PathBuf>> {
    for name in names {
        match of_split(directory, name)?.as_deref() {
            None => {}
            Some([file]) => return Ok(Some(file.clone())),
            Some(_) => return Ok(Some(directory.join(name))),
        }
    }
    Ok(None)
}

/// The files of a directory that are trained on, held out, or for a test; a file is the only one of its own.
///
/// # Errors
/// As [`files`].
pub fn all_files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return files(path, TRAIN[0]);
    }
    let mut all = Vec::new();
    for names in SPLITS {
        if let Some(split) = split_of(path, names)? {
            all.extend(files(&split, TRAIN[0])?);
        }
    }
    if all.is_empty() { files(path, TRAIN[0]) } else { Ok(all) }
}

/// The data files of a directory that are not among `used`, also those of kinds that are not read.
///
/// # Errors
/// When a folder cannot be read.
pub fn unused(directory: &Path, used: &[PathBuf]) -> Result<Vec<String>> {
    let mut folders = vec![directory.to_path_buf(), directory.join("data")];
    for folder in folders.clone() {
        folders.extend(SPLITS.iter().copied().flatten().map(|name| folder.join(name)));
    }
    let mut unused = Vec::new();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        for name in names_in(folder)? {
            let path = folder.join(&name);
            if is_data(&path) && path.is_file() && !used.contains(&path) {
                let inside = path.strip_prefix(directory).unwrap_or(&path);
                unused.push(inside.to_string_lossy().into_owned());
            }
        }
    }
    Ok(unused)
}

/// Whether a file holds data, by its name.
fn is_data(path: &Path) -> bool {
    let bare = unpacked_name(path);
    let extension = Path::new(&bare).extension().and_then(|e| e.to_str()).unwrap_or_default();
    let read = EXTENSIONS.iter().any(|(known, _)| *known == extension);
    let refused = REFUSED.iter().any(|(known, _)| *known == extension);
    // Markdown beside data tells of it.
    (read && extension != "md" || refused || is_packed(path)) && !is_aside(&bare)
}

/// Whether a file that lies beside data is none, by its name in lower case.
fn is_aside(name: &str) -> bool {
    name.starts_with('.')
        || NO_ROWS.contains(&name)
        || ["readme", "license", "requirements"].iter().any(|word| name.starts_with(word))
}

/// The files of a split under one of its names, or `None`.
fn of_split(directory: &Path, name: &str) -> Result<Option<Vec<PathBuf>>> {
    let folders = [directory.to_path_buf(), directory.join("data")];
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let files = data_files(folder)?;
        let whole: Vec<&DataFile> = files.iter().filter(|file| file.stem == name).collect();
        if let Some(file) = preferred(folder, &whole)? {
            return Ok(Some(vec![file.path.clone()]));
        }
        let shards: Vec<(&DataFile, [usize; 2])> =
            files.iter().filter_map(|file| Some((file, shard(&file.stem, name)?))).collect();
        if let Some(&(first, [_, of])) = shards.first() {
            if let Some((other, _)) =
                shards.iter().find(|(file, [_, n])| *n != of || file.extension != first.extension)
            {
                return Err(ambiguous(folder, first, other));
            }
            let mut order: Vec<Option<&DataFile>> = vec![None; of.min(MOST_SHARDS)];
            for (file, [at, _]) in &shards {
                if let Some(place) = order.get_mut(*at) {
                    *place = Some(file);
                }
            }
            let files = order.iter().enumerate().map(|(at, file)| file.map(|f| f.path.clone()).ok_or(at));
            return files.collect::<std::result::Result<_, _>>().map(Some).map_err(|at| {
                Error::data(folder, None, ErrorKind::Missing, "")
                    .expected(format!("{of} shards of `{name}`"))
                    .found(format!("{}: number {at:05} is missing", shards.len()))
                    .hint("fetch the whole data set, or name the files you have one by one")
            });
        }
        let inner = folder.join(name);
        if inner.is_dir() {
            let files = data_files(&inner)?;
            if !files.is_empty() {
                return alike(&inner, files).map(Some);
            }
        }
    }
    Ok(None)
}

/// Among files of one name the first by extension. A table beside other rows of the name is no other way to write
/// the same, nor is a packed file beside one that is not: which is meant is not guessed.
fn preferred<'a>(folder: &Path, files: &[&'a DataFile]) -> Result<Option<&'a DataFile>> {
    let place = |file: &DataFile| EXTENSIONS.iter().position(|(known, _)| *known == file.extension);
    let Some(first) = files.iter().copied().min_by_key(|file| place(file)) else { return Ok(None) };
    let is_text = |file: &DataFile| {
        let name = place(file).map(|at| EXTENSIONS[at].1);
        matches!(name, Some(Name::Lines | Name::Json | Name::Text))
    };
    let mut others = files.iter().copied().filter(|file| !std::ptr::eq(*file, first));
    match others.find(|file| !is_text(file) || file.extension == first.extension) {
        Some(other) => Err(ambiguous(folder, first, other)),
        None => Ok(Some(first)),
    }
}

/// More than any data set has; numbers in names are what anybody wrote.
const MOST_SHARDS: usize = 100_000;

/// The number and the count of `train-00001-of-00004`; what `datasets` puts behind these is passed over.
fn shard(stem: &str, name: &str) -> Option<[usize; 2]> {
    let (at, of) = stem.strip_prefix(name)?.strip_prefix('-')?.split_once("-of-")?;
    let of = of.get(..5)?;
    let number = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
    Some([number(at)?, number(of)?])
}

/// The files of a directory in which nothing is named for a split: all of it is one set of rows.
fn unnamed(directory: &Path) -> Result<Option<Vec<PathBuf>>> {
    for name in SPLITS.iter().copied().flatten() {
        if of_split(directory, name)?.is_some() {
            return Ok(None);
        }
    }
    // In a folder that is named for a split every file is of it.
    let named = directory.file_name().and_then(|name| name.to_str());
    let named = named.is_some_and(|name| SPLITS.iter().any(|names| names.contains(&name)));
    let rows = |file: &DataFile| named || !["txt", "text", "md", "json"].contains(&file.extension.as_str());
    let found = data_files(directory)?;
    // A .json file beside others may be rows or not: which are meant is not guessed.
    if !named && found.iter().any(|file| file.extension == "json") {
        return Ok(None);
    }
    let files: Vec<DataFile> = found.into_iter().filter(rows).collect();
    if files.is_empty() { Ok(None) } else { alike(directory, files).map(Some) }
}

/// Files that are rows of one set have one extension.
fn alike(folder: &Path, files: Vec<DataFile>) -> Result<Vec<PathBuf>> {
    match files.iter().find(|file| file.extension != files[0].extension) {
        Some(other) => Err(ambiguous(folder, &files[0], other)),
        None => Ok(files.into_iter().map(|file| file.path).collect()),
    }
}

fn ambiguous(folder: &Path, a: &DataFile, b: &DataFile) -> Error {
    let name = |file: &DataFile| file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut names = [name(a), name(b)];
    names.sort();
    Error::data(folder, None, ErrorKind::Conflict, "")
        .expected("one set of rows")
        .found(names.join(" beside "))
        .hint("name the data file itself")
}

struct DataFile {
    path: PathBuf,
    /// Its name without extensions, in lower case.
    stem: String,
    extension: String,
}

/// The files of a folder that can hold rows, by name.
fn data_files(folder: &Path) -> Result<Vec<DataFile>> {
    let mut files = Vec::new();
    for name in names_in(folder)? {
        let path = folder.join(&name);
        let bare = unpacked_name(&path);
        let Some((stem, extension)) = bare.rsplit_once('.') else { continue };
        if !is_aside(&bare) && EXTENSIONS.iter().any(|(known, _)| *known == extension) && path.is_file() {
            files.push(DataFile { path, stem: stem.to_owned(), extension: extension.to_owned() });
        }
    }
    Ok(files)
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .map_err(|e| mesp_formats::Error::io("read", folder, e))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Refuses what `save_to_disk` of `datasets` writes, with what turns it into files that can be read.
fn refuse_saved(path: &Path) -> Result<()> {
    let splits = path.join("dataset_dict.json").is_file();
    let is_arrow = |name: &String| Path::new(name).extension().is_some_and(|extension| extension == "arrow");
    let arrow = || names_in(path).is_ok_and(|names| names.iter().any(is_arrow));
    let saved = splits || (path.join("dataset_info.json").is_file() && arrow());
    if !saved {
        return Ok(());
    }
    let (load, folder) = ("from datasets import load_from_disk; d = load_from_disk", path.display());
    let write =
        if splits { "[d[s].to_parquet(s + '.parquet') for s in d]" } else { "d.to_parquet('train.parquet')" };
    Err(Error::data(
        path,
        None,
        ErrorKind::Unsupported,
        "Arrow files as save_to_disk of `datasets` writes them",
    )
    .expected(".parquet, .jsonl or .csv files")
    .hint(format!("write them as Parquet: python -c \"{load}('{folder}'); {write}\"")))
}

#[cfg(test)]
mod tests;
