//! What commands may replace: never what they read, and anything else only with --overwrite. The rule is the same for
//! all of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Ran, command, copy_model, demo_model, mesp, poison, temporary};

fn run(args: &[OsString]) -> Ran {
    let args: Vec<&dyn AsRef<std::ffi::OsStr>> =
        args.iter().map(|a| a as &dyn AsRef<std::ffi::OsStr>).collect();
    mesp(&args)
}

/// Every file below a folder with its bytes.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
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

fn copy_demo(to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(demo_model()).expect("the demo").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

/// A command that writes: its name, its arguments without the output, the option of the output, whether that is a
/// folder, what the command reads, and whether it is quick enough to be let through.
struct Writer {
    name: &'static str,
    args: Vec<OsString>,
    option: &'static str,
    folder: bool,
    reads: Vec<PathBuf>,
    /// The end of the output's name.
    end: &'static str,
}

fn writers(at: &dyn Fn(&str) -> PathBuf) -> Vec<Writer> {
    let (model, rows, adapter) = (at("m"), at("rows.jsonl"), at("run"));
    let weights = [model.join("model.safetensors"), model.join("config.json"), model.join("tokenizer.json")];
    let parts = [adapter.join("adapter_model.safetensors"), adapter.join("adapter_config.json")];
    let words = |text: &str| -> Vec<OsString> {
        let named = |word: &str| match word {
            "M" => model.clone().into(),
            "ROWS" => rows.clone().into(),
            "RUN" => adapter.clone().into(),
            "TASK" => at("task.jsonl").into(),
            "CONFIG" => model.join("config.json").into(),
            word => word.into(),
        };
        text.split(' ').map(named).collect()
    };
    let writer = |name, text: &str, option, folder, reads: &[&[PathBuf]], end| Writer {
        name,
        args: words(text),
        option,
        folder,
        reads: reads.concat(),
        end,
    };
    let rows_only: &[PathBuf] = std::slice::from_ref(&rows);
    let task = [at("task.jsonl")];
    let config = [model.join("config.json")];
    let log = [adapter.join("slopes.replay")];
    let run_files = [adapter.join("metrics.jsonl"), adapter.join("run.json")];
    vec![
        writer(
            "tokenize",
            "data tokenize --model M --data ROWS",
            "--output",
            false,
            &[rows_only, &weights],
            "t",
        ),
        writer(
            "grads",
            "grads --model M --data ROWS --adapter RUN",
            "--output",
            false,
            &[rows_only, &weights, &parts],
            "s",
        ),
        writer(
            "eval",
            "eval --model M --data ROWS --adapter RUN",
            "--per-row",
            false,
            &[rows_only, &weights, &parts],
            "j",
        ),
        writer(
            "task",
            "eval --model M --task TASK --max-tokens 2",
            "--per-row",
            false,
            &[&task, &weights],
            "j",
        ),
        writer("report", "report RUN", "--output", false, &[&run_files, &parts], "html"),
        writer("quantize", "quantize --model M --type q8_0", "--output", false, &[&weights], "gguf"),
        writer("merge to a file", "merge --model M --adapter RUN", "--output", false, &[], "gguf"),
        writer(
            "merge",
            "merge --model M --adapter RUN",
            "--output",
            true,
            &[&[model.clone(), adapter.clone()]],
            "",
        ),
        writer("export to a file", "export --model M --adapter RUN", "--output", false, &[], "gguf"),
        writer(
            "export",
            "export --to mlx --adapter RUN",
            "--output",
            true,
            &[std::slice::from_ref(&adapter)],
            "",
        ),
        writer(
            "init-model",
            "init-model --config CONFIG --type f32",
            "--output",
            true,
            &[std::slice::from_ref(&model)],
            "",
        ),
        writer(
            "init-model to a file",
            "init-model --config CONFIG --type q8_0",
            "--output",
            false,
            &[&config],
            "gguf",
        ),
        writer("init-config", "init-config", "", false, &[], "toml"),
        writer("replay", "replay RUN --model M", "--output", true, &[std::slice::from_ref(&model)], ""),
        writer("replay's log", "replay RUN --model M", "--output", true, &[&log], ""),
        writer("bench paper", "bench paper --quick", "--page", false, &[], "md"),
    ]
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
    for writer in writers(&|name| dir.path().join(name)) {
        let taken = dir.path().join(format!("taken.{}", writer.end));
        if writer.folder {
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
        if writer.folder && !writer.name.starts_with("replay") {
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
    for writer in writers(&|name| dir.path().join(name)) {
        for input in &writer.reads {
            if writer.name == "replay" {
                // Of the model's folder nothing is replaced: the adapter is new there.
                continue;
            }
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
            if !writer.folder {
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
    for writer in writers(&|name| dir.path().join(name)).into_iter().filter(|w| quick.contains(&w.name)) {
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
        if writer.folder {
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
    for writer in writers(&|name| dir.path().join(name)) {
        if ["tokenize", "grads", "eval"].contains(&writer.name) {
            run(&with(&writer, Path::new("/dev/null"), &[])).ok();
        }
    }
    let eval = mesp(&[&"eval", &"--model", &model, &"--data", &rows, &"--per-row", &"/dev/stdout"]).ok();
    let line: serde_json::Value = serde_json::from_str(eval.stdout.trim()).expect("one line, no table");
    assert_eq!(line["row"], 0);
}

fn train(model: &Path, data: &Path, output: &Path, more: &[&str]) -> Ran {
    let mut args: Vec<OsString> = vec!["train".into(), "--model".into(), model.into(), "--data".into()];
    args.extend([data.into(), "--output".into(), output.into()]);
    args.extend(more.iter().map(Into::into));
    run(&args)
}

const SMALL: [&str; 2] = ["--rank=1", "--target-modules=q_proj"];

#[test]
fn a_run_that_holds_what_is_read_is_not_replaced() {
    let dir = temporary();
    copy_demo(&dir.path().join("model"));
    let rows = dir.path().join("rows.jsonl");
    fs::write(&rows, "{\"input_ids\":[1,2,3,4,5]}\n").expect("written");
    let (model, output) = (dir.path().join("model"), dir.path());
    train(&model, &rows, output, &[&SMALL[..], &["--steps=2", "--save-every=1"]].concat()).ok();
    let kept = tree(output);
    // The base, the adapter itself, and a checkpoint of it.
    let adapters = [None, Some(output.to_path_buf()), Some(output.join("checkpoints/step-1"))];
    for adapter in adapters {
        let named = adapter.as_ref().map(|a| format!("--adapter={}", a.display()));
        let mut more = vec!["--steps=1", "--overwrite"];
        more.extend(named.as_deref());
        let ran = train(&model, &rows, output, &more);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("this command reads"), "{}", ran.stderr);
        assert!(tree(output) == kept, "{named:?}: all is as it was");
    }
    // A run is not written into a model's folder, with or without the word for it.
    for more in [&["--steps=1"][..], &["--steps=1", "--overwrite"]] {
        let ran = train(&model, &rows, &model, more);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("found a model"), "{}", ran.stderr);
    }
    assert!(tree(output) == kept);
}

#[test]
fn a_run_that_does_not_begin_leaves_the_old_one() {
    let dir = temporary();
    let model = copy_model("qwen2", dir.path());
    let (rows, output) = (dir.path().join("rows.jsonl"), dir.path().join("run"));
    fs::write(&rows, "{\"input_ids\":[1,2,3,4,5]}\n").expect("written");
    train(&model, &rows, &output, &[&SMALL[..], &["--steps=2", "--save-every=1"]].concat()).ok();
    let kept = tree(&output);
    let refused = |model: &Path, rows: &Path, more: &[&str], code: i32| {
        let ran = train(model, rows, &output, &[more, &["--overwrite"]].concat());
        assert_eq!(ran.code, code, "{more:?}: {}", ran.stderr);
        assert!(tree(&output) == kept, "{more:?}: all is as it was");
        ran.stderr
    };
    // An adapter of another model, no rows, no budget, no held-out rows to stop by.
    let other = dir.path().join("other");
    let adapter = format!("--adapter={}", other.display());
    train(&demo_model(), &rows, &other, &[&SMALL[..], &["--steps=1"]].concat()).ok();
    refused(&model, &rows, &["--steps=1", &adapter], 2);
    refused(&model, &dir.path().join("none"), &["--steps=1"], 2);
    refused(&model, &rows, &["--steps=1", "--memory-budget=1000"], 3);
    refused(&model, &rows, &["--steps=4", "--eval-every=2", "--load-best-at-end"], 2);
    // It begins, and its first step has no loss.
    poison(&model.join("model.safetensors"), "model.norm.weight");
    let said = refused(&model, &rows, &["--steps=3"], 1);
    assert!(said.contains("is replaced: adapter_model.safetensors"), "{said}");
    assert!(said.contains("the run that was there before is put back"), "{said}");
}

#[test]
fn a_replacement_that_is_killed_is_undone() {
    let dir = temporary();
    let (model, rows, output) = (demo_model(), dir.path().join("rows.jsonl"), dir.path().join("run"));
    fs::write(&rows, "{\"input_ids\":[1,2,3,4,5]}\n").expect("written");
    train(&model, &rows, &output, &[&SMALL[..], &["--steps=1", "--save-every=1"]].concat()).ok();
    let kept = tree(&output);
    let killed_after = |more: &[&str], until: &dyn Fn() -> bool| {
        let mut child = command(&[
            &"train",
            &"--model",
            &model,
            &"--data",
            &rows,
            &"--output",
            &output,
            &"--overwrite",
            &"--steps=1000000",
            &"--rank=1",
        ]);
        let child = child.args(more).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = child.spawn().expect("it starts");
        let since = Instant::now();
        while !until() {
            assert!(since.elapsed() < Duration::from_secs(120), "it begins");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().expect("killed");
        child.wait().expect("gone");
    };
    let aside = output.join(".mesp-replaced");
    killed_after(&[], &|| aside.join("all").exists() && output.join("metrics.jsonl").exists());
    assert!(aside.join("adapter_model.safetensors").is_file() && !output.join("run.json").exists());
    let next = train(&model, &rows, &output, &["--steps=1"]);
    assert_eq!(next.code, 2, "{}", next.stderr);
    assert!(next.stderr.contains("is put back"), "{}", next.stderr);
    assert!(tree(&output) == kept, "all is as it was");
    // Once there is a checkpoint the old run is gone for good.
    killed_after(&["--save-every=1"], &|| output.join("checkpoints/step-3").is_dir());
    assert!(!aside.exists() && !output.join("run.json").exists());
}

#[test]
fn of_runs_that_begin_together_one_wins() {
    let dir = temporary();
    let (model, rows, output) = (demo_model(), dir.path().join("rows.jsonl"), dir.path().join("run"));
    fs::write(&rows, "{\"text\":\"How do I make tea?\"}\n").expect("written");
    let start = || {
        let mut one = command(&[
            &"train",
            &"--model",
            &model,
            &"--data",
            &rows,
            &"--output",
            &output,
            &"--steps=20",
            &"--rank=1",
        ]);
        one.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let children: Vec<_> = (0..4).map(|_| start()).collect();
    let ran: Vec<_> = children.into_iter().map(|c| Ran::of(c.wait_with_output().expect("it ends"))).collect();
    assert_eq!(
        ran.iter().filter(|r| r.code == 0).count(),
        1,
        "{:?}",
        ran.iter().map(|r| &r.stderr).collect::<Vec<_>>()
    );
    for loser in ran.iter().filter(|r| r.code != 0) {
        let known = ["another run is writing there", "a run is there already"];
        assert_eq!(loser.code, 2, "{}", loser.stderr);
        assert!(known.iter().any(|text| loser.stderr.contains(text)), "{}", loser.stderr);
    }
    assert!(output.join("run.json").is_file() && output.join("tokens").is_dir());
    assert!(!output.join("run.lock").exists());
}
