//! What is told of rows that are read, and which are refused for it.

use std::path::Path;

use super::super::test_util::{VOCAB, encoder, write};
use super::super::{FileRows, ReadOptions};

fn read(name: &str, content: &str) -> crate::Result<FileRows> {
    FileRows::parse(Path::new(name), content.as_bytes(), Some(&encoder()), &ReadOptions::new(VOCAB))
}

fn notes_of(rows: &str) -> Vec<String> {
    read("r.jsonl", rows)
        .unwrap()
        .notes
        .into_iter()
        .skip(1)
        .filter(|note| !note.contains("markers"))
        .collect()
}

const TURNS: &str =
    "\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"a\"}]";

/// Rows of KTO, as TRL (`label`) and LLaMA-Factory (`kto_tag`) have them, and a weight that multiplies the loss.
#[test]
fn a_bad_answer_is_refused() {
    for mark in ["\"label\":false", "\"kto_tag\":false", "\"weight\":0", "\"weight\":-1.5"] {
        for row in [TURNS, "\"prompt\":\"p\",\"completion\":\"c\"", "\"question\":\"q\",\"answer\":\"a\""] {
            let error = read("r.jsonl", &format!("{{{row}}}\n{{{row},{mark}}}")).unwrap_err().to_string();
            let key = mark.split(':').next().unwrap().trim_matches('"');
            assert!(error.contains("r.jsonl:2: ") && error.contains(&format!("`{key}` is ")), "{error}");
            assert!(error.contains("is marked as one not to learn"), "{error}");
        }
    }
    // A good answer, and a class of a text.
    assert!(notes_of(&format!("{{{TURNS},\"label\":true,\"weight\":1,\"id\":null}}")).is_empty());
    assert_eq!(
        notes_of("{\"text\":\"t\",\"label\":false}"),
        ["not used: of the rows `label` (1 row, line 1)"]
    );
}

#[test]
fn keys_that_are_not_read_are_named_once() {
    let row = |more: &str| format!("{{{TURNS},{more}}}\n");
    let rows = [
        row("\"score\":0.1,\"id\":7"),
        row("\"images\":[\"a.png\"],\"text\":\"t\",\"id\":8"),
        row("\"images\":[],\"text\":\"\",\"tools\":\"\",\"rejected_response\":\"no\""),
    ];
    assert_eq!(
        notes_of(&rows.concat()),
        [
            "not used: of the rows `rejected_response` (1 row, line 3), `score` (1 row, line 1); every answer that is \
             trained is trained alike, good or bad",
            "not used: of the rows `images` (1 row, line 2); only text is trained",
            "not used: of the rows `text` (1 row, line 2), since each row is read in one form, the one that is named \
             above",
            "not used: of the rows `id` (2 rows, first line 1)",
        ]
    );
    // Joined as they stand, prompt and completion have no place for what else a conversation has.
    assert_eq!(
        notes_of("{\"prompt\":\"p\",\"completion\":\"c\",\"system\":\"s\",\"context\":\"x\"}"),
        ["not used: of the rows `context` (1 row, line 1), `system` (1 row, line 1)"]
    );
    let two = TURNS.replace('[', "[{\"role\":\"system\",\"content\":\"a\"},");
    assert_eq!(
        notes_of(&format!("{{{two},\"system\":\"b\"}}\n{{{two},\"system\":\"a\"}}")),
        ["1 of 2 rows: `system` is not used, since the turns begin with a system turn (line 1)"]
    );
}

