//! What commands that were killed have left: it goes with the next call of the same command, is listed by
//! `mesp inspect` until then, and nothing that a living process writes goes with it.
#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::support::{Running, below, command_of, copy_demo, mesp, run, temporary};

/// No process has a number as large: Linux gives them up to 2^22.
const GONE: u32 = u32::MAX;

/// Commands that write, the option that names the output, and the output's name; files of other names that are written
/// with it.
const WRITERS: [(&str, &str, &str, &[&str]); 15] = [
    ("data tokenize --model M --data ROWS", "--output", "out.tokens", &[]),
    ("grads --model M --data ROWS --adapter RUN", "--output", "out.safetensors", &[]),
    ("eval --model M --data ROWS --adapter RUN", "--per-row", "out.jsonl", &[]),
    ("report RUN", "--output", "out.html", &[]),
    ("quantize --model M --type q8_0", "--output", "out.gguf", &[]),
    ("merge --model M --adapter RUN", "--output", "merged.gguf", &[]),
    ("merge --model M --adapter RUN", "--output", "merged", &[]),
    ("export --model M --adapter RUN", "--output", "adapter.gguf", &[]),
    ("export --to mlx --adapter RUN", "--output", "adapter", &[]),
    ("init-model --config CONFIG --type f32", "--output", "random", &[]),
    ("init-model --config CONFIG --type q8_0", "--output", "random.gguf", &["random.random_rows.jsonl"]),
    ("init-config", "", "out.toml", &[]),
    (
        "replay RUN --model M",
        "--output",
        "replayed",
        &["replayed/adapter_model.safetensors", "replayed/adapter_config.json"],
    ),
    ("bench paper --quick --results RESULTS", "--page", "page.md", &[]),
    (
        "train --model M --data ROWS --steps 2 --rank 1 --save-every 1",
        "--output",
        "trained",
        &["trained/adapter_model.safetensors", "trained/run.json", "trained/README.md"],
    ),
];

fn setup(dir: &Path) {
    copy_demo(&dir.join("m"));
    fs::write(dir.join("rows.jsonl"), "{\"text\":\"How do I make tea?\"}\n").expect("written");
    let (model, rows, output) = (dir.join("m"), dir.join("rows.jsonl"), dir.join("run"));
    let method = "--method=mezo";
    mesp(&[
        &"train",
        &"--model",
        &model,
        &"--data",
        &rows,
        &"--output",
        &output,
        &method,
        &"--steps=1",
        &"--rank=1",
    ])
    .ok();
}

fn args(dir: &Path, line: &str, option: &str, output: &Path) -> Vec<OsString> {
    let path = |word: &str| match word {
        "M" => dir.join("m").into_os_string(),
        "ROWS" => dir.join("rows.jsonl").into_os_string(),
        "RUN" => dir.join("run").into_os_string(),
        "CONFIG" => dir.join("m/config.json").into_os_string(),
        "RESULTS" => dir.join("results").into_os_string(),
        word => word.into(),
    };
    let mut args: Vec<OsString> = line.split(' ').map(path).collect();
    args.extend(Some(option).filter(|option| !option.is_empty()).map(Into::into));
    args.push(output.into());
    args
}

/// The name under which a process writes what is to become a file or a folder.
fn temporary_of(path: &Path, kind: &str, process: u32) -> PathBuf {
    let name = path.file_name().expect("a name").to_string_lossy();
    path.with_file_name(format!(".{name}.{kind}-{process}-0"))
}

fn is_temporary(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or_default();
    last.starts_with('.') && [".tmp-", ".staged-", ".removed-"].iter().any(|kind| last.contains(kind))
}

fn left(dir: &Path) -> Vec<String> {
    below(dir).into_iter().filter(|name| is_temporary(name)).collect()
}

