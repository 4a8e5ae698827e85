//! Files that have no end, or more than there is memory, in every place where a file or a folder can be given: each is
//! refused with one message, at once, and in little memory.
#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Ended, Running, below, command_of, copy_demo, make_pipe, mesp, temporary};

/// Kilobytes that a command has resident at most: with the program itself, and 50 MB more than it has for an ordinary file
/// that it refuses.
const RESIDENT: u64 = 100_000;
/// What a command takes at most to refuse a file, on a machine that has other things to do.
const TIME: Duration = Duration::from_secs(20);

/// Places for a file or a folder: X stands for it.
const PLACES: [&str; 32] = [
    "train --model X --data ROWS --output OUT --steps 1",
    "train --model M --data X --output OUT --steps 1",
    "train --model M --data ROWS --eval-data X --output OUT --steps 1",
    "train --model M --data ROWS --adapter X --output OUT --steps 1",
    "train --model M --data ROWS --output OUT --steps 1 --resume X",
    "train --config X",
    "plan --model X",
    "plan --model M --data X",
    "plan --config X",
    "grads --model M --data X --output OUT",
    "grads --model M --data ROWS --adapter X --output OUT",
    "eval --model X --data ROWS",
    "eval --model M --data X",
    "eval --model M --data ROWS --adapter X",
    "eval --model M --task X",
    "generate --model X --prompt a",
    "generate --model M --adapter X --prompt a",
    "chat --model X",
    "merge --model X --adapter RUN --output OUT",
    "merge --model M --adapter X --output OUT",
    "export --to mlx --adapter X --output OUT",
    "export --adapter RUN --model X --output OUT.gguf",
    "quantize --model X --type q8_0 --output OUT.gguf",
    "init-model --config X --type f32 --output OUT",
    "init-model --preset tiny --tokenizer X --type f32 --output OUT",
    "data check --model M --data X",
    "data show --model M --data X",
    "data tokenize --model M --data X --output OUT",
    "inspect X",
    "replay X --model M --output OUT",
    "report X --output OUT",
    "dash X",
];

fn setup(dir: &Path) {
    copy_demo(&dir.join("m"));
    fs::write(dir.join("rows.jsonl"), "{\"text\":\"How do I make tea?\"}\n").expect("written");
    let (model, rows, output) = (dir.join("m"), dir.join("rows.jsonl"), dir.join("run"));
    let args: [&dyn AsRef<std::ffi::OsStr>; 10] = [
        &"train",
        &"--model",
        &model,
        &"--data",
        &rows,
        &"--output",
        &output,
        &"--steps=2",
        &"--rank=1",
        &"--save-every=1",
    ];
    mesp(&args).ok();
}

fn args(dir: &Path, line: &str, x: &Path) -> Vec<OsString> {
    let word = |word: &str| match word {
        "X" => x.into(),
        "M" => dir.join("m").into(),
        "ROWS" => dir.join("rows.jsonl").into(),
        "RUN" => dir.join("run").into(),
        "OUT" | "OUT.gguf" => dir.join(word.to_lowercase()).into(),
        word => word.into(),
    };
    line.split(' ').map(word).collect()
}

/// Runs a command that must end soon; its end, and the most memory it was seen to have.
fn ends(what: &str, args: &[OsString]) -> (Ended, u64) {
    // A pipe that stays open, for what reads standard input.
    let mut running = Running::start_with(command_of(args).stdin(Stdio::piped()));
    let (status, mut most) = (format!("/proc/{}/status", running.id()), 0);
    let since = std::time::Instant::now();
    running.until(|| {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let resident = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let resident = resident.and_then(|line| line.split_whitespace().next()?.parse().ok());
        most = most.max(resident.unwrap_or(0));
        most > 4 * RESIDENT || since.elapsed() > TIME
    });
    let ended = running.end_within(Duration::ZERO);
    (ended.unwrap_or_else(|| panic!("{what}: it goes on, with {most} kB")), most)
}

/// That it was refused as it must be.
fn refused(what: &str, args: &[OsString]) -> String {
    let (ended, resident) = ends(what, args);
    let said = ended.stderr;
    assert_eq!(ended.status.code(), Some(2), "{what}: {said}{}", ended.stdout);
    assert_eq!(said.matches("error: ").count(), 1, "{what}: {said}");
    assert!(said.len() < 5000 && !said.contains("panicked"), "{what}: {said}");
    assert!(resident < RESIDENT, "{what}: {resident} kB");
    said
}

