use proptest::prelude::*;

use super::super::test_util::{EOS, VOCAB, encoder, info, shared, write};
use super::super::{TokenizerInfo, UNTRAINED};
use super::*;

fn read_as(name: &str, content: impl AsRef<[u8]>, options: &ReadOptions) -> Result<FileRows> {
    let directory = write(name, content);
    FileRows::read(&directory.path().join(name), Some(&encoder()), options)
}

fn read(name: &str, content: &str) -> Result<FileRows> {
    read_as(name, content, &ReadOptions::new(VOCAB))
}

fn cut_to(length: usize) -> ReadOptions {
    ReadOptions { max_seq_len: Some(length), ..ReadOptions::new(VOCAB) }
}

#[test]
fn rows_of_several_forms_may_be_mixed() {
    let data = read(
        "rows.jsonl",
        "{\"text\":\"x\"}\n\n{\"input_ids\":[1,2,3]}\n{\"prompt\":\"p\",\"completion\":\"c\"}\n\
         {\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"a\"}]}\n",
    )
    .unwrap();
    assert_eq!(data.examples.iter().map(|e| e.origin.line).collect::<Vec<_>>(), [1, 3, 4, 5]);
    assert!(data.examples[2].origin.to_string().ends_with("rows.jsonl:4"));
    assert_eq!(data.examples.iter().map(Example::targets).collect::<Vec<_>>(), [1, 2, 2, 2]);
    assert_eq!(
        data.notes,
        [
            "1 tokenized row: used as they are",
            "1 text row: every token is trained",
            "1 conversation: written with ChatML (the model has no chat template); the assistant's turns are trained, \
             the other turns are not",
            "1 prompt/completion row: texts are joined as they stand, messages written with ChatML (the model has no \
             chat template); the completion is trained",
        ]
    );
    let array = read("rows.json", "[{\"text\":\"x\"},\n{\"text\":\"y\"}]").unwrap();
    assert_eq!(array.examples[1].origin.line, 2);
    assert_eq!(array.targets(), 2);
}

#[test]
fn a_problem_names_file_and_line() {
    for (name, content, line, words) in [
        ("r.jsonl", "{\"text\":\"x\"}\n{\"q\":1}\n", 2, "found the keys `q`"),
        ("r.jsonl", "{\"text\":\"x\"}\n{\"text\":\n", 2, "not valid JSON at column 8"),
        ("r.json", "[{\"text\":\"x\"},\n{\n\"text\" \"y\"}]", 3, "not valid JSON at column 8"),
        ("r.json", "[{\"text\":\"x\"},\n\n{\"input_ids\":[999]}]", 3, "`input_ids[0]` is 999"),
        ("r.json", "[{\"text\":\"x\"}\n", 2, "ends inside"),
    ] {
        let error = read(name, content).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}:{line}: ")) && error.contains(words), "{error}");
    }
    let bare = encoder_without_end();
    let directory = write("r.jsonl", "{\"text\":\"\"}");
    let error = FileRows::read(&directory.path().join("r.jsonl"), Some(&bare), &ReadOptions::new(VOCAB));
    assert!(error.unwrap_err().to_string().contains("r.jsonl:1: the row has no token"));
}

fn encoder_without_end() -> TextEncoder {
    super::super::test_util::encoder_with(TokenizerInfo { eos_token: None, ..info() }, false)
}

#[test]
fn nothing_to_train_is_an_error() {
    for (name, content) in
        [("r.jsonl", ""), ("r.jsonl", "\n\n"), ("r.json", "[]"), ("r.txt", " \n"), ("r.txt", "")]
    {
        let error = read(name, content).unwrap_err().to_string();
        assert!(error.contains("the file holds no row"), "{name} {content:?}: {error}");
    }
    let masked = "{\"input_ids\":[1,2],\"labels\":[1,-100]}\n{\"input_ids\":[3]}\n";
    let error = read("r.jsonl", masked).unwrap_err().to_string();
    assert!(error.contains("no trainable token in 2 rows"), "{error}");
    let error = read_as("r.txt", "abc", &cut_to(1)).unwrap_err().to_string();
    assert!(error.contains("‘max_seq_len’ 2"), "{error}");
}

