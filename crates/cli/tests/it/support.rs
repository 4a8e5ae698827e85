//! Runs the program, and damages files for it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What a call came to.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("an exit status"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Asserts that it went well.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", self.stdout, self.stderr))
    }

    /// The exit status and the error, with nothing in it that differs between machines.
    pub(crate) fn failure(&self, temporary: &Path) -> String {
        let error = self.stderr.find("error: ").map_or("no error", |at| &self.stderr[at..]);
        let error = error.replace(&*temporary.to_string_lossy(), "[TMP]");
        let error = error.replace(&*golden("").to_string_lossy(), "[GOLDEN]/");
        assert_eq!(self.stdout, "", "nothing on standard output");
        format!("exit status {}\n{error}", self.code)
    }
}

/// The program with these arguments, two threads, and a plain terminal.
pub(crate) fn command(args: &[&dyn AsRef<OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesp"));
    command.args(args.iter().map(AsRef::as_ref)).args(["--threads", "2"]).env("LC_ALL", "C");
    command
}

/// Runs the program.
pub(crate) fn mesp(args: &[&dyn AsRef<OsStr>]) -> Ran {
    Ran::of(command(args).output().expect("the program starts"))
}

/// A file of the golden folder.
pub(crate) fn golden(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository");
    root.join("golden").join(path)
}

/// The demo's model.
pub(crate) fn demo_model() -> PathBuf {
    golden("").join("../assets/demo/model").canonicalize().expect("the demo")
}

/// A directory for a test.
pub(crate) fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A copy of a golden model that can be damaged.
pub(crate) fn copy_model(arch: &str, to: &Path) -> PathBuf {
    let model = to.join("model");
    fs::create_dir(&model).expect("a directory");
    for entry in fs::read_dir(golden(arch).join("model")).expect("a golden") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), model.join(entry.file_name())).expect("copied");
    }
    model
}

/// Rewrites a JSON file.
pub(crate) fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    edit(&mut value);
    fs::write(path, value.to_string()).expect("written");
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// Fills a tensor of a safetensors file with values that are no numbers.
pub(crate) fn poison(path: &Path, tensor: &str) {
    let mut bytes = fs::read(path).expect("a file");
    let header = mesp_formats::safetensors_file::parse(path, &bytes).expect("a header");
    let info = header.tensors.iter().find(|t| t.name == tensor).expect("the tensor");
    bytes[info.range.clone()].as_chunks_mut().0.iter_mut().for_each(|b| *b = f32::NAN.to_le_bytes());
    fs::write(path, bytes).expect("written");
}

/// The tensors of a safetensors file, and its metadata.
pub(crate) fn tensors(
    path: &Path,
) -> (std::collections::BTreeMap<String, Vec<f32>>, std::collections::BTreeMap<String, String>) {
    let bytes = fs::read(path).expect("a file");
    let header = mesp_formats::safetensors_file::parse(path, &bytes).expect("a header");
    let read = |t: &mesp_formats::safetensors_file::TensorInfo| {
        mesp_formats::safetensors_file::read_f32(path, &bytes, t).expect("values")
    };
    (header.tensors.iter().map(|t| (t.name.clone(), read(t))).collect(), header.metadata)
}

/// The events of a run.
pub(crate) fn events(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// Runs the program with arguments of one kind.
pub(crate) fn run(args: &[OsString]) -> Ran {
    let args: Vec<&dyn AsRef<OsStr>> = args.iter().map(|a| a as &dyn AsRef<OsStr>).collect();
    mesp(&args)
}

/// Every file below a folder with its bytes.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(tree(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).expect("a file"));
        }
    }
    all
}

/// A copy of the demo's model.
pub(crate) fn copy_demo(to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(demo_model()).expect("the demo").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

/// The program with arguments of one kind.
pub(crate) fn command_of<A: AsRef<OsStr>>(args: &[A]) -> Command {
    let args: Vec<&dyn AsRef<OsStr>> = args.iter().map(|a| a as &dyn AsRef<OsStr>).collect();
    command(&args)
}

/// A program that runs beside the test, and goes with it. What it says is taken as it comes.
pub(crate) struct Running {
    child: Child,
    said: [Option<JoinHandle<Vec<u8>>>; 2],
    since: Instant,
}

impl Running {
    /// Starts a program; its standard input is empty where the command has none.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_with(command.stdin(Stdio::null()))
    }

    /// As [`start`](Self::start), with the standard input that the command has.
    pub(crate) fn start_with(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the program starts");
        let said = [taken(child.stdout.take()), taken(child.stderr.take())];
        Self { child, said, since: Instant::now() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it goes on.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Waits until something is so; false where the program ends before.
    pub(crate) fn until(&mut self, mut so: impl FnMut() -> bool) -> bool {
        while !so() {
            if !self.goes_on() {
                return so();
            }
            assert!(self.since.elapsed() < Duration::from_mins(3), "what is waited for comes");
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// Kills it.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    /// Its end; none where it goes on after this time, and is killed.
    pub(crate) fn end_within(mut self, time: Duration) -> Option<Ended> {
        let since = Instant::now();
        while self.goes_on() {
            if since.elapsed() > time {
                return None;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let [stdout, stderr] = self.said.each_mut().map(|said| {
            let bytes = said.take().expect("taken once").join().expect("read");
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Some(Ended { status: self.child.wait().expect("ended"), stdout, stderr })
    }

    /// Its end.
    pub(crate) fn end(self) -> Ran {
        let ended = self.end_within(Duration::from_mins(3)).expect("it ends");
        Ran { code: ended.status.code().expect("an exit status"), stdout: ended.stdout, stderr: ended.stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a stream gives, up to its end.
fn taken(stream: Option<impl Read + Send + 'static>) -> Option<JoinHandle<Vec<u8>>> {
    let mut stream = stream?;
    Some(thread::spawn(move || {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        all
    }))
}

/// How a program ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Names of everything in a folder and below it, by their ways in it.
pub(crate) fn below(dir: &Path) -> Vec<String> {
    fn add(root: &Path, dir: &Path, names: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            names.push(path.strip_prefix(root).expect("below").to_string_lossy().into_owned());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                add(root, &path, names);
            }
        }
    }
    let mut names = Vec::new();
    add(dir, dir, &mut names);
    names.sort();
    names
}

/// Makes a pipe with a name.
#[cfg(unix)]
pub(crate) fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}
