//! Many rows, long rows and long texts: memory does not grow with them, and results do not depend on where rows lie.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{demo_model, mesp, temporary, tensors};

fn train(data: &Path, output: &Path, more: &[&str]) -> crate::support::Ran {
    let model = demo_model();
    let mut args: Vec<&dyn AsRef<OsStr>> =
        vec![&"train", &"--model", &model, &"--data", &data, &"--output", &output, &"--json", &"--overwrite"];
    args.extend(more.iter().map(|arg| arg as &dyn AsRef<OsStr>));
    mesp(&args)
}

fn bytes(run: &Value, key: &str) -> u64 {
    run["memory"][key].as_u64().unwrap_or_else(|| panic!("{key}: {:#}", run["memory"]))
}

/// Rows of several lengths, one of them with nothing to train, in pieces where they are long.
fn rows(count: usize) -> String {
    let mut text = String::new();
    for i in 0..count {
        let ids: Vec<usize> = (0..3 + i % 11).map(|t| (i * 31 + t * 17) % 500).collect();
        let labels =
            if i % 7 == 3 { format!(", \"labels\": {:?}", vec![-100; ids.len()]) } else { String::new() };
        let _ = writeln!(text, "{{\"input_ids\": {ids:?}{labels}}}");
    }
    text
}

/// The same rows as lines, in memory, and as a file of tokens, read where they lie.
#[test]
fn where_rows_lie_changes_no_bit() {
    let dir = temporary();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("rows.jsonl"), rows(60)).expect("rows");
    let model = demo_model();
    mesp(&[
        &"data",
        &"tokenize",
        &"--model",
        &model,
        &"--data",
        &at("rows.jsonl"),
        &"--output",
        &at("rows.tokens"),
        &"--whole",
    ])
    .ok();
    for more in [
        &["--epochs=2", "--batch-size=4"][..],
        &["--epochs=2", "--batch-tokens=40"],
        &["--epochs=1", "--batch-size=3", "--eval-split=0.2"],
        &["--epochs=1", "--batch-tokens=30", "--eval-split=0.2"],
    ] {
        let run = |data: &str, output: &str| {
            let run = train(&at(data), &at(output), more).ok().json();
            let adapter = tensors(&at(output).join("adapter_model.safetensors")).0;
            assert!(bytes(&run, "heap_peak_bytes") <= bytes(&run, "planned_bytes"), "{:#}", run["memory"]);
            (run["loss"].clone(), run["steps"].clone(), run["tokens"].clone(), adapter)
        };
        assert_eq!(run("rows.jsonl", "lines"), run("rows.tokens", "tokens"), "{more:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_rows() {
    let dir = temporary();
    let at = |name: &str| dir.path().join(name);
    let mut of = Vec::new();
    for count in [1_000, 200_000] {
        let data = at(&format!("{count}.jsonl"));
        fs::write(&data, "{\"input_ids\":[5,6,7,8]}\n".repeat(count)).expect("rows");
        let ran = train(&data, &at("run"), &["--steps=3", "--memory-budget=5500000"]).ok();
        assert!(ran.stderr.contains("budget: the plan keeps it"), "{}", ran.stderr);
        let run = ran.json();
        assert_eq!(run["memory"]["budget_kept"], true, "{:#}", run["memory"]);
        assert!(
            bytes(&run, "heap_training_peak_bytes") <= bytes(&run, "planned_bytes"),
            "{:#}",
            run["memory"]
        );
        of.push(bytes(&run, "planned_bytes"));
        assert!(fs::read_dir(at("run")).expect("a run").count() < 8, "no file of rows stays");
    }
    assert!(of[1] < of[0] + 100_000, "{of:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn one_long_row_takes_no_memory() {
    let dir = temporary();
    let data = dir.path().join("rows.jsonl");
    let ids = "7,".repeat(3_000_000);
    fs::write(&data, format!("{{\"input_ids\":[{ids}7]}}\n{{\"input_ids\":[1,2,3,4,5]}}\n")).expect("rows");
    let more = ["--steps=2", "--max-seq-len=128", "--memory-budget=5500000"];
    let ran = train(&data, &dir.path().join("run"), &more).ok();
    assert!(ran.stderr.contains("1 of 2 rows cut to 128 tokens (the longest has 3000001)"), "{}", ran.stderr);
    let run = ran.json();
    assert_eq!(run["memory"]["budget_kept"], true, "{:#}", run["memory"]);
    let split =
        train(&data, &dir.path().join("run"), &["--steps=2", "--max-seq-len=128", "--long-rows=split"]).ok();
    // Pieces begin with the last token of the one before: 127 new tokens each.
    let pieces = (3_000_001_usize - 1).div_ceil(127);
    assert!(split.stderr.contains(&format!("1 of 2 rows split into {pieces} of")), "{}", split.stderr);
}

/// 2.7 MB in one row: the tokenizer sees a part at a time. Its own tables are in the process that uses it.
#[cfg(target_os = "linux")]
#[test]
fn a_long_text_is_turned_into_tokens_in_parts() {
    let dir = temporary();
    for (name, text) in [("words", "the wolf ".repeat(300_000)), ("spaces", " ".repeat(3_000_000))] {
        let data = dir.path().join(format!("{name}.jsonl"));
        fs::write(&data, format!("{{\"text\":\"{text}\"}}\n{{\"text\":\"a\"}}\n")).expect("rows");
        let more = ["--steps=1", "--max-seq-len=128", "--memory-budget=40000000"];
        let ran = train(&data, &dir.path().join("run"), &more).ok();
        let run = ran.json();
        assert!(bytes(&run, "tree_anon_peak_bytes") < 40_000_000, "{name}: {:#}", run["memory"]);
        assert_eq!(run["memory"]["budget_kept"], true, "{name}: {:#}", run["memory"]);
    }
}

/// Answers are made beside the arena: their process is in the budget, and the one that is named does.
#[cfg(target_os = "linux")]
#[test]
fn a_process_that_answers_is_in_the_budget() {
    let dir = temporary();
    let data = dir.path().join("rows.jsonl");
    fs::write(&data, "{\"input_ids\":[1,2,3,4,5,6,7,8]}\n".repeat(8)).expect("rows");
    let with = |budget: &str| {
        let more = ["--steps=2", "--sample-prompt=What is a wolf?", "--sample-tokens=8"];
        train(&data, &dir.path().join("run"), &[&more[..], &[&format!("--memory-budget={budget}")]].concat())
    };
    let refused = with("4900000");
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    let named = refused.stderr.split("would do is ").nth(1).and_then(|rest| rest.split(' ').next());
    let run = with(named.expect("a budget")).ok().json();
    assert_eq!(run["memory"]["budget_kept"], true, "{:#}", run["memory"]);
}
