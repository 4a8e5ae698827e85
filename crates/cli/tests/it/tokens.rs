//! Text becomes tokens outside the process that trains.

use std::ffi::OsStr;
use std::fs;

use insta::assert_snapshot;

use crate::support::{demo_model, mesp, temporary};

#[test]
fn text_is_tokenized_once() {
    let dir = temporary();
    let (model, run) = (demo_model(), dir.path().join("run"));
    let rows = model.join("../train.jsonl").canonicalize().expect("the demo's rows");
    let train = |more: &[&str]| {
        let mut args: Vec<&dyn AsRef<OsStr>> =
            vec![&"train", &"--model", &model, &"--data", &rows, &"--output", &run, &"--json", &"--steps=2"];
        args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
        mesp(&args).ok()
    };
    let first = train(&[]);
    assert!(first.stderr.contains("turning text into tokens"), "{}", first.stderr);
    let again = train(&["--overwrite"]);
    assert!(again.stderr.contains("tokens of an earlier run"), "{}", again.stderr);
    assert_eq!(first.json()["loss"], again.json()["loss"]);
    for document in [first.json(), again.json()] {
        let bytes = |key: &str| document["memory"][key].as_u64().expect("bytes");
        assert!(bytes("heap_peak_bytes") <= bytes("planned_bytes"), "{document:#}");
    }
    let other = train(&["--overwrite", "--max-seq-len=40"]);
    assert!(other.stderr.contains("turning text into tokens"), "other options are other tokens");

    // A damaged file is made again.
    let kept: Vec<_> = fs::read_dir(run.join("tokens")).expect("tokens").flatten().collect();
    assert_eq!(kept.len(), 2);
    for entry in &kept {
        let bytes = fs::read(entry.path()).expect("tokens");
        fs::write(entry.path(), &bytes[..bytes.len() / 2]).expect("written");
    }
    let mended = train(&["--overwrite"]);
    assert!(mended.stderr.contains("turning text into tokens"), "{}", mended.stderr);
    assert_eq!(first.json()["loss"], mended.json()["loss"]);
}

#[test]
fn token_files_are_data() {
    let dir = temporary();
    let (model, file) = (demo_model(), dir.path().join("rows.tokens"));
    let rows = model.join("../eval.jsonl").canonicalize().expect("the demo's rows");
    let made = mesp(&[
        &"data",
        &"tokenize",
        &"--model",
        &model,
        &"--data",
        &rows,
        &"--output",
        &file,
        &"--whole",
        &"--json",
    ]);
    let made = made.ok().json();
    let eval = |data: &dyn AsRef<OsStr>| {
        mesp(&[&"eval", &"--model", &model, &"--data", data, &"--json"]).ok().json()
    };
    assert_eq!(eval(&rows), eval(&file));
    assert_eq!(made["target_tokens"], eval(&file)["target_tokens"]);

    let mut bytes = fs::read(&file).expect("tokens");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("written");
    let ran = mesp(&[&"eval", &"--model", &model, &"--data", &file]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("rows.tokens"), "{}", ran.stderr);
}

#[test]
fn trouble_with_text_is_told_as_it_is() {
    let dir = temporary();
    let rows = dir.path().join("rows.jsonl");
    fs::write(&rows, "{\"text\":\"a\"}\n{\"txt\":\"b\"}\n").expect("written");
    let output = dir.path().join("run");
    let ran = mesp(&[&"train", &"--model", &demo_model(), &"--data", &rows, &"--output", &output]);
    assert_snapshot!("a_row_of_no_known_form", ran.failure(dir.path()));
}

#[test]
fn a_refused_run_leaves_no_folder() {
    let dir = temporary();
    let (model, run) = (demo_model(), dir.path().join("run"));
    let rows = model.join("../train.jsonl").canonicalize().expect("the demo's rows");
    let args: [&dyn AsRef<OsStr>; 7] = [&"train", &"--model", &model, &"--data", &rows, &"--output", &run];
    let ran = mesp(&[&args[..], &[&"--memory-budget=1MB"]].concat());
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("turning text into tokens"), "{}", ran.stderr);
    assert!(!run.exists(), "what it made goes again");

    // A folder that was there stays, with the tokens for the next try.
    fs::create_dir(&run).expect("a folder");
    mesp(&[&args[..], &[&"--memory-budget=1MB"]].concat());
    assert!(run.join("tokens").is_dir());
}

