use serde_json::json;

use super::super::test_util::{BOS, EOS, encoder, encoder_with, info, shared, tokenizer_json, write};
use super::*;

fn bytes(tokens: &[Token]) -> Vec<Option<(usize, usize)>> {
    tokens.iter().map(|t| t.bytes.clone().map(|b| (b.start, b.end))).collect()
}

#[test]
fn text_survives_the_round_trip() {
    let encoder = encoder();
    for text in ["", "abab 4", "naïve 日本 🙂", "line\r\nline\t"] {
        assert_eq!(encoder.decode(&encoder.encode(text, true).unwrap(), true).unwrap(), text);
    }
    assert_eq!(encoder.decode(&[97, EOS], true).unwrap(), "a");
    assert_eq!(encoder.decode(&[97, EOS], false).unwrap(), "a<|endoftext|>");
}

#[test]
fn settings_of_another_run_do_not_cut_the_text() {
    // The file asks for truncation to four tokens.
    assert_eq!(encoder().encode("xxxxxxxxxx", true).unwrap().len(), 10);
}

#[test]
fn a_text_begins_once() {
    let with =
        |add: Option<bool>, post: bool| encoder_with(TokenizerInfo { add_bos_token: add, ..info() }, post);
    for (add, post, wants) in [
        (None, false, false),
        (None, true, true),
        (Some(true), false, true),
        (Some(true), true, true),
        (Some(false), true, false),
        (Some(false), false, false),
    ] {
        let encoder = with(add, post);
        assert_eq!(encoder.wants_bos(), wants, "{add:?} {post}");
        let begun: Vec<u32> = if wants { vec![BOS, 97] } else { vec![97] };
        assert_eq!(encoder.encode("a", true).unwrap(), begun, "{add:?} {post}");
        assert_eq!(encoder.encode("<s>a", true).unwrap(), [BOS, 97], "{add:?} {post}");
        assert_eq!(encoder.encode("<s>a", false).unwrap(), [BOS, 97], "{add:?} {post}");
        assert_eq!(encoder.encode("a", false).unwrap(), [97], "{add:?} {post}");
        for text in ["a", "<s>a", "", "a 4b"] {
            let ids: Vec<u32> =
                encoder.encode_with_offsets(text, true).unwrap().iter().map(|t| t.id).collect();
            assert_eq!(ids, encoder.encode(text, true).unwrap(), "{add:?} {post} {text:?}");
        }
    }
}

#[test]
fn offsets_are_bytes_and_keep_white_space() {
    let tokens = encoder_with(info(), true).encode_with_offsets("é 4ab", true).unwrap();
    let ids: Vec<u32> = tokens.iter().map(|t| t.id).collect();
    assert_eq!(ids, [BOS, 0xC3, 0xA9, 257, 256]);
    assert_eq!(bytes(&tokens)[0], None);
    assert_eq!(bytes(&tokens)[3..], [Some((2, 4)), Some((4, 6))]);
}

#[test]
fn files_that_do_not_belong_together_are_named() {
    let file = write("tokenizer.json", tokenizer_json(false).to_string());
    let path = file.path().join("tokenizer.json");
    let open = |info| TextEncoder::from_file(&path, info).err().unwrap().to_string();
    let error = open(TokenizerInfo { eos_token: Some("</s>".into()), ..info() });
    assert!(error.contains("`</s>`") && error.contains("tokenizer.json"), "{error}");
    let error = open(TokenizerInfo { bos_token: Some("<b>".into()), add_bos_token: Some(true), ..info() });
    assert!(error.contains("add_bos_token"), "{error}");
    let broken = write("tokenizer.json", "{}");
    let error =
        TextEncoder::from_file(&broken.path().join("tokenizer.json"), info()).err().unwrap().to_string();
    assert!(error.contains("not a tokenizer"), "{error}");
    assert!(TextEncoder::from_file(Path::new("/absent/tokenizer.json"), info()).is_err());
}

/// Files with which the library `tokenizers` 0.23 panics, when it reads them or when it is given a text.
#[test]
fn files_made_to_fail_are_named() {
    let with = |key: &str, value: serde_json::Value| {
        let mut json = tokenizer_json(false);
        json[key] = value;
        let file = write("tokenizer.json", json.to_string());
        let path = file.path().join("tokenizer.json");
        match TextEncoder::from_file(&path, TokenizerInfo::default()) {
            Err(error) => error.to_string(),
            Ok(encoder) => encoder.encode("ab\u{e9}", false).unwrap_err().to_string(),
        }
    };
    let map = |text: &str| json!({ "type": "Precompiled", "precompiled_charsmap": text });
    let model = json!({ "type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"],
                        "continuing_subword_prefix": "##########" });
    for (key, value) in [
        ("normalizer", map("")),
        ("normalizer", map("BAAAAEFBQUE=")),
        ("normalizer", map("AQAAAA==")),
        ("model", model),
    ] {
        let error = with(key, value.clone());
        assert!(error.contains("tokenizer.json: ") && error.contains(" fails: "), "{value}: {error}");
    }
}

