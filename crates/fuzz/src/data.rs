//! Rows, tables, tokenizers and chat templates.

use std::io::Write as _;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use mesp::data::token_file::{About, TokenFile, TokenKey, TokenWriter};
use mesp::data::{
    ChatFormat, Columns, Conversation, Example, Examples as _, FileRows, Gathered, LongRows, PromptStyle,
    RaggedBatch, ReadOptions, TextEncoder, TokenizerInfo, TrainOn,
};

use crate::{scratch, text};

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

fn check(data: &FileRows, most: usize) {
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
    match FileRows::parse(Path::new(name), content, Some(&ENCODER), &options) {
        Ok(data) => {
            check(&data, 8);
            through_a_token_file(Path::new(name), &data);
        }
        Err(error) => assert!(error.to_string().starts_with('r'), "{error}"),
    }
}

/// Any bytes are read as preferences or refused with the file's name; what is read can be laid out, and every sequence
/// has a prompt and a completion.
pub fn preferences(bytes: &[u8]) {
    const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    static ENCODER: LazyLock<TextEncoder> = LazyLock::new(|| encoder(Some(TEMPLATE)));
    let Some((choice, content)) = bytes.split_first() else { return };
    let options = ReadOptions {
        max_seq_len: Some(24),
        long_rows: [LongRows::Truncate, LongRows::Error][usize::from(choice >> 2 & 1)],
        preferences: true,
        unpair: choice >> 1 & 1 == 1,
        ..ReadOptions::new(1 << 16)
    };
    scratch::with(|folder| {
        let path = folder.join(["r.jsonl", "r.csv"][usize::from(choice & 1)]);
        std::fs::write(&path, content).expect("written");
        match Gathered::read(&path, Some(&ENCODER), &options, folder) {
            Ok(Gathered { rows, .. }) => {
                let mut batch = RaggedBatch::default();
                for row in 0..rows.count() {
                    rows.append(row, &mut batch).expect("a row");
                    rows.append_mismatched(row, &mut batch).expect("a row");
                }
                assert!(batch.preferences.len() == batch.rows() && batch.rows() >= 2);
                for (place, range) in batch.offsets.windows(2).map(|w| w[0]..w[1]).enumerate() {
                    assert!(
                        range.len() <= 24 && batch.labels[range].iter().any(|label| *label >= 0),
                        "{place}"
                    );
                }
            }
            Err(error) => assert!(error.to_string().contains("r."), "{error}"),
        }
    });
}

/// What a token file gives back is what was written.
fn through_a_token_file(name: &Path, data: &FileRows) {
    let about = About {
        path: data.path.clone(),
        document: data.document,
        notes: data.notes.clone(),
        ..About::default()
    };
    let again = opened(name, &written(&about, &data.examples)).expect("what was written");
    assert_eq!(*again.about(), about);
    assert_eq!(all_rows(&again), data.examples);
}

fn written(about: &About, rows: &[Example]) -> Vec<u8> {
    let mut bytes = Vec::new();
    scratch::with(|folder| {
        let mut writer = TokenWriter::new(&mut bytes, TokenKey(1), folder).expect("memory");
        for row in rows {
            writer.row(row).expect("memory");
        }
        writer.finish(about).map(|_| ()).expect("memory");
    });
    bytes
}

fn opened(name: &Path, bytes: &[u8]) -> mesp::Result<TokenFile> {
    let file = scratch::with(|folder| tempfile::tempfile_in(folder)).expect("a file");
    (&file).write_all(bytes).expect("written");
    TokenFile::open(name, file, 1 << 16)
}

fn all_rows(file: &TokenFile) -> Vec<Example> {
    (0..file.count()).map(|row| file.read(row).expect("a row")).collect()
}

/// Any bytes are refused as a file of tokens, or hold rows that fit the vocabulary and are written as they were. Where
/// the first byte is odd its sums are made right, which chance does not find.
pub fn token_file(bytes: &[u8]) {
    let Some((choice, content)) = bytes.split_first() else { return };
    let mut content = content.to_vec();
    if choice % 2 == 1 {
        right_sums(&mut content);
    }
    match opened(Path::new("r.tokens"), &content) {
        Ok(file) => {
            let rows = all_rows(&file);
            for (row, example) in rows.iter().enumerate() {
                assert!(example.tokens.iter().all(|token| *token < 1 << 16));
                assert_eq!(file.size(row).expect("a size"), example.size());
            }
            let again =
                opened(Path::new("r.tokens"), &written(file.about(), &rows)).expect("what was written");
            assert_eq!((all_rows(&again), again.about()), (rows, file.about()));
        }
        Err(error) => assert!(error.to_string().starts_with("r.tokens"), "{error}"),
    }
}

/// Writes the sums that the bytes have: of what is before the entries, and of what is from there on.
fn right_sums(file: &mut [u8]) {
    let sum = |bytes: &[u8]| {
        let one = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, one).to_le_bytes()
    };
    let Some(tail) = file.len().checked_sub(32) else { return };
    let entries = file[tail..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let Ok(entries) = usize::try_from(entries) else { return };
    if (8..=tail).contains(&entries) {
        let first = sum(&file[..entries - 8]);
        file[entries - 8..entries].copy_from_slice(&first);
        let second = sum(&file[entries..tail + 16]);
        file[tail + 16..tail + 24].copy_from_slice(&second);
    }
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
    match FileRows::parse(name, content, Some(&ENCODER), &options) {
        Ok(data) => check(&data, 64),
        Err(error) => assert!(error.to_string().starts_with("r."), "{error}"),
    }
}
