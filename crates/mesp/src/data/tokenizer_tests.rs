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