/// File, first token, last token, and texts with their tokens.
type Case = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static [u32])]);

/// Expected tokens: transformers 5 on the same files, `AutoTokenizer(...)(text).input_ids`.
#[test]
fn real_tokenizers_agree_with_the_python_library() {
    let cases: [Case; 3] = [
        (
            "tokenizers/qwen2.5/tokenizer.json",
            "",
            "<|im_end|>",
            &[
                ("Hello world", &[9707, 1879]),
                ("a\n\nb", &[64, 271, 65]),
                ("naïve 日本 🙂", &[3376, 37572, 586, 75402, 21894, 27484]),
            ],
        ),
        (
            "tokenizers/llama2/tokenizer.json",
            "<s>",
            "</s>",
            &[
                ("Hello world", &[1, 15043, 3186]),
                ("a\n\nb", &[1, 263, 13, 13, 29890]),
                ("naïve 日本 🙂", &[1, 1055, 30085, 345, 29871, 30325, 30346, 29871, 243, 162, 156, 133]),
            ],
        ),
        (
            "models/TinyStories-656K/tokenizer.json",
            "<|start_story|>",
            "<|end_story|>",
            &[("Hello world", &[1, 80, 1288, 139, 410, 555]), ("a\n\nb", &[1, 85, 3, 3, 54])],
        ),
    ];
    for (file, bos, eos, texts) in cases {
        let Some(path) = shared(file) else { continue };
        let bos_token = Some(bos.to_owned()).filter(|b| !b.is_empty());
        let info = TokenizerInfo { bos_token, eos_token: Some(eos.into()), ..TokenizerInfo::default() };
        let encoder = TextEncoder::from_file(&path, info).unwrap();
        for (text, ids) in texts {
            assert_eq!(encoder.encode(text, true).unwrap(), *ids, "{file} {text:?}");
            assert_eq!(encoder.wants_bos(), !bos.is_empty());
        }
        if !bos.is_empty() {
            let ids = encoder.encode(&format!("{bos}Once"), true).unwrap();
            assert_eq!(ids.iter().filter(|&&id| Some(id) == encoder.bos_id()).count(), 1, "{file} {ids:?}");
        }
    }
}

/// A tokenizer of `SentencePiece`'s kind, as converters of 2023 wrote them: markers are looked for in the text with its
/// spaces changed. `</s>` is 2, `▁` 259, the letters follow, `<end>` is 268 and no marker.
fn spaced() -> tokenizers::Tokenizer {
    let mut vocab: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    vocab.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    vocab.extend(["▁", "a", "b", "<", "/", "s", ">", ".", "▁a", "<end>", "▁b"].map(str::to_owned));
    let vocab: serde_json::Map<String, serde_json::Value> =
        vocab.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let added = ["<unk>", "<s>", "</s>"].into_iter().enumerate();
    let added: Vec<_> = added
        .map(|(id, content)| {
            serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                               "normalized": true, "special": true})
        })
        .collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
                  "merges": ["▁ a", "▁ b"]}
    });
    tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap()
}

fn spaced_encoder(info: TokenizerInfo) -> TextEncoder {
    TextEncoder::from_tokenizer(Path::new("tokenizer.json"), spaced(), info).unwrap()
}

/// Expected tokens: transformers 5.24 on this file, with the class `LlamaTokenizer` and the settings `legacy` and
/// `add_prefix_space` that the three values stand for.
#[test]
fn spaces_stand_where_transformers_puts_them() {
    let texts = ["a</s>\nb a", "a.</s>", " a", "</s>a"];
    let cases: [(Prefix, [&[u32]; 4]); 3] = [
        (Prefix::First, [&[267, 2, 13, 261, 267], &[267, 266, 2], &[267], &[2, 260]]),
        (Prefix::Always, [&[267, 2, 259, 13, 261, 267], &[267, 266, 2], &[267], &[2, 267]]),
        (Prefix::Never, [&[260, 2, 13, 261, 267], &[260, 266, 2], &[267], &[2, 260]]),
    ];
    for (prefix, expected) in cases {
        let encoder = spaced_encoder(TokenizerInfo {
            eos_token: Some("</s>".into()),
            prefix: Some(prefix),
            ..TokenizerInfo::default()
        });
        for (text, ids) in texts.iter().zip(expected) {
            assert_eq!(encoder.encode(text, false).unwrap(), ids, "{prefix:?} {text:?}");
        }
    }
    // A tokenizer that spells bytes has no such spaces.
    let info = TokenizerInfo { prefix: Some(Prefix::First), ..info() };
    assert_eq!(encoder_with(info, false).encode("a 4", false).unwrap(), [97, 257]);
}

