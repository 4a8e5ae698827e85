//! Budgets are kept, and change nothing but memory and time.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::Value;

use crate::support::{golden, mesp, temporary};

/// A run of two steps on a tiny model.
fn train(dir: &Path, more: &[&str]) -> Value {
    let (model, output) = (dir.join("tiny"), dir.join("run"));
    let rows = model.join("random_rows.jsonl");
    let mut args: Vec<&dyn AsRef<OsStr>> =
        vec![&"train", &"--model", &model, &"--data", &rows, &"--output", &output, &"--overwrite", &"--json"];
    args.extend(["--steps=2", "--max-seq-len=256"].iter().chain(more).map(|a| a as &dyn AsRef<OsStr>));
    mesp(&args).ok().json()
}

#[cfg(target_os = "linux")]
#[test]
fn every_budget_is_kept_with_the_same_result() {
    let dir = temporary();
    mesp(&[&"init-model", &"--preset", &"tiny", &"--type", &"f32", &"--output", &dir.path().join("tiny")])
        .ok();
    let bytes = |run: &Value, key: &str| run["memory"][key].as_u64().expect("bytes");
    let free = train(dir.path(), &["--method", "store-all"]);
    let plan = mesp(&[&"plan", &"--preset", &"tiny", &"--max-seq-len=256", &"--json"]).ok().json();
    let least = bytes(&plan, "least_bytes");
    let most = bytes(&free, "rss_anon_peak_bytes").max(least + 1_000_000);
    let loss = train(dir.path(), &[])["loss"].clone();
    let mut policies = Vec::new();
    for i in 0..=6 {
        let budget = least + (most - least) * i / 6;
        let run = train(dir.path(), &["--memory-budget", &budget.to_string()]);
        let used = bytes(&run, "rss_anon_peak_bytes");
        assert!(used <= budget, "budget {budget}: {used} bytes, {:#}", run["policy"]);
        assert!(bytes(&run, "heap_peak_bytes") <= bytes(&run, "planned_bytes"));
        assert!(bytes(&run, "anonymous_planned_bytes") <= budget);
        assert_eq!(run["loss"], loss, "budget {budget}");
        policies.push(run["policy"].to_string());
    }
    policies.dedup();
    assert!(policies.len() > 1, "budgets choose among policies");
}

/// The plan is the heap's high-water mark, from the program's start to its end, on models of any size.
#[test]
fn the_plan_is_the_heap() {
    let dir = temporary();
    let output = dir.path().join("run");
    for arch in ["qwen2", "llama", "gemma3_text"] {
        let at = |name: &str| golden(arch).join(name);
        for more in [&["--rank=1", "--optimizer=sgd"][..], &["--rank=8", "--config=run.toml"]] {
            std::fs::write(dir.path().join("run.toml"), "optimizer = \"adamw\"\n").expect("written");
            let (model, data) = (at("model"), at("rows.jsonl"));
            let mut args: Vec<&dyn AsRef<OsStr>> =
                vec![&"train", &"--model", &model, &"--data", &data, &"--output", &output, &"--json"];
            args.extend(["--overwrite", "--steps=2"].iter().chain(more).map(|a| a as &dyn AsRef<OsStr>));
            let run = crate::support::Ran::of(
                crate::support::command(&args).current_dir(dir.path()).output().expect("it runs"),
            );
            let run = run.ok().json();
            let bytes = |key: &str| run["memory"][key].as_f64().expect("bytes");
            let share = bytes("heap_peak_bytes") / bytes("planned_bytes");
            assert!((0.98..=1.0).contains(&share), "{arch} {more:?}: {share}: {:#}", run["memory"]);
        }
    }
}

#[test]
fn checkpoints_wait_in_memory_rounded_or_in_a_file() {
    let dir = temporary();
    mesp(&[&"init-model", &"--preset", &"tiny", &"--type", &"bf16", &"--output", &dir.path().join("tiny")])
        .ok();
    let full = train(dir.path(), &["--compute", "f32"]);
    let file = train(dir.path(), &["--compute", "f32", "--checkpoints", "file"]);
    let rounded = train(dir.path(), &["--compute", "f32", "--checkpoints", "bf16"]);
    assert_eq!(full["loss"], file["loss"]);
    assert_ne!(full["loss"]["last"], rounded["loss"]["last"]);
    let names: Vec<&Value> = [&full, &rounded, &file].iter().map(|r| &r["policy"]["residency"]).collect();
    assert_eq!(names, ["f32", "bf16", "file"]);
    let planned = |run: &Value| run["memory"]["planned_bytes"].as_u64().expect("bytes");
    assert!(planned(&file) < planned(&rounded) && planned(&rounded) < planned(&full));
    let left = std::fs::read_dir(dir.path().join("run")).expect("the run");
    let hidden = left.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().starts_with('.')));
    assert_eq!(hidden.filter(|h| *h).count(), 0, "the file is gone");

    // What is stored in 16 bits is multiplied in 16 bits, unless told otherwise.
    let auto = train(dir.path(), &[]);
    assert_eq!((full["compute"].as_str(), auto["compute"].as_str()), (Some("f32"), Some("bf16")));
    assert_ne!(full["loss"]["first"], auto["loss"]["first"]);
}

#[test]
fn gradients_take_every_kind_of_checkpoint() {
    let dir = temporary();
    let (model, rows) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"));
    let grads = |more: &[&str]| {
        let output = dir.path().join("grads.safetensors");
        let mut args: Vec<&dyn AsRef<OsStr>> =
            vec![&"grads", &"--model", &model, &"--data", &rows, &"--output", &output, &"--json"];
        args.push(&"--overwrite");
        args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
        mesp(&args).ok();
        std::fs::read(&output).expect("gradients")
    };
    let plain = grads(&[]);
    assert_eq!(plain, grads(&["--checkpoints", "file"]));
    assert_eq!(plain, grads(&["--memory-budget", "20MB"]));
    assert_ne!(plain, grads(&["--checkpoints", "bf16"]));
    assert_ne!(plain, grads(&["--compute", "bf16"]));
}
