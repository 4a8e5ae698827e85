//! What commands may replace: never what they read, and anything else only with --overwrite. The rule is the same for
//! all of them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{copy_demo, mesp, run, temporary, tree};

/// A command that writes.
struct Writer {
    name: &'static str,
    /// Without the output.
    args: Vec<OsString>,
    /// The option that names the output; none where its place does.
    option: &'static str,
    /// What the command reads and must not replace.
    reads: Vec<PathBuf>,
    /// The end of the output's name; of a folder none.
    end: &'static str,
}

impl Writer {
    fn folder(&self) -> bool {
        self.end.is_empty()
    }
}

/// Name, arguments, option of the output, what is read, end of the output's name.
const WRITERS: [[&str; 5]; 16] = [
    ["tokenize", "data tokenize --model M --data ROWS", "--output", "ROWS WEIGHTS", "tokens"],
    ["grads", "grads --model M --data ROWS --adapter RUN", "--output", "ROWS WEIGHTS PARTS", "safetensors"],
    ["eval", "eval --model M --data ROWS --adapter RUN", "--per-row", "ROWS WEIGHTS PARTS", "jsonl"],
    ["task", "eval --model M --task TASK --max-tokens 2", "--per-row", "TASK WEIGHTS", "jsonl"],
    ["report", "report RUN", "--output", "EVENTS PARTS", "html"],
    ["quantize", "quantize --model M --type q8_0", "--output", "WEIGHTS", "gguf"],
    ["merge to a file", "merge --model M --adapter RUN", "--output", "", "gguf"],
    ["merge", "merge --model M --adapter RUN", "--output", "M RUN", ""],
    ["export to a file", "export --model M --adapter RUN", "--output", "", "gguf"],
    ["export", "export --to mlx --adapter RUN", "--output", "RUN", ""],
    ["init-model", "init-model --config CONFIG --type f32", "--output", "M", ""],
    ["init-model to a file", "init-model --config CONFIG --type q8_0", "--output", "CONFIG", "gguf"],
    ["init-config", "init-config", "", "", "toml"],
    ["replay", "replay RUN --model M", "--output", "", ""],
    ["replay's log", "replay RUN --model M", "--output", "LOG", ""],
    ["bench paper", "bench paper --quick", "--page", "", "md"],
];

fn writers(dir: &Path) -> Vec<Writer> {
    let paths = |word: &str| -> Vec<PathBuf> {
        let names: &[&str] = match word {
            "M" => &["m"],
            "ROWS" => &["rows.jsonl"],
            "RUN" => &["run"],
            "TASK" => &["task.jsonl"],
            "CONFIG" => &["m/config.json"],
            "WEIGHTS" => &["m/model.safetensors", "m/config.json", "m/tokenizer.json"],
            "PARTS" => &["run/adapter_model.safetensors", "run/adapter_config.json"],
            "EVENTS" => &["run/metrics.jsonl", "run/run.json"],
            "LOG" => &["run/slopes.replay"],
            _ => &[],
        };
        names.iter().map(|name| dir.join(name)).collect()
    };
    let arg = |word: &str| paths(word).pop().map_or_else(|| word.into(), PathBuf::into_os_string);
    let writer = |[name, args, option, reads, end]: [&'static str; 5]| Writer {
        name,
        args: args.split(' ').map(arg).collect(),
        option,
        reads: reads.split(' ').flat_map(paths).collect(),
        end,
    };
    WRITERS.map(writer).into()
}

fn setup(dir: &Path) {
    copy_demo(&dir.join("m"));
    fs::write(dir.join("rows.jsonl"), "{\"text\":\"How do I make tea?\"}\n").expect("written");
    fs::write(dir.join("task.jsonl"), "{\"prompt\":\"Who\",\"answer\":\"x\"}\n").expect("written");
    let (model, rows, output) = (dir.join("m"), dir.join("rows.jsonl"), dir.join("run"));
    mesp(&[
        &"train",
        &"--model",
        &model,
        &"--data",
        &rows,
        &"--output",
        &output,
        &"--method=mezo",
        &"--steps=1",
        &"--rank=1",
    ])
    .ok();
}

/// The command with its output, and more.
fn with(writer: &Writer, output: &Path, more: &[&str]) -> Vec<OsString> {
    let mut args = writer.args.clone();
    if !writer.option.is_empty() {
        args.push(writer.option.into());
    }
    args.push(output.into());
    args.extend(more.iter().map(Into::into));
    args
}

