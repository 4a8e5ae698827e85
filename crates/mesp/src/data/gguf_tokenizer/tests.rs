use std::path::{Path, PathBuf};

use mesp_formats::gguf::{SpecialTokens, parse, tokenizer_metadata, write};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::super::TextEncoder;
use super::*;

/// Test data that lies beside the checkout; none, with a word about it, where it does not.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/tokenizers")).join(name);
    if !path.exists() {
        #[allow(clippy::print_stderr, reason = "a test that does nothing says so")]
        {
            eprintln!("skipped: {} is not there", path.display());
        }
        return None;
    }
    Some(path)
}

fn load(path: &Path, bytes: &[u8]) -> Result<TextEncoder> {
    let gguf = parse(path, bytes)?;
    let (tokenizer, info) = from_gguf(&gguf, bytes)?;
    TextEncoder::from_tokenizer(path, tokenizer, info)
}

/// A file with this metadata only.
fn file(metadata: &[(String, Value)]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocab.gguf");
    write(&path, metadata, &[], &mut |_, _| Ok(())).unwrap();
    std::fs::read(&path).unwrap()
}

/// A GGUF vocabulary from a `tokenizer.json`.
fn converted(json: &Path, vocab_size: usize, special: &SpecialTokens) -> Vec<u8> {
    let tokenizer = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    file(&tokenizer_metadata(json, &tokenizer, vocab_size, special).unwrap())
}

/// The texts of llama.cpp's tokenizer tests, with their tokens.
fn golden(name: &str) -> Option<Vec<(String, Vec<u32>)>> {
    let read =
        |end: &str| Some(std::fs::read_to_string(shared(&format!("ggml-vocab/{name}.gguf.{end}"))?).unwrap());
    let (texts, tokens) = (read("inp")?, read("out")?);
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    // The tokens of a text are a line; after the last text comes the end of the file.
    let lines: Vec<&str> = tokens.lines().collect();
    let texts = &texts[..lines.len()];
    assert!(lines.len() > 40, "{}", lines.len());
    let ids = |line: &str| line.split_whitespace().map(|n| n.parse().unwrap()).collect();
    Some(texts.iter().zip(lines).map(|(t, l)| ((*t).to_string(), ids(l))).collect())
}

fn check(encoder: &TextEncoder, golden: &[(String, Vec<u32>)]) {
    for (text, tokens) in golden {
        assert_eq!(&encoder.encode(text, false).unwrap(), tokens, "{text:?}");
        assert_eq!(&encoder.decode(tokens, false).unwrap(), text);
    }
}

#[test]
fn gpt2_encodes_as_llama_cpp() {
    let (Some(path), Some(golden)) = (shared("ggml-vocab/ggml-vocab-gpt-2.gguf"), golden("ggml-vocab-gpt-2"))
    else {
        return;
    };
    let encoder = load(&path, &std::fs::read(&path).unwrap()).unwrap();
    check(&encoder, &golden);
    assert_eq!(encoder.bos_id(), Some(50256));
    assert!(!encoder.wants_bos());
    assert_eq!(encoder.encode("a<|endoftext|>", true).unwrap(), [64, 50256]);
}

#[test]
fn sentencepiece_encodes_as_llama_cpp() {
    let name = "ggml-vocab-llama-spm";
    let (Some(path), Some(golden)) = (shared(&format!("ggml-vocab/{name}.gguf")), golden(name)) else {
        return;
    };
    let encoder = load(&path, &std::fs::read(&path).unwrap()).unwrap();
    check(&encoder, &golden);
    assert_eq!((encoder.bos_id(), encoder.eos_id()), (Some(1), Some(2)));
    assert!(encoder.wants_bos());
    assert_eq!(encoder.encode("Hello", true).unwrap(), [1, 15043]);
    // As Hugging Face's conversion of the same vocabulary does.
    let Some(json) = shared("llama2/tokenizer.json") else { return };
    let hf = TextEncoder::from_file(&json, TokenizerInfo::default()).unwrap();
    let text = include_str!("../gguf_tokenizer.rs");
    for text in text.lines().chain([text, "naïve 日本 🙂 ▁ \u{a0}\u{301}"]) {
        assert_eq!(encoder.encode(text, false).unwrap(), hf.encode(text, false).unwrap(), "{text:?}");
    }
    // And so does what is written from that conversion.
    let special = SpecialTokens { bos: Some(1), ends: vec![2], add_bos: Some(true), chat_template: None };
    let bytes = converted(&json, 32_000, &special);
    let again = load(Path::new("llama2.gguf"), &bytes).unwrap();
    check(&again, &golden);
    assert!(again.wants_bos());
}