/// One file is enough to train on: the tokenizer inside it is used, with the directory's tokens.
#[test]
#[allow(clippy::print_stderr, reason = "a test that skips says so")]
fn the_tokenizer_in_a_file_is_used() {
    let json = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/tokenizers/qwen2.5/tokenizer.json");
    if !json.is_file() {
        eprintln!("skipped: no {}", json.display());
        return;
    }
    let dir = temporary();
    let (model, alone) = (dir.path().join("model"), dir.path().join("alone"));
    for folder in [&model, &alone] {
        fs::create_dir(folder).expect("a folder");
    }
    let config = mesp_formats::ModelConfig {
        vocab_size: 151_936,
        hidden_size: 32,
        num_hidden_layers: 1,
        bos_token_id: Some(151_643),
        eos_token_ids: vec![151_645],
        ..mesp::init_model::preset("tiny").expect("tiny")
    };
    mesp::init_model::write(&model, &config, mesp_formats::Dtype::BF16, 1, &mut |_, _| {}).expect("a model");
    fs::copy(&json, model.join("tokenizer.json")).expect("copied");
    let settings = r#"{"add_bos_token": false, "bos_token": null, "eos_token": "<|im_end|>"}"#;
    fs::write(model.join("tokenizer_config.json"), settings).expect("settings");
    let (file, rows) = (alone.join("alone.gguf"), dir.path().join("rows.jsonl"));
    mesp(&[&"quantize", &"--model", &model, &"--type", &"q8_0", &"--output", &file]).ok();
    fs::write(&rows, "{\"text\":\"na\u{ef}ve \u{65e5}\u{672c}, 12345 words\"}\n{\"prompt\":\"Why?\",\"completion\":\" So.\"}\n")
        .expect("rows");
    let tokens = |model: &dyn AsRef<OsStr>, name: &str| {
        let to = dir.path().join(name);
        mesp(&[&"data", &"tokenize", &"--model", model, &"--data", &rows, &"--output", &to, &"--whole"]).ok();
        let opened = fs::File::open(&to).expect("tokens");
        let file = mesp::data::token_file::TokenFile::open(&to, opened, 151_936).expect("rows");
        let row = |row| mesp::data::Examples::read(&file, row).expect("a row");
        let rows = (0..mesp::data::Examples::count(&file)).map(row);
        rows.map(|row| (row.tokens, row.labels)).collect::<Vec<_>>()
    };
    let from_file = tokens(&file, "file.tokens");
    assert!(from_file.len() == 2 && from_file[0].0.len() > 5);
    assert_eq!(from_file, tokens(&model, "directory.tokens"));

    let run = dir.path().join("run");
    let ran =
        mesp(&[&"train", &"--model", &file, &"--data", &rows, &"--output", &run, &"--steps=2", &"--json"])
            .ok();
    assert!(ran.stderr.contains("turning text into tokens"), "{}", ran.stderr);
    let document = ran.json();
    let bytes = |key: &str| document["memory"][key].as_u64().expect("bytes");
    // 151,936 words and their merges take more than 20 MB: they were never in this process.
    assert!(bytes("heap_training_peak_bytes") <= bytes("planned_bytes"), "{document:#}");
    // Before the run, reading the command line takes most of a megabyte.
    assert!(bytes("heap_peak_bytes") < 12_000_000, "{document:#}");
}

/// A tokenizer that takes more than the budget: its process is ended, before anything is planned, and tokens that were
/// made beforehand are trained within the same budget.
#[cfg(target_os = "linux")]
#[test]
fn a_tokenizer_over_the_budget_is_stopped() {
    const WORDS: usize = 150_000;
    let dir = temporary();
    let at = |name: &str| dir.path().join(name);
    let demo = demo_model();
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(demo.join(name)).expect("a file")).expect("JSON")
    };
    let mut tokenizer = read("tokenizer.json");
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
    for id in vocabulary.len()..WORDS {
        vocabulary.insert(format!("no such word as {id}"), id.into());
    }
    fs::write(at("tokenizer.json"), tokenizer.to_string()).expect("written");
    let mut config = read("config.json");
    for (key, value) in [
        ("vocab_size", WORDS),
        ("hidden_size", 16),
        ("intermediate_size", 32),
        ("num_hidden_layers", 1),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
        ("head_dim", 8),
    ] {
        config[key] = value.into();
    }
    config.as_object_mut().expect("settings").remove("layer_types");
    fs::write(at("config.json"), config.to_string()).expect("written");
    let (model, rows, file, run) = (at("model"), at("rows.jsonl"), at("rows.tokens"), at("run"));
    mesp(&[
        &"init-model",
        &"--config",
        &at("config.json"),
        &"--tokenizer",
        &at("tokenizer.json"),
        &"--output",
        &model,
    ])
    .ok();
    fs::write(&rows, "{\"text\":\"Once upon a time there was a cat.\"}\n").expect("rows");
    let train = |data: &std::path::Path| {
        mesp(&[
            &"train",
            &"--model",
            &model,
            &"--data",
            &data,
            &"--output",
            &run,
            &"--json",
            &"--steps=2",
            &"--memory-budget=12MB",
        ])
    };
    let stopped = train(&rows);
    assert_eq!(stopped.code, 3, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("turning text into tokens was stopped at"), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("`mesp data tokenize`"), "{}", stopped.stderr);
    mesp(&[&"data", &"tokenize", &"--model", &model, &"--data", &rows, &"--output", &file]).ok();
    let trained = train(&file).ok().json();
    assert_eq!(trained["memory"]["budget_kept"], true, "{:#}", trained["memory"]);
}
