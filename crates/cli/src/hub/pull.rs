//! A repository's files from a hub into the cache.
//!
//! Contents come first, each whole and checked; then the snapshot's folder gets its name in one step, and at last the
//! revision names the snapshot. So what is cut off leaves nothing that looks like a model.

mod blob;
mod client;
mod hash;
mod links;
mod select;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, anyhow};
use mesp_formats::hub::{Environment, RepoKind, RepoName, cache};

use self::blob::{Blob, Store};
use self::client::{Client, Failure, Listed};
use crate::failure::usage;
use crate::progress::Line;
use crate::sizes::{bytes, duration};

/// What was asked for.
pub(crate) struct Wanted<'a> {
    pub(crate) kind: RepoKind,
    pub(crate) name: RepoName,
    /// Files by name; none for those of a model, or all rows.
    pub(crate) files: &'a [String],
}

/// A file that is there.
pub(crate) struct Fetched {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) etag: String,
    /// Bytes that came over the network.
    pub(crate) received: u64,
}

/// What is there in the end.
pub(crate) struct Pulled {
    pub(crate) path: PathBuf,
    pub(crate) commit: String,
    pub(crate) files: Vec<Fetched>,
}

pub(crate) fn pull(wanted: &Wanted<'_>) -> Result<Pulled> {
    let get = |name: &str| std::env::var(name).ok();
    let environment = Environment(&get);
    let id = &wanted.name.id;
    if environment.offline() {
        return Err(usage(
            format!("{id}: HF_HUB_OFFLINE is set: nothing is fetched"),
            "unset it to use the network",
        ));
    }
    let cache =
        cache().ok_or_else(|| usage("no home folder is known, expected one for the cache", "set HF_HOME"))?;
    let client = Client::new(&environment, wanted.kind, id)?;
    let revision = wanted.name.revision.as_deref().unwrap_or("main");
    let listing = client.listing(revision)?.map_err(|failure| said(&client, revision, None, failure))?;
    let mut files = select::first(wanted.kind, id, &listing, wanted.files)?;
    let store = Store { client: &client, cache: &cache, commit: &listing.commit };
    let mut progress = Progress::new(&files);
    let mut blobs: Vec<Blob> = Vec::new();
    while blobs.len() < files.len() {
        let file = files[blobs.len()].clone();
        let blob = store.bring(&file, &mut |have| progress.at(&file.name, have))?;
        progress.end(&file, blob.size);
        if file.name == select::INDEX && wanted.files.is_empty() {
            let shards = select::shards(id, &store.blob(&blob.etag), &listing)?;
            progress.add(&shards);
            files.extend(shards);
        }
        blobs.push(blob);
    }
    progress.line.end();
    let repo = cache.repo(wanted.kind, id);
    let linked: Vec<(&str, &str)> =
        files.iter().zip(&blobs).map(|(file, blob)| (file.name.as_str(), blob.etag.as_str())).collect();
    let path = links::snapshot(&repo, &listing.commit, &linked)?;
    links::reference(&repo, revision, &listing.commit)?;
    let fetched = files.into_iter().zip(blobs).map(|(file, blob)| Fetched {
        name: file.name,
        size: blob.size,
        etag: blob.etag,
        received: blob.fetched,
    });
    Ok(Pulled { path, commit: listing.commit.clone(), files: fetched.collect() })
}

/// The line that says how far it is.
struct Progress {
    line: Line,
    started: Instant,
    total: u64,
    before: u64,
}

impl Progress {
    fn new(files: &[Listed]) -> Self {
        let total = sum(files);
        Self { line: Line::new(total.max(13)), started: Instant::now(), total, before: 0 }
    }

    fn add(&mut self, files: &[Listed]) {
        self.total += sum(files);
        self.line.grow(self.total);
    }

    fn at(&mut self, name: &str, have: u64) {
        let (done, total, seconds) =
            (self.before + have, self.total.max(self.before + have), self.started.elapsed().as_secs_f64());
        // Two seconds until there is something to say.
        if seconds < 2.0 {
            return;
        }
        self.line.at(done.min(total.saturating_sub(1)), || {
            let rate = done as f64 / seconds;
            let left = (total - done) as f64 / rate.max(1.0);
            format!(
                "{name}: {} of {} | {}/s | ETA {}",
                bytes(done),
                bytes(total),
                bytes(rate as u64),
                duration(left)
            )
        });
    }

    fn end(&mut self, file: &Listed, size: u64) {
        self.before += size;
        // A listing without sizes.
        self.total += size.saturating_sub(file.size.unwrap_or(0));
    }
}

fn sum(files: &[Listed]) -> u64 {
    files.iter().filter_map(|file| file.size).fold(0, u64::saturating_add)
}

/// A failure in words.
fn said(client: &Client, revision: &str, file: Option<&str>, failure: Failure) -> anyhow::Error {
    let (id, hub, kind) = (&client.id, &client.endpoint, client.kind.name());
    let what = file.map_or_else(|| id.clone(), |file| format!("{id}: {file}"));
    let (status, code, message) = match failure {
        Failure::Network(problem) => {
            return anyhow!(
                "{what}: expected an answer of {hub}, found none ({problem})\n  check the network, HF_ENDPOINT and \
                 HTTPS_PROXY; call mesp pull again to go on"
            );
        }
        Failure::Refused { status, code, message } => (status, code, message),
    };
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    let with = match &client.token {
        Some((_, from)) => format!("with the token of {from}"),
        None => "without a token".to_owned(),
    };
    let answered = format!("status {status}{message}");
    let prefix = if client.kind == RepoKind::Dataset { "datasets/" } else { "" };
    match (code.as_str(), status) {
        ("GatedRepo", _) => usage(
            format!("{what}: the {kind} is given on request, and it was refused {with} ({answered})"),
            format!("ask for it at {hub}/{prefix}{id}, then set HF_TOKEN to a token of that account"),
        ),
        ("RevisionNotFound", _) => usage(
            format!("{id}: expected revision {revision} at {hub}, found none ({answered})"),
            format!("{hub}/{prefix}{id}/tree/main lists branches and tags; without --revision it is main"),
        ),
        ("EntryNotFound", _) => usage(
            format!("{what}: expected this file in revision {revision}, found none ({answered})"),
            "name another file, or another revision with --revision",
        ),
        ("RepoNotFound", _) | (_, 401 | 403 | 404) => {
            let other = if client.kind == RepoKind::Model {
                "a dataset needs --dataset"
            } else {
                "a model needs no --dataset"
            };
            usage(
                format!(
                    "{what}: expected a {kind} of that name at {hub}, found none that can be read {with} ({answered})"
                ),
                format!(
                    "check the name; {other}; where it is private, set HF_TOKEN to a token that may read it"
                ),
            )
        }
        (_, 429) => anyhow!(
            "{what}: {hub} has answered too many requests from here ({answered})\n  wait some minutes, or set HF_TOKEN"
        ),
        _ => anyhow!(
            "{what}: expected the file or the list of files, found an error of {hub} ({answered})\n  try again later"
        ),
    }
}
