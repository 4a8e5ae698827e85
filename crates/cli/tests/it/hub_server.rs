//! A hub on loopback: answers as huggingface.co does, and as badly as a network can.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::support::{Ran, command};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with a file.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes, so many times.
    Breaks(usize, usize),
    /// Nothing more comes after so many bytes.
    Stalls(usize),
    /// Other bytes than the hash says.
    Flipped,
    /// More bytes than the size says, or fewer.
    Size(isize),
    /// Ranges are not known; the connection ends once after so many bytes.
    Whole(usize),
    /// This status and word for it.
    Refused(u16, &'static str),
}

#[derive(Default)]
struct State {
    /// Files by repository, as in `models/org/name`.
    repos: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    faults: BTreeMap<String, Fault>,
    /// Answers in place of a repository's list of files.
    refused: BTreeMap<String, (u16, &'static str)>,
    /// Requests, with what of their headers matters.
    log: Vec<String>,
}

/// The hub, and where it keeps large files: another origin.
pub(crate) struct Hub {
    state: Arc<Mutex<State>>,
    pub(crate) url: String,
}

struct Asked {
    method: String,
    path: String,
    range: Option<usize>,
}

impl Hub {
    pub(crate) fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (hub, store) = (listen(), listen());
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("an address"));
        let (at, store_at) = (url(&hub), url(&store));
        for (listener, name) in [(hub, "hub"), (store, "store")] {
            let (state, store_at) = (Arc::clone(&state), store_at.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, store_at) = (Arc::clone(&state), store_at.clone());
                    // A client that has gone is its own affair.
                    std::thread::spawn(move || answer(&stream, &state, name, &store_at));
                }
            });
        }
        Self { state, url: at }
    }

    pub(crate) fn file(&self, repo: &str, name: &str, content: impl Into<Vec<u8>>) {
        let mut state = self.state.lock().expect("the state");
        state.repos.entry(repo.to_owned()).or_default().insert(name.to_owned(), content.into());
    }

    /// All files of a folder.
    pub(crate) fn folder(&self, repo: &str, folder: &Path) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let content = std::fs::read(entry.path()).expect("a file");
            self.file(repo, &entry.file_name().to_string_lossy(), content);
        }
    }

    pub(crate) fn fault(&self, file: &str, fault: Fault) {
        self.state.lock().expect("the state").faults.insert(file.to_owned(), fault);
    }

    pub(crate) fn heal(&self) {
        self.state.lock().expect("the state").faults.clear();
    }

    pub(crate) fn refuse(&self, repo: &str, status: u16, code: &'static str) {
        self.state.lock().expect("the state").refused.insert(repo.to_owned(), (status, code));
    }

    /// Requests so far, which are then forgotten.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().expect("the state").log)
    }

    /// The program with this hub, and a home of its own.
    pub(crate) fn command(&self, home: &Path, args: &[&str]) -> Command {
        let args: Vec<&dyn AsRef<std::ffi::OsStr>> =
            args.iter().map(|a| a as &dyn AsRef<std::ffi::OsStr>).collect();
        let mut command = command(&args);
        at_home(&mut command, home).env("HF_ENDPOINT", &self.url);
        command
    }

    pub(crate) fn mesp(&self, home: &Path, args: &[&str]) -> Ran {
        Ran::of(self.command(home, args).output().expect("the program starts"))
    }

    /// A failure without what differs between machines and calls.
    pub(crate) fn failure(&self, home: &Path, args: &[&str]) -> String {
        self.mesp(home, args).failure(home).replace(&self.url, "[HUB]")
    }
}

/// Gives a call a home of its own: no cache, token or proxy of the user's.
pub(crate) fn at_home<'a>(command: &'a mut Command, home: &Path) -> &'a mut Command {
    for name in [
        "HF_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "XDG_CACHE_HOME",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_OFFLINE",
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        command.env_remove(name);
    }
    command.env("HOME", home)
}

pub(crate) fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// What git calls a file.
pub(crate) fn git_hash(content: &[u8]) -> String {
    hex(&Sha1::new().chain_update(format!("blob {}\0", content.len())).chain_update(content).finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"))
}

/// Large files lie elsewhere, by SHA-256; all others in git.
fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf", ".parquet"].iter().any(|end| name.ends_with(end))
}

fn read(stream: &TcpStream, state: &Mutex<State>, at: &str) -> Option<Asked> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut parts = first.split(' ');
    let mut asked = Asked { method: parts.next()?.to_owned(), path: parts.next()?.to_owned(), range: None };
    let mut log = format!("{at} {} {}", asked.method, asked.path);
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                asked.range = value.strip_prefix("bytes=").and_then(|r| r.trim_end_matches('-').parse().ok());
                log = log + " " + value;
            }
            "authorization" => log = log + " " + value,
            _ => {}
        }
    }
    state.lock().expect("the state").log.push(log);
    Some(asked)
}

