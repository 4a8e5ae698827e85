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
