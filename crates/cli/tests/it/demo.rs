//! `mesp train` alone.

use crate::support::{Ran, command, read_json, temporary};

#[test]
fn the_demo_runs_without_files_and_replaces_only_itself() {
    let dir = temporary();
    let demo = |more: &[&str]| {
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"train"];
        args.extend(more.iter().map(|a| a as &dyn AsRef<std::ffi::OsStr>));
        Ran::of(command(&args).current_dir(dir.path()).output().expect("it starts"))
    };
    let ran = demo(&["--steps", "12"]).ok();
    for part in ["before", "loss by step", "after", "held-out:", "memory: planned", "adapter: mesp-out"] {
        assert!(ran.stdout.contains(part), "{part} in {}", ran.stdout);
    }
    let run = dir.path().join("mesp-out");
    for file in
        ["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "demo/model/config.json"]
    {
        assert!(run.join(file).is_file(), "{file}");
    }
    let loss = |name: &str| read_json(&run.join("run.json"))["loss"][name].as_f64().expect("a loss");
    assert!(loss("eval_after") < loss("eval_before"));
    let document = demo(&["--steps", "2", "--json"]).ok().json();
    assert_eq!(document["steps"], 2, "an earlier demo goes without asking");

    // A run of somebody's does not.
    crate::support::edit_json(&run.join("run.json"), |run| run["model"]["path"] = "another".into());
    insta::assert_snapshot!("another_run_is_there", demo(&[]).failure(dir.path()));
}
