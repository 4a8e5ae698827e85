//! Gradients that are not exact: what is said of them, what goes with what, and replay.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::support::{Ran, golden, mesp, read_json, temporary, tensors};

fn run(command: &str, output: &Path, more: &[&str]) -> Ran {
    let (model, rows) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"));
    let mut args: Vec<&dyn AsRef<OsStr>> =
        vec![&command, &"--model", &model, &"--data", &rows, &"--output", &output];
    args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
    mesp(&args)
}

#[test]
fn a_run_by_derivatives_is_replayed() {
    let dir = temporary();
    for (i, more) in [
        &["--method", "forward", "--blocks", "1"][..],
        &["--method", "forward", "--directions", "2", "--momentum", "0.5"],
        &["--method", "mezo", "--sparsity", "0.5"],
    ]
    .into_iter()
    .enumerate()
    {
        let (output, again) = (dir.path().join(format!("run{i}")), dir.path().join(format!("again{i}")));
        run("train", &output, &[&["--steps", "3"][..], more].concat()).ok();
        let estimator = &read_json(&output.join("run.json"))["estimator"];
        assert_eq!(estimator["slope"], if i < 2 { "tangent" } else { "difference" });
        mesp(&[&"replay", &output, &"--model", &golden("qwen2/model"), &"--output", &again]).ok();
        let adapter = |dir: &Path| fs::read(dir.join("adapter_model.safetensors")).expect("an adapter");
        assert!(adapter(&output) == adapter(&again), "{more:?}");
    }
}

#[test]
fn a_surrogate_says_so() {
    let dir = temporary();
    let output = dir.path().join("run");
    let ran = run("train", &output, &["--steps", "3", "--method", "lcsb", "--block-share", "0.5"]).ok();
    let surrogate = "a surrogate gradient, back through a part of the blocks: 0.5 of the blocks";
    assert!(ran.stderr.contains(&format!("lcsb ({surrogate})")), "{}", ran.stderr);
    let document = read_json(&output.join("run.json"));
    assert_eq!(
        (&document["method"], &document["estimator"]["surrogate"]),
        (&"lcsb".into(), &surrogate.into())
    );
    let card = fs::read_to_string(output.join("README.md")).expect("a card");
    assert!(card.contains(&format!("lcsb, {surrogate}")), "{card}");
    // All blocks are the exact method.
    let all = dir.path().join("all");
    run("train", &all, &["--steps", "3", "--method", "lcsb", "--block-share", "1"]).ok();
    let exact = dir.path().join("exact");
    run("train", &exact, &["--steps", "3"]).ok();
    let adapter = |dir: &Path| tensors(&dir.join("adapter_model.safetensors")).0;
    assert!(adapter(&all) == adapter(&exact) && adapter(&output) != adapter(&exact));
    // A step of half the blocks multiplies less.
    let work = |dir: &Path| read_json(&dir.join("run.json"))["work"]["multiply_adds_per_step"].as_u64();
    assert!(work(&output) < work(&all) && work(&all) == work(&exact));
}

/// The estimate as a gradient, beside the exact one: the same tensors.
#[test]
fn estimates_are_written_as_gradients_are() {
    let dir = temporary();
    let grads = |name: &str, more: &[&str]| {
        let file = dir.path().join(name);
        let adapter = golden("qwen2/adapter");
        let more = [more, &["--adapter", adapter.to_str().expect("a path")]].concat();
        run("grads", &file, &more).ok();
        tensors(&file).0
    };
    let exact = grads("exact", &[]);
    let forward = grads("forward", &["--method", "forward", "--directions", "1000", "--noise", "rademacher"]);
    assert!(exact.keys().eq(forward.keys()));
    let dot = |a: &std::collections::BTreeMap<String, Vec<f32>>,
               b: &std::collections::BTreeMap<String, Vec<f32>>| {
        let pairs = a.values().flatten().zip(b.values().flatten());
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    let d = exact.values().map(Vec::len).sum::<usize>() as f64;
    // cos² is about n/(n + d).
    let cosine = dot(&exact, &forward) / (dot(&exact, &exact) * dot(&forward, &forward)).sqrt();
    let expected = (1000.0 / (1000.0 + d)).sqrt();
    assert!((cosine / expected - 1.0).abs() < 0.1, "{cosine} {expected}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let dir = temporary();
    let output = dir.path().join("run");
    for (more, said) in [
        (&["--method", "forward", "--eps", "0.1"][..], "--eps cannot be combined with --method forward"),
        (&["--method", "forward", "--activations", "bf16"], "--activations bf16 cannot be combined"),
        (&["--method", "forward", "--blocks", "7"], "block 7 was named, and the model has 3"),
        (&["--method", "forward", "--blocks", "b"], "blocks \"b\" are unknown"),
        (&["--method", "mezo", "--sparsity", "0.5", "--directions", "2"], "--sparsity cannot be combined"),
        (&["--method", "mezo", "--sparsity", "1"], "--sparsity is 1"),
        (&["--method", "lcsb", "--eps", "0.1"], "--eps was given, and --method is lcsb"),
        (&["--method", "lcsb", "--block-share", "0"], "--block-share is 0"),
        (&["--blocks", "1"], "--blocks was given, and --method is auto"),
    ] {
        let ran = run("train", &output, more);
        assert_eq!(ran.code, 2, "{more:?} {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{more:?}: {}", ran.stderr);
    }
}