#[test]
fn what_is_no_file_is_refused_in_every_place() {
    let dir = temporary();
    setup(dir.path());
    let at = |name: &str| dir.path().join(name);
    make_pipe(&at("pipe"));
    make_pipe(&at("endless"));
    let _socket = UnixListener::bind(at("socket")).expect("a socket");
    // Opened for both, so that it is there before a reader, and full of zeros that never end.
    let both = File::options().read(true).write(true).open(at("endless")).expect("a pipe");
    std::thread::spawn(move || while (&both).write_all(&[0; 4096]).is_ok() {});
    File::create(at("sparse")).and_then(|f| f.set_len(1 << 40)).expect("a file");
    let kinds: [(PathBuf, &[&str]); 7] = [
        ("/dev/zero".into(), &["a device"]),
        ("/dev/urandom".into(), &["a device"]),
        (at("pipe"), &["a pipe"]),
        (at("endless"), &["a pipe"]),
        ("/dev/stdin".into(), &["a pipe"]),
        (at("socket"), &["a socket"]),
        // A file, and none that can be read: each says of it what it expected.
        (at("sparse"), &["expected", "more than", "not "]),
    ];
    let before = below(dir.path());
    for place in PLACES {
        for (x, parts) in &kinds {
            // Rows are read one by one, however many there are.
            if x.ends_with("sparse")
                && ["--data X", "--eval-data X", "--task X"].iter().any(|p| place.contains(p))
            {
                continue;
            }
            let what = format!("{place} with {}", x.display());
            let said = refused(&what, &args(dir.path(), place, x));
            assert!(parts.iter().any(|part| said.contains(part)), "{what}: {said}");
            assert!(said.contains(&x.display().to_string()), "{what}: {said}");
            assert_eq!(below(dir.path()), before, "{what}: nothing is left");
        }
    }
}

/// What can stand in a file that is read as a whole.
fn contents(dir: &Path) -> Vec<(&'static str, PathBuf)> {
    let path = |name: &str| dir.join(name);
    File::create(path("sparse")).and_then(|f| f.set_len(1 << 40)).expect("a file");
    File::create(path("gigabyte")).and_then(|f| f.set_len(1 << 30)).expect("a file");
    fs::write(path("line"), vec![b'x'; 200 << 20]).expect("written");
    let nested = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
    fs::write(path("nested"), format!("{{\"a\":{nested}}}")).expect("written");
    let mut claims = (1u64 << 40).to_le_bytes().to_vec();
    claims.extend_from_slice(b"{\"a\":{}}");
    fs::write(path("claims"), claims).expect("written");
    make_pipe(&path("pipe"));
    fs::create_dir(path("folder")).expect("a folder");
    ["sparse", "gigabyte", "line", "nested", "claims", "pipe", "folder"].map(|name| (name, path(name))).into()
}

/// Files of models, adapters, checkpoints and runs, each with a command that reads it.
const FILES: [(&str, &str); 14] = [
    ("m/config.json", "plan --model M"),
    ("m/generation_config.json", "eval --model M --data ROWS"),
    ("m/tokenizer.json", "eval --model M --data ROWS"),
    ("m/tokenizer_config.json", "eval --model M --data ROWS"),
    ("m/special_tokens_map.json", "eval --model M --data ROWS"),
    ("m/chat_template.jinja", "eval --model M --data ROWS"),
    ("m/model.safetensors", "eval --model M --data ROWS"),
    ("run/adapter_config.json", "eval --model M --data ROWS --adapter RUN"),
    ("run/adapter_model.safetensors", "eval --model M --data ROWS --adapter RUN"),
    ("run/run.json", "inspect RUN"),
    (
        "run/checkpoints/step-1/state.json",
        "train --model M --data ROWS --output RUN --steps 2 --rank 1 --save-every 1 --resume",
    ),
    (
        "run/checkpoints/step-1/adapter_model.safetensors",
        "train --model M --data ROWS --output RUN --steps 2 --rank 1 --save-every 1 --resume",
    ),
    ("options.toml", "plan --config OPTIONS"),
    ("rows.jsonl", "eval --model M --data ROWS"),
];

