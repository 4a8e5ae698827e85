use serde_json::{Value as Json, json};

use super::*;

fn bpe() -> Json {
    json!({
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 3}, "merges": ["a b"]},
        "added_tokens": [{"id": 5, "content": "<end>", "special": true}, {"id": 2, "content": "<tool>"}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    })
}

fn made(json: &Json, special: &SpecialTokens) -> Result<(Vec<u8>, Gguf)> {
    let bytes = file(&tokenizer_metadata(Path::new("tokenizer.json"), json, 7, special)?, &[]);
    let gguf = parse(Path::new("v.gguf"), &bytes)?;
    Ok((bytes, gguf))
}

fn texts(gguf: &Gguf, bytes: &[u8], key: &str) -> Vec<String> {
    gguf.array(key).unwrap().unwrap().iter_str(bytes).unwrap().map(str::to_string).collect()
}

fn numbers(gguf: &Gguf, bytes: &[u8], key: &str) -> Vec<f64> {
    gguf.array(key).unwrap().unwrap().iter_scalars(bytes).unwrap().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn byte_level_bpe_is_written_with_every_place_filled() {
    let special = SpecialTokens {
        bos: None,
        ends: vec![5, 0, 2],
        add_bos: Some(false),
        chat_template: Some("{{ x }}".to_string()),
    };
    let (bytes, gguf) = made(&bpe(), &special).unwrap();
    let tokens = texts(&gguf, &bytes, "tokenizer.ggml.tokens");
    assert_eq!(tokens, ["a", "b", "<tool>", "ab", "[PAD4]", "<end>", "[PAD6]"]);
    let types = numbers(&gguf, &bytes, "tokenizer.ggml.token_type");
    assert_eq!(types, [1.0, 1.0, 4.0, 1.0, 5.0, 3.0, 5.0]);
    assert_eq!(texts(&gguf, &bytes, "tokenizer.ggml.merges"), ["a b"]);
    assert_eq!(gguf.str("tokenizer.ggml.model").unwrap(), Some("gpt2"));
    assert_eq!(gguf.str("tokenizer.ggml.pre").unwrap(), Some("gpt-2"));
    for (key, id) in [("eos", 5), ("eot", 0), ("eom", 2)] {
        assert_eq!(gguf.usize(&format!("tokenizer.ggml.{key}_token_id")).unwrap(), Some(id));
    }
    assert_eq!(gguf.value("tokenizer.ggml.bos_token_id"), None);
    assert_eq!(gguf.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(false));
    assert_eq!(gguf.str("tokenizer.chat_template").unwrap(), Some("{{ x }}"));
}

#[test]
fn pre_tokenizers_are_recognized() {
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": regex});
    let split =
        |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"});
    let sequence = |steps: &[Json]| json!({"type": "Sequence", "pretokenizers": steps});
    let digits = |individual: bool| json!({"type": "Digits", "individual_digits": individual});
    for (pre, expected) in [
        (bytes(true), Some("gpt-2")),
        (sequence(&[bytes(true)]), Some("gpt-2")),
        (sequence(&[split(QWEN2_PATTERN), bytes(false)]), Some("qwen2")),
        (sequence(&[split(LLAMA3_PATTERN), bytes(false)]), Some("llama-bpe")),
        (sequence(&[digits(true), bytes(true)]), Some("smollm")),
        (sequence(&[digits(false), bytes(true)]), None),
        (sequence(&[split("x"), bytes(false)]), None),
        (sequence(&[split(QWEN2_PATTERN), bytes(true)]), None),
        (json!({"type": "ByteLevel"}), None),
        (Json::Null, None),
    ] {
        let mut json = bpe();
        json["pre_tokenizer"] = pre.clone();
        match (made(&json, &SpecialTokens::default()), expected) {
            (Ok((_, gguf)), Some(name)) => assert_eq!(gguf.str("tokenizer.ggml.pre").unwrap(), Some(name)),
            (Err(e), None) => assert!(e.to_string().contains("pre_tokenizer: expected that of"), "{e}"),
            (found, _) => panic!("{pre}: {found:?}"),
        }
    }
}

#[test]
fn sentencepiece_gets_scores_in_the_order_of_the_merges() {
    let json = json!({
        "model": {
            "byte_fallback": true, "unk_token": "<unk>",
            "vocab": {"<unk>": 0, "<0x0A>": 1, "a": 2, "▁": 3, "▁a": 4, "aa": 5},
            "merges": [["▁", "a"], ["a", "a"]],
        },
        "added_tokens": [{"id": 0, "content": "<unk>", "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]},
    });
    let (bytes, gguf) = made(&json, &SpecialTokens::default()).unwrap();
    assert_eq!(gguf.str("tokenizer.ggml.model").unwrap(), Some("llama"));
    assert_eq!(numbers(&gguf, &bytes, "tokenizer.ggml.token_type"), [2.0, 6.0, 1.0, 1.0, 1.0, 1.0, 5.0]);
    assert_eq!(numbers(&gguf, &bytes, "tokenizer.ggml.scores"), [0.0, 0.0, -4.0, -5.0, 0.0, -1.0, 0.0]);
    assert_eq!(gguf.bool("tokenizer.ggml.add_space_prefix").unwrap(), Some(true));
    assert_eq!(gguf.usize("tokenizer.ggml.unknown_token_id").unwrap(), Some(0));
}

#[test]
fn other_tokenizers_are_refused() {
    for (change, expected) in [
        (
            json!({"model": {"type": "Unigram", "vocab": []}}),
            "expected a BPE tokenizer with vocab and merges, found Unigram",
        ),
        (json!({"model": null}), "found none"),
        (
            json!({"model": {"vocab": {"a": 7}, "merges": []}}),
            "token \"a\": expected a number below 7, found 7",
        ),
        (json!({"model": {"vocab": {"a": -1}, "merges": []}}), "found -1"),
        (json!({"model": {"vocab": {}, "merges": ["ab"]}}), "expected a merge of two tokens"),
        (json!({"model": {"vocab": {}, "merges": [["a b", "c"]]}}), "without spaces"),
        (json!({"added_tokens": [{"id": 1}]}), "expected added tokens with id and content"),
        (json!({"added_tokens": [{"id": 9, "content": "x"}]}), "found 9"),
    ] {
        let mut json = bpe();
        for (key, value) in change.as_object().unwrap() {
            json[key] = value.clone();
        }
        let error = made(&json, &SpecialTokens::default()).unwrap_err().to_string();
        assert!(error.starts_with("tokenizer.json: ") && error.contains(expected), "{change}: {error}");
    }
    let special = SpecialTokens { ends: vec![7], ..SpecialTokens::default() };
    assert!(made(&bpe(), &special).unwrap_err().to_string().contains("expected a token below 7, found 7"));
}
