//! The runs that are looked at, kept up to date, for everyone who looks.
//!
//! Each run is read by a [`Watch`] of its own, which holds no lock while it waits for the disk: one that cannot be read
//! keeps no other from being shown.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesp_formats::{Error, regular};
use serde_json::Value;

use super::record::{Record, Room, Seen};
use super::summary;
use super::tail::{Tail, stamp};
use crate::{metrics, run_files};

/// Runs that are shown at most, and how deep below a given folder they are looked for.
pub(super) const MOST_RUNS: usize = 64;
const DEPTH: usize = 3;

/// Folders that are looked into at most, and entries of one: somebody's home holds more than runs.
const MOST_FOLDERS: usize = 2000;
const MOST_ENTRIES: usize = 20_000;

/// Folders of a run that hold no runs.
const INSIDE: [&str; 2] = ["checkpoints", "cache"];

/// The runs.
pub(super) struct Store {
    roots: Vec<PathBuf>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held while lines are parsed, which takes several times their memory: those of one run at a time.
    parsing: Mutex<()>,
}

#[derive(Default)]
struct State {
    version: u64,
    runs: Vec<Arc<Run>>,
}

/// A run as far as it is known.
pub(super) struct Run {
    pub(super) path: PathBuf,
    pub(super) name: String,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    record: Record,
    modified: Option<SystemTime>,
}

/// The one reader of a run.
pub(super) struct Watch {
    run: Arc<Run>,
    tail: Tail,
    /// What tells that `run.json` is another, and why it cannot be read.
    summary: Option<super::tail::Stamp>,
    trouble: Option<String>,
}

/// What `run.json` says; none where there is none that can be read.
struct Told(Option<String>);

/// How much of the store someone has.
#[derive(Default)]
pub(super) struct Cursor {
    /// None while there is more to give.
    version: Option<u64>,
    runs: Vec<Seen>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Over run directories, or directories of them.
    pub(super) fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots, state: Mutex::default(), changed: Condvar::new(), parsing: Mutex::default() }
    }

    /// Looks for runs that are not known yet, and gives who is to read them.
    pub(super) fn scan(&self) -> Vec<Watch> {
        let (mut found, mut left) = (Vec::new(), MOST_FOLDERS);
        for root in &self.roots {
            find(root, DEPTH, &mut left, &mut found);
        }
        let named: Vec<_> = found.into_iter().map(|path| (self.name(&path), path)).collect();
        let mut watches = Vec::new();
        let mut state = lock(&self.state);
        for (name, path) in named {
            if state.runs.len() < MOST_RUNS && state.runs.iter().all(|run| run.path != path) {
                let run = Arc::new(Run { name, path, known: Mutex::default() });
                state.runs.push(Arc::clone(&run));
                state.version += 1;
                watches.push(Watch::new(run));
            }
        }
        drop(state);
        self.changed.notify_all();
        watches
    }

    /// The runs' names and directories.
    pub(super) fn runs(&self) -> Vec<Arc<Run>> {
        lock(&self.state).runs.clone()
    }

    /// Says why a run is not read any more, or for now.
    pub(super) fn trouble(&self, run: &Run, trouble: Option<String>) {
        if lock(&run.known).record.set_trouble(trouble) {
            self.tell();
        }
    }

    fn tell(&self) {
        lock(&self.state).version += 1;
        self.changed.notify_all();
    }

    /// Waits for news, at most so long, and gives about so many bytes of them as a JSON document; the rest comes with
    /// the next call.
    pub(super) fn news(&self, cursor: &mut Cursor, wait: Duration, most: usize) -> Option<String> {
        let state = lock(&self.state);
        let same = |state: &mut State| cursor.version == Some(state.version);
        let waited = self.changed.wait_timeout_while(state, wait, same);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if cursor.version == Some(state.version) {
            return None;
        }
        let (version, runs) = (state.version, state.runs.clone());
        drop(state);
        cursor.runs.resize(runs.len(), Seen::default());
        let mut json = format!(r#"{{"count":{},"runs":["#, runs.len());
        let mut whole = true;
        for (id, (run, seen)) in runs.iter().zip(&mut cursor.runs).enumerate() {
            if json.len() >= most && !json.ends_with('[') {
                whole = false;
                break;
            }
            let known = lock(&run.known);
            if let Some((fields, all)) = known.record.news(seen, most.saturating_sub(json.len())) {
                whole &= all;
                if !json.ends_with('[') {
                    json.push(',');
                }
                run.write(&mut json, id, known.modified, &fields);
            }
        }
        cursor.version = whole.then_some(version);
        json.push_str("]}");
        Some(json)
    }

    /// A run's name: its way from the given folder, or the folder's own name.
    fn name(&self, path: &Path) -> String {
        let below = self.roots.iter().find_map(|root| {
            let rest = path.strip_prefix(root).ok()?;
            (!rest.as_os_str().is_empty()).then(|| rest.display().to_string())
        });
        let own = || {
            let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            whole.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
        };
        below.unwrap_or_else(own)
    }
}