/// Each command finds leftovers of all it writes, and living ones beside them.
#[test]
fn every_command_removes_its_leftovers_and_no_others() {
    let dir = temporary();
    setup(dir.path());
    for (line, option, name, more) in WRITERS {
        // The page of a bench takes minutes: its file is written as the others are.
        if line.starts_with("bench") {
            continue;
        }
        let output = dir.path().join("out").join(name);
        fs::create_dir_all(output.parent().expect("a folder")).expect("a folder");
        let mut all: Vec<PathBuf> = more.iter().map(|name| output.with_file_name(name)).collect();
        if !["replayed", "trained"].contains(&name) {
            all.push(output.clone());
        }
        let (mut dead, mut living) = (Vec::new(), Vec::new());
        for path in &all {
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            dead.push(temporary_of(path, "tmp", GONE));
            fs::write(&dead[dead.len() - 1], "half").expect("written");
            dead.push(temporary_of(path, "staged", GONE));
            fs::create_dir(&dead[dead.len() - 1]).expect("a folder");
            fs::write(dead[dead.len() - 1].join("part"), "half").expect("written");
            // Of a process that lives, and one that is held by somebody elsewhere.
            living.push(temporary_of(path, "tmp", std::process::id()));
            fs::write(&living[living.len() - 1], "being written").expect("written");
        }
        let held = temporary_of(&all[0], "tmp", GONE - 1);
        let holder = File::create(&held).expect("a file");
        holder.try_lock().expect("locked");
        living.push(held);
        // Of another output.
        living.push(temporary_of(&all[0].with_file_name("other"), "tmp", GONE));
        if name == "trained" {
            // Of its folder all that nobody writes is its own.
            dead.extend(living.pop());
            fs::write(&dead[dead.len() - 1], "half").expect("written");
        } else {
            fs::write(&living[living.len() - 1], "half").expect("written");
        }
        let listed = mesp(&[&"inspect", &output]);
        let said = format!("{}{}", listed.stdout, listed.stderr);
        if name != "replayed" && more.is_empty() {
            for path in &dead {
                assert!(said.contains(&path.display().to_string()), "{line}: {said}");
            }
        }
        run(&args(dir.path(), line, option, &output)).ok();
        for path in &dead {
            assert!(fs::symlink_metadata(path).is_err(), "{line}: {} is gone", path.display());
        }
        for path in &living {
            assert!(path.exists(), "{line}: {} stays", path.display());
        }
        drop(holder);
        fs::remove_dir_all(dir.path().join("out")).expect("removed");
    }
}

/// Killed while it writes, again and again: the next call goes well, and nothing is left.
#[test]
fn killed_in_the_middle_and_called_again() {
    let dir = temporary();
    setup(dir.path());
    // Rows enough for their tokens and losses to take a moment.
    fs::write(dir.path().join("rows.jsonl"), "{\"text\":\"How do I make tea?\"}\n".repeat(300))
        .expect("written");
    for (line, option, name, _) in WRITERS {
        if line.starts_with("bench") || line.starts_with("init-config") {
            continue;
        }
        let folder = dir.path().join("out");
        fs::create_dir_all(&folder).expect("a folder");
        let output = folder.join(name);
        let call = args(dir.path(), line, option, &output);
        let mut caught = Vec::new();
        for _ in 0..25 {
            let mut running = Running::start(&mut command_of(&call));
            if running.until(|| !left(&folder).is_empty()) {
                running.kill();
            }
            caught = left(&folder);
            if !caught.is_empty() {
                break;
            }
            // It was faster.
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).expect("a folder");
        }
        assert!(!caught.is_empty(), "{line}: it is caught in the middle");
        let listed = mesp(&[&"inspect", &output]);
        let said = format!("{}{}", listed.stdout, listed.stderr);
        let of_output = |name: &String| !name.contains('/');
        if name != "replayed" && !caught.iter().any(|name| name.contains("random_rows")) {
            for name in caught.iter().filter(|name| of_output(name)) {
                assert!(said.contains(name.as_str()), "{line}: {name} is listed: {said}");
            }
        }
        let mut again = call.clone();
        // What was finished before it was killed is there.
        let there = output.is_file()
            || (output.is_dir() && fs::read_dir(&output).is_ok_and(|mut d| d.next().is_some()));
        if there {
            again.push("--overwrite".into());
        }
        run(&again).ok();
        assert_eq!(left(&folder), Vec::<String>::new(), "{line}: killed with {caught:?}");
        fs::remove_dir_all(&folder).expect("removed");
    }
}

/// A folder that was being replaced is the user's only one between two renames.
#[test]
fn a_replacement_that_was_cut_off_is_put_back_before_another_begins() {
    let dir = temporary();
    setup(dir.path());
    let output = dir.path().join("merged");
    let call = args(dir.path(), "merge --model M --adapter RUN", "--output", &output);
    run(&call).ok();
    let previous = dir.path().join(".merged.previous");
    fs::rename(&output, &previous).expect("as a kill leaves it");
    let inspected = mesp(&[&"inspect", &output]);
    assert!(inspected.stderr.contains(".merged.previous"), "{}", inspected.stderr);
    let again = run(&call);
    assert_eq!(again.code, 2, "{}", again.stderr);
    assert!(again.stderr.contains("something is there already"), "{}", again.stderr);
    assert!(output.join("config.json").is_file() && !previous.exists(), "it is back");
}
