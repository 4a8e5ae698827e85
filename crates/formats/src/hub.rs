//! The cache that programs keep files of the Hugging Face hub in: `models--ORG--NAME` with `refs`, which name
//! commits, `snapshots`, a folder a commit, and `blobs`, the contents that files of snapshots link to.

mod environment;

use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

pub use environment::{Environment, cache};

use crate::regular;

/// Bytes of a reference at most: it holds a commit.
const REFERENCE_LIMIT: u64 = 4096;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    /// A model, or an adapter.
    Model,
    /// Rows.
    Dataset,
}

impl RepoKind {
    const ALL: [Self; 2] = [Self::Model, Self::Dataset];

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }

    /// As folders and addresses have it.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// What names a repository: `ORG/NAME`, with `@REVISION` and the path of a file in it where these are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoName {
    /// `ORG/NAME`, or a name alone, as the oldest repositories have it.
    pub id: String,
    /// A branch, a tag or a commit.
    pub revision: Option<String>,
    /// A file or a folder of the repository.
    pub inside: Option<String>,
}

impl RepoName {
    /// Reads a name; none where the text cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let (org, name, inside) = (parts.next()?, parts.next(), parts.next());
        let (name, revision) = match name.unwrap_or(org).split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (name.unwrap_or(org), None),
        };
        let id = if parts_of(text) == 1 { name.to_owned() } else { format!("{org}/{name}") };
        let inside = inside.map(|path| path.trim_end_matches('/')).filter(|path| !path.is_empty());
        let sound = is_id(&id) && revision.is_none_or(is_revision) && inside.is_none_or(is_file_name);
        sound.then(|| Self { id, revision: revision.map(Into::into), inside: inside.map(Into::into) })
    }
}

fn parts_of(text: &str) -> usize {
    text.split('/').count()
}

/// `ORG/NAME@REVISION/PATH`, as it is read.
impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        self.inside.as_ref().map_or(Ok(()), |path| write!(f, "/{path}"))
    }
}

/// Whether a text can be a repository's name, by the rules of `huggingface_hub.utils.validate_repo_id`.
pub fn is_id(id: &str) -> bool {
    let sound = |part: &str| {
        let edge = |c: char| c == '-' || c == '.';
        !part.is_empty()
            && part.len() <= 96
            && !part.starts_with(edge)
            && !part.ends_with(edge)
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    id.len() <= 192
        && parts_of(id) <= 2
        && id.split('/').all(sound)
        && !id.contains("--")
        && !id.contains("..")
        && id.strip_suffix(".git").is_none()
}

/// Whether a text can be a branch, a tag or a commit, and a path below `refs`.
pub fn is_revision(revision: &str) -> bool {
    is_file_name(revision) && !revision.contains(|c: char| c.is_whitespace() || "~^:?*[@%#".contains(c))
}

/// Whether a text is the path of a file in a repository that stays in it, on every system.
pub fn is_file_name(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let apart = |c: char| c == '\\' || c == ':' || c.is_control();
    path.len() <= 1024 && !path.contains(apart) && path.split('/').all(plain)
}

/// Whether a text is a commit in full.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The repository whose snapshot a path lies in.
pub fn repo_of(path: &Path) -> Option<(RepoKind, String)> {
    let names: Vec<&str> = path
        .components()
        .map(|c| if let Component::Normal(name) = c { name.to_str().unwrap_or("") } else { "" })
        .collect();
    let at = names.windows(3).rposition(|w| w[1] == "snapshots" && is_commit(w[2]))?;
    RepoKind::ALL.into_iter().find_map(|kind| {
        let id = names[at].strip_prefix(kind.plural())?.strip_prefix("--")?.replace("--", "/");
        is_id(&id).then_some((kind, id))
    })
}

/// Why a snapshot is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// The repository has no folder.
    Repo,
    /// It has one without any snapshot; whether a download has left a part of a file.
    Snapshot(bool),
    /// It has snapshots of these revisions, and not of the one that is asked for.
    Revision(Vec<String>),
}

/// A cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubCache {
    /// Its folder.
    pub root: PathBuf,
}

impl HubCache {
    /// The folder of a repository.
    pub fn repo(&self, kind: RepoKind, id: &str) -> PathBuf {
        self.root.join(format!("{}--{}", kind.plural(), id.replace('/', "--")))
    }

    /// The folder of a revision's files: a branch, a tag, or a commit of which the first seven digits are enough.
    /// With no revision, that of `main`, or where it has none the newest.
    ///
    /// # Errors
    /// When there is none.
    pub fn snapshot(&self, kind: RepoKind, id: &str, revision: Option<&str>) -> Result<PathBuf, Lost> {
        let repo = self.repo(kind, id);
        if !repo.is_dir() {
            return Err(Lost::Repo);
        }
        let snapshots = repo.join("snapshots");
        let named = |revision: &str| {
            let commit = regular::read_text(&repo.join("refs").join(revision), REFERENCE_LIMIT).ok()?;
            let commit = commit.trim();
            is_commit(commit).then(|| snapshots.join(commit)).filter(|dir| dir.is_dir())
        };
        let all = folders(&snapshots);
        let found = match revision {
            None => named("main").or_else(|| newest(&all)),
            Some(revision) => {
                let named = Some(revision).filter(|r| is_revision(r)).and_then(named);
                named.or_else(|| by_commit(&all, revision))
            }
        };
        found.ok_or_else(|| {
            if all.is_empty() {
                Lost::Snapshot(unfinished(&repo))
            } else {
                Lost::Revision(revisions(&repo, &all))
            }
        })
    }
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<PathBuf> = entries.filter(|path| path.is_dir() && is_commit(&name(path))).collect();
    all.sort();
    all
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn newest(all: &[PathBuf]) -> Option<PathBuf> {
    let age =
        |path: &&PathBuf| fs::metadata(path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    all.iter().max_by_key(age).cloned()
}

fn by_commit(all: &[PathBuf], revision: &str) -> Option<PathBuf> {
    let revision = revision.to_ascii_lowercase();
    let mut fits = all.iter().filter(|path| revision.len() >= 7 && name(path).starts_with(&revision));
    fits.next().filter(|_| fits.next().is_none()).cloned()
}

/// Whether a download has left a part of a file.
fn unfinished(repo: &Path) -> bool {
    let blobs = fs::read_dir(repo.join("blobs")).into_iter().flatten().flatten();
    blobs.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with(".incomplete"))
}

/// The revisions that there are: names of references, and commits that have none.
fn revisions(repo: &Path, all: &[PathBuf]) -> Vec<String> {
    let refs = repo.join("refs");
    let (mut known, mut named) = (Vec::new(), Vec::new());
    let mut folders = vec![refs.clone()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if let (Ok(commit), Ok(name)) =
                (regular::read_text(&path, REFERENCE_LIMIT), path.strip_prefix(&refs))
            {
                known.push(name.to_string_lossy().replace('\\', "/"));
                named.push(commit.trim().to_owned());
            }
        }
    }
    known.sort();
    known.extend(all.iter().map(|path| name(path)).filter(|commit| !named.contains(commit)));
    known
}

#[cfg(test)]
mod tests;
