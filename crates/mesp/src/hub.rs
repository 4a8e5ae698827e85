//! Models, adapters and datasets by their names on the Hugging Face hub, found in its local cache. Nothing is fetched.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use mesp_formats::hub::{HubCache, Lost, RepoKind, RepoName, cache, is_commit, repo_of};
use mesp_formats::peft::{CONFIG_FILE, MODEL_FILE};
use mesp_formats::regular;
use serde_json::Value;

use crate::{Error, ErrorKind, Result};

/// Ends of names that are files' and no repositories'.
const FILES: [&str; 13] = [
    "gguf",
    "safetensors",
    "bin",
    "json",
    "jsonl",
    "txt",
    "text",
    "md",
    "csv",
    "tsv",
    "parquet",
    "tokens",
    "npz",
];

/// A name of a repository, and the path of its snapshot or of a file in that.
pub type Found = (RepoName, PathBuf);

/// Something that is not in the cache.
fn lacks(
    what: impl Display,
    expected: impl Display,
    found: impl Display,
    advice: impl Into<String>,
) -> Error {
    Error::usage(ErrorKind::Missing, what.to_string()).expected(expected).found(found).hint(advice)
}

/// Where the files are of what was named; none where that is a path: one that is there, or a text that is no name.
///
/// # Errors
/// [`Error::Usage`] when the cache has no such repository or revision, or not all files of it.
pub fn find(kind: RepoKind, typed: &Path, revision: Option<&str>) -> Result<Option<Found>> {
    find_as(kind, kind.name(), typed, revision)
}

fn find_as(kind: RepoKind, what: &str, typed: &Path, revision: Option<&str>) -> Result<Option<Found>> {
    let name = typed.to_str().filter(|_| !typed.exists()).and_then(RepoName::parse);
    let Some(mut name) = name else {
        return match revision {
            Some(revision) => {
                let problem = format!(
                    "‘revision’ {revision} is of a model in the Hugging Face cache, and {} is a path",
                    typed.display()
                );
                Err(Error::usage(ErrorKind::Conflict, problem)
                    .hint("leave ‘revision’ out, or give ‘model’ ORG/NAME"))
            }
            None => Ok(None),
        };
    };
    if let (Some(with), Some(given)) = (&name.revision, revision) {
        let problem = format!("{name} names the revision {with}, and ‘revision’ names {given}");
        return Err(Error::usage(ErrorKind::Conflict, problem).hint("leave one of them out"));
    }
    name.revision = name.revision.or_else(|| revision.map(str::to_owned));
    let Some(cache) = cache() else { return Ok(None) };
    let is_file = |id: &str| {
        FILES.iter().any(|end| Path::new(id).extension().is_some_and(|e| e.eq_ignore_ascii_case(end)))
    };
    // A word alone, or a name with a file's end, is a path unless the cache has a repository of that name.
    let likely = name.id.contains('/') && !is_file(&name.id);
    if !likely && !cache.repo(kind, &name.id).is_dir() {
        return Ok(None);
    }
    let snapshot = cache
        .snapshot(kind, &name.id, name.revision.as_deref())
        .map_err(|lost| missing(kind, what, typed, &name, &cache, lost))?;
    let path = match &name.inside {
        Some(inside) => within(typed, &snapshot, inside, &name)?,
        None if kind == RepoKind::Model => whole(&name, snapshot)?,
        None => snapshot,
    };
    Ok(Some((name, path)))
}

/// The same of an adapter.
///
/// # Errors
/// As [`find`]; when its weights are not there.
pub fn find_adapter(typed: &Path) -> Result<Option<Found>> {
    let found = find_as(RepoKind::Model, "adapter", typed, None)?;
    if let Some((_, path)) = &found
        && path.join(CONFIG_FILE).is_file()
        && !["safetensors", "bin"].iter().any(|end| path.join(MODEL_FILE).with_extension(end).exists())
    {
        return Err(incomplete(&typed.to_string_lossy(), path, MODEL_FILE));
    }
    Ok(found)
}

/// Refuses a snapshot without weights, for who needs them. Other paths pass.
///
/// # Errors
/// [`Error::Usage`] with what fetches them.
pub fn weights_are_there(path: &Path) -> Result<()> {
    let Some((_, id)) = repo_of(path).filter(|_| path.is_dir()) else { return Ok(()) };
    let any = [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ];
    if any.iter().any(|file| path.join(file).exists()) || !path.join("config.json").is_file() {
        return Ok(());
    }
    Err(incomplete(&id, path, any[0]))
}

fn incomplete(what: &str, snapshot: &Path, file: &str) -> Error {
    let expected = format!("{file} in its snapshot {}", snapshot.display());
    let advice = fetching(snapshot).unwrap_or_else(|| "get its files again".to_owned());
    lacks(what, expected, "none: it is not completely downloaded", advice)
}

