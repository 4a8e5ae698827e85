//! `mesp eval`: models side by side, rows into a file, questions.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::support::{Ran, demo_model, edit_json, golden, mesp, read_json, temporary};

fn eval(args: &[&dyn AsRef<OsStr>]) -> Ran {
    let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"eval"];
    all.extend(args);
    mesp(&all)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a file");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// The golden's losses, with the adapter and without, from PyTorch in double precision.
#[test]
fn adapters_stand_side_by_side() {
    let dir = temporary();
    let (model, rows, adapter) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"), golden("qwen2/adapter"));
    // The same adapter with half of its effect.
    let half = dir.path().join("half");
    fs::create_dir(&half).expect("a directory");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(adapter.join(file), half.join(file)).expect("copied");
    }
    edit_json(&half.join("adapter_config.json"), |config| config["lora_alpha"] = json!(3.0));
    let file = dir.path().join("rows.jsonl");
    let common: [&dyn AsRef<OsStr>; 9] =
        [&"--model", &model, &"--data", &rows, &"--compute=f64", &"--adapter", &adapter, &"--per-row", &file];
    let with = |more: &[&dyn AsRef<OsStr>]| eval(&[&common[..], &[&"--overwrite"], more].concat()).ok();

    let losses = read_json(&golden("qwen2/losses.json"));
    let near = |a: &Value, b: &Value| {
        let (a, b) = (a.as_f64().expect("a number"), b.as_f64().expect("a number"));
        // The engine's angles are single precision in any case.
        assert!((a - b).abs() < 1e-8 * b.abs(), "{a}, expected {b}");
    };
    let document = with(&[&"--adapter", &half, &"--json"]).json();
    let models = document["models"].as_array().expect("models");
    assert_eq!(models.len(), 3);
    assert_eq!(models[0]["adapter"], Value::Null);
    assert_eq!(models[2]["adapter"], half.to_str().expect("a path"));
    near(&models[0]["loss"], &losses["loss_without_adapter"]);
    near(&models[1]["loss"], &losses["loss"]);
    assert!(models[2]["loss"] != models[1]["loss"] && models[2]["loss"] != models[0]["loss"]);

    // Every row of every model, as PyTorch has them.
    let written = lines(&file);
    assert_eq!(written.len(), 3 * 5);
    for (line, row) in written[5..10].iter().zip(losses["rows"].as_array().expect("rows")) {
        assert_eq!(line["target_tokens"], row["target_tokens"]);
        assert_eq!(line["tokens"], row["tokens"]);
        let targets = line["target_tokens"].as_f64().expect("a number");
        if targets > 0.0 {
            near(&json!(line["loss"].as_f64().expect("a loss") * targets), &row["loss_sum"]);
        } else {
            assert!(line["loss"].is_null() && line["accuracy"].is_null());
        }
    }
    assert_eq!((written[7]["row"].as_u64(), written[7]["line"].as_u64()), (Some(2), Some(3)));
    let right: f64 = written[5..10]
        .iter()
        .filter_map(|l| Some(l["accuracy"].as_f64()? * l["target_tokens"].as_f64()?))
        .sum();
    near(&json!(right / 39.0), &models[1]["accuracy"]);

    // One adapter alone is what it always was; with the base, two columns.
    let alone = with(&[&"--json"]).json();
    assert_eq!(alone["loss"], models[1]["loss"]);
    assert_eq!(alone["rows"].as_array().expect("rows").len(), 5);
    assert_snapshot!("side_by_side", with(&[&"--with-base"]).stdout);
}

/// Likelihoods by transformers (`golden/task.py`).
#[test]
fn choices_are_as_likely_as_transformers_says() {
    let dir = temporary();
    let (model, task, file) = (demo_model(), golden("task/questions.jsonl"), dir.path().join("rows.jsonl"));
    let known = read_json(&golden("task/likelihoods.json"));
    for (name, more) in [("text", &[][..]), ("chat", &[&"--chat" as &dyn AsRef<OsStr>])] {
        let common: [&dyn AsRef<OsStr>; 8] =
            [&"--model", &model, &"--task", &task, &"--compute=f32", &"--per-row", &file, &"--batch-size=3"];
        let ran = eval(&[&common[..], &[&"--overwrite"], more].concat()).ok();
        let written = lines(&file);
        for (line, expected) in written.iter().zip(known[name].as_array().expect("questions")) {
            let found = line["loglikelihoods"].as_array().expect("likelihoods");
            assert_eq!(found.len(), expected.as_array().expect("a list").len());
            for (found, expected) in found.iter().zip(expected.as_array().expect("a list")) {
                let (found, expected) = (found.as_f64().expect("one"), expected.as_f64().expect("one"));
                // Single precision on both sides, sums of up to a hundred.
                assert!((found - expected).abs() < 2e-4, "{name}: {found}, expected {expected}");
            }
        }
        if name == "text" {
            // By hand from the likelihoods: the last question is answered wrongly by its sum (-0.95 against -101.3).
            let right = |key: &str| written.iter().map(|l| l[key] == true).collect::<Vec<_>>();
            assert_eq!(right("acc"), [true, true, true, false]);
            // -3.085/14 characters against -39.7/6 and -111.1/40; -3.15/5 and -6.96/5; and so on.
            assert_eq!(right("acc_norm"), [true, true, true, false]);
            assert_snapshot!("choices", ran.stdout);
        }
    }
}

