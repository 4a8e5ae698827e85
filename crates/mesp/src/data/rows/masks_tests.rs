//! Which tokens are trained, against transformers' `return_assistant_tokens_mask`, and files of the shared collection.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use std::ops::Range;

use serde_json::{Value, json};

use super::super::test_util::shared;
use super::super::{ReadOptions, TextEncoder, TokenizerInfo};
use super::*;
use crate::source::tokenizer_info;

/// A tokenizer with the files beside it, and another template.
fn encoder(directory: &Path, template: &str) -> TextEncoder {
    let info = TokenizerInfo {
        chat_template: Some(template.to_owned()),
        tool_template: None,
        ..tokenizer_info(directory).unwrap()
    };
    TextEncoder::from_file(&directory.join("tokenizer.json"), info).unwrap()
}

fn read(encoder: &TextEncoder, row: &Value) -> Row {
    RowReader::new(Some(encoder), &ReadOptions::new(1 << 20)).read(row).unwrap()
}

/// The text of a row that is trained, and what comes before it.
fn parts(encoder: &TextEncoder, row: &Row) -> (String, String) {
    let (mut before, mut trained) = (Vec::new(), Vec::new());
    for (token, label) in row.tokens.iter().zip(&row.labels) {
        let part = if *label == UNTRAINED { &mut before } else { &mut trained };
        part.push(*token);
    }
    (encoder.decode(&before, false).unwrap(), encoder.decode(&trained, false).unwrap())
}

#[derive(serde::Deserialize)]
struct Golden {
    conversations: BTreeMap<String, Value>,
    masks: BTreeMap<String, BTreeMap<String, BTreeMap<String, Mask>>>,
}

#[derive(serde::Deserialize)]
struct Mask {
    ids: Vec<u32>,
    mask: String,
}

