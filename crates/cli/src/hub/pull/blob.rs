//! One file's content into the cache: `blobs/ETAG`, which is there whole and checked or not at all. What a download
//! has of it meanwhile is `ETAG.incomplete`, as `huggingface_hub` has it, and the next goes on there. The lock is that
//! program's too, so that no two processes write one file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};
use mesp_formats::Error as FileError;
use mesp_formats::atomic::create_dir_all;
use mesp_formats::hub::HubCache;

use super::client::{Client, Failure, Listed};
use super::hash::{Expected, Hasher};
use super::said;
use crate::failure::usage;
use crate::sizes::bytes;
use crate::ui;

/// A content in the cache.
pub(super) struct Blob {
    pub(super) etag: String,
    pub(super) size: u64,
    /// Bytes that came over the network.
    pub(super) fetched: u64,
}

/// A download that begins or goes on so many times without a byte more is given up.
const TRIES: u32 = 5;

/// And so often from the beginning.
const RESTARTS: u32 = 3;

/// Where contents go.
pub(super) struct Store<'a> {
    pub(super) client: &'a Client,
    pub(super) cache: &'a HubCache,
    pub(super) commit: &'a str,
}

/// A content that is on its way.
struct Part<'a> {
    name: &'a str,
    path: PathBuf,
    file: File,
    /// Bytes that are there, all of them in the hash.
    have: u64,
    size: Option<u64>,
    expected: Option<&'a Expected>,
    hasher: Option<Hasher>,
    /// How often what was there has gone.
    cleared: u32,
}

impl Store<'_> {
    fn folder(&self) -> PathBuf {
        self.cache.repo(self.client.kind, &self.client.id)
    }

    /// The path of a content.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(etag)
    }

    /// Brings a file's content; `seen` hears how many bytes of it are there.
    pub(super) fn bring(&self, listed: &Listed, seen: &mut dyn FnMut(u64)) -> Result<Blob> {
        let name = &listed.name;
        let described = self
            .client
            .describe(self.commit, name)
            .map_err(|e| said(self.client, self.commit, Some(name), e))?;
        if let Some(found) =
            described.commit.as_ref().filter(|found| !found.eq_ignore_ascii_case(self.commit))
        {
            let problem = format!(
                "{}: expected {name} of commit {}, found that of {found}",
                self.client.id, self.commit
            );
            return Err(usage(problem, "the repository has changed meanwhile: call mesp pull again"));
        }
        let etag = self.etag(listed, described.etag.as_deref())?;
        let size = described.size.or(listed.size);
        let expected = Expected::new(&etag).or_else(|| listed.hash.as_deref().and_then(Expected::new));
        let blob = self.blob(&etag);
        let there = |size: Option<u64>| {
            let found = fs::metadata(&blob).ok().filter(fs::Metadata::is_file)?.len();
            size.is_none_or(|size| size == found).then_some(found)
        };
        if let Some(size) = there(size) {
            return Ok(Blob { etag, size, fetched: 0 });
        }
        create_dir_all(&self.folder().join("blobs"))?;
        let _lock = self.lock(&etag, name)?;
        // Another process may have brought it.
        if let Some(size) = there(size) {
            return Ok(Blob { etag, size, fetched: 0 });
        }
        let path = blob.with_file_name(format!("{etag}.incomplete"));
        let fetched = self.download(name, &path, size, expected.as_ref(), seen)?;
        fs::rename(&path, &blob).map_err(|e| FileError::io("rename a temporary file to", &blob, e))?;
        let size = fs::metadata(&blob).map_err(|e| FileError::io("read", &blob, e))?.len();
        Ok(Blob { etag, size, fetched })
    }

    /// The name of a content: the hub's etag, as `huggingface_hub` writes it.
    fn etag(&self, listed: &Listed, etag: Option<&str>) -> Result<String> {
        let found = etag.or(listed.hash.as_deref()).unwrap_or_default();
        let plain = found.trim_start_matches("W/").trim_matches('"');
        let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if plain.is_empty() || plain.len() > 200 || plain.starts_with('.') || !plain.chars().all(sound) {
            let problem = format!(
                "{}: expected an etag that names the content of {}, found {found:?}",
                self.client.id, listed.name
            );
            return Err(usage(
                problem,
                "check HF_ENDPOINT: without one nothing says whether the file is whole",
            ));
        }
        Ok(plain.to_owned())
    }

    /// Waits until no other process brings this content.
    fn lock(&self, etag: &str, name: &str) -> Result<Option<File>> {
        let folder = self.folder();
        let repo = folder.file_name().unwrap_or_default();
        let path = self.cache.root.join(".locks").join(repo).join(format!("{etag}.lock"));
        create_dir_all(path.parent().unwrap_or(&self.cache.root))?;
        let open = OpenOptions::new().create(true).append(true).open(&path);
        let lock = open.map_err(|e| FileError::io("create", &path, e))?;
        for turn in 0_u64.. {
            match lock.try_lock() {
                Ok(()) => break,
                // A file system without locks is no reason to refuse.
                Err(TryLockError::Error(_)) => return Ok(None),
                Err(TryLockError::WouldBlock) => {
                    if turn == 20 {
                        ui::note(format!("{name}: another process downloads it; waiting for that"));
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
        Ok(Some(lock))
    }

    /// Brings what is missing of a content and checks all of it; gives how many bytes came.
    fn download(
        &self,
        name: &str,
        path: &Path,
        size: Option<u64>,
        expected: Option<&Expected>,
        seen: &mut dyn FnMut(u64),
    ) -> Result<u64> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = open.map_err(|e| FileError::io("create", path, e))?;
        let mut part =
            Part { name, path: path.to_path_buf(), file, have: 0, size, expected, hasher: None, cleared: 0 };
        part.go_on()?;
        let (mut fetched, mut tries, mut resumed) = (0, 0, part.have > 0);
        loop {
            let before = part.have;
            let done = self.some(&mut part, seen)?;
            fetched += part.have.saturating_sub(before);
            tries = if part.have > before { 1 } else { tries + 1 };
            match done {
                Ok(()) => match part.check()? {
                    None => break,
                    // What an earlier download has left may be of anything: once more, from the beginning.
                    Some(_) if resumed => {
                        resumed = false;
                        part.clear()?;
                    }
                    Some(problem) => {
                        let _ = fs::remove_file(path);
                        return Err(usage(
                            format!("{}: {name}: {problem}", self.client.id),
                            "nothing of it is kept; call mesp pull again, or look at the network or mirror in between",
                        ));
                    }
                },
                Err(failure) if failure.passes() && tries < TRIES && part.cleared <= RESTARTS => {
                    let of = part.size.map_or_else(String::new, |size| format!(" of {}", bytes(size)));
                    ui::note(format!("{name}: the connection broke at {}{of}; going on", bytes(part.have)));
                    std::thread::sleep(Duration::from_millis(200 << tries.min(4)));
                }
                Err(failure) => {
                    let error = said(self.client, self.commit, Some(name), failure);
                    if part.have == 0 {
                        let _ = fs::remove_file(path);
                    } else {
                        ui::note(format!(
                            "{name}: {} are kept, and mesp pull goes on there",
                            bytes(part.have)
                        ));
                    }
                    return Err(error);
                }
            }
        }
        part.file.sync_all().map_err(|e| FileError::io("flush to disk", path, e))?;
        Ok(fetched)
    }

    /// Appends what one connection gives.
    fn some(&self, part: &mut Part<'_>, seen: &mut dyn FnMut(u64)) -> Result<Result<(), Failure>> {
        seen(part.have);
        if part.size == Some(part.have) {
            return Ok(Ok(()));
        }
        let answer = match self.client.bytes(self.commit, part.name, part.have) {
            // What is there is more than the file.
            Err(Failure::Refused { status: 416, .. }) if part.have > 0 => {
                part.clear()?;
                return Ok(Err(Failure::Network("the part that was there is none of this file".to_owned())));
            }
            Err(failure) => return Ok(Err(failure)),
            Ok(answer) => answer,
        };
        let range = answer.headers().get("content-range").and_then(|r| r.to_str().ok());
        let begins = range.and_then(|r| r.trim().strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        let partial = answer.status() == 206;
        if partial && begins.is_some_and(|at: u64| at != part.have) {
            return Ok(Err(Failure::Network("an answer with another part than was asked for".to_owned())));
        }
        if part.have > 0 && !partial {
            part.clear()?;
        }
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; 1 << 17];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => return Ok(Err(Failure::Network(e.to_string()))),
            };
            part.append(&buffer[..n])?;
            seen(part.have);
            if part.size.is_some_and(|size| part.have > size) {
                break;
            }
        }
        if part.size.is_some_and(|size| part.have < size) {
            return Ok(Err(Failure::Network("the connection ended before the file did".to_owned())));
        }
        Ok(Ok(()))
    }
}