fn answer(stream: &TcpStream, state: &Mutex<State>, at: &str, store: &str) -> Option<()> {
    let asked = read(stream, state, at)?;
    let path = asked.path.split('?').next()?.trim_start_matches('/').to_owned();
    if at == "store" || path.starts_with("store/") {
        let (_, rest) = path.split_once("store/")?;
        let (repo, name) = rest.split_once("//")?;
        return content(stream, state, &asked, repo, name, &[]);
    }
    if let Some(rest) = path.strip_prefix("api/") {
        let (repo, revision) = rest.split_once("/revision/")?;
        return listing(stream, state, repo, revision);
    }
    let (repo, rest) = path.split_once("/resolve/")?;
    let (_, name) = rest.split_once('/')?;
    let repo = if repo.starts_with("datasets/") { repo.to_owned() } else { format!("models/{repo}") };
    let found = state.lock().expect("the state").repos.get(&repo).and_then(|files| files.get(name)).cloned();
    let Some(file) = found else { return head(stream, "404 Not Found", &["X-Error-Code: EntryNotFound"], 0) };
    let commit = format!("X-Repo-Commit: {COMMIT}");
    if !is_large(name) {
        return content(
            stream,
            state,
            &asked,
            &repo,
            name,
            &[&commit, &format!("ETag: \"{}\"", git_hash(&file))],
        );
    }
    let fault = state.lock().expect("the state").faults.get(name).cloned();
    let size = match fault {
        Some(Fault::Size(by)) => file.len().wrapping_add_signed(-by),
        _ => file.len(),
    };
    // Shards of the second kind stay at the hub, by an address that is relative.
    let place = if name.contains("-00002-") {
        format!("/store/{repo}//{name}")
    } else {
        format!("{store}/store/{repo}//{name}")
    };
    let headers = [
        commit.as_str(),
        &format!("X-Linked-Etag: \"{}\"", sha256(&file)),
        &format!("X-Linked-Size: {size}"),
        &format!("Location: {place}"),
        "ETag: \"of-the-redirect\"",
    ];
    head(stream, "302 Found", &headers, 0)
}

fn listing(stream: &TcpStream, state: &Mutex<State>, repo: &str, revision: &str) -> Option<()> {
    let (files, refused) = {
        let state = state.lock().expect("the state");
        (state.repos.get(repo).cloned(), state.refused.get(repo).copied())
    };
    if let Some((status, code)) = refused {
        let code = format!("X-Error-Code: {code}");
        return head(stream, &format!("{status} Refused"), &[&code, "X-Error-Message: no way"], 0);
    }
    let Some(files) = files else {
        return head(stream, "401 Unauthorized", &["X-Error-Code: RepoNotFound"], 0);
    };
    if !["main", "v1", "refs%2Fpr%2F1", COMMIT].contains(&revision) {
        return head(stream, "404 Not Found", &["X-Error-Code: RevisionNotFound"], 0);
    }
    let siblings = files.iter().map(|(name, content)| {
        let mut sibling = json!({ "rfilename": name, "size": content.len(), "blobId": git_hash(content) });
        if is_large(name) {
            sibling["lfs"] = json!({ "sha256": sha256(content), "size": content.len(), "pointerSize": 130 });
        }
        sibling
    });
    let text = json!({ "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>() }).to_string();
    head(stream, "200 OK", &["Content-Type: application/json"], text.len())?;
    (&mut &*stream).write_all(text.as_bytes()).ok()
}

/// The bytes of a file, from where they are asked for.
fn content(
    stream: &TcpStream,
    state: &Mutex<State>,
    asked: &Asked,
    repo: &str,
    name: &str,
    headers: &[&str],
) -> Option<()> {
    let (mut file, fault) = {
        let mut state = state.lock().expect("the state");
        let fault = state.faults.get(name).cloned();
        if asked.method == "GET" {
            match state.faults.get_mut(name) {
                Some(Fault::Breaks(_, times)) if *times > 0 => *times -= 1,
                Some(Fault::Whole(at)) if fault.is_some() => *at = usize::MAX,
                _ => {}
            }
        }
        (state.repos.get(repo)?.get(name)?.clone(), fault)
    };
    let (mut until, mut stalls, mut from) = (usize::MAX, false, asked.range.unwrap_or(0));
    match fault {
        Some(Fault::Breaks(at, times)) if times > 0 => until = from + at,
        Some(Fault::Stalls(at)) => (until, stalls) = (at, true),
        Some(Fault::Flipped) => file.iter_mut().take(1).for_each(|b| *b ^= 1),
        Some(Fault::Whole(at)) => (until, from) = (at, 0),
        Some(Fault::Refused(status, code)) => {
            return head(stream, &format!("{status} Refused"), &[&format!("X-Error-Code: {code}")], 0);
        }
        _ => {}
    }
    if from > file.len() {
        return head(stream, "416 Range Not Satisfiable", &[], 0);
    }
    let range = format!("Content-Range: bytes {from}-{}/{}", file.len().saturating_sub(1), file.len());
    let partial = asked.range.is_some() && from > 0;
    let all: Vec<&str> = headers.iter().copied().chain(partial.then_some(range.as_str())).collect();
    head(stream, if partial { "206 Partial Content" } else { "200 OK" }, &all, file.len() - from)?;
    if asked.method == "HEAD" {
        return Some(());
    }
    (&mut &*stream).write_all(&file[from..until.clamp(from, file.len())]).ok()?;
    if stalls {
        std::thread::sleep(Duration::from_secs(30));
    }
    Some(())
}

fn head(mut stream: &TcpStream, status: &str, headers: &[&str], length: usize) -> Option<()> {
    let headers = headers.iter().fold(String::new(), |all, header| all + header + "\r\n");
    let text = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).ok()
}
