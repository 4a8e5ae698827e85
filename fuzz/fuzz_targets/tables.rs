//! Any bytes, packed or not, are read as a table with any columns, or refused with the file's name; what is read fits
//! the vocabulary.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mesp::data::{Columns, Dataset, ReadOptions, TextEncoder, TokenizerInfo};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";

fn encoder() -> &'static TextEncoder {
    static ENCODER: OnceLock<TextEncoder> = OnceLock::new();
    ENCODER.get_or_init(|| {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/demo/model/tokenizer.json"));
        let info = TokenizerInfo { chat_template: Some(TEMPLATE.to_owned()), ..TokenizerInfo::default() };
        TextEncoder::from_file(path, info).expect("the demo's tokenizer")
    })
}

// The first byte chooses the name, what follows up to a line end is a list of columns, the rest is the file.
fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (list, content) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
    let columns = std::str::from_utf8(list).ok().and_then(|list| list.parse::<Columns>().ok()).unwrap_or_default();
    if !columns.is_empty() {
        assert_eq!(columns.to_string().parse::<Columns>().expect("what was written"), columns);
    }
    let names = ["r.csv", "r.tsv", "r.csv.gz", "r.csv.zst", "r.jsonl.gz", "r.jsonl", "r.json", "r.zst"];
    let name = Path::new(names[*choice as usize % names.len()]);
    let options = ReadOptions { max_seq_len: Some(64), columns, ..ReadOptions::new(1 << 16) };
    match Dataset::parse(name, content, Some(encoder()), &options) {
        Ok(data) => {
            assert!(data.targets() > 0);
            for row in &data.examples {
                assert!(row.tokens.len() == row.labels.len() && (1..=64).contains(&row.tokens.len()));
            }
        }
        Err(error) => assert!(error.to_string().starts_with("r."), "{error}"),
    }
});
