//! Where results go, and what happens when they cannot; budgets; losses that are no numbers.

use std::fs;

use insta::assert_snapshot;

use crate::support::{copy_model, events, golden, mesp, poison, temporary, tensors};

#[test]
fn a_file_in_the_place_of_the_output_is_named() {
    let dir = temporary();
    let (model, rows, output) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"), dir.path().join("taken"));
    fs::write(&output, "").expect("written");
    let ran = mesp(&[&"train", &"--model", &model, &"--data", &rows, &"--output", &output]);
    assert_snapshot!("output_is_a_file", ran.failure(dir.path()));
    let ran = mesp(&[&"grads", &"--model", &model, &"--data", &rows, &"--output", &dir.path()]);
    assert_snapshot!("gradients_into_a_folder", ran.failure(dir.path()));
    let ran = mesp(&[&"grads", &"--model", &model, &"--data", &rows]);
    assert_snapshot!("gradients_nowhere", ran.failure(dir.path()));
    let ran = mesp(&[&"init-model", &"--preset", &"tiny", &"--output", &output]);
    assert_snapshot!("model_into_a_file", ran.failure(dir.path()));
}

#[test]
fn a_run_is_replaced_only_when_asked() {
    let dir = temporary();
    let (model, rows, output) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"), dir.path().join("run"));
    let train = |more: &[&str]| {
        let steps: &[&str] = &["--steps", "2"];
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> =
            vec![&"train", &"--model", &model, &"--data", &rows, &"--output", &output];
        args.extend(steps.iter().chain(more).map(|a| a as &dyn AsRef<std::ffi::OsStr>));
        mesp(&args)
    };
    train(&["--save-every", "1"]).ok();
    let adapter = fs::read(output.join("adapter_model.safetensors")).expect("an adapter");
    assert_snapshot!("a_run_is_there", train(&["--seed", "1"]).failure(dir.path()));
    assert_eq!(fs::read(output.join("adapter_model.safetensors")).expect("an adapter"), adapter);
    assert!(output.join("checkpoints/step-1").is_dir());
    fs::write(output.join("notes.txt"), "mine").expect("written");
    train(&["--seed", "1", "--overwrite"]).ok();
    assert_ne!(fs::read(output.join("adapter_model.safetensors")).expect("an adapter"), adapter);
    assert!(!output.join("checkpoints").exists(), "the old run's checkpoints are gone");
    assert!(output.join("notes.txt").exists(), "what the program did not write stays");
}

#[test]
fn a_budget_that_is_too_small_is_refused_before_anything_is_written() {
    let dir = temporary();
    let (model, rows, output) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"), dir.path().join("run"));
    let train = |budget: &str| {
        mesp(&[
            &"train",
            &"--model",
            &model,
            &"--data",
            &rows,
            &"--output",
            &output,
            &"--steps",
            &"1",
            &"--memory-budget",
            &budget,
        ])
    };
    let refused = train("100kB");
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    for part in ["the memory budget is 100000", "largest items", "smallest budget that would do is "] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    assert!(!output.exists());
    // The smallest budget that is named really does.
    let text = refused.stderr.split("would do is ").nth(1).expect("a number");
    let least = text.split_whitespace().next().expect("a number");
    let args: [&dyn AsRef<std::ffi::OsStr>; 9] =
        [&"plan", &"--model", &model, &"--data", &rows, &"--json", &"--steps=1", &"--memory-budget", &least];
    let plan = mesp(&args).ok().json();
    assert_eq!(plan["memory"]["fits"], true);
    assert_eq!(plan["memory"]["least_bytes"].to_string(), least);
    train(least).ok();
    assert!(!output.join("tokens").exists(), "tokenized rows are used as they are");
    fs::remove_dir_all(&output).expect("removed");
    train("10MB").ok();
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_keeps_the_adapter() {
    let dir = temporary();
    let model = copy_model("qwen2", dir.path());
    poison(&model.join("model.safetensors"), "model.norm.weight");
    let (rows, output) = (golden("qwen2/rows.jsonl"), dir.path().join("run"));
    let args: [&dyn AsRef<std::ffi::OsStr>; 9] =
        [&"train", &"--model", &model, &"--data", &rows, &"--output", &output, &"--steps", &"3"];
    let ran = mesp(&args);
    assert_snapshot!("loss_is_no_number", ran.failure(dir.path()));
    let (adapter, _) = tensors(&output.join("adapter_model.safetensors"));
    assert!(adapter.values().flatten().all(|x| x.is_finite()));
    let last = events(&output).pop().expect("an event");
    assert_eq!((last["type"].as_str(), last["status"].as_str()), (Some("end"), Some("failed")));
    assert!(!output.join("run.json").exists());

    let eval = mesp(&[&"eval", &"--model", &model, &"--data", &rows]);
    assert_snapshot!("eval_is_no_number", eval.failure(dir.path()));
    let grads = dir.path().join("grads.safetensors");
    let ran = mesp(&[&"grads", &"--model", &model, &"--data", &rows, &"--output", &grads]);
    assert_snapshot!("gradients_are_no_numbers", ran.failure(dir.path()));
    assert!(!grads.exists());
}

/// A disk without room: the device that is always full, under the name of the metrics.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_failed_run() {
    let dir = temporary();
    let output = dir.path().join("run");
    fs::create_dir(&output).expect("a directory");
    std::os::unix::fs::symlink("/dev/full", output.join("metrics.jsonl")).expect("a link");
    let (model, rows) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"));
    let ran = mesp(&[&"train", &"--model", &model, &"--data", &rows, &"--output", &output, &"--steps", &"3"]);
    assert_snapshot!("full_disk", ran.failure(dir.path()));
}