#[test]
fn every_command_spares_what_is_there() {
    let dir = temporary();
    setup(dir.path());
    let before = tree(dir.path());
    for writer in writers(dir.path()) {
        let taken = dir.path().join(format!("taken.{}", writer.end));
        if writer.folder() {
            fs::create_dir(&taken).expect("a folder");
            // Replay writes files beside others.
            let file = if writer.name.starts_with("replay") { "adapter_model.safetensors" } else { "notes" };
            fs::write(taken.join(file), "mine").expect("written");
        } else {
            fs::write(&taken, "mine").expect("written");
        }
        let kept = tree(dir.path());
        let ran = run(&with(&writer, &taken, &[]));
        assert_eq!(ran.code, 2, "{}: {}", writer.name, ran.stderr);
        assert!(ran.stderr.contains("something is there already"), "{}: {}", writer.name, ran.stderr);
        assert!(ran.stderr.contains("--overwrite"), "{}: {}", writer.name, ran.stderr);
        assert!(tree(dir.path()) == kept, "{}: all is as it was", writer.name);
        if writer.folder() && !writer.name.starts_with("replay") {
            // A folder of something else is not removed even then.
            let ran = run(&with(&writer, &taken, &["--overwrite"]));
            assert_eq!(ran.code, 2, "{}: {}", writer.name, ran.stderr);
            assert!(tree(dir.path()) == kept, "{}: all is as it was", writer.name);
        }
        let gone = if taken.is_dir() { fs::remove_dir_all(&taken) } else { fs::remove_file(&taken) };
        gone.expect("removed");
    }
    assert!(tree(dir.path()) == before);
}

/// Measurements are kept as files are: looked at before the first of them is made.
#[test]
fn results_of_a_bench_are_spared() {
    let dir = temporary();
    let results = dir.path().join("results");
    fs::create_dir(&results).expect("a folder");
    for what in ["memory", "step", "generate", "gradients", "convergence"] {
        fs::write(results.join(format!("{what}-mine.json")), "mine").expect("written");
        let kept = tree(dir.path());
        let ran = mesp(&[&"bench", &what, &"--output", &results, &"--name=mine", &"--cache", &dir.path()]);
        assert_eq!(ran.code, 2, "{what}: {}", ran.stderr);
        assert!(ran.stderr.contains("something is there already"), "{what}: {}", ran.stderr);
        assert!(tree(dir.path()) == kept, "{what}: all is as it was");
    }
    fs::write(results.join("memory-timeline.svg"), "mine").expect("written");
    let ran = mesp(&[&"bench", &"memory", &"--timeline", &"--output", &results]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert_eq!(fs::read(results.join("memory-timeline.svg")).expect("a file"), b"mine");
}

#[test]
fn no_command_replaces_what_it_reads() {
    let dir = temporary();
    setup(dir.path());
    let link = dir.path().join("link");
    let refused = |writer: &Writer, output: &Path| {
        let kept = tree(dir.path());
        let ran = run(&with(writer, output, &["--overwrite"]));
        let of = format!("{} to {}", writer.name, output.display());
        assert_eq!(ran.code, 2, "{of}: {}", ran.stderr);
        assert!(ran.stderr.contains("this command reads"), "{of}: {}", ran.stderr);
        assert!(tree(dir.path()) == kept, "{of}: all is as it was");
    };
    for writer in writers(dir.path()) {
        for input in &writer.reads {
            if writer.name == "replay's log" {
                // A folder whose adapter file is the log under another name.
                let folder = dir.path().join("folder");
                fs::create_dir(&folder).expect("a folder");
                fs::hard_link(input, folder.join("adapter_model.safetensors")).expect("a link");
                refused(&writer, &folder);
                fs::remove_dir_all(&folder).expect("removed");
                continue;
            }
            refused(&writer, input);
            #[cfg(unix)]
            {
                std::os::unix::fs::symlink(input, &link).expect("a link");
                refused(&writer, &link);
                fs::remove_file(&link).expect("removed");
            }
            if !writer.folder() {
                fs::hard_link(input, &link).expect("a link");
                refused(&writer, &link);
                fs::remove_file(&link).expect("removed");
            }
        }
    }
}

#[test]
fn with_overwrite_it_is_replaced_and_named() {
    let dir = temporary();
    setup(dir.path());
    let quick = ["tokenize", "eval", "report", "init-config", "export", "init-model", "replay", "grads"];
    for writer in writers(dir.path()).into_iter().filter(|w| quick.contains(&w.name)) {
        let output = dir.path().join(format!("output.{}", writer.end));
        run(&with(&writer, &output, &[])).ok();
        let first = tree(&output);
        let again = run(&with(&writer, &output, &["--overwrite"])).ok();
        assert!(again.stderr.contains("will be replaced"), "{}: {}", writer.name, again.stderr);
        assert_eq!(
            first.keys().collect::<Vec<_>>(),
            tree(&output).keys().collect::<Vec<_>>(),
            "{}",
            writer.name
        );
        let gone = if output.is_dir() { fs::remove_dir_all(&output) } else { fs::remove_file(&output) };
        gone.expect("removed");
        if writer.folder() {
            fs::create_dir(&output).expect("an empty folder");
            run(&with(&writer, &output, &[])).ok();
            fs::remove_dir_all(&output).expect("removed");
        }
    }
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_take_what_comes() {
    let dir = temporary();
    setup(dir.path());
    let (model, rows) = (dir.path().join("m"), dir.path().join("rows.jsonl"));
    for writer in writers(dir.path()) {
        if ["tokenize", "grads", "eval"].contains(&writer.name) {
            run(&with(&writer, Path::new("/dev/null"), &[])).ok();
        }
    }
    let eval = mesp(&[&"eval", &"--model", &model, &"--data", &rows, &"--per-row", &"/dev/stdout"]).ok();
    let line: serde_json::Value = serde_json::from_str(eval.stdout.trim()).expect("one line, no table");
    assert_eq!(line["row"], 0);
}