#[test]
fn speakers_have_many_names() {
    let usual = read("r.jsonl", &format!("{{{TURNS}}}")).unwrap();
    let (tokens, labels) = (&usual.examples[0].tokens, &usual.examples[0].labels);
    for (asks, says) in
        [("user", "model"), ("User", "Assistant"), ("human", "gpt"), ("USER", "bot"), ("Human", "AI")]
    {
        for (list, who, what) in [
            ("messages", "role", "content"),
            ("conversations", "from", "value"),
            ("messages", "from", "value"),
        ] {
            let row = serde_json::json!({list: [{who: asks, what: "u"}, {who: says, what: "a"}]});
            let data = read("r.jsonl", &row.to_string()).unwrap();
            assert_eq!((&data.examples[0].tokens, &data.examples[0].labels), (tokens, labels), "{row}");
        }
    }
    let mixed =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"narrator\",\"content\":\"a\"}]}";
    let error = read("r.jsonl", mixed).unwrap_err().to_string();
    for words in ["no trainable token in 1 row", "no turn has the role `assistant`", "`narrator`, `user`"] {
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(
        notes_of(&format!("{{{TURNS}}}\n{mixed}\n"))[0],
        "1 of 2 rows: no turn has the role `assistant`, and only such turns are trained; found `narrator`, `user` (line 2)"
    );
}

#[test]
fn absent_null_and_blank_keys_are_the_same() {
    let plain = read("r.jsonl", &format!("{{{TURNS}}}")).unwrap();
    let instruction = "\"instruction\":\"i\",\"output\":\"o\"";
    let asked = read("r.jsonl", &format!("{{{instruction}}}")).unwrap();
    for blank in ["null", "\"\"", "\" \"", "[]", "{}"] {
        for key in ["tools", "functions", "system", "chat_template_kwargs", "label", "weight", "images"] {
            let data = read("r.jsonl", &format!("{{{TURNS},\"{key}\":{blank}}}")).unwrap();
            assert_eq!(
                (&data.examples[0].tokens, &data.notes),
                (&plain.examples[0].tokens, &plain.notes),
                "{key} {blank}"
            );
        }
        for key in ["weight", "train", "loss", "tool_calls", "function_call", "name"] {
            let turns = TURNS.replace("\"a\"}", &format!("\"a\",\"{key}\":{blank}}}"));
            let data = read("r.jsonl", &format!("{{{turns}}}")).unwrap();
            assert_eq!(
                (&data.examples[0].labels, &data.notes),
                (&plain.examples[0].labels, &plain.notes),
                "{key} {blank}"
            );
        }
        for key in ["input", "history", "system", "instances"] {
            let data = read("r.jsonl", &format!("{{{instruction},\"{key}\":{blank}}}")).unwrap();
            assert_eq!(
                (&data.examples[0].tokens, &data.notes),
                (&asked.examples[0].tokens, &asked.notes),
                "{key} {blank}"
            );
        }
        let tokens = format!("{{\"input_ids\":[1,2],\"labels\":{blank},\"attention_mask\":{blank}}}");
        assert_eq!(read("r.jsonl", &tokens).unwrap().examples[0].labels, [1, 2]);
    }
    for kwargs in ["\"null\"", "\"{}\""] {
        let data = read("r.jsonl", &format!("{{{TURNS},\"chat_template_kwargs\":{kwargs}}}")).unwrap();
        assert_eq!(data.examples[0].tokens, plain.examples[0].tokens);
    }
    assert_eq!(
        read("r.jsonl", &format!("{{{TURNS},\"tools\":\"[]\"}}")).unwrap().examples[0].tokens,
        plain.examples[0].tokens
    );
}

/// As Python's `json` reads them, but without a value.
#[test]
fn numbers_that_json_does_not_have_are_null() {
    let rows = format!("{{{TURNS},\"score\":NaN}}\n{{{TURNS}}}\n{{{TURNS},\"x\":[-Infinity,Infinity]}}\n");
    let data = read("r.jsonl", &rows).unwrap();
    let said =
        "2 of 3 rows: NaN or Infinity, which JSON does not have, is read as null (no value) (lines 1, 3)";
    assert!(data.notes.iter().any(|note| note == said), "{:?}", data.notes);
    let data = read("r.jsonl", "{\"instruction\":\"Say hi\",\"input\":NaN,\"output\":\"NaN \\\" Infinity\"}")
        .unwrap();
    assert!(data.notes[1].starts_with("1 of 1 rows: NaN"), "{:?}", data.notes);
    let text: Vec<u32> =
        b"### Instruction:\nSay hi\n\n### Response:\nNaN \" Infinity".iter().map(|b| u32::from(*b)).collect();
    assert_eq!(data.examples[0].tokens[..text.len()], text);
    let error = read("r.jsonl", "{\"instruction\":\"Say hi\",\"output\":NaN}").unwrap_err().to_string();
    assert!(error.contains("`output` (null)"), "{error}");
    assert!(read("r.jsonl", "{\"text\":\"a\",\"b\":Nan}").is_err());
    // Such rows need a tokenizer like all others.
    let directory = write("r.jsonl", "{\"text\":\"x\",\"score\":NaN}");
    assert!(FileRows::needs_tokenizer(&directory.path().join("r.jsonl"), &ReadOptions::new(VOCAB)).unwrap());
}

#[test]
fn an_empty_answer_is_told() {
    let said = |notes: Vec<String>| {
        notes[0] == "1 of 1 rows: an answer is empty; of it only the end is trained (line 1)"
    };
    assert!(said(notes_of(&format!("{{{}}}", TURNS.replace("\"a\"", "\" \"")))));
    assert!(said(notes_of("{\"prompt\":\"p\",\"completion\":\"\"}")));
    assert!(notes_of("{\"prompt\":\"\",\"completion\":\"c\"}").is_empty());
}

#[test]
fn json_is_read_as_rows_whatever_the_name() {
    let lines = format!("{{{TURNS}}}\n\n{{{TURNS}}}\n");
    let array = format!("[{{{TURNS}}}, {{{TURNS}}}]");
    let spread = format!("\u{FEFF}[\n  {{{TURNS}}},\n  {{{TURNS}}}\n]\n");
    for name in ["r.txt", "r.md", "r.text", "r.data", "r", "r.json", "r.jsonl", "r.ndjson"] {
        for content in [&lines, &array, &spread] {
            let data = read(name, content).unwrap();
            assert_eq!((data.examples.len(), data.document), (2, false), "{name} {content}");
        }
    }
    // Texts that are none.
    for text in ["{curly} braces\n", "[1] a list\n", "[{x}] y\n", "{\"text\":\"x\"}\nand prose\n", "plain"] {
        assert!(read("r.txt", text).unwrap().document, "{text}");
    }
    let partly = read("r.txt", "{\"text\":\"x\"}\nand prose\n").unwrap();
    assert!(
        partly.notes[1].starts_with("the text begins like JSON, and 1 of its 2 lines are JSON objects"),
        "{:?}",
        partly.notes
    );
    // A list on each line is no array of rows.
    let error = read("r.jsonl", "[{\"text\":\"x\"}]\n[{\"text\":\"y\"}]\n").unwrap_err().to_string();
    assert!(error.contains("r.jsonl:1: the row is a list"), "{error}");
}

/// Lines are named with their file where there are several.
#[test]
fn rows_of_several_files_are_told_with_their_file() {
    let directory = tempfile::tempdir().unwrap();
    for shard in 0..2 {
        let rows = format!("{{{TURNS}}}\n{{{TURNS},\"mark\":{shard}}}\n{{{TURNS},\"seen\":NaN}}\n");
        std::fs::write(directory.path().join(format!("train-0000{shard}-of-00002.jsonl")), rows).unwrap();
    }
    let data = FileRows::read(directory.path(), Some(&encoder()), &ReadOptions::new(VOCAB)).unwrap();
    assert_eq!(
        data.notes[1..],
        [
            "2 of 6 rows: NaN or Infinity, which JSON does not have, is read as null (no value) (lines \
             train-00000-of-00002.jsonl:3, train-00001-of-00002.jsonl:3)",
            "not used: of the rows `mark` (2 rows, first line train-00000-of-00002.jsonl:2)"
        ]
    );
}

/// Expected: keys, counts and lines of the files by Python's `json`.
#[test]
fn little_is_told_of_published_files() {
    let cases: [(&str, &[&str]); 5] = [
        (
            "alpaca-seed/seed_tasks.jsonl",
            &[
                "not used: of the rows `id` (175 rows, first line 1), `is_classification` (175 rows, first line 1), \
               `name` (175 rows, first line 1)",
            ],
        ),
        (
            "codealpaca/code_alpaca_2k.json",
            &["2 of 2017 rows: an answer is empty; of it only the end is trained (lines 1187, 9297)"],
        ),
        ("llamafactory/identity.json", &[]),
        (
            "llm-adapters/ARC-Easy_train.json",
            &[
                "not used: of the rows `answer` (2251 rows, first line 2), since each row is read in one form, the \
               one that is named above",
            ],
        ),
        ("tinystories-sample/tinystories_100.json", &[]),
    ];
    let encoder = encoder();
    for (name, expected) in cases {
        let Some(path) = super::super::test_util::shared(&format!("datasets/{name}")) else { continue };
        let data = FileRows::read(&path, Some(&encoder), &ReadOptions::new(VOCAB)).unwrap();
        assert_eq!(data.notes[1..], *expected, "{name}");
    }
}
