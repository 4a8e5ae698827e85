//! Rows, tables, tokenizers and chat templates.

use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use mesp::data::{
    ChatFormat, Columns, Conversation, Dataset, LongRows, PromptStyle, ReadOptions, TextEncoder,
    TokenizerInfo, TrainOn, token_file,
};

use crate::text;

/// The demo's tokenizer, with a chat template.
pub(crate) fn encoder(template: Option<&str>) -> TextEncoder {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo/model/tokenizer.json"));
    let info = TokenizerInfo { chat_template: template.map(str::to_owned), ..TokenizerInfo::default() };
    TextEncoder::from_file(path, info).expect("the demo's tokenizer")
}

const CONVERSATION: &str = r#"{"messages": [
    {"role": "system", "content": " Be <brief>. "},
    {"role": "user", "content": "Hi \u00e9 \ud83d\ude42"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": [1, 2.5, null, true]}}}]},
    {"role": "tool", "name": "f", "content": "1"},
    {"role": "assistant", "content": "<think>x</think>Hello"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "array"}}}}}],
    "chat_template_kwargs": {"enable_thinking": false, "n": 3}}"#;

/// Any text is refused as a chat template, or renders a conversation, or refuses the conversation. What follows the
/// first character that no template has is a conversation of its own.
pub fn chat_template(bytes: &[u8]) {
    static USUAL: OnceLock<Conversation> = OnceLock::new();
    let input = text(bytes);
    let (template, row) = input.split_once('\u{1}').map_or((input, None), |(t, row)| (t, Some(row)));
    let info = TokenizerInfo {
        chat_template: Some(template.to_owned()),
        bos_token: Some("<s>".to_owned()),
        eos_token: Some("</s>".to_owned()),
        ..TokenizerInfo::default()
    };
    let Ok(chat) = ChatFormat::new(&info) else { return };
    let own = row.map(Conversation::from_json);
    let usual = || USUAL.get_or_init(|| Conversation::from_json(CONVERSATION).expect("a conversation"));
    let conversation = match &own {
        Some(Ok(conversation)) => conversation,
        Some(Err(_)) => return,
        None => usual(),
    };
    for prompt in [true, false] {
        match chat.render(conversation, prompt) {
            Ok(text) => assert!(text.len() <= (16 << 20) + 200 * input.len() + (1 << 20)),
            Err(error) => {
                let error = error.to_string();
                assert!(!error.is_empty());
                // What reaches a limit once does so again, and takes its time.
                if error.contains("is stopped") {
                    return;
                }
            }
        }
    }
}

/// Any text is refused as a tokenizer, or makes tokens of a text and a text of them, or refuses to.
pub fn tokenizer_json(bytes: &[u8]) {
    let path = Path::new("tokenizer.json");
    let encoder = match TextEncoder::from_bytes(path, text(bytes).as_bytes(), TokenizerInfo::default()) {
        Ok(encoder) => encoder,
        Err(error) => return assert!(error.to_string().starts_with("tokenizer.json"), "{error}"),
    };
    for text in ["", "ab", "Hello \u{e9} \u{1f642}\n  1234 <|im_end|>"] {
        if let Ok(ids) = encoder.encode(text, true) {
            let _ = encoder.decode(&ids, false);
        }
        let _ = encoder.encode_with_offsets(text, false);
    }
}

fn check(data: &Dataset, most: usize) {
    assert!(data.targets() > 0);
    for row in &data.examples {
        assert!(row.tokens.len() == row.labels.len() && (1..=most).contains(&row.tokens.len()));
    }
}

/// Any bytes, under any kind of name, are read as rows or refused; what is read fits the vocabulary, and is the same
/// after a trip through a token file.
pub fn rows(bytes: &[u8]) {
    const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                            {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    static ENCODER: LazyLock<TextEncoder> = LazyLock::new(|| encoder(Some(TEMPLATE)));
    let Some((choice, content)) = bytes.split_first() else { return };
    let pick = |at: u8, of: usize| (choice >> at) as usize % of;
    let name = ["r.jsonl", "r.json", "r.txt", "r"][pick(0, 4)];
    let options = ReadOptions {
        max_seq_len: Some(8),
        long_rows: [LongRows::Truncate, LongRows::Split, LongRows::Error][pick(2, 3)],
        train_on: [TrainOn::Assistant, TrainOn::Last, TrainOn::All][pick(4, 3)],
        prompt_style: [PromptStyle::Auto, PromptStyle::Raw, PromptStyle::Chat][pick(6, 3)],
        ..ReadOptions::new(1 << 16)
    };
    match Dataset::parse(Path::new(name), content, Some(&ENCODER), &options) {
        Ok(data) => {
            check(&data, 8);
            through_a_token_file(Path::new(name), &data);
        }
        Err(error) => assert!(error.to_string().starts_with('r'), "{error}"),
    }
}

/// What a token file gives back is what was written.
fn through_a_token_file(name: &Path, data: &Dataset) {
    let (key, mut bytes) = (token_file::TokenKey(1), Vec::new());
    token_file::write(&mut bytes, key, data).expect("memory");
    let (_, again) = token_file::read(name, &mut &bytes[..], 1 << 16).expect("what was written");
    assert_eq!(again.examples, data.examples);
}

/// Any bytes, packed or not, are read as a table with any columns, or refused with the file's name; what is read fits
/// the vocabulary. The first byte chooses the name, what follows up to a line end is a list of columns, the rest is the
/// file.
pub fn tables(bytes: &[u8]) {
    const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    static ENCODER: LazyLock<TextEncoder> = LazyLock::new(|| encoder(Some(TEMPLATE)));
    let Some((choice, rest)) = bytes.split_first() else { return };
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (list, content) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
    let columns =
        std::str::from_utf8(list).ok().and_then(|list| list.parse::<Columns>().ok()).unwrap_or_default();
    if !columns.is_empty() {
        assert_eq!(columns.to_string().parse::<Columns>().expect("what was written"), columns);
    }
    let names = ["r.csv", "r.tsv", "r.csv.gz", "r.csv.zst", "r.jsonl.gz", "r.jsonl", "r.json", "r.zst"];
    let name = Path::new(names[*choice as usize % names.len()]);
    let options = ReadOptions { max_seq_len: Some(64), columns, ..ReadOptions::new(1 << 16) };
    match Dataset::parse(name, content, Some(&ENCODER), &options) {
        Ok(data) => check(&data, 64),
        Err(error) => assert!(error.to_string().starts_with("r."), "{error}"),
    }
}
