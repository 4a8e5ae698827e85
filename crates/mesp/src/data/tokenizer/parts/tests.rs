use std::path::Path;

use super::super::super::test_util::shared;
use super::super::{TextEncoder, TokenizerInfo};
use super::*;

/// Texts with long and short words, white space, characters of several bytes, and runs.
fn texts() -> Vec<String> {
    let prose = "The wolf, who had eaten nothing for days, wasn't amused: 3.14159 reasons\n\n\tto \"leave\" \u{e9}t\u{e9}. ";
    let other = "\u{4eca}\u{65e5}\u{306f}\u{4e16}\u{754c}\u{3002}\u{1f642}\u{200d}\u{1f680} na\u{ef}ve \u{915}\u{94d}\u{937} ";
    let mut random = 7_u64;
    let mut letters = |n: usize| -> String {
        (0..n)
            .map(|_| {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(b'a' + (random >> 33) as u8 % 26)
            })
            .collect()
    };
    vec![
        prose.repeat(400),
        other.repeat(500),
        format!("{}{}", prose.repeat(70), other.repeat(70)).repeat(3),
        format!("a{}b", " ".repeat(40_001)),
        "\n".repeat(30_001),
        "ha".repeat(20_000),
        letters(40_000),
        format!("{}<|im_end|><s></s>{}", prose.repeat(131), prose.repeat(217)),
    ]
}

fn in_small_parts(encoder: &TextEncoder, text: &str, part: usize) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    in_parts(text, part, &|part| encoder.encode_with_offsets(part, false), &mut |token| {
        tokens.push(token);
        Ok(())
    })?;
    Ok(tokens)
}

fn compare(encoder: &TextEncoder, name: &str) {
    for (i, text) in texts().iter().enumerate() {
        let whole = encoder.encode_with_offsets(text, false).unwrap();
        for part in [PART / 2, PART, 2 * PART] {
            match in_small_parts(encoder, text, part) {
                Ok(tokens) => assert_eq!(tokens, whole, "{name}, text {i}, parts of {part}"),
                Err(e) => panic!("{name}, text {i}, parts of {part}: {e}"),
            }
        }
    }
}

#[test]
fn parts_give_the_tokens_of_the_whole() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo/model/tokenizer.json"));
    compare(&TextEncoder::from_file(path, TokenizerInfo::default()).unwrap(), "demo");
    let Some(folder) = shared("data/tokenizers") else { return };
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path().join("tokenizer.json");
        if path.is_file() {
            let encoder = TextEncoder::from_file(&path, TokenizerInfo::default()).unwrap();
            compare(&encoder, &path.display().to_string());
        }
    }
}

/// A tokenizer that takes a text as one token.
#[test]
fn what_cannot_be_divided_is_refused() {
    let one = |part: &str| Ok(vec![Token { id: 0, bytes: Some(0..part.len()) }]);
    let text = "x".repeat(LONGEST / 64 + 9);
    let error = in_parts(&text, PART / 64, &one, &mut |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("as one piece"), "{error}");
    let short = "x".repeat(LONGEST / 64 - 9);
    let mut tokens = Vec::new();
    in_parts(&short, PART / 64, &one, &mut |token| {
        tokens.push(token);
        Ok(())
    })
    .unwrap();
    assert_eq!(tokens, [Token { id: 0, bytes: Some(0..short.len()) }]);
}