impl Run {
    /// Why it cannot be read.
    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.known).record.trouble().map(str::to_owned)
    }

    fn write(&self, json: &mut String, id: usize, modified: Option<SystemTime>, fields: &str) {
        let modified = modified.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map(|d| d.as_millis() as u64);
        let _ = write!(
            json,
            r#"{{"id":{id},"name":{},"path":{},"modified":{},{fields}}}"#,
            Value::from(self.name.as_str()),
            Value::from(self.path.display().to_string()),
            Value::from(modified),
        );
    }
}

impl Watch {
    fn new(run: Arc<Run>) -> Self {
        let tail = Tail::new(&run.path, metrics::FILE);
        Self { run, tail, summary: None, trouble: None }
    }

    /// Whose it is.
    pub(super) fn run(&self) -> Arc<Run> {
        Arc::clone(&self.run)
    }

    /// Reads what the run has written since; whether there is more to read at once.
    pub(super) fn poll(&mut self, store: &Store) -> bool {
        let room = Room::of(lock(&store.state).runs.len());
        let summary = self.summary(store);
        let polled = self.tail.poll();
        let parsing = lock(&store.parsing);
        let mut known = lock(&self.run.known);
        let mut changed = false;
        if let Some(Told(summary)) = summary {
            known.record.set_summary(summary);
            changed = true;
        }
        let (trouble, more) = match polled {
            Ok(news) => {
                if news.reset {
                    known.record.clear();
                }
                known.record.skip(news.skipped);
                known.record.take(&news.lines, room);
                changed |= news.reset || news.skipped > 0 || !news.lines.is_empty();
                known.modified = self.tail.modified().or_else(|| self.summary.and_then(|stamp| stamp.2));
                (None, news.more)
            }
            Err(e) => (Some(e.to_string()), false),
        };
        let trouble =
            [trouble, self.trouble.clone()].into_iter().flatten().reduce(|a, b| format!("{a}\n{b}"));
        changed |= known.record.set_trouble(trouble);
        drop((known, parsing));
        if changed {
            store.tell();
        }
        more
    }

    /// Reads a last line that has no end: the run is looked at once and no more.
    pub(super) fn finish(&mut self, store: &Store) {
        while self.poll(store) {}
        if let Ok(rest) = self.tail.rest() {
            let room = Room::of(lock(&store.state).runs.len());
            lock(&self.run.known).record.take(&rest, room);
        }
    }