#[test]
fn enormous_files_are_refused_in_little_memory() {
    let dir = temporary();
    setup(dir.path());
    let odd = dir.path().join("odd");
    fs::create_dir(&odd).expect("a folder");
    for (content, from) in contents(&odd) {
        for (file, line) in FILES {
            let what = format!("{line} with {file}: {content}");
            // Rows are read one by one, however many there are.
            if file == "rows.jsonl" && content == "sparse" {
                continue;
            }
            let (path, kept) = (dir.path().join(file), dir.path().join("kept"));
            let was = fs::rename(&path, &kept).is_ok();
            fs::rename(&from, &path).expect("in its place");
            let line = line.replace("OPTIONS", &dir.path().join("options.toml").to_string_lossy());
            let (ended, resident) = ends(&what, &args(dir.path(), &line, Path::new("")));
            let said = ended.stderr;
            // A chat template may be any text, and is not run for rows of text.
            let may_be = file == "m/chat_template.jinja" && ["nested", "claims"].contains(&content);
            // A folder in the place of a file that a model need not have is none.
            let optional = [
                "m/generation_config.json",
                "m/tokenizer_config.json",
                "m/special_tokens_map.json",
                "m/chat_template.jinja",
            ];
            let absent = content == "folder" && optional.contains(&file);
            // Rows are read one at a time, each within its own limit.
            let limit = if file == "rows.jsonl" { 3 * RESIDENT } else { RESIDENT };
            if !(may_be || absent) {
                assert_eq!(ended.status.code(), Some(2), "{what}: {said}{}", ended.stdout);
                assert_eq!(said.matches("error: ").count(), 1, "{what}: {said}");
                assert!(said.len() < 5000 && !said.contains("panicked"), "{what}: {said}");
                let named = path.file_name().expect("a name").to_string_lossy();
                assert!(said.contains(&*named) || content == "folder", "{what}: {said}");
                let large = ["sparse", "gigabyte", "line"].contains(&content);
                if large && !file.contains("safetensors") && file != "rows.jsonl" {
                    assert!(
                        said.contains("expected a file of at most")
                            && said.contains("nothing of it was read"),
                        "{what}: {said}"
                    );
                }
            }
            assert!(resident < limit, "{what}: {resident} kB");
            fs::rename(&path, &from).expect("taken away");
            if was {
                fs::rename(&kept, &path).expect("put back");
            }
        }
    }
}

/// Whether a process takes SIGTERM itself: before that, in its first milliseconds, the system ends it.
fn listens(status: &str) -> bool {
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << 14) != 0)
}

/// Commands that would go on for long end at once when they are told to, and leave nothing half-written.
#[test]
fn a_termination_ends_every_command_at_once() {
    let dir = temporary();
    setup(dir.path());
    fs::write(dir.path().join("many.jsonl"), "{\"text\":\"How do I make tea?\"}\n".repeat(200_000))
        .expect("written");
    let many = dir.path().join("many.jsonl");
    let before = below(dir.path());
    for line in [
        "eval --model M --data X",
        "eval --model M --data X --per-row OUT",
        "grads --model M --data X --output OUT",
        "data tokenize --model M --data X --output OUT",
        "data check --model M --data X",
        "plan --model M --data X",
        "init-model --preset qwen2.5-0.5b --type f32 --output OUT",
        "init-model --preset qwen2.5-0.5b --type q8_0 --output OUT.gguf",
        "chat --model M",
    ] {
        for signal in ["TERM", "INT"] {
            let mut running =
                Running::start_with(command_of(&args(dir.path(), line, &many)).stdin(Stdio::piped()));
            let status = format!("/proc/{}/status", running.id());
            assert!(running.until(|| listens(&fs::read_to_string(&status).unwrap_or_default())), "{line}");
            std::thread::sleep(Duration::from_millis(250));
            running.signal(signal);
            let ended =
                running.end_within(Duration::from_secs(5)).unwrap_or_else(|| panic!("{line}: it goes on"));
            assert_eq!(ended.status.code(), Some(130), "{line}: {}{}", ended.stderr, ended.stdout);
            assert_eq!(below(dir.path()), before, "{line}: nothing is left");
        }
    }
}