#[test]
fn qwen2_is_written_and_encodes_as_llama_cpp() {
    let (Some(json), Some(golden)) = (shared("qwen2.5/tokenizer.json"), golden("ggml-vocab-qwen2")) else {
        return;
    };
    let special = SpecialTokens {
        bos: Some(151_643),
        ends: vec![151_645],
        add_bos: Some(false),
        chat_template: Some("{{ messages }}".to_string()),
    };
    let bytes = converted(&json, 151_936, &special);
    let gguf = parse(Path::new("qwen.gguf"), &bytes).unwrap();
    assert_eq!(gguf.str("tokenizer.ggml.pre").unwrap(), Some("qwen2"));
    assert_eq!(gguf.array(TOKENS).unwrap().unwrap().len, 151_936);
    let encoder = load(Path::new("qwen.gguf"), &bytes).unwrap();
    check(&encoder, &golden);
    assert!(!encoder.wants_bos());
    assert_eq!(encoder.info().chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!(encoder.info().eos_token.as_deref(), Some("<|im_end|>"));
    let hf = TextEncoder::from_file(&json, TokenizerInfo::default()).unwrap();
    let chat = "<|im_start|>user\nhi 123<|im_end|>\n<tool_call>\n{}</tool_call><|fim_prefix|>";
    assert_eq!(encoder.encode(chat, false).unwrap(), hf.encode(chat, false).unwrap());
    assert_eq!(encoder.encode(chat, false).unwrap()[0], 151_644);
    assert_eq!(encoder.decode(&encoder.encode(chat, false).unwrap(), false).unwrap(), chat);
    assert!(encoder.special_tokens().contains(&"<|im_start|>".to_string()));
    assert!(!encoder.special_tokens().contains(&"<tool_call>".to_string()));
    // Offsets cover the text.
    let tokens = encoder.encode_with_offsets("naïve  text\n\n 3", true).unwrap();
    let mut at = 0;
    for token in tokens {
        let bytes = token.bytes.unwrap();
        assert!(bytes.start <= at && bytes.end >= at);
        at = bytes.end;
    }
    assert_eq!(at, "naïve  text\n\n 3".len());
}

#[test]
fn too_small_an_embedding_is_refused() {
    let Some(json) = shared("gpt2/tokenizer.json") else { return };
    let tokenizer = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let error =
        tokenizer_metadata(&json, &tokenizer, 50_000, &SpecialTokens::default()).unwrap_err().to_string();
    assert!(error.contains("expected a number below 50000"), "{error}");
}

fn strings(texts: &[&str]) -> Value {
    Value::Array(Array::strings(texts.iter().copied()))
}

/// A small byte-level vocabulary with these changes; a change to none takes the key away.
fn small(changes: &[(&str, Option<Value>)]) -> Vec<(String, Value)> {
    let mut out = vec![
        (MODEL, "gpt2".into()),
        ("tokenizer.ggml.pre", "gpt-2".into()),
        (TOKENS, strings(&["a", "b", "ab", "<s>", "Ġ", "<|im_end|>", "x y"])),
        (TYPES, Value::Array(Array::i32s(&[1, 1, 1, 3, 1, 1, 4]))),
        ("tokenizer.ggml.merges", strings(&["a b"])),
        ("tokenizer.ggml.bos_token_id", Value::U32(3)),
    ];
    for (key, value) in changes {
        out.retain(|(k, _)| k != key);
        out.extend(value.clone().map(|v| (*key, v)));
    }
    out.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
}

/// The order of merges is lost where a converter wrote one score for all.
#[test]
fn a_vocabulary_of_equal_scores_is_refused() {
    let vocabulary = |scores: &[f32]| {
        let tokens = strings(&["<unk>", "a", "b", "c", "ab", "bc"]);
        file(&small(&[
            (MODEL, Some("llama".into())),
            (TOKENS, Some(tokens)),
            (TYPES, Some(Value::Array(Array::i32s(&[2, 1, 1, 1, 1, 1])))),
            ("tokenizer.ggml.scores", Some(Value::Array(Array::f32s(scores)))),
            ("tokenizer.ggml.merges", None),
            ("tokenizer.ggml.bos_token_id", None),
        ]))
    };
    let equal = load(Path::new("v.gguf"), &vocabulary(&[-1000.0; 6])).map(|_| ()).unwrap_err().to_string();
    assert!(equal.contains("found -1000 for every token") && equal.contains("mesp data tokenize"), "{equal}");
    load(Path::new("v.gguf"), &vocabulary(&[0.0, -3.0, -3.0, -3.0, -1.0, -2.0]))
        .map(|_| ())
        .expect("a vocabulary");
}

#[test]
fn wrong_vocabularies_are_refused() {
    let merges = "tokenizer.ggml.merges";
    for (key, value, expected) in [
        (MODEL, None, "expected a value, found none"),
        (MODEL, Some("bert".into()), "found \"bert\""),
        (MODEL, Some(Value::U32(1)), "expected a string, found 1"),
        (MODEL, Some("llama".into()), "key \"tokenizer.ggml.scores\": expected a value"),
        ("tokenizer.ggml.pre", Some("tekken".into()), "found \"tekken\""),
        (TOKENS, None, "expected a value"),
        (TOKENS, Some(Value::Array(Array::i32s(&[1]))), "expected an array of strings, found one of int32"),
        (TOKENS, Some(strings(&["a", "b", "a"])), "found \"a\" at 0 and at 2"),
        (TYPES, Some(Value::Array(Array::i32s(&[1]))), "expected 7 numbers"),
        (TYPES, Some(strings(&["a"])), "expected 7 numbers, one for each token, found 1 of string"),
        (merges, None, "expected a value"),
        (merges, Some(strings(&["ab"])), "found \"ab\""),
        (merges, Some(strings(&["b a"])), "expected pairs of tokens that make a token, found \"b a\""),
        (merges, Some(strings(&[" a"])), "found \" a\""),
        ("tokenizer.ggml.bos_token_id", Some(Value::U32(7)), "expected a token below 7, found 7"),
    ] {
        let bytes = file(&small(&[(key, value)]));
        let error = load(Path::new("v.gguf"), &bytes).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("v.gguf: key ") && error.contains(expected), "{key}: {error}");
        assert!(error.contains("\n  "), "{error}");
    }
    let adds = ("tokenizer.ggml.add_bos_token", Some(Value::Bool(true)));
    let bytes = file(&small(&[adds, ("tokenizer.ggml.bos_token_id", None)]));
    assert!(load(Path::new("v.gguf"), &bytes).map(|_| ()).unwrap_err().to_string().contains("bos_token_id"));
}

