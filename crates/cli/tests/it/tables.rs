//! Rows from tables, Parquet and packed files, in every command that reads rows.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Ran, demo_model, mesp, temporary};

/// The files of `golden/tables.py`.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/tables").join(name)
}

fn on_demo(what: &[&str], data: &Path, more: &[&str]) -> Ran {
    let model = demo_model();
    let mut args: Vec<&dyn AsRef<OsStr>> = what.iter().map(|a| a as &dyn AsRef<OsStr>).collect();
    args.extend([&"--model" as &dyn AsRef<OsStr>, &model, &"--data", &data]);
    args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
    mesp(&args)
}

fn written(path: PathBuf, content: impl AsRef<[u8]>) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(&path, content).expect("written");
    path
}

fn tokens(data: &Path, more: &[&str]) -> Vec<Value> {
    let shown = on_demo(&["data", "show"], data, &[&["--json", "--rows=99"], more].concat()).ok().json();
    let rows = shown["rows"].as_array().expect("rows").iter();
    rows.map(|row| serde_json::json!([row["tokens"], row["labels"]])).collect()
}

/// How many tokens rows of `input_ids` have.
fn tokens_in(rows: &Path) -> usize {
    let rows: Vec<Value> = serde_json::from_slice(&fs::read(rows).expect("rows")).expect("JSON");
    rows.iter().map(|row| row["input_ids"].as_array().map_or(0, Vec::len)).sum()
}

/// A table gives the tokens of the same rows as JSON lines.
#[test]
fn every_kind_of_file_gives_the_same_rows() {
    let dir = temporary();
    let expected: Vec<Value> =
        serde_json::from_slice(&fs::read(golden("delta.json")).expect("rows")).expect("JSON");
    let lines: String = expected.iter().fold(String::new(), |all, row| all + &row.to_string() + "\n");
    let lines = tokens(&written(dir.path().join("r.jsonl"), lines), &[]);
    assert_eq!(lines.len(), 50);
    assert_eq!(tokens(&golden("delta.parquet"), &[]), lines);
    let field = |row: &Value, key: &str| format!("\"{}\"", row[key].as_str().expect("text"));
    // In a table an empty prompt is an absent one.
    let rows: Vec<&Value> = expected.iter().filter(|row| row["prompt"] != "").collect();
    let some: String = rows.iter().fold(String::new(), |all, row| all + &row.to_string() + "\n");
    let some = tokens(&written(dir.path().join("some.jsonl"), some), &[]);
    let cells = rows.iter().map(|row| format!("{},{}\r\n", field(row, "prompt"), field(row, "completion")));
    let csv = written(dir.path().join("r.csv"), "q,a\r\n".to_owned() + &cells.collect::<String>());
    assert_eq!(tokens(&csv, &["--columns=prompt=q,completion=a"]), some);
    let checked = on_demo(&["data", "check"], &golden("messages-zstd.parquet"), &["--json"]);
    let file = &checked.json()["files"][0];
    assert_eq!(file["forms"]["messages"], file["rows"]);
    // Rows 3 and 4 of each five have no messages, row 5 has a turn that is null.
    let bad = file["unusable"].as_array().expect("rows");
    for row in [3, 4, 5, 8, 9, 10, 13, 14, 15] {
        assert!(bad.iter().any(|bad| bad["line"] == row), "row {row}: {file}");
    }
    assert!(!bad.iter().any(|bad| bad["line"] == 1 || bad["line"] == 6), "{file}");
    let checked = on_demo(&["data", "check"], &golden("tokens.parquet"), &["--json"]).json();
    let file = &checked["files"][0];
    assert_eq!(
        (&file["forms"]["input_ids"], &file["tokens"]),
        (&34.into(), &tokens_in(&golden("tokens.json")).into())
    );
}

