//! Any bytes, under any kind of name, are read as rows or refused; what is read fits the vocabulary, and is the same
//! after a trip through a token file.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mesp::data::{Dataset, LongRows, PromptStyle, ReadOptions, TextEncoder, TokenizerInfo, TrainOn, token_file};

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn encoder() -> &'static TextEncoder {
    static ENCODER: OnceLock<TextEncoder> = OnceLock::new();
    ENCODER.get_or_init(|| {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/demo/model/tokenizer.json"));
        let info = TokenizerInfo { chat_template: Some(TEMPLATE.to_owned()), ..TokenizerInfo::default() };
        TextEncoder::from_file(path, info).expect("the demo's tokenizer")
    })
}

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, content) = input;
    let pick = |at: u8, of: usize| (choice >> at) as usize % of;
    let name = ["r.jsonl", "r.json", "r.txt", "r"][pick(0, 4)];
    let options = ReadOptions {
        max_seq_len: Some(8),
        long_rows: [LongRows::Truncate, LongRows::Split, LongRows::Error][pick(2, 3)],
        train_on: [TrainOn::Assistant, TrainOn::Last, TrainOn::All][pick(4, 3)],
        prompt_style: [PromptStyle::Auto, PromptStyle::Raw, PromptStyle::Chat][pick(6, 3)],
        ..ReadOptions::new(1 << 16)
    };
    let Ok(data) = Dataset::parse(Path::new(name), content, Some(encoder()), &options) else { return };
    assert!(data.targets() > 0);
    for row in &data.examples {
        assert!(row.tokens.len() == row.labels.len() && (1..=8).contains(&row.tokens.len()));
    }
    let (key, mut bytes) = (token_file::TokenKey(1), Vec::new());
    token_file::write(&mut bytes, key, &data).expect("memory");
    let (_, again) = token_file::read(Path::new(name), &mut &bytes[..], 1 << 16).expect("what was written");
    assert_eq!(again.examples, data.examples);
});
