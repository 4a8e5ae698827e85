//! Input that cannot be used: one clear message, and status 2.

use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use serde_json::json;

use crate::support::{copy_model, edit_json, golden, mesp, temporary};

/// A short run on these rows.
fn train(model: &Path, data: &Path, dir: &Path, more: &[&str]) -> String {
    let output = dir.join("out");
    let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> =
        vec![&"train", &"--model", &model, &"--data", &data, &"--output", &output, &"--steps", &"2"];
    args.extend(more.iter().map(|a| a as &dyn AsRef<std::ffi::OsStr>));
    mesp(&args).failure(dir)
}

/// A run on the qwen2 golden with some rows.
fn with_rows(rows: &str) -> String {
    let dir = temporary();
    let data = dir.path().join("rows.jsonl");
    fs::write(&data, rows).expect("written");
    train(&golden("qwen2/model"), &data, dir.path(), &[])
}

/// A run on the qwen2 golden with some options.
fn with_options(more: &[&str]) -> String {
    let dir = temporary();
    train(&golden("qwen2/model"), &golden("qwen2/rows.jsonl"), dir.path(), more)
}

#[test]
fn models() {
    let rows = golden("qwen2/rows.jsonl");
    let dir = temporary();
    let model = copy_model("llama", dir.path());
    fs::remove_file(model.join("model-00002-of-00002.safetensors")).expect("removed");
    assert_snapshot!("missing_shard", train(&model, &rows, dir.path(), &[]));

    let dir = temporary();
    let model = copy_model("qwen2", dir.path());
    let weights = model.join("model.safetensors");
    let bytes = fs::read(&weights).expect("weights");
    fs::write(&weights, &bytes[..bytes.len() - 100]).expect("written");
    assert_snapshot!("truncated_safetensors", train(&model, &rows, dir.path(), &[]));
    fs::write(&weights, &bytes[..5]).expect("written");
    assert_snapshot!("five_bytes", train(&model, &rows, dir.path(), &[]));
    fs::write(&weights, &bytes).expect("written");

    edit_json(&model.join("config.json"), |c| c["intermediate_size"] = json!(96));
    assert_snapshot!("shape_contradicts_config", train(&model, &rows, dir.path(), &[]));
    edit_json(&model.join("config.json"), |c| c["model_type"] = json!("mamba"));
    assert_snapshot!("unknown_architecture", train(&model, &rows, dir.path(), &[]));
    assert_snapshot!("no_model_directory", train(&dir.path().join("nowhere"), &rows, dir.path(), &[]));
    assert_snapshot!("gguf_model", train(&dir.path().join("model.gguf"), &rows, dir.path(), &[]));
}

#[test]
fn adapters() {
    let (rows, dir) = (golden("qwen2/rows.jsonl"), temporary());
    let adapter = golden("qwen3/adapter");
    let other = train(&golden("qwen2/model"), &rows, dir.path(), &["--adapter", &adapter.to_string_lossy()]);
    assert_snapshot!("adapter_for_another_model", other);
    assert_snapshot!("unknown_target_module", with_options(&["--target-modules", "q_proj,query"]));
    let own = golden("qwen2/adapter");
    assert_snapshot!("another_rank", with_options(&["--adapter", &own.to_string_lossy(), "--rank", "9"]));
    assert_snapshot!("no_adapter", with_options(&["--adapter", &golden("qwen2/model").to_string_lossy()]));
}

#[test]
fn rows() {
    assert_snapshot!("labels_of_another_length", with_rows("{\"input_ids\":[1,2,3],\"labels\":[1,2]}\n"));
    assert_snapshot!("token_out_of_range", with_rows("{\"input_ids\":[1,2]}\n{\"input_ids\":[1,97]}\n"));
    assert_snapshot!("empty_file", with_rows(""));
    assert_snapshot!("all_masked", with_rows("{\"input_ids\":[1,2],\"labels\":[-100,-100]}\n"));
    assert_snapshot!("no_json", with_rows("{\"input_ids\":[1,2]}\n{\"input_ids\":[1,\n"));
    assert_snapshot!("text_without_tokenizer", with_rows("{\"text\":\"hello\"}\n"));
    let dir = temporary();
    let nowhere = train(&golden("qwen2/model"), &dir.path().join("no.jsonl"), dir.path(), &[]);
    assert_snapshot!("no_data_file", nowhere);
}

#[test]
fn options() {
    let cases: [(&str, &[&str]); 12] = [
        ("unknown_method", &["--method", "magic"]),
        ("per_matrix_and_accumulation", &["--update", "per-matrix", "--grad-accum", "2"]),
        ("per_block_and_accumulation", &["--update", "per-block", "--grad-accum", "2"]),
        ("f64", &["--compute", "f64"]),
        ("checkpoints", &["--checkpoints", "q8"]),
        ("unknown_optimizer", &["--optimizer", "adagrad"]),
        ("unknown_schedule", &["--lr-schedule", "stairs"]),
        ("unknown_base", &["--base", "q3"]),
        ("negative_rate", &["--learning-rate=-1"]),
        ("rank_0", &["--rank", "0"]),
        ("warmup", &["--warmup-ratio", "2"]),
        ("nothing_to_resume", &["--resume"]),
    ];
    for (name, more) in cases {
        assert_snapshot!(name, with_options(more));
    }
    // Lengths that no plan can be made for, and sizes that no sum holds.
    for (more, expected) in [
        (&["--max-seq-len=1"][..], "--max-seq-len is 1, which leaves nothing to predict"),
        (&["--max-seq-len=99999999999"], "more than 1048576 tokens"),
        (&["--batch-size=99999999999"], "more than 1048576 tokens"),
    ] {
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"plan", &"--preset=tiny"];
        args.extend(more.iter().map(|m| m as &dyn AsRef<std::ffi::OsStr>));
        let failure = mesp(&args).failure(Path::new("/nowhere"));
        assert!(failure.starts_with("exit status 2") && failure.contains(expected), "{failure}");
    }
    let lone = mesp(&[&"train", &"--data", &golden("qwen2/rows.jsonl")]);
    assert_snapshot!("no_model", lone.failure(Path::new("/nowhere")));
}

#[test]
fn typed_wrongly() {
    for args in [["train", "--lerning-rate"], ["train", "--memory-budget=12cows"], ["fly", "--high"]] {
        let ran = mesp(&[&args[0], &args[1]]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    }
    assert_snapshot!("wrong_flag", mesp(&[&"train", &"--lerning-rate", &"1"]).failure(Path::new("/nowhere")));
}
