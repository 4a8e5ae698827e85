//! A run that replaces another: the old one goes when the new one has a checkpoint or ends well, and not before.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::support::{
    Ran, Running, command, copy_demo, copy_model, demo_model, poison, run, temporary, tree,
};

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
        let mut child = Running::start(child.args(more));
        assert!(child.until(until), "it begins");
        child.kill();
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
