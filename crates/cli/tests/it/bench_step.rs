//! `mesp bench step` on the tiny shape.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::Value;

use crate::support::{Ran, mesp, read_json, temporary};

fn bench(dir: &Path, more: &[&str]) -> Ran {
    let (cache, output) = (dir.join("cache"), dir.join("results"));
    let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"bench", &"step", &"--steps=1"];
    args.extend([&"--cache" as &dyn AsRef<OsStr>, &cache, &"--output", &output]);
    args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
    mesp(&args)
}

fn of_op<'a>(document: &'a Value, op: &str, weight: &str) -> &'a Value {
    let mut all = document["operations"].as_array().expect("a list").iter();
    let weight = if weight.is_empty() { Value::Null } else { weight.into() };
    all.find(|o| o["op"] == op && o["weight"] == weight).unwrap_or_else(|| panic!("{op} {weight}"))
}

#[test]
fn a_step_is_taken_apart() {
    let dir = temporary();
    let options =
        ["--preset=tiny", "--tokens=24", "--rows=8,16", "--thread-counts=1,2", "--name=a", "--json"];
    let ran = bench(dir.path(), &options).ok();
    let document = ran.json();
    assert_eq!(document, read_json(&dir.path().join("results/step-a.json")));

    // The work is what the shape says it is.
    let model = read_json(&dir.path().join("cache/tiny-bf16/config.json"));
    let size = |key: &str| model[key].as_f64().expect("a size");
    let (layers, d, i) = (size("num_hidden_layers"), size("hidden_size"), size("intermediate_size"));
    let gate = of_op(&document, "linear", "gate_proj");
    // Forward and replay, but the gradient once.
    assert_eq!(gate["calls"], 2.0 * layers);
    assert_eq!(gate["flop"], 2.0 * layers * 2.0 * 24.0 * d * i);
    assert_eq!(of_op(&document, "input_grad", "gate_proj")["calls"], layers);
    // The down projection's output is not rebuilt, and the last block's queries are not.
    assert_eq!(of_op(&document, "linear", "down_proj")["calls"], layers);
    assert_eq!(of_op(&document, "linear", "q_proj")["calls"], 2.0 * layers - 1.0);
    // Two products of the head: 23 rows are trained.
    for op in ["linear", "softmax_sum"] {
        assert_eq!(of_op(&document, op, "lm_head")["flop"], 2.0 * 23.0 * d * size("vocab_size"));
    }
    assert!(of_op(&document, "rms_norm", "")["of_peak"].is_null());
    let share = document["share_of_peak"].as_f64().expect("a share");
    assert!(share > 0.0 && document["product"]["gflops"].as_f64() > Some(0.0));
    let multipliers = &document["multipliers"];
    assert!(
        multipliers["gflops_one_thread"].as_f64() > Some(0.0) && multipliers["gflops"].as_f64() > Some(0.0)
    );

    let speeds = document["speeds"].as_array().expect("a list");
    let found: Vec<_> = speeds.iter().map(|s| (s["threads"].as_u64(), s["tokens"].as_u64())).collect();
    let expected = [(1, 8), (1, 16), (2, 8), (2, 16)].map(|(t, n)| (Some(t), Some(n)));
    assert_eq!(found, expected);
    assert!(speeds.iter().all(|s| s["tokens_per_second"].as_f64() > Some(0.0)), "{document:#}");
    assert!(ran.stderr.contains("gate_proj") && ran.stderr.contains("of peak"), "{}", ran.stderr);
}

#[cfg(unix)]
#[test]
fn a_peer_is_timed_in_turns() {
    let dir = temporary();
    let peer = r#"echo noise; echo '{"step_s": [9.0, 2.0, 4.0], "told": "{tokens} {steps} {rank}"}'"#;
    let options =
        ["--preset=tiny", "--quick", "--tokens=8", "--rounds=2", "--rank=4", "--name=b", "--peer", peer];
    let said = bench(dir.path(), &options).ok().stdout;
    assert!(said.contains("over 2 turns"), "{said}");
    let document = read_json(&dir.path().join("results/step-b.json"));
    let beside = &document["peer"];
    assert_eq!(beside["peer_seconds"], serde_json::json!([[2.0, 4.0], [2.0, 4.0]]));
    assert_eq!(beside["documents"][1]["told"], "8 2 4", "what was filled in");
    let ours = beside["ours_seconds"][0][0].as_f64().expect("seconds");
    let ratio = beside["ratios"][0].as_f64().expect("a ratio");
    assert!((ratio - ours / 3.0).abs() < 1e-9);
    assert!(document["speeds"].as_array().expect("a list").is_empty(), "--quick");

    let ran =
        bench(dir.path(), &["--preset=tiny", "--quick", "--tokens=8", "--peer=echo broken >&2; exit 3"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("the peer failed") && ran.stderr.contains("broken"), "{}", ran.stderr);
    let ran = bench(dir.path(), &["--preset=tiny", "--quick", "--tokens=8", "--peer=echo well"]);
    assert!(ran.code == 1 && ran.stderr.contains("step_s"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let dir = temporary();
    for (options, known) in [
        (&["--steps=0"][..], "1 or more"),
        (&["--rounds=0"], "1 or more"),
        (&["--tokens=1"], "2 or more"),
        (&["--rows=64,1"], "2 or more"),
        (&["--thread-counts=0"], "1 or more"),
        (&["--name=a/b"], "--output"),
        (&["--preset=gpt-5"], "qwen2.5-0.5b"),
        (&["--preset=tiny", "--model=x"], "--model"),
        (&["--preset=tiny", "--compute=f64"], "f64"),
    ] {
        let (cache, output) = (dir.path().join("cache"), dir.path().join("results"));
        let mut args: Vec<&dyn AsRef<OsStr>> =
            vec![&"bench", &"step", &"--cache", &cache, &"--output", &output];
        args.extend(options.iter().map(|a| a as &dyn AsRef<OsStr>));
        let failure = mesp(&args).failure(dir.path());
        assert!(failure.starts_with("exit status 2") && failure.contains(known), "{options:?}: {failure}");
    }
}