    /// What `run.json` says, if that has changed.
    fn summary(&mut self, store: &Store) -> Option<Told> {
        let path = self.run.path.join(run_files::DOCUMENT);
        let opened = match regular::open_inside(&self.run.path, run_files::DOCUMENT) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound && !path.is_symlink() => {
                None
            }
            other => Some(other),
        };
        let stamped = |file: fs::File| match file.metadata() {
            Ok(data) => Ok((stamp(&data), file)),
            Err(e) => Err(Error::io("read", &path, e)),
        };
        let (stamp, read) = match opened.map(|file| file.and_then(stamped)) {
            None => (None, Ok(None)),
            Some(Err(e)) => (None, Err(e)),
            // Looked at no more until it changes, whatever came of it.
            Some(Ok((now, _))) if Some(now) == self.summary => return None,
            Some(Ok((now, file))) => {
                let _parsing = lock(&store.parsing);
                (Some(now), summary::read(&file, &path).map(Some))
            }
        };
        let before = (self.summary, self.trouble.take());
        self.summary = stamp;
        let json = read.unwrap_or_else(|e| {
            self.trouble = Some(e.to_string());
            None
        });
        (before != (self.summary, self.trouble.clone())).then_some(Told(json))
    }
}

/// Whether a folder is a run's. Whatever has such a name counts: a run whose file cannot be read is shown with the reason.
fn is_run(dir: &Path) -> bool {
    [metrics::FILE, run_files::DOCUMENT].iter().any(|name| fs::symlink_metadata(dir.join(name)).is_ok())
}