#[test]
fn tokens_that_the_files_name_are_found() {
    let bare = spaced_encoder(TokenizerInfo::default());
    assert_eq!(bare.encode("a</s>", false).unwrap(), [267, 262, 263, 264, 265]);
    assert!(bare.end_ids().is_empty() && bare.eos_id().is_none());
    let named = |info: TokenizerInfo| spaced_encoder(info).encode("a</s><end>", false).unwrap();
    let none = TokenizerInfo::default;
    let words = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    // One marker is followed by the other, so no text gets a space in front but the first.
    assert_eq!(named(TokenizerInfo { special_tokens: words(&["</s>", "<end>"]), ..none() }), [267, 2, 268]);
    assert_eq!(named(TokenizerInfo { end_ids: vec![2, 268], ..none() }), [267, 2, 268]);
    assert_eq!(named(TokenizerInfo { end_tokens: words(&["</s>", "<end>"]), ..none() }), [267, 2, 268]);
    let encoder = spaced_encoder(TokenizerInfo {
        eos_token: Some("</s>".into()),
        end_tokens: words(&["</s>", "<end>", "<absent>"]),
        end_ids: vec![268, 999],
        ..none()
    });
    assert_eq!(encoder.end_ids(), [2, 268, 999]);
    assert_eq!(encoder.special_tokens(), ["</s>", "<end>", "<s>", "<unk>"]);
    // The configuration names the end where the tokenizer does not.
    let encoder = spaced_encoder(TokenizerInfo { end_ids: vec![268], ..none() });
    assert_eq!((encoder.eos_id(), encoder.info().eos_token.as_deref()), (Some(268), Some("<end>")));
    // A full stop that ends a text stays a word: no marker, and a space before it as ever.
    let encoder = spaced_encoder(TokenizerInfo { end_ids: vec![266], ..none() });
    assert_eq!(encoder.encode(" . a.", false).unwrap(), [259, 259, 266, 267, 266]);
    assert!(!encoder.special_tokens().contains(&".".to_owned()));
    // `▁a` and bytes are no texts.
    let encoder = spaced_encoder(TokenizerInfo { end_ids: vec![267, 13], ..none() });
    assert_eq!(encoder.encode("a\n", false).unwrap(), [267, 13]);
    assert_eq!(encoder.eos_id(), None);
}

/// End tokens that only one of a directory's files names.
#[test]
fn every_file_may_name_the_end() {
    let mut json = tokenizer_json(false);
    json["added_tokens"] = serde_json::json!([]);
    json["model"]["vocab"]["<|im_end|>"] = 300.into();
    for (name, content) in [
        ("tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#),
        ("special_tokens_map.json", r#"{"eos_token": {"content": "<|im_end|>", "lstrip": false}}"#),
        ("config.json", r#"{"eos_token_id": 300}"#),
        ("generation_config.json", r#"{"eos_token_id": [300]}"#),
    ] {
        let directory = write("tokenizer.json", json.to_string());
        let bare = crate::source::text_encoder(directory.path()).unwrap().unwrap();
        assert!(bare.encode("a<|im_end|>", false).unwrap().len() > 2);
        std::fs::write(directory.path().join(name), content).unwrap();
        let encoder = crate::source::text_encoder(directory.path()).unwrap().unwrap();
        assert_eq!(encoder.encode("a<|im_end|>b", false).unwrap(), [97, 300, 98], "{name}");
        assert_eq!((encoder.eos_id(), encoder.end_ids()), (Some(300), &[300][..]), "{name}");
        let chat = super::super::ChatFormat::for_encoder(&encoder).unwrap();
        assert_eq!(chat.stop_ids(&encoder), [300], "{name}");
        assert_eq!(encoder.special_tokens(), ["<|im_end|>"], "{name}");
    }
}

#[test]
fn a_panic_is_an_error_with_the_files_name() {
    let path = Path::new("x/tokenizer.json");
    let none: &[u8] = &[];
    let error = within(path, "reading it", || Ok(none[1])).unwrap_err().to_string();
    assert!(error.starts_with("x/tokenizer.json: reading it fails: index out of bounds"), "{error}");
    let error = within::<()>(path, "reading it", || panic!("so")).unwrap_err().to_string();
    assert!(error.contains("reading it fails: so"), "{error}");
    assert_eq!(within(path, "reading it", || Ok(3)).unwrap(), 3);
}