/// What there is in place of the snapshot that a name asks for.
fn missing(kind: RepoKind, what: &str, typed: &Path, name: &RepoName, cache: &HubCache, lost: Lost) -> Error {
    let (id, root) = (&name.id, cache.root.display());
    let (dataset, hf) = match kind {
        RepoKind::Model => ("", ""),
        RepoKind::Dataset => (" --dataset", " --repo-type dataset"),
    };
    let at = name.revision.as_ref().map_or_else(String::new, |revision| format!(" --revision {revision}"));
    let get = format!("`mesp pull {id}{dataset}{at}`");
    let a = if what.starts_with('a') { "an" } else { "a" };
    match lost {
        Lost::Repo => lacks(
            typed.display(),
            format!("a path, or {a} {what} in the Hugging Face cache"),
            format!(
                "neither: nothing of that name is here, and {root} has no {}",
                cache.repo(kind, id).file_name().unwrap_or_default().to_string_lossy()
            ),
            format!(
                "check the path; or fetch the {what}, which only `mesp pull` does: {get} (or \
                 `hf download {id}{hf}{at}`)"
            ),
        ),
        Lost::Snapshot(begun) => lacks(
            id,
            format!("a snapshot in {}", cache.repo(kind, id).display()),
            if begun { "none: a download of it was begun and has not ended" } else { "none" },
            if begun { format!("{get} goes on with it") } else { format!("{get} fetches it") },
        ),
        Lost::Revision(known) => lacks(
            id,
            format!(
                "revision {} in {}",
                name.revision.as_deref().unwrap_or("main"),
                cache.repo(kind, id).display()
            ),
            known.join(", "),
            format!("{get} fetches it"),
        ),
    }
}

/// A file or folder of a snapshot.
fn within(typed: &Path, snapshot: &Path, inside: &str, name: &RepoName) -> Result<PathBuf> {
    let path = snapshot.join(inside);
    if path.exists() {
        return Ok(path);
    }
    let kind = repo_of(snapshot).map_or(RepoKind::Model, |(kind, _)| kind);
    let dataset = if kind == RepoKind::Dataset { " --dataset" } else { "" };
    Err(lacks(
        typed.display(),
        format!("{inside} in {}", snapshot.display()),
        list(&names(snapshot)),
        format!("`mesp pull {}{dataset} --file {inside}` fetches it", name.id),
    ))
}

/// The snapshot of a model: a folder, or where it has no other model in it the one GGUF file. Refused where files
/// that its own index names are missing.
fn whole(name: &RepoName, snapshot: PathBuf) -> Result<PathBuf> {
    let files = names(&snapshot);
    let has = |file: &str| snapshot.join(file).is_file();
    if let Some(file) = files.iter().find(|file| !snapshot.join(file).exists()) {
        // A link whose content is gone.
        return Err(incomplete(&name.id, &snapshot, file));
    }
    if !has("model.safetensors") {
        let shards = shards(&snapshot.join("model.safetensors.index.json"));
        let gone: Vec<&str> = shards.iter().map(String::as_str).filter(|file| !has(file)).collect();
        if !gone.is_empty() {
            let expected = format!("{} weight files in its snapshot {}", shards.len(), snapshot.display());
            let found = format!("all but {}: {}", gone.len(), gone.join(", "));
            return Err(lacks(&name.id, expected, found, fetching(&snapshot).unwrap_or_default()));
        }
    }
    if has("config.json") || has(CONFIG_FILE) {
        return Ok(snapshot);
    }
    let ggufs: Vec<&String> =
        files.iter().filter(|file| Path::new(file).extension().is_some_and(|e| e == "gguf")).collect();
    match ggufs.as_slice() {
        [] => Err(incomplete(&name.id, &snapshot, "config.json")),
        [one] => Ok(snapshot.join(one)),
        [first, ..] => Err(Error::usage(ErrorKind::Conflict, name.id.clone())
            .expected("one model")
            .found(format!("several GGUF files: {}", list(&files)))
            .hint(format!("name one of them, as in {}/{first}", name.id))),
    }
}

/// The files of a folder, links to nothing too.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter(|entry| !entry.path().is_dir());
    let mut names: Vec<String> =
        files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn list(names: &[String]) -> String {
    match names {
        [] => "no file".to_owned(),
        [first @ .., _] if names.len() > 12 => {
            format!("{} and {} more", first[..11].join(", "), names.len() - 11)
        }
        _ => names.join(", "),
    }
}

/// The files that an index names; what is wrong with it is said where it is read.
fn shards(index: &Path) -> BTreeSet<String> {
    let text = regular::read(index, regular::INDEX_LIMIT).ok();
    let index: Option<Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
    let map = index.as_ref().and_then(|index| index.get("weight_map")?.as_object());
    map.into_iter().flatten().filter_map(|(_, file)| Some(file.as_str()?.to_owned())).collect()
}

/// What fetches a file that a snapshot lacks; none where the path lies in no cache.
pub fn fetching(path: &Path) -> Option<String> {
    let (kind, id) = repo_of(path)?;
    let dataset = if kind == RepoKind::Dataset { " --dataset" } else { "" };
    let commit = commit_of(path)?;
    let snapshot = path.ancestors().find(|part| part.ends_with(commit))?;
    let main = regular::read_text(&snapshot.parent()?.with_file_name("refs").join("main"), 1 << 16);
    let of = if main.is_ok_and(|main| main.trim() == commit) {
        String::new()
    } else {
        format!(" --revision {commit}")
    };
    Some(format!("`mesp pull {id}{dataset}{of}` fetches what is missing"))
}

/// The commit of the snapshot that a path is, or lies in.
pub fn commit_of(path: &Path) -> Option<&str> {
    let names = path.ancestors().filter_map(|part| part.file_name()?.to_str());
    repo_of(path).and_then(|_| names.into_iter().find(|name| is_commit(name)))
}

/// What a path is called where its last part has to say it: of a snapshot, which is a commit, the repository's name.
pub fn short_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let snapshot = is_commit(&name);
    Some(repo_of(path).filter(|_| snapshot).map_or(name, |(_, id)| id))
}