#[test]
fn rows_cut_and_rows_left_bare_are_counted() {
    let rows = "{\"text\":\"xxxxxxxx\"}\n{\"input_ids\":[1]}\n{\"prompt\":\"pppp\",\"completion\":\"c\"}\n{\"text\":\"x\"}\n";
    let data = read_as("r.jsonl", rows, &cut_to(4)).unwrap();
    assert_eq!(data.examples.iter().map(|e| e.tokens.len()).collect::<Vec<_>>(), [4, 1, 4, 2]);
    assert_eq!(data.examples.iter().map(Example::targets).collect::<Vec<_>>(), [3, 0, 0, 1]);
    let notes = data.notes.join("\n");
    assert!(
        notes.contains("2 of 4 rows cut to 4 tokens (the longest has 9); ‘max_seq_len’ 9 keeps"),
        "{notes}"
    );
    assert!(notes.contains("2 of 4 rows have nothing to train (lines 2, 3)"), "{notes}");
}

#[test]
fn long_rows_are_split_or_refused() {
    let rows =
        "{\"input_ids\":[1,2,3,4,5,6,7],\"labels\":[-100,-100,-100,-100,5,6,7]}\n{\"input_ids\":[8,9]}\n";
    let split = ReadOptions { long_rows: LongRows::Split, ..cut_to(3) };
    let data = read_as("r.jsonl", rows, &split).unwrap();
    let pieces: Vec<&[u32]> = data.examples.iter().map(|e| e.tokens.as_slice()).collect();
    assert_eq!(pieces, [&[1, 2, 3][..], &[3, 4, 5], &[5, 6, 7], &[8, 9]]);
    // Every label is predicted once.
    assert_eq!(data.examples.iter().map(Example::targets).collect::<Vec<_>>(), [0, 1, 2, 1]);
    assert_eq!(data.examples.iter().map(|e| e.origin.line).collect::<Vec<_>>(), [1, 1, 1, 2]);
    assert!(
        data.notes[1].contains("1 of 2 rows split into 3 of up to 3 tokens (the longest has 7)"),
        "{:?}",
        data.notes
    );
    assert_eq!(data.notes.len(), 2);
    let refused = ReadOptions { long_rows: LongRows::Error, ..cut_to(3) };
    let error = read_as("r.jsonl", rows, &refused).unwrap_err().to_string();
    assert!(error.contains("r.jsonl:1: the row has 7 tokens, expected at most 3"), "{error}");
}

#[test]
fn reasoning_that_a_template_drops_is_noted() {
    let Some(path) = shared("chat_templates/llama.cpp/Qwen-Qwen3-0.6B.jinja") else { return };
    let info = TokenizerInfo { chat_template: Some(std::fs::read_to_string(path).unwrap()), ..info() };
    let encoder = super::super::test_util::encoder_with(info, false);
    let turn = |said: &str, why: &str| serde_json::json!({"role": "assistant", "content": said, "reasoning_content": why});
    let user = serde_json::json!({"role": "user", "content": "?"});
    let dropped = serde_json::json!({"messages": [user, turn("two", "why"), user, turn("four", "so")]});
    let kept = serde_json::json!({"messages": [user, turn("two", "why")]});
    let directory = write("train.jsonl", format!("{kept}\n{dropped}\n"));
    let data = FileRows::read(directory.path(), Some(&encoder), &ReadOptions::new(VOCAB)).unwrap();
    assert!(
        data.notes[1].contains("1 of 2 rows: the chat template leaves out reasoning"),
        "{:?}",
        data.notes
    );
    assert!(data.notes[1].contains("(line 2)"), "{:?}", data.notes);
}

proptest! {
    #[test]
    fn parsing_bytes_is_reading_a_file(name in "r\\.(jsonl|json|txt|x)", content: Vec<u8>) {
        let parsed = FileRows::parse(Path::new(&name), &content, Some(&encoder()), &cut_to(4));
        let read = read_as(&name, &content, &cut_to(4));
        prop_assert_eq!(parsed.map(|d| d.tokens()).ok(), read.map(|d| d.tokens()).ok());
    }
}

