//! A small tokenizer for tests, files to read, and the real files where they are at hand.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{TextEncoder, TokenizerInfo};

/// The characters by which byte-level tokenizers spell bytes: printable ones stand for themselves, the
/// others for characters from U+0100 on.
fn byte_characters() -> Vec<char> {
    let printable = |b: u32| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    let mut character = |b: u32| {
        let code = if printable(b) { b } else { next };
        next += u32::from(code == next);
        char::from_u32(code).unwrap()
    };
    (0..256).map(&mut character).collect()
}

/// Bytes 0..256 as tokens of the same number, `ab` as 256, ` 4` as 257, and from 258 on the special
/// tokens `<|endoftext|>`, `<|im_start|>`, `<|im_end|>`, `<s>`; 262 in all.
pub(super) fn tokenizer_json(bos: bool) -> Value {
    let characters = byte_characters();
    let space = characters[usize::from(b' ')];
    let mut vocab = Map::new();
    for (id, c) in characters.iter().enumerate() {
        vocab.insert(c.to_string(), id.into());
    }
    vocab.insert("ab".into(), 256.into());
    vocab.insert(format!("{space}4"), 257.into());
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"];
    let added: Vec<Value> = (258..).zip(special).map(|(id, content)| added_token(id, content)).collect();
    let trim =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let template = json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [261], "tokens": ["<s>"] } }
    });
    let post = if bos { json!({ "type": "Sequence", "processors": [trim, template] }) } else { trim };
    json!({
        "version": "1.0",
        "truncation": { "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 },
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        "post_processor": post,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "vocab": vocab,
                   "merges": ["a b", format!("{space} 4")] }
    })
}

fn added_token(id: usize, content: &str) -> Value {
    json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
}

pub(super) const VOCAB: usize = 262;
pub(super) const EOS: u32 = 258;
pub(super) const IM_START: u32 = 259;
pub(super) const IM_END: u32 = 260;
pub(super) const BOS: u32 = 261;

pub(super) fn info() -> TokenizerInfo {
    TokenizerInfo {
        bos_token: Some("<s>".into()),
        eos_token: Some("<|endoftext|>".into()),
        ..TokenizerInfo::default()
    }
}

pub(super) fn encoder_with(info: TokenizerInfo, bos: bool) -> TextEncoder {
    let file = write("tokenizer.json", tokenizer_json(bos).to_string());
    TextEncoder::from_file(&file.path().join("tokenizer.json"), info).unwrap()
}

/// The tokenizer of [`tokenizer_json`] that adds nothing at the beginning.
pub(crate) fn encoder() -> TextEncoder {
    encoder_with(info(), false)
}

/// A directory with one file in it.
pub(super) fn write(name: &str, content: impl AsRef<[u8]>) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(name), content).unwrap();
    directory
}

/// A file of the shared collection, or `None` with the reason printed.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(super) fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {name} is not in the shared data");
    None
}
