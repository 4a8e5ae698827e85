//! What is shown and checked of data, and real data trained on.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Ran, demo_model, mesp, temporary};

fn on_demo(what: &str, rows: &Path, more: &[&str]) -> Ran {
    let model = demo_model();
    let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"data", &what, &"--model", &model, &"--data", &rows];
    args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
    mesp(&args)
}

fn written(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, content).expect("written");
    path
}

#[test]
fn every_unusable_row_is_named() {
    let dir = temporary();
    let rows = written(
        dir.path(),
        "rows.jsonl",
        "{\"text\":\"one\"}\n{\"txt\":\"b\"}\n{\"text\":\"one\"}\n{\"text\":\n{\"prompt\":\"a\",\"completion\":\" b\"}\n",
    );
    let ran = on_demo("check", &rows, &[]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    for words in [
        "rows.jsonl:2: the row has no form",
        "rows.jsonl:4: not valid JSON",
        "1 (line 3 (as 1))",
        "2 text rows, 1 prompt",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    assert!(ran.stderr.contains("2 rows cannot be used"), "{}", ran.stderr);
    let ran = on_demo("check", &rows, &["--json"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    let document = ran.json();
    let file = &document["files"][0];
    let lines: Vec<_> =
        file["unusable"].as_array().expect("a list").iter().map(|row| row["line"].clone()).collect();
    assert_eq!(lines, [2, 4]);
    assert_eq!(file["duplicates"][0]["first"], 1);
    assert_eq!(file["rows"], 3);
}

#[test]
fn what_is_trained_is_marked() {
    let dir = temporary();
    let rows = written(
        dir.path(),
        "rows.jsonl",
        "{\"text\":\"x\"}\n{\"prompt\":\"Lina sees\",\"completion\":\" the sea\"}\n",
    );
    let ran = on_demo("show", &rows, &["--from-line=2", "--ids"]).ok();
    assert!(
        ran.stdout.contains("rows.jsonl:2: ") && ran.stdout.contains("Lina sees{+ the sea"),
        "{}",
        ran.stdout
    );
    assert!(!ran.stdout.contains('\x1b') && !ran.stdout.contains("rows.jsonl:1"), "{}", ran.stdout);
    let document = on_demo("show", &rows, &["--json"]).ok().json();
    let row = &document["rows"][1];
    let list = |key: &str| row[key].as_array().expect("a list").clone();
    assert_eq!(list("tokens").len(), list("labels").len());
    let trained = list("labels").iter().filter(|l| **l != -100).count();
    assert_eq!(row["target_tokens"], trained);
    assert!(row["trained"][0].as_str().expect("text").starts_with(" the sea"), "{row}");
    let ran = on_demo("show", &rows, &["--from-line=3"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
}

#[test]
fn a_share_is_held_out_and_rows_are_packed() {
    let dir = temporary();
    let rows = demo_model().join("../train.jsonl").canonicalize().expect("the demo's rows");
    let train = |name: &str, more: &[&str]| {
        let (model, run) = (demo_model(), dir.path().join(name));
        let mut args: Vec<&dyn AsRef<OsStr>> = vec![
            &"train",
            &"--model",
            &model,
            &"--data",
            &rows,
            &"--output",
            &run,
            &"--json",
            &"--batch-tokens=150",
            &"--eval-split=0.1",
        ];
        args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
        mesp(&args).ok()
    };
    let first = train("a", &["--steps=6", "--seed=3"]);
    assert!(first.stderr.contains("rows held out to evaluate"), "{}", first.stderr);
    let document = first.json();
    assert!(
        document["loss"]["eval_before"].is_number() && document["loss"]["eval_after"].is_number(),
        "{document:#}"
    );
    let bytes = |key: &str| document["memory"][key].as_u64().expect("bytes");
    assert!(bytes("heap_peak_bytes") <= bytes("planned_bytes"), "{document:#}");
    let tokens = document["tokens"].as_u64().expect("tokens");
    assert!(tokens > 3 * 150 && tokens <= 6 * 150, "{tokens} tokens in 6 batches of up to 150");
    assert_eq!(train("b", &["--steps=6", "--seed=3"]).json()["loss"], document["loss"]);
    let ran = mesp(&[
        &"train",
        &"--model",
        &demo_model(),
        &"--data",
        &rows,
        &"--output",
        &dir.path().join("c"),
        &"--eval-split=1.5",
    ]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("--eval-split 0.05"), "{}", ran.stderr);
}

const ROW: &str = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi there\"},{\"role\":\"assistant\",\"content\":\"Hello.\"}]}\n";

/// Names of held-out rows as trainers have them, and files that are none of a run's.
#[test]
fn files_of_a_directory_are_used_or_named() {
    for (held, train) in
        [("validation.jsonl", "train.jsonl"), ("dev.jsonl", "train.json"), ("valid.json", "train.ndjson")]
    {
        let dir = temporary();
        let data = dir.path().join("data");
        fs::create_dir(&data).expect("made");
        written(&data, train, &ROW.repeat(6));
        written(&data, held, ROW);
        for other in ["test.jsonl", "more.jsonl", "table.parquet"] {
            written(&data, other, ROW);
        }
        let run = dir.path().join("run");
        let ran = mesp(&[
            &"train",
            &"--model",
            &demo_model(),
            &"--data",
            &data,
            &"--output",
            &run,
            &"--steps=1",
            &"--json",
        ])
        .ok();
        let document = ran.json();
        assert!(document["loss"]["eval_after"].is_number(), "{held}: {document:#}");
        let said = format!(
            "{}: {train} is read, {held} is held out to evaluate; not used: more.jsonl, table.parquet, test.jsonl",
            data.display()
        );
        assert!(ran.stderr.contains(&said), "{said}\n{}", ran.stderr);
        let ran = on_demo("check", &data, &["--json"]).ok();
        let checked = ran.json();
        let files: Vec<_> =
            checked["files"].as_array().expect("a list").iter().map(|file| file["path"].clone()).collect();
        assert_eq!(files, [train, held, "test.jsonl"].map(|name| data.join(name).display().to_string()));
        assert!(ran.stderr.contains("not checked: more.jsonl, table.parquet"), "{}", ran.stderr);
        let ran = mesp(&[&"eval", &"--model", &demo_model(), &"--data", &data, &"--json"]).ok();
        let said = "test.jsonl is read; not used: ";
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}

#[test]
fn what_is_not_used_is_told_everywhere() {
    let dir = temporary();
    let developer = ROW.replace("[{", "[{\"role\":\"narrator\",\"content\":\"It rains.\",\"mood\":1},{");
    let scored = ROW.replace("]}", "],\"score\":3,\"id\":NaN}");
    let rows = written(dir.path(), "rows.txt", &format!("{developer}{scored}"));
    let notes = [
        "1 of 2 rows: NaN or Infinity, which JSON does not have, is read as null (no value) (line 2)",
        "not used: of the turns `mood` (1 row, line 1), which change nothing of the text",
        "not used: of the rows `score` (1 row, line 2); every answer that is trained is trained alike, good or bad",
    ];
    let shown = on_demo("show", &rows, &[]).ok();
    let checked = on_demo("check", &rows, &[]).ok();
    let run = dir.path().join("run");
    let trained = mesp(&[
        &"train",
        &"--model",
        &demo_model(),
        &"--data",
        &rows,
        &"--output",
        &run,
        &"--steps=1",
        &"--json",
    ])
    .ok();
    for note in notes {
        assert!(shown.stderr.contains(note), "{note}\n{}", shown.stderr);
        assert!(checked.stdout.contains(&format!("  note: {note}\n")), "{note}\n{}", checked.stdout);
        assert!(trained.stderr.contains(note), "{note}\n{}", trained.stderr);
    }
}

/// Half of the rows of a KTO file are answers not to learn.
#[test]
fn bad_answers_are_named_row_by_row() {
    let dir = temporary();
    let marked = |label: bool| ROW.replace("]}", &format!("],\"label\":{label}}}"));
    let rows = written(dir.path(), "kto.jsonl", &[marked(true), marked(false), marked(false)].concat());
    let ran = on_demo("check", &rows, &["--json"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    let bad = &ran.json()["files"][0]["unusable"];
    assert_eq!((&bad[0]["line"], &bad[1]["line"], &bad[2]), (&2.into(), &3.into(), &Value::Null));
    assert!(bad[0]["problem"].as_str().expect("text").starts_with("`label` is false"), "{bad}");
    let run = dir.path().join("run");
    let ran = mesp(&[&"train", &"--model", &demo_model(), &"--data", &rows, &"--output", &run, &"--steps=1"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("kto.jsonl:2: `label` is false") && !run.exists(), "{}", ran.stderr);
}

/// Where the library names a setting, reports and documents say its option.
#[test]
fn reports_name_options() {
    let dir = temporary();
    let rows = written(dir.path(), "long.jsonl", "{\"text\":\"one two three four five six\"}\n");
    let tokens = dir.path().join("rows.tokens");
    let tokens = format!("--output={}", tokens.display());
    let said = [
        on_demo("check", &rows, &["--max-seq-len=3"]).ok().stdout,
        on_demo("check", &rows, &["--max-seq-len=3", "--json"]).ok().stdout,
        on_demo("tokenize", &rows, &["--max-seq-len=3", "--json", &tokens]).ok().stdout,
        on_demo("check", &rows, &["--max-seq-len=3", "--long-rows=error"]).stdout,
        on_demo("check", &rows, &["--max-seq-len=3", "--long-rows=error", "--json"]).stdout,
    ];
    for text in said {
        assert!(text.contains("--max-seq-len") && !text.contains('‘'), "{text}");
    }
}

/// The shared collection, or `None` with the reason printed.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if path.join("datasets").is_dir() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

/// A tiny model with Qwen2.5's real tokenizer and template.
fn qwen(data: &Path, dir: &Path) -> PathBuf {
    let (model, tokenizer) = (dir.join("qwen"), data.join("tokenizers/qwen2.5"));
    let config = dir.join("config.json");
    let tiny = serde_json::json!({
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 151_936,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": true,
        "bos_token_id": 151_643, "eos_token_id": 151_645
    });
    fs::write(&config, tiny.to_string()).expect("written");
    let file = tokenizer.join("tokenizer.json");
    mesp(&[&"init-model", &"--config", &config, &"--tokenizer", &file, &"--output", &model]).ok();
    for name in ["tokenizer_config.json", "chat_template.jinja"] {
        fs::write(model.join(name), fs::read(tokenizer.join(name)).expect("a file")).expect("written");
    }
    model
}

/// Each file is checked, shown and trained on, with a small real model and with a Qwen2-shaped one.
#[test]
fn real_data_is_checked_shown_and_trained_on() {
    let Some(data) = shared() else { return };
    let dir = temporary();
    let stories = data.join("models/TinyStories-656K");
    let qwen = qwen(&data, dir.path());
    let sets = [
        ("gsm8k/train.jsonl", "question_answer"),
        ("mlx-wikisql", "text"),
        ("alpaca-seed/seed_tasks.jsonl", "instruction"),
        ("codealpaca/code_alpaca_2k.json", "instruction"),
        ("tinystories-sample/tinystories_100.json", "text"),
        ("wikitext-2/valid.txt", ""),
    ];
    for (m, model) in [&stories, &qwen].into_iter().enumerate() {
        for (s, (name, form)) in sets.into_iter().enumerate() {
            let file = data.join("datasets").join(name);
            let seen = |what: &str| {
                mesp(&[&"data", &what, &"--model", &model, &"--data", &file, &"--max-seq-len=128", &"--json"])
                    .ok()
                    .json()
            };
            let checked = seen("check");
            let found = &checked["files"][0];
            assert_eq!(found["unusable"], Value::Array(Vec::new()), "{name}");
            assert!(found["share_trained"].as_f64().expect("a share") > 0.2, "{name}: {found}");
            if form.is_empty() {
                assert_eq!(found["plain_text"], true);
            } else {
                assert_eq!(found["forms"][form], found["rows"], "{name}");
                // Only rows that lost their end have none.
                let (long, without) = (&found["long"], found["no_stop_token"].as_array().expect("lines"));
                let long = long.as_array().expect("lines");
                assert!(without.iter().all(|line| long.contains(line)), "{name}: {without:?}");
            }
            let rows = &seen("show")["rows"];
            let trained = rows[0]["trained"][0].as_str().expect("trained text");
            assert!(rows[0]["text"].as_str().expect("text").contains(trained.trim()), "{name}: {rows}");
            let run = dir.path().join(format!("{m}-{s}"));
            let trained = mesp(&[
                &"train",
                &"--model",
                &model,
                &"--data",
                &file,
                &"--output",
                &run,
                &"--json",
                &"--max-seq-len=128",
                &"--long-rows=split",
                &"--batch-tokens=256",
                &"--steps=2",
                &"--optimizer=sgd",
            ]);
            let document = trained.ok().json();
            assert!(document["loss"]["last"].as_f64().is_some_and(f64::is_finite), "{name}: {document:#}");
        }
    }
    // With the template: the answer and its stop token are trained, the question is not.
    let gsm = data.join("datasets/gsm8k/train.jsonl");
    let shown =
        mesp(&[&"data", &"show", &"--model", &qwen, &"--data", &gsm, &"--rows=1", &"--json"]).ok().json();
    let row = &shown["rows"][0];
    let text = row["text"].as_str().expect("text");
    assert!(
        text.starts_with("<|im_start|>system\nYou are Qwen")
            && text.contains("<|im_start|>user\nNatalia sold"),
        "{text}"
    );
    let trained = row["trained"].as_array().expect("a list");
    assert_eq!(trained.len(), 1);
    let said = trained[0].as_str().expect("text");
    assert!(said.starts_with("Natalia sold 48/2") && said.ends_with("#### 72<|im_end|>"), "{said}");
}
