//! What is trained, and what is said of it.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::{demo_model, edit_json, mesp, temporary};

/// Rows with the space before an answer in the prompt.
const ROWS: &str = "{\"prompt\": \"Is the wolf gray? Answer: \", \"completion\": \"yes\"}\n\
                    {\"prompt\": \"Is the owl gray? Answer:\", \"completion\": \" no\"}\n\
                    {\"prompt\": \"Is the fox gray? Answer: \", \"completion\": \"no\"}\n";

#[test]
fn completions_that_begin_inside_a_token_are_trained_and_named() {
    let dir = temporary();
    let (rows, run) = (dir.path().join("rows.jsonl"), dir.path().join("run"));
    fs::write(&rows, ROWS).expect("written");
    let of = |what: &[&dyn AsRef<OsStr>]| {
        let more: [&dyn AsRef<OsStr>; 5] = [&"--model", &demo_model(), &"--data", &rows, &"--json"];
        mesp(&[what, &more].concat()).ok()
    };
    let note = "2 of 3 rows: a completion or a turn begins inside a token that begins before it";
    let shown = of(&[&"data", &"show"]);
    assert!(shown.stderr.contains(note) && shown.stderr.contains("(lines 1, 3)"), "{}", shown.stderr);
    let trained: Vec<_> =
        shown.json()["rows"].as_array().expect("rows").iter().map(|r| r["trained"].clone()).collect();
    assert_eq!(trained, [json!([" yes<|im_end|>"]), json!([" no<|im_end|>"]), json!([" no<|im_end|>"])]);
    let checked = of(&[&"data", &"check"]).json();
    assert_eq!(checked["files"][0]["begin_inside_a_token"], json!([1, 3]));
    assert!(checked["files"][0]["notes"].to_string().contains(note), "{checked:#}");
    let trained = of(&[&"train", &"--output", &run, &"--steps=1"]);
    assert!(trained.stderr.contains(note), "{}", trained.stderr);
}

/// A model learns no end from rows of which none has one, and tokens that stop it are those that any of its files
/// names. The tokens of an earlier run are made anew where one of these files is another.
#[test]
fn training_says_when_no_row_ends() {
    let dir = temporary();
    let model = dir.path().join("model");
    fs::create_dir(&model).expect("a folder");
    for entry in fs::read_dir(demo_model()).expect("the demo").flatten() {
        fs::copy(entry.path(), model.join(entry.file_name())).expect("copied");
    }
    let (rows, run) = (dir.path().join("rows.jsonl"), dir.path().join("run"));
    fs::write(&rows, "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Yes.\"}]}\n")
        .expect("written");
    let train = |overwrite: bool| {
        let overwrite: &[&dyn AsRef<OsStr>] = if overwrite { &[&"--overwrite"] } else { &[] };
        let args: [&dyn AsRef<OsStr>; 8] =
            [&"train", &"--model", &model, &"--data", &rows, &"--output", &run, &"--steps=1"];
        mesp(&[&args[..], overwrite].concat()).ok().stderr
    };
    let said = "no row ends what is trained with a token at which generation stops";
    let first = train(false);
    assert!(!first.contains(said), "{first}");
    let kept = "tokens of an earlier run";
    assert!(train(true).contains(kept));
    let template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}";
    fs::write(model.join("chat_template.jinja"), template).expect("written");
    let open = train(true);
    assert!(open.contains(said) && open.contains("`<|im_end|>`") && !open.contains(kept), "{open}");
    // The file names what ends the template's turns.
    fs::write(model.join("chat_template.jinja"), template.replace("'\\n'", "'<end>\\n'")).expect("written");
    assert!(train(true).contains(said));
    edit_json(&model.join("tokenizer.json"), |json| {
        let vocab = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
        let last =
            vocab.iter().find(|(_, id)| **id == json!(1023)).map(|(token, _)| token.clone()).expect("1023");
        vocab.remove(&last);
        vocab.insert("<end>".to_owned(), json!(1023));
        let merges = json["model"]["merges"].as_array_mut().expect("merges");
        merges.retain(|pair| {
            let pair = pair.as_array().map_or_else(
                || pair.as_str().expect("a pair").replace(' ', ""),
                |pair| pair.iter().map(|part| part.as_str().expect("a token")).collect(),
            );
            pair != last
        });
    });
    assert!(train(true).contains(said), "no file names it");
    edit_json(&model.join("generation_config.json"), |config| config["eos_token_id"] = json!([2, 1023]));
    let named = train(true);
    assert!(!named.contains(said) && !named.contains(kept), "{named}");
    assert!(train(true).contains(kept));
    fs::write(model.join("special_tokens_map.json"), "{\"pad_token\": \"<end>\"}").expect("written");
    assert!(!train(true).contains(kept), "another file is another key");
}

/// Llama 2's tokenizer with a template of the kind of Zephyr's: the end of a turn is a token, learnt and stopped at.
#[test]
#[allow(clippy::print_stderr, reason = "a test that skips says so")]
fn the_end_of_a_turn_stops_generation() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let (tokenizer, case) =
        (shared.join("data/tokenizers/llama2/tokenizer.json"), shared.join("cases/llama2-end-token"));
    if !tokenizer.is_file() || !case.is_dir() {
        eprintln!("skipped: no {}", case.display());
        return;
    }
    let dir = temporary();
    let (model, run) = (dir.path().join("model"), dir.path().join("run"));
    fs::create_dir(&model).expect("a folder");
    let config = mesp_formats::ModelConfig {
        model_type: "llama".to_owned(),
        vocab_size: 32_000,
        hidden_size: 64,
        num_hidden_layers: 1,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        ..mesp::init_model::preset("tiny").expect("tiny")
    };
    mesp::init_model::write(&model, &config, mesp_formats::Dtype::BF16, 1, &mut |_, _| {}).expect("a model");
    fs::copy(tokenizer, model.join("tokenizer.json")).expect("copied");
    fs::copy(case.join("tokenizer_config.json"), model.join("tokenizer_config.json")).expect("copied");
    let rows = case.join("t6.jsonl");
    let trained = mesp(&[
        &"train",
        &"--model",
        &model,
        &"--data",
        &rows,
        &"--output",
        &run,
        &"--steps=60",
        &"--learning-rate=1e-2",
    ]);
    trained.ok();
    let answer = mesp(&[
        &"generate",
        &"--model",
        &model,
        &"--adapter",
        &run,
        &"--prompt",
        &"Hi there",
        &"--max-tokens=24",
        &"--json",
    ]);
    let answer = answer.ok().json();
    assert_eq!(answer["finish"], "stop", "{answer:#}");
    assert!(!answer["text"].as_str().expect("a text").contains("</s>"), "{answer:#}");
}