#[test]
fn shards_are_one_set_of_rows() {
    let dir = temporary();
    let data = dir.path().join("set");
    for n in 0..3 {
        let rows: String = (0..4).fold(String::new(), |all, i| all + &format!("shard {n},row {i}\n"));
        written(data.join(format!("data/train-{n:05}-of-00003.csv")), format!("q,a\n{rows}"));
    }
    for n in 0..2 {
        written(data.join(format!("data/validation-{n:05}-of-00002.csv")), "q,a\nwhat,held out\n");
    }
    let shown = on_demo(&["data", "show"], &data, &["--rows=99", "--columns=prompt=q,completion=a"]).ok();
    for place in ["train-00000-of-00003.csv:2: ", "train-00002-of-00003.csv:5: "] {
        assert!(shown.stdout.contains(place), "{}", shown.stdout);
    }
    let run = dir.path().join("run");
    let train = |more: &[&str]| {
        let run = run.to_string_lossy();
        let args = ["--output", &run, "--steps=2", "--json", "--columns=prompt=q,completion=a"];
        on_demo(&["train"], &data, &[&args, more].concat())
    };
    let first = train(&[]).ok();
    let document = first.json();
    assert!(document["loss"]["eval_before"].is_number(), "{document:#}");
    assert!(first.stderr.contains("turning text into tokens"), "{}", first.stderr);
    assert!(train(&["--overwrite"]).ok().stderr.contains("tokens of an earlier run"));
    // Other columns are other tokens.
    let other = train(&["--overwrite", "--columns=prompt=a,completion=q"]);
    assert_eq!(other.code, 2, "given twice");
    let args = ["--output", &run.to_string_lossy(), "--steps=2", "--overwrite", "--columns=text=q"];
    assert!(on_demo(&["train"], &data, &args).ok().stderr.contains("turning text into tokens"));
    let all = on_demo(&["data", "check"], &data, &["--json", "--columns=prompt=q,completion=a"]).ok().json();
    assert_eq!(all["files"].as_array().map(Vec::len), Some(5));
    let held =
        on_demo(&["eval"], &data.join("validation"), &["--json", "--columns=prompt=q,completion=a"]).ok();
    assert!(held.json()["loss"].is_number());
    fs::remove_file(data.join("data/train-00001-of-00003.csv")).expect("removed");
    let ran = on_demo(&["data", "check"], &data, &[]);
    assert!(ran.code == 2 && ran.stderr.contains("number 00001 is missing"), "{}", ran.stderr);
}

#[test]
fn rows_of_tokens_are_trained_from_parquet() {
    let dir = temporary();
    let data = golden("tokens.parquet");
    let run = dir.path().join("run");
    let args = ["--output", &run.to_string_lossy(), "--steps=3", "--json"];
    // The rows of no token name themselves.
    let ran = on_demo(&["train"], &data, &args);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("tokens.parquet:1: `input_ids` is empty"), "{}", ran.stderr);
    let plan = mesp(&[&"plan", &"--preset=tiny", &"--data", &data]);
    assert!(plan.stderr.contains("tokens.parquet:1: "), "{}", plan.stderr);
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = temporary();
    let csv = written(dir.path().join("r.csv"), "id,question,answer\n1,a,b\n2,c\n3,d,\"e\n");
    let check = |data: &Path, more: &[&str]| on_demo(&["data", "check"], data, more);
    let ran = check(&csv, &["--columns=prompt=question,completion=anwser"]);
    assert!(ran.code == 2 && ran.stderr.contains("the columns are answer, "), "{}", ran.stderr);
    let ran = check(&csv, &["--columns=promt=question"]);
    assert!(ran.code == 2 && ran.stderr.contains("the names are prompt, "), "{}", ran.stderr);
    let ran = check(&csv, &[]);
    for words in ["r.csv:3: the row has 2 cells", "r.csv:4: a double quote opens a cell"] {
        assert!(ran.stdout.contains(words), "{words}: {}{}", ran.stdout, ran.stderr);
    }
    let lines = written(dir.path().join("r.jsonl"), "{\"question\":\"a\",\"answer\":\"b\"}\n");
    let ran = check(&lines, &["--columns=prompt=question,completion=anwser"]);
    assert!(
        ran.code == 2 && ran.stderr.contains("r.jsonl: --columns names the column \"anwser\""),
        "{}",
        ran.stderr
    );
    let ran = check(&lines, &["--columns=system=sytem"]);
    assert!(ran.code == 2 && ran.stderr.contains("the columns are "), "{}", ran.stderr);
    let broken =
        written(dir.path().join("r.parquet"), &fs::read(golden("types.parquet")).expect("a file")[..4000]);
    let ran = check(&broken, &[]);
    assert!(
        ran.code == 2 && ran.stderr.contains("r.parquet: this Parquet file cannot be read"),
        "{}",
        ran.stderr
    );
    let saved = dir.path().join("saved");
    written(saved.join("dataset_info.json"), "{}");
    written(saved.join("data-00000-of-00001.arrow"), "");
    let ran = check(&saved, &[]);
    assert!(ran.code == 2 && ran.stderr.contains("load_from_disk"), "{}", ran.stderr);
}

#[test]
fn columns_stand_in_a_configuration_too() {
    let dir = temporary();
    let csv = written(dir.path().join("r.csv"), "q,a\nx,y\n");
    for (name, columns) in
        [("text", "\"prompt=q,completion=a\""), ("list", "[\"prompt=q\", \"completion=a\"]")]
    {
        let config =
            written(dir.path().join(format!("{name}.toml")), format!("columns = {columns}\nsteps = 1\n"));
        let (config, run) = (config.to_string_lossy().into_owned(), dir.path().join(name));
        on_demo(&["train"], &csv, &["--config", &config, "--output", &run.to_string_lossy()]).ok();
    }
}