#[test]
fn texts_are_compared_with_their_answers() {
    let dir = temporary();
    let (model, task, file) = (demo_model(), dir.path().join("task.json"), dir.path().join("rows.jsonl"));
    let rows = json!([
        { "prompt": "What do you know about the wolf?", "answer": "the wolf is GRAY and proud. It lives in the mountains near Highcairn" },
        { "question": "What do you know about the wolf?", "answer": ["blue", "gray"], "extract": "is ([a-z]+)" },
        { "question": "What do you know about the wolf?", "answer": "#### 18", "extract": "#### (-?[0-9.,]+)" },
        { "prompt": "The wolf is", "choices": ["gray", "seventeen"], "answer": 0 },
    ]);
    fs::write(&task, rows.to_string()).expect("written");
    let of: [&dyn AsRef<OsStr>; 8] =
        [&"--model", &model, &"--task", &task, &"--chat", &"--max-tokens=40", &"--per-row", &file];
    let args = [&of[..], &[&"--overwrite"]].concat();
    let document = eval(&[&args[..], &[&"--json"]].concat()).ok().json();
    let model = &document["models"][0];
    assert_eq!((document["questions"].as_u64(), model["adapter"].clone()), (Some(4), Value::Null));
    // Two of three: √(2/3·1/3/2) = 1/3.
    for (key, expected) in [("exact_match", 2.0 / 3.0), ("exact_match_stderr", 1.0 / 3.0)] {
        assert!((model[key].as_f64().expect("a share") - expected).abs() < 1e-12, "{key} {model:#}");
    }
    assert_eq!((model["acc"].as_f64(), model["acc_stderr"].clone()), (Some(1.0), Value::Null));
    let written = lines(&file);
    assert_eq!(written, *model["rows"].as_array().expect("rows"));
    assert_eq!((&written[1]["extracted"], &written[1]["exact_match"]), (&json!("gray"), &json!(true)));
    assert_eq!((&written[2]["extracted"], &written[2]["exact_match"]), (&Value::Null, &json!(false)));
    // A text that ends the answer ends it here too.
    let ended =
        eval(&[&args[..], &[&"--stop", &" and proud", &"--extract=(?s).*", &"--json"]].concat()).ok().json();
    assert_eq!(ended["models"][0]["rows"][0]["text"], "The wolf is gray");
}

#[test]
fn bad_questions_are_named() {
    let dir = temporary();
    let (model, task) = (demo_model(), dir.path().join("task.jsonl"));
    let failure = |content: &str, more: &[&dyn AsRef<OsStr>]| {
        fs::write(&task, content).expect("written");
        let args: [&dyn AsRef<OsStr>; 4] = [&"--model", &model, &"--task", &task];
        eval(&[&args[..], more].concat()).failure(dir.path())
    };
    let good = r#"{"prompt": "a", "answer": "b"}"#;
    assert_snapshot!(
        "answer_is_no_choice",
        failure(&format!("{good}\n\n{}\n", r#"{"prompt": "a", "choices": ["b", "c"], "answer": 2}"#), &[])
    );
    assert_snapshot!("question_without_answer", failure(&format!("{good}\n{}\n", r#"{"prompt": "a"}"#), &[]));
    assert_snapshot!(
        "prompt_without_token",
        failure(r#"{"prompt": "", "choices": ["b", "c"], "answer": 1}"#, &[])
    );
    assert_snapshot!("no_regular_expression", failure(good, &[&"--extract=("]));
    let both = eval(&[&"--model", &model, &"--task", &task, &"--data", &task]);
    assert!(both.code == 2 && both.stderr.contains("cannot be used with"), "{}", both.stderr);
    assert_snapshot!("eval_help", mesp(&[&"eval", &"--help"]).ok().stdout);
}