impl Part<'_> {
    /// Takes up what an earlier download has left.
    fn go_on(&mut self) -> Result<()> {
        let found = self.file.metadata().map_err(|e| FileError::io("read", &self.path, e))?.len();
        if self.size.is_none_or(|size| found > size) {
            return self.clear();
        }
        self.hasher = self.expected.map(|expected| expected.hasher(self.size.unwrap_or(0)));
        let mut buffer = vec![0; 1 << 17];
        loop {
            match self.file.read(&mut buffer).map_err(|e| FileError::io("read", &self.path, e))? {
                0 => return Ok(()),
                n => {
                    self.have += n as u64;
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&buffer[..n]);
                    }
                }
            }
        }
    }

    /// Begins anew.
    fn clear(&mut self) -> Result<()> {
        self.have = 0;
        self.cleared += 1;
        self.hasher = self.expected.map(|expected| expected.hasher(self.size.unwrap_or(0)));
        let cleared = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cleared.map(|_| ()).map_err(|e| FileError::io("write", &self.path, e).into())
    }

    fn append(&mut self, some: &[u8]) -> Result<()> {
        self.file.write_all(some).map_err(|e| {
            let left = self.size.map_or_else(String::new, |size| format!("{} of ", bytes(size - self.have.min(size))));
            anyhow!(
                "cannot write {}: {e}\n  {left}{} is still to come: make room, and mesp pull goes on where it stopped",
                self.path.display(),
                self.name
            )
        })?;
        self.have += some.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(some);
        }
        Ok(())
    }

    /// What is wrong with a content that came to its end.
    fn check(&mut self) -> Result<Option<String>> {
        if let Some(size) = self.size.filter(|size| *size != self.have) {
            let more = if self.have > size { "more" } else { "less" };
            return Ok(Some(format!("expected {size} bytes, found {more}")));
        }
        let Some(expected) = self.expected else { return Ok(None) };
        let found = match self.hasher.take() {
            Some(hasher) if self.size.is_some() => hasher.finish(),
            // Git's hash begins with the size, which is known only now.
            _ => {
                let mut hasher = expected.hasher(self.have);
                let mut all = Vec::new();
                let read = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.read_to_end(&mut all));
                read.map_err(|e| FileError::io("read", &self.path, e))?;
                hasher.update(&all);
                hasher.finish()
            }
        };
        let wrong = found != expected.digits();
        Ok(wrong.then(|| format!("expected {} {}, found {found}", expected.name(), expected.digits())))
    }
}