#[test]
fn a_plain_text_is_divided_into_windows() {
    let data = read_as("book.txt", "one\ntwo\nthree", &cut_to(5)).unwrap();
    let windows: Vec<&[u32]> = data.examples.iter().map(|e| e.tokens.as_slice()).collect();
    let text: Vec<u32> = b"one\ntwo\nthree".iter().map(|&b| b.into()).chain([EOS]).collect();
    assert_eq!(windows, [&text[..5], &text[4..9], &text[8..13], &text[12..]]);
    assert_eq!(data.examples.iter().map(|e| e.origin.line).collect::<Vec<_>>(), [1, 2, 3, 3]);
    // Every token but the first is predicted once.
    assert_eq!(data.targets(), text.len() - 1);
    let note = "plain text, read as one document of 14 tokens in 4 windows of up to 5; each begins with the last token \
                of the one before";
    assert_eq!(data.notes, [note]);
    let whole = read("book.txt", "one\ntwo").unwrap();
    assert_eq!((whole.examples.len(), whole.tokens()), (1, 8));
    let error = FileRows::read(&write("b.txt", "x").path().join("b.txt"), None, &ReadOptions::new(VOCAB))
        .unwrap_err();
    assert!(error.to_string().contains("no tokenizer.json"), "{error}");
}

#[test]
fn a_directory_holds_the_rows() {
    let directory = write("train.jsonl", "{\"text\":\"x\"}");
    let data = FileRows::read(directory.path(), Some(&encoder()), &ReadOptions::new(VOCAB)).unwrap();
    assert_eq!(data.path, directory.path().join("train.jsonl"));
}

#[test]
fn only_text_needs_a_tokenizer() {
    let tokenized = "{\"labels\":[1],\"input_ids\":[1]}";
    for (name, content, needed) in [
        ("r.jsonl", tokenized.to_owned(), false),
        ("r.json", format!("[{tokenized}, {tokenized}]"), false),
        ("r.jsonl", format!("{tokenized}\n{{\"text\":\"x\"}}"), true),
        ("r.jsonl", format!("{tokenized}\n{{\"input_ids\":null,\"text\":\"x\"}}"), true),
        ("r.json", "[\"x\"]".to_owned(), true),
        ("r.txt", "x".to_owned(), true),
    ] {
        let directory = write(name, &content);
        let found =
            FileRows::needs_tokenizer(&directory.path().join(name), &ReadOptions::new(VOCAB)).unwrap();
        assert_eq!(found, needed, "{content}");
    }
}

#[test]
fn a_model_without_an_end_is_noted() {
    let directory = write("r.jsonl", "{\"text\":\"xy\"}");
    let data = FileRows::read(
        directory.path(),
        Some(&encoder_without_end()),
        &ReadOptions { split: "r", ..ReadOptions::new(VOCAB) },
    );
    assert!(data.unwrap().notes[1].contains("no end-of-text token"));
}

fn qwen() -> Option<(TextEncoder, ReadOptions)> {
    let directory = shared("tokenizers/qwen2.5")?;
    let template = std::fs::read_to_string(directory.join("chat_template.jinja")).unwrap();
    let info = TokenizerInfo {
        bos_token: None,
        eos_token: Some("<|im_end|>".into()),
        chat_template: Some(template),
        add_bos_token: Some(false),
        ..TokenizerInfo::default()
    };
    let encoder = TextEncoder::from_file(&directory.join("tokenizer.json"), info).unwrap();
    Some((encoder, ReadOptions { max_seq_len: Some(256), ..ReadOptions::new(151_936) }))
}

/// Expected tokens: transformers 5, `apply_chat_template` of the same conversation.
#[test]
fn a_real_conversation_has_the_tokens_of_the_python_library() {
    let Some((encoder, options)) = qwen() else { return };
    let row = "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"Hi\"},\
               {\"role\":\"assistant\",\"content\":\"Hello!\"},{\"role\":\"user\",\"content\":\"Bye\"},\
               {\"role\":\"assistant\",\"content\":\"Goodbye.\"}]}";
    let directory = write("train.jsonl", row);
    let data = FileRows::read(directory.path(), Some(&encoder), &options).unwrap();
    assert_eq!(
        data.examples[0].tokens,
        [
            151_644, 8948, 198, 3430, 9814, 13, 151_645, 198, 151_644, 872, 198, 13048, 151_645, 198,
            151_644, 77091, 198, 9707, 0, 151_645, 198, 151_644, 872, 198, 1359, 68, 151_645, 198, 151_644,
            77091, 198, 15216, 28374, 13, 151_645, 198
        ]
    );
    let trained: Vec<i32> = data.examples[0].labels.iter().copied().filter(|&l| l != UNTRAINED).collect();
    assert_eq!(trained, [9707, 0, 151_645, 15216, 28374, 13, 151_645]);
    assert!(data.notes[0].contains("the model's chat template"), "{:?}", data.notes);
}

