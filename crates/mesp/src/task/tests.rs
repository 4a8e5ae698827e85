use super::choice::{Picks, Spelling};
use super::*;
use crate::data::test_util::encoder;
use crate::data::{ChatFormat, UNTRAINED};

fn read(name: &str, content: &str) -> Result<Task> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(name);
    std::fs::write(&path, content).expect("written");
    Task::read(&path, Some("#### (.*)"))
}

#[test]
fn rows_of_both_kinds() {
    let lines = r#"{"prompt": "Is it?", "choices": ["yes", "no"], "answer": "no"}

{"question": "1+1", "answer": 2, "extract": "[0-9]+"}
{"prompt": "capital", "answer": ["Paris", "paris, france"], "id": 7}"#;
    for (name, content) in
        [("t.jsonl", lines.to_owned()), ("t.json", format!("[{}]", lines.replace("}\n", "},\n")))]
    {
        let task = read(name, &content).expect(name);
        assert_eq!(task.items.iter().map(|i| i.line).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(task.items[1].prompt, "1+1");
        let Answer::Choice { choices, right: 1 } = &task.items[0].answer else {
            panic!("{:?}", task.items[0])
        };
        assert_eq!(choices, &["yes", "no"]);
        let Answer::Text { texts, extract: Some(own) } = &task.items[1].answer else { panic!("no text") };
        assert_eq!((texts.as_slice(), own.of("a 5")), (["2".to_owned()].as_slice(), Some("5")));
        let Answer::Text { texts, extract: Some(common) } = &task.items[2].answer else { panic!("no text") };
        assert_eq!((texts.len(), common.of("#### x")), (2, Some("x")));
    }
}

#[test]
fn rows_that_cannot_be_used() {
    let good = r#"{"prompt": "a", "answer": "b"}"#;
    for (row, expected) in [
        ("[1]", "the row is a list, expected an object"),
        ("{", "not valid JSON"),
        (r#"{"answer": "b"}"#, "expected `prompt` or `question`, found neither"),
        (r#"{"prompt": 3, "answer": "b"}"#, "the prompt is a number"),
        (r#"{"prompt": "a", "question": "a", "answer": "b"}"#, "found both"),
        (r#"{"prompt": "a"}"#, "expected `answer`, found none"),
        (r#"{"prompt": "a", "answer": ""}"#, "`answer` is an empty text"),
        (r#"{"prompt": "a", "answer": true}"#, "`answer` is true or false"),
        (r#"{"prompt": "a", "answer": "b", "extract": "("}"#, "no regular expression"),
        (r#"{"prompt": "a", "answer": 0, "choices": ["b"]}"#, "`choices` is a list of 1"),
        (r#"{"prompt": "a", "answer": 0, "choices": "b"}"#, "`choices` is a text"),
        (r#"{"prompt": "a", "answer": 0, "choices": ["b", " "]}"#, "choices[1] is a text, expected"),
        (
            r#"{"prompt": "a", "answer": 2, "choices": ["b", "c"]}"#,
            "`answer` is 2, expected one of the choices, or its number from 0 to 1",
        ),
        (r#"{"prompt": "a", "answer": -1, "choices": ["b", "c"]}"#, "`answer` is -1"),
        (r#"{"prompt": "a", "answer": "d", "choices": ["b", "c"]}"#, "`answer` is \"d\""),
        (r#"{"prompt": "a", "answer": 0, "choices": ["b", "c"], "extract": "x"}"#, "this one has both"),
    ] {
        let error = read("t.jsonl", &format!("{good}\n{row}\n")).expect_err(row).to_string();
        assert!(error.contains("t.jsonl:2: ") && error.contains(expected), "{row}: {error}");
    }
    assert!(read("t.jsonl", "\n").expect_err("nothing").to_string().contains("found none"));
    assert!(read("t.txt", "words").expect_err("a text").to_string().contains("plain text"));
}

#[test]
fn picks_by_hand() {
    let choices: Vec<String> = ["no", "certainly", "æøåæøå"].map(str::to_owned).into();
    // Sums -4, -9, -7.5; per character -2, -1, -1.25; per byte -2, -1, -0.625.
    let picks = Picks::new(&choices, &[-4.0, -9.0, -7.5]);
    assert_eq!(picks, Picks { sum: 0, characters: 1, bytes: 2 });
    // The first of equals.
    assert_eq!(Picks::new(&choices[..2], &[-2.0, -2.0]).sum, 0);
}

#[test]
fn tokens_of_a_choice() {
    let encoder = encoder();
    let path: Arc<Path> = Path::new("t").into();
    let spelling = Spelling { encoder: &encoder, chat: None, vocab_size: usize::MAX };
    let row = |prompt: &str, choice: &str| {
        let row = spelling.row(prompt, choice, &path, 1).expect("a row");
        let targets = row.labels.iter().filter(|l| **l != UNTRAINED).map(|l| l.cast_unsigned());
        (row.tokens.clone(), targets.collect::<Vec<_>>())
    };
    // ` 4` is one token, and the space before it is the choice's, wherever it is written.
    let expected = (vec![u32::from(b'x'), 257, u32::from(b'2')], vec![257, u32::from(b'2')]);
    assert_eq!(row("x", "42"), expected);
    assert_eq!(row("x ", "42"), expected);
    assert_eq!(row("x", " 42"), expected);
    let error = spelling.row("", "42", &path, 1).expect_err("nothing before").to_string();
    assert!(error.contains("the prompt has no token"), "{error}");
    // In a conversation the choice follows at once.
    let chat = ChatFormat::for_encoder(&encoder).expect("ChatML");
    let spelling = Spelling { encoder: &encoder, chat: Some(&chat), vocab_size: usize::MAX };
    let row = spelling.row("x", "42", &path, 1).expect("a row");
    let end = row.tokens.len();
    assert_eq!(row.tokens[end - 3..], [u32::from(b'\n'), u32::from(b'4'), u32::from(b'2')]);
    assert_eq!(row.labels[end - 3..], [UNTRAINED, i32::from(b'4'), i32::from(b'2')]);
    assert!(row.labels[..end - 2].iter().all(|l| *l == UNTRAINED));
}

#[test]
fn standard_errors() {
    // Three of four right: √(0.75·0.25/3) = 0.25.
    assert_eq!(standard_error(0.75, 4), Some(0.25));
    assert_eq!(standard_error(1.0, 1), None);
}
