//! No room on the disk: a message, status 1, and nothing half-written. The room is that of `ulimit -f`, which
//! bounds every file, and where a file system may be mounted that of a small one.
#![cfg(unix)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Ran, below, command, demo_model, mesp, temporary};

/// The program where no file may be longer than so many blocks of 512 bytes.
fn within(blocks: usize, args: &[&dyn AsRef<OsStr>]) -> Ran {
    let plain = command(args);
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -f \"$1\"; shift; exec \"$@\"", "sh", &blocks.to_string()]);
    shell.arg(plain.get_program()).args(plain.get_args()).env("LC_ALL", "C");
    Ran::of(shell.output().expect("a shell"))
}

fn tiny(dir: &Path) -> (PathBuf, PathBuf) {
    let model = dir.join("tiny");
    mesp(&[&"init-model", &"--preset", &"tiny", &"--type", &"f32", &"--output", &model]).ok();
    let rows = model.join("random_rows.jsonl");
    (model, rows)
}

/// Trains in little room; gives the message.
fn train(dir: &Path, blocks: usize, model: &Path, rows: &Path, more: &[&str]) -> String {
    let output = dir.join("run");
    let mut args: Vec<&dyn AsRef<OsStr>> =
        vec![&"train", &"--model", &model, &"--data", &rows, &"--output", &output, &"--max-seq-len=256"];
    args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
    let failure = within(blocks, &args).failure(dir);
    assert!(failure.starts_with("exit status 1\n"), "{failure}");
    failure
}

#[test]
fn no_room_for_checkpoints_in_a_file() {
    let dir = temporary();
    let (model, rows) = tiny(dir.path());
    let said = train(dir.path(), 200, &model, &rows, &["--steps=2", "--checkpoints=file"]);
    assert!(said.contains("checkpoints"), "{said}");
    assert!(!dir.path().join("run").exists(), "refused before it began");
}

#[test]
fn no_room_for_an_adapter_or_a_checkpoint() {
    let dir = temporary();
    let (model, rows) = tiny(dir.path());
    let said = train(dir.path(), 200, &model, &rows, &["--steps=2"]);
    assert!(said.contains("adapter_model.safetensors"), "{said}");
    assert_eq!(below(&dir.path().join("run")), ["metrics.jsonl"]);
    let said = train(dir.path(), 200, &model, &rows, &["--steps=2", "--save-every=1", "--overwrite"]);
    assert!(said.contains("step-1"), "{said}");
    let left = below(&dir.path().join("run"));
    assert!(left.iter().all(|name| ["metrics.jsonl", "checkpoints"].contains(&name.as_str())), "{left:?}");
}

#[test]
fn no_room_for_metrics() {
    let dir = temporary();
    let (model, rows) = tiny(dir.path());
    let more = ["--steps=200", "--rank=1", "--target-modules=q_proj"];
    let said = train(dir.path(), 8, &model, &rows, &more);
    assert!(said.contains("metrics.jsonl"), "{said}");
    let text = std::fs::read_to_string(dir.path().join("run/metrics.jsonl")).expect("metrics");
    assert!(text.len() > 500 && text.ends_with('\n'), "whole lines only");
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

#[test]
fn no_room_for_tokens() {
    let dir = temporary();
    let model = demo_model();
    let rows = model.join("../train.jsonl").canonicalize().expect("the demo's rows");
    let said = train(dir.path(), 4, &model, &rows, &["--steps=2"]);
    assert!(said.contains(".tokens"), "{said}");
    assert!(!dir.path().join("run").exists());
}

#[test]
#[allow(clippy::print_stderr, reason = "a test that skips says so")]
fn a_full_disk() {
    let dir = temporary();
    let (model, rows) = tiny(dir.path());
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let script = r#"mount -t tmpfs -o size=128k tmpfs "$1" || exit 77
        shift; "$@"; code=$?; ls -AR "$DISK" >&2; exit $code"#;
    let output = disk.join("run");
    let plain = command(&[
        &"train",
        &"--model",
        &model,
        &"--data",
        &rows,
        &"--output",
        &output,
        &"--steps=2",
        &"--max-seq-len=256",
        &"--checkpoints=file",
    ]);
    let mut shell = Command::new("unshare");
    shell.args(["-m", "sh", "-c", script, "sh"]).arg(&disk).env("DISK", &disk).env("LC_ALL", "C");
    let Ok(output) = shell.arg(plain.get_program()).args(plain.get_args()).output() else {
        eprintln!("skipped: no unshare here");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || said.contains("unshare:") {
        eprintln!("skipped: no file system can be mounted here: {said}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("checkpoints") && said.contains("space"), "{said}");
    assert!(!said.contains("run\n"), "nothing is left: {said}");
}