#[test]
fn real_files_are_read_or_refused_with_advice() {
    let Some((encoder, options)) = qwen() else { return };
    let open = |name: &str| shared(name).map(|path| FileRows::read(&path, Some(&encoder), &options));
    if let Some(data) = open("datasets/mlx-wikisql") {
        let data = data.unwrap();
        assert_eq!(data.examples.len(), std::fs::read_to_string(&data.path).unwrap().lines().count());
        assert!(data.examples.iter().all(|e| e.targets() == e.tokens.len() - 1));
    }
    if let Some(data) = open("datasets/llamafactory/c4_demo.jsonl") {
        assert!(data.unwrap().examples.len() > 100);
    }
    if let Some(data) = open("datasets/tiny_shakespeare/tiny_shakespeare.txt") {
        let data = data.unwrap();
        assert_eq!(data.targets() + data.examples.len(), data.tokens());
        assert!(data.examples.len() > 1000);
    }
    for (name, rows) in [
        ("datasets/gsm8k/train.jsonl", 7473),
        ("datasets/llamafactory/identity.json", 91),
        ("datasets/alpaca-seed/seed_tasks.jsonl", 175),
        ("datasets/tinystories-sample/tinystories_100.json", 100),
    ] {
        let Some(data) = open(name) else { continue };
        let data = data.unwrap();
        assert!(data.examples.len() == rows && data.targets() > 0, "{name}: {}", data.examples.len());
    }
    if let Some(path) = shared("datasets/llamafactory/dpo_en_demo.json") {
        let options = ReadOptions { preferences: true, max_seq_len: None, ..options.clone() };
        let beside = tempfile::tempdir().unwrap();
        let read = super::super::Gathered::read(&path, Some(&encoder), &options, beside.path()).unwrap();
        assert_eq!(read.rows.count(), 300);
    }
    for (name, words) in [
        ("datasets/fewglue/COPA.train.jsonl", ":1: the row has no form"),
        ("datasets/llamafactory/dpo_en_demo.json", "give ‘objective’ preference"),
        ("datasets/llamafactory/dataset_info.json", "dataset_info.json:1: not valid JSON"),
        ("datasets/sst2/train.tsv", "the first line names no column that is known"),
        ("datasets/llamafactory", "expected a file train.jsonl"),
    ] {
        let Some(data) = open(name) else { continue };
        let error = data.unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(name in "r\\.(jsonl|json|txt|x)", content: Vec<u8>) {
        let _ = read_as(&name, content, &cut_to(4));
    }

    #[test]
    fn any_rows_are_read_or_refused(rows in prop::collection::vec(any_row(), 1..5), array: bool) {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        let (name, text) = if array { ("r.json", format!("[{}]", lines.join(",\n"))) } else { ("r.jsonl", lines.join("\n")) };
        match read_as(name, &text, &cut_to(6)) {
            Ok(data) => {
                // A file that begins with an array is that array of rows.
                let count = rows[0].as_array().filter(|_| !array).map_or(rows.len(), Vec::len);
                prop_assert_eq!(data.examples.len(), count);
                prop_assert!(data.targets() > 0);
                for example in &data.examples {
                    prop_assert!(!example.tokens.is_empty() && example.tokens.len() <= 6);
                    prop_assert_eq!(example.tokens.len(), example.labels.len());
                    prop_assert!(example.tokens.iter().all(|&t| (t as usize) < VOCAB));
                }
            }
            Err(error) => prop_assert!(error.to_string().contains(name), "{}", error),
        }
    }
}

/// Rows near the forms that are read: their keys, with values that fit or do not.
fn any_row() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i16>().prop_map(Value::from),
        Just(Value::from(-100)),
        (0i64..8).prop_map(Value::from),
        "[a-c<|>\\PC]{0,6}".prop_map(Value::from),
        Just(Value::from("assistant")),
    ];
    let key = prop::sample::select(vec![
        "text",
        "prompt",
        "completion",
        "messages",
        "input_ids",
        "labels",
        "role",
        "content",
        "tools",
        "weight",
        "conversations",
        "from",
        "value",
        "instruction",
        "input",
        "output",
        "question",
        "answer",
        "history",
        "system",
        "tool_calls",
        "chat_template_kwargs",
    ]);
    leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((key.clone(), inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}
