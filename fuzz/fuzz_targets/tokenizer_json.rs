//! Any text is refused as a tokenizer, or makes tokens of a text and a text of them, or refuses to.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mesp::data::{TextEncoder, TokenizerInfo};

fuzz_target!(|json: &str| {
    let path = Path::new("tokenizer.json");
    let Ok(encoder) = TextEncoder::from_bytes(path, json.as_bytes(), TokenizerInfo::default()) else { return };
    for text in ["", "ab", "Hello \u{e9} \u{1f642}\n  1234 <|im_end|>"] {
        if let Ok(ids) = encoder.encode(text, true) {
            let _ = encoder.decode(&ids, false);
        }
        let _ = encoder.encode_with_offsets(text, false);
    }
});
