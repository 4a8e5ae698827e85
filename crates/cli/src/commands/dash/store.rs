//! The runs that are looked at, kept up to date, for everyone who looks.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::record::{Record, Seen};
use super::tail::Tail;
use crate::{metrics, run_json};

/// Runs that are shown at most, and how deep below a given folder they are looked for.
pub(super) const MOST_RUNS: usize = 64;
const DEPTH: usize = 3;

/// Folders that are looked into at most: somebody's home holds more than runs.
const MOST_FOLDERS: usize = 2000;

/// Folders of a run that hold no runs.
const INSIDE: [&str; 2] = ["checkpoints", "cache"];

/// A summary that is longer is no summary.
const LONGEST_SUMMARY: u64 = 64 << 20;

/// The runs.
pub(super) struct Store {
    roots: Vec<PathBuf>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    version: u64,
    runs: Vec<Run>,
}

struct Run {
    path: PathBuf,
    name: String,
    tail: Tail,
    record: Record,
    /// When `run.json` was last changed.
    summary: Option<SystemTime>,
    trouble: Option<String>,
}

/// How much of the store someone has.
#[derive(Default)]
pub(super) struct Cursor {
    version: Option<u64>,
    runs: Vec<Seen>,
}

impl Store {
    /// Over run directories, or directories of them.
    pub(super) fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for runs that are not known yet.
    pub(super) fn scan(&self) {
        let (mut found, mut left) = (Vec::new(), MOST_FOLDERS);
        for root in &self.roots {
            find(root, DEPTH, &mut left, &mut found);
        }
        let mut state = self.lock();
        for path in found {
            if state.runs.len() < MOST_RUNS && state.runs.iter().all(|run| run.path != path) {
                let name = self.name(&path);
                state.runs.push(Run::new(path, name));
                state.version += 1;
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Reads what the runs have written since.
    pub(super) fn poll(&self) {
        loop {
            let mut state = self.lock();
            let (mut changed, mut more) = (false, false);
            for run in &mut state.runs {
                let (c, m) = run.poll();
                changed |= c;
                more |= m;
            }
            state.version += u64::from(changed);
            drop(state);
            if changed {
                self.changed.notify_all();
            }
            if !more {
                return;
            }
        }
    }

    /// Reads last lines that have no end: the runs are looked at once and no more.
    pub(super) fn finish(&self) {
        for run in &mut self.lock().runs {
            if let Ok(rest) = run.tail.rest() {
                run.record.take(&rest);
            }
        }
    }

    /// The runs' names and directories.
    pub(super) fn runs(&self) -> Vec<(String, PathBuf)> {
        self.lock().runs.iter().map(|run| (run.name.clone(), run.path.clone())).collect()
    }

    /// Waits for news, at most so long, and gives them as a JSON document.
    pub(super) fn news(&self, cursor: &mut Cursor, wait: Duration) -> Option<String> {
        let state = self.lock();
        let same = |state: &mut State| cursor.version == Some(state.version);
        let waited = self.changed.wait_timeout_while(state, wait, same);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if cursor.version == Some(state.version) {
            return None;
        }
        cursor.version = Some(state.version);
        cursor.runs.resize(state.runs.len(), Seen::default());
        let mut json = format!(r#"{{"count":{},"runs":["#, state.runs.len());
        for (id, (run, seen)) in state.runs.iter().zip(&mut cursor.runs).enumerate() {
            if let Some(fields) = run.record.news(seen) {
                if !json.ends_with('[') {
                    json.push(',');
                }
                run.write(&mut json, id, &fields);
            }
        }
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
    fn new(path: PathBuf, name: String) -> Self {
        let tail = Tail::new(&path.join(metrics::FILE));
        Self { path, name, tail, record: Record::default(), summary: None, trouble: None }
    }

    /// Whether something changed, and whether more can be read at once.
    fn poll(&mut self) -> (bool, bool) {
        let summary = self.poll_summary();
        match self.tail.poll() {
            Ok(news) => {
                if news.reset {
                    self.record.clear();
                }
                self.record.skip(news.skipped);
                self.record.take(&news.lines);
                let changed = news.reset || !news.lines.is_empty() || self.trouble.take().is_some();
                (summary || changed, news.more)
            }
            Err(e) => {
                let text = format!("{}: cannot read {}: {e}", self.path.display(), metrics::FILE);
                let changed = self.trouble.as_ref() != Some(&text);
                self.trouble = Some(text);
                (summary || changed, false)
            }
        }
    }

    fn poll_summary(&mut self) -> bool {
        let path = self.path.join(run_json::FILE);
        let data = fs::metadata(&path).ok().filter(|d| d.len() <= LONGEST_SUMMARY);
        let changed = data.and_then(|d| d.modified().ok());
        if changed == self.summary {
            return false;
        }
        self.summary = changed;
        self.record.set_summary(summary(&path));
        true
    }

    fn write(&self, json: &mut String, id: usize, fields: &str) {
        let modified = self.tail.modified().or(self.summary);
        let modified = modified.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map(|d| d.as_millis() as u64);
        let _ = write!(
            json,
            r#"{{"id":{id},"name":{},"path":{},"modified":{},"trouble":{},{fields}}}"#,
            Value::from(self.name.as_str()),
            Value::from(self.path.display().to_string()),
            Value::from(modified),
            Value::from(self.trouble.as_deref()),
        );
    }
}

/// `run.json` on one line, without the time of every step, which the events have.
fn summary(path: &Path) -> Option<String> {
    let mut json: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    if let Some(seconds) = json.get_mut("seconds").and_then(Value::as_object_mut) {
        seconds.remove("steps");
    }
    json.is_object().then(|| json.to_string())
}

/// Whether a folder is a run's.
fn is_run(dir: &Path) -> bool {
    dir.join(metrics::FILE).is_file() || dir.join(run_json::FILE).is_file()
}

/// Runs in a folder or below it, by name; nothing that a run contains.
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
    let hidden = |path: &Path| {
        path.file_name().is_none_or(|n| {
            let name = n.to_string_lossy();
            name.starts_with('.') || INSIDE.contains(&&*name)
        })
    };
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| !p.is_symlink() && p.is_dir() && !hidden(p)).collect();
    folders.sort();
    for folder in folders {
        find(&folder, depth, left, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        store.scan();
        let names: Vec<String> = store.runs().into_iter().map(|r| r.0).collect();
        assert_eq!(names, ["a", "b/run"]);
        let mut cursor = Cursor::default();
        let first = store.news(&mut cursor, Duration::ZERO).expect("news");
        assert_eq!(serde_json::from_str::<Value>(&first).expect("JSON")["count"], 2);
        assert_eq!(store.news(&mut cursor, Duration::ZERO), None);
        fs::write(at("a").join(metrics::FILE), "{\"type\":\"train\",\"step\":1,\"loss\":2}\n")
            .expect("a line");
        fs::write(at("a").join(run_json::FILE), r#"{"seconds":{"total":3,"steps":[1,2]}}"#).expect("a file");
        store.poll();
        let next = store.news(&mut cursor, Duration::ZERO).expect("news");
        let next: Value = serde_json::from_str(&next).expect("JSON");
        assert_eq!(next["runs"].as_array().map(Vec::len), Some(1));
        assert_eq!(next["runs"][0]["tables"]["train"]["columns"]["loss"][0], 2);
        assert_eq!(next["runs"][0]["summary"]["seconds"], serde_json::json!({"total": 3}));
    }
}