/// Runs in a folder or below it, by name; nothing that a run contains, and nothing that a link leads to.
fn find(dir: &Path, depth: usize, left: &mut usize, found: &mut Vec<PathBuf>) {
    if found.len() >= MOST_RUNS || *left == 0 {
        return;
    }
    *left -= 1;
    if is_run(dir) {
        found.push(dir.to_owned());
        return;
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    let Ok(entries) = fs::read_dir(dir) else { return };
    let shown = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // The entry's own type: a link to a folder is none.
        !name.starts_with('.')
            && !INSIDE.contains(&&*name)
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
    };
    let entries = entries.take(MOST_ENTRIES).flatten();
    let mut folders: Vec<PathBuf> = entries.filter(shown).map(|e| e.path()).collect();
    folders.sort();
    for folder in folders {
        find(&folder, depth, left, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: usize = usize::MAX;

    fn names(store: &Store) -> Vec<String> {
        store.runs().iter().map(|run| run.name.clone()).collect()
    }

    fn news(store: &Store, cursor: &mut Cursor) -> Option<Value> {
        let news = store.news(cursor, Duration::ZERO, ALL)?;
        Some(serde_json::from_str(&news).expect("JSON"))
    }

    #[test]
    fn runs_are_found_and_followed() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        for name in ["b/run", "a", "a/inside", ".hidden", "empty"] {
            fs::create_dir_all(at(name)).expect("a folder");
        }
        for name in ["b/run", "a", "a/inside", ".hidden"] {
            fs::write(at(name).join(metrics::FILE), "").expect("a file");
        }
        let store = Store::new(vec![dir.path().to_owned()]);
        let mut watches = store.scan();
        assert_eq!(names(&store), ["a", "b/run"]);
        assert!(store.scan().is_empty(), "each is watched once");
        let mut cursor = Cursor::default();
        assert_eq!(news(&store, &mut cursor).expect("news")["count"], 2);
        assert_eq!(news(&store, &mut cursor), None);
        fs::write(at("a").join(metrics::FILE), "{\"type\":\"train\",\"step\":1,\"loss\":2}\n")
            .expect("a line");
        fs::write(at("a").join(run_files::DOCUMENT), r#"{"seconds":{"total":3,"steps":[1,2]}}"#)
            .expect("a file");
        for watch in &mut watches {
            watch.poll(&store);
        }
        let next = news(&store, &mut cursor).expect("news");
        assert_eq!(next["runs"].as_array().map(Vec::len), Some(1));
        assert_eq!(next["runs"][0]["tables"]["train"]["columns"]["loss"][0], 2);
        assert_eq!(next["runs"][0]["summary"]["seconds"], serde_json::json!({"total": 3}));
        for watch in &mut watches {
            watch.poll(&store);
        }
        assert_eq!(news(&store, &mut cursor), None, "nothing has changed");
    }

    /// A trouble is news by itself, and so is its end.
    #[test]
    fn a_run_in_trouble_says_so_and_recovers() {
        let dir = tempfile::tempdir().expect("a folder");
        let (events, summary) = (dir.path().join(metrics::FILE), dir.path().join(run_files::DOCUMENT));
        fs::create_dir(&events).expect("a folder in the file's place");
        let store = Store::new(vec![dir.path().to_owned()]);
        let mut watch = store.scan().pop().expect("a run");
        let mut cursor = Cursor::default();
        watch.poll(&store);
        let told = |cursor: &mut Cursor| news(&store, cursor).map(|news| news["runs"][0]["trouble"].clone());
        let first = told(&mut cursor).expect("news").to_string();
        assert!(first.contains(metrics::FILE) && first.contains("found a folder"), "{first}");
        watch.poll(&store);
        assert_eq!(told(&mut cursor), None, "said once");
        fs::write(&summary, "{\"a\":").expect("written");
        watch.poll(&store);
        let both = told(&mut cursor).expect("news").to_string();
        assert!(both.contains("found a folder") && both.contains(run_files::DOCUMENT), "{both}");
        fs::remove_dir(&events).expect("removed");
        fs::write(&events, "{\"type\":\"train\",\"step\":1,\"loss\":2}\n").expect("written");
        fs::write(&summary, "{\"status\":\"done\"}").expect("written");
        watch.poll(&store);
        let mended = news(&store, &mut cursor).expect("news");
        assert_eq!(mended["runs"][0]["trouble"], Value::Null);
        assert_eq!(mended["runs"][0]["summary"]["status"], "done");
        assert_eq!(mended["runs"][0]["tables"]["train"]["columns"]["step"][0], 1);
        fs::remove_file(&summary).expect("removed");
        watch.poll(&store);
        assert_eq!(news(&store, &mut cursor).expect("news")["runs"][0]["summary"], Value::Null);
    }

    /// In pieces of any size it is the same in the end.
    #[test]
    fn pieces_are_the_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["a", "b"] {
            fs::create_dir(dir.path().join(name)).expect("a folder");
            let line = |step: usize| {
                format!(
                    "{{\"type\":\"train\",\"step\":{step},\"loss\":{step}.5}}\n{{\"type\":\"x\",\"step\":{step}}}\n"
                )
            };
            let text: String = (1..=300).map(line).collect();
            fs::write(dir.path().join(name).join(metrics::FILE), text).expect("written");
        }
        let store = Store::new(vec![dir.path().to_owned()]);
        store.scan().iter_mut().for_each(|watch| watch.finish(&store));
        for most in [1, 400, 5000, ALL] {
            let mut cursor = Cursor::default();
            let (mut steps, mut lines) = ([Vec::new(), Vec::new()], [0, 0]);
            while let Some(piece) = store.news(&mut cursor, Duration::ZERO, most) {
                assert!(piece.len() < most.saturating_add(1000), "{} of {most}", piece.len());
                let piece: Value = serde_json::from_str(&piece).expect("JSON");
                for run in piece["runs"].as_array().expect("runs") {
                    let id = run["id"].as_u64().expect("a number") as usize;
                    let table = &run["tables"]["train"];
                    if let Some(column) = table["columns"]["step"].as_array() {
                        assert_eq!(table["from"], steps[id].len());
                        steps[id].extend(column.iter().filter_map(Value::as_u64));
                    }
                    lines[id] += run["items"]["x"]["list"].as_array().map_or(0, Vec::len);
                }
            }
            assert_eq!(steps, [(1..=300).collect::<Vec<u64>>(), (1..=300).collect()], "{most}");
            assert_eq!(lines, [300, 300], "{most}");
        }
    }
}