/// Expected tokens and masks: transformers, by `golden/chat/generate.py`.
#[test]
fn masks_are_those_of_transformers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let golden = root.join("golden/chat");
    let text = std::fs::read_to_string(golden.join("masks.json")).unwrap();
    let all: Golden = serde_json::from_str(&text).unwrap();
    let (mut compared, mut wrong) = (0, Vec::new());
    for (tokenizer, templates) in &all.masks {
        let directory = match tokenizer.strip_prefix("shared/") {
            None => Some(root.join("assets/demo/model")),
            Some(name) => shared(name),
        };
        let Some(directory) = directory else { continue };
        for (template, rows) in templates {
            let path: Option<PathBuf> = match template.strip_prefix("shared/") {
                None => Some(golden.join("own_templates").join(template)),
                Some(name) => shared(&format!("chat_templates/{name}")),
            };
            let Some(path) = path else { continue };
            let encoder = encoder(&directory, &std::fs::read_to_string(path).unwrap());
            for (name, expected) in rows {
                let found = read(&encoder, &all.conversations[name]);
                // Characters that a vocabulary cannot spell are a token here; transformers leaves them out.
                if encoder.token_id("<unk>").is_some_and(|unknown| found.tokens.contains(&unknown)) {
                    continue;
                }
                let mask: String =
                    found.labels.iter().map(|label| if *label == UNTRAINED { '0' } else { '1' }).collect();
                compared += 1;
                if (&found.tokens, &mask) != (&expected.ids, &expected.mask) {
                    wrong.push(format!(
                        "{tokenizer}, {template}, {name}:\n  expected {:?} {}\n  found    {:?} {mask}",
                        expected.ids, expected.mask, found.tokens
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared >= 27, "{compared}");
}

/// Wherever prompt and completion meet, what is not trained is text of the prompt alone, and one token more would
/// be text of the completion.
#[test]
fn a_completion_is_trained_from_its_first_character() {
    let pairs = [
        ("Sentiment:", "yes"),
        ("Answer: ", "no"),
        ("Answer:\n\n", "\n\nyes"),
        ("SELECT ", "name FROM t"),
        ("The label is \"", "good\""),
        ("call(", "x)"),
        ("I do", "n't"),
        ("He", "llo"),
        ("Größe: ", "élan"),
        ("x = ", "42"),
    ];
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/model");
    let shared_ones = ["tokenizers/qwen2.5", "tokenizers/llama2", "tokenizers/minimind-6400"];
    for directory in [Some(demo)].into_iter().chain(shared_ones.map(shared)).flatten() {
        let encoder = encoder(&directory, "");
        let end = encoder.info().eos_token.clone().unwrap();
        let mut inside = 0;
        for (prompt, completion) in pairs {
            let row = read(&encoder, &json!({"prompt": prompt, "completion": completion}));
            let tokens = encoder.encode_with_offsets(&format!("{prompt}{completion}"), true).unwrap();
            let reaches = |bytes: &Range<usize>| bytes.end > prompt.len();
            let first = tokens.iter().position(|token| token.bytes.as_ref().is_some_and(reaches)).unwrap();
            let place = format!("{}: {prompt:?} {completion:?}", directory.display());
            assert!(row.labels[..first].iter().all(|label| *label == UNTRAINED), "{place}");
            assert!(row.labels[first..].iter().all(|label| *label != UNTRAINED), "{place}");
            let (_, trained) = parts(&encoder, &row);
            assert!(trained.ends_with(&format!("{completion}{end}")), "{place}: {trained:?}");
            let meets = tokens[first].bytes.as_ref().is_some_and(|bytes| bytes.start < prompt.len());
            assert_eq!(row.inside, meets, "{place}");
            inside += usize::from(meets);
        }
        assert!(inside > 0, "{}", directory.display());
    }
}

/// The same of a vocabulary in a GGUF file.
#[test]
fn a_file_of_llama_cpp_trains_the_first_character_too() {
    let Some(path) = shared("tokenizers/ggml-vocab/ggml-vocab-llama-spm.gguf") else { return };
    let bytes = std::fs::read(&path).unwrap();
    let gguf = mesp_formats::gguf::parse(&path, &bytes).unwrap();
    let (tokenizer, info) = super::super::from_gguf(&gguf, &bytes).unwrap();
    let encoder = TextEncoder::from_tokenizer(&path, tokenizer, info).unwrap();
    // Llama 2's tokens, those of transformers: `▁Answer` `:` `▁no`, and `▁The`.
    let row = read(&encoder, &json!({"prompt": "Answer: ", "completion": "no"}));
    assert_eq!((row.tokens.as_slice(), row.inside), (&[1, 673, 29901, 694, 2][..], true));
    assert_eq!(row.labels, [-100, -100, -100, 694, 2]);
}

#[test]
fn a_template_whose_beginning_ends_in_a_space_trains_the_first_word() {
    let Some(directory) = shared("tokenizers/qwen2.5") else { return };
    for (name, first, second) in [
        ("vicuna.jinja", " positive<|im_end|>", (" Hello there<|im_end|>", " no<|im_end|>")),
        ("gen_space.jinja", " positive<|im_end|>", (" Hello there<|im_end|>", " no<|im_end|>")),
    ] {
        let (Some(template), Some(rows)) =
            (shared(&format!("../cases/boundary-token/{name}")), shared("../cases/boundary-token/sp.jsonl"))
        else {
            return;
        };
        let encoder = encoder(&directory, &std::fs::read_to_string(template).unwrap());
        let rows = std::fs::read_to_string(rows).unwrap();
        let rows: Vec<Row> =
            rows.lines().map(|row| read(&encoder, &serde_json::from_str(row).unwrap())).collect();
        assert_eq!(parts(&encoder, &rows[0]).1, first, "{name}");
        // transformers marks two tokens.
        assert_eq!(rows[0].labels.iter().filter(|label| **label != UNTRAINED).count(), 2, "{name}");
        assert_eq!(parts(&encoder, &rows[1]).1, [second.0, second.1].concat(), "{name}");
        assert!(rows.iter().all(|row| row.inside), "{name}");
    }
}

/// Expected tokens: transformers 5.24, `LlamaTokenizer`.
#[test]
fn llama_2_finds_its_end_of_a_turn() {
    let (Some(tokenizer), Some(config)) = (shared("tokenizers/llama2"), shared("../cases/llama2-end-token"))
    else {
        return;
    };
    let info = tokenizer_info(&config).unwrap();
    let encoder = TextEncoder::from_file(&tokenizer.join("tokenizer.json"), info).unwrap();
    let row = json!({"messages": [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello."}]});
    let row = read(&encoder, &row);
    let ids = [
        529, 29989, 1792, 29989, 29958, 13, 18567, 727, 2, 13, 29966, 29989, 465, 22137, 29989, 29958, 13,
        10994, 29889, 2, 13,
    ];
    assert_eq!(row.tokens, ids);
    let trained: Vec<i32> = row.labels.iter().copied().filter(|label| *label != UNTRAINED).collect();
    assert_eq!(trained, [10994, 29889, 2]);
    assert_eq!(encoder.end_ids(), [2]);
}