#[test]
fn markers_and_added_tokens_are_taken_whole() {
    let encoder = load(Path::new("v.gguf"), &file(&small(&[]))).unwrap();
    assert_eq!(encoder.encode("ab<s>a<|im_end|>x y b", false).unwrap(), [2, 3, 0, 5, 6, 4, 1]);
    // Marked by its text, whatever its kind says.
    assert_eq!(encoder.special_tokens(), ["<s>", "<|im_end|>"]);
    assert_eq!(encoder.end_ids(), [5]);
    assert!(!encoder.wants_bos());
    let llama3 =
        load(Path::new("v.gguf"), &file(&small(&[("tokenizer.ggml.pre", Some("llama-bpe".into()))])))
            .unwrap();
    assert!(llama3.wants_bos());
    assert_eq!(llama3.encode("ab", true).unwrap(), [3, 2]);
}

#[test]
fn words_are_cut_as_the_names_say() {
    let words = |pre: Option<&str>, arch: &str| -> String {
        let mut metadata = small(&[("tokenizer.ggml.pre", pre.map(Value::from))]);
        metadata.push(("general.architecture".to_string(), arch.into()));
        let bytes = file(&metadata);
        let (tokenizer, _) = from_gguf(&parse(Path::new("v"), &bytes).unwrap(), &bytes).unwrap();
        let mut text = PreTokenizedString::from("I'Ll pay $12345.6  +\n\n x9");
        tokenizer.get_pre_tokenizer().unwrap().pre_tokenize(&mut text).unwrap();
        let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.iter().map(|(word, ..)| *word).collect::<Vec<_>>().join("|")
    };
    let gpt2 = "I|'|Ll|Ġpay|Ġ$|12345|.|6|Ġ|Ġ+|ĊĊ|Ġx|9";
    for (pre, arch, expected) in [
        (Some("gpt-2"), "gpt2", gpt2),
        (Some("qwen2"), "qwen2", "I|'Ll|Ġpay|Ġ$|1|2|3|4|5|.|6|Ġ|Ġ+ĊĊ|Ġx|9"),
        (Some("llama-bpe"), "llama", "I|'Ll|Ġpay|Ġ$|123|45|.|6|Ġ|Ġ+ĊĊ|Ġx|9"),
        (Some("smollm"), "llama", "I|'|Ll|Ġpay|Ġ$|1|2|3|4|5|.|6|Ġ|Ġ+|ĊĊ|Ġx|9"),
        (Some("default"), "llama", "I|'|Ll|Ġpay|Ġ|$|123|45|.|6|ĠĠ|+|ĊĊ|Ġx|9"),
        (None, "llama", "I|'|Ll|Ġpay|Ġ|$|123|45|.|6|ĠĠ|+|ĊĊ|Ġx|9"),
        (None, "qwen2", "I|'Ll|Ġpay|Ġ$|1|2|3|4|5|.|6|Ġ|Ġ+ĊĊ|Ġx|9"),
    ] {
        assert_eq!(words(pre, arch), expected, "{pre:?} {arch}");
    }
}
