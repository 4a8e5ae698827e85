use std::path::Path;

use super::super::FileRows;
use super::*;

fn cut(limit: usize, long_rows: LongRows) -> ReadOptions {
    ReadOptions { max_seq_len: Some(limit), long_rows, ..ReadOptions::new(1000) }
}

/// A line that is read number by number, and the same row in a line that is parsed whole.
fn both(labels: bool, count: usize) -> [String; 2] {
    let ids: Vec<usize> = (0..count).map(|i| i * 7 % 1000).collect();
    let join = |numbers: &mut dyn Iterator<Item = String>, gap: &str| numbers.collect::<Vec<_>>().join(gap);
    [" ".repeat(LONG / count + 8), " ".to_owned()].map(|gap| {
        let list = join(&mut ids.iter().map(ToString::to_string), &format!(",{gap}"));
        let marked = |(i, id): (usize, &usize)| if i % 3 == 0 { "-100".to_owned() } else { id.to_string() };
        let beside = join(&mut ids.iter().enumerate().map(marked), ",");
        let beside = if labels { format!(", \"labels\": [{beside}]") } else { String::new() };
        format!("{{\"id\": \"[\\\"\", \"input_ids\": [{list}]{beside}, \"note\": null}}\n")
    })
}

fn read(text: &str, options: &ReadOptions) -> crate::Result<FileRows> {
    FileRows::parse(Path::new("r.jsonl"), text.as_bytes(), None, options)
}

#[test]
fn a_long_line_gives_the_rows_of_a_short_one() {
    let first = "{\"input_ids\": [1, 2]}\n";
    for labels in [false, true] {
        for options in [cut(64, LongRows::Truncate), cut(64, LongRows::Split), ReadOptions::new(1000)] {
            let [long, short] = both(labels, 500).map(|row| format!("{first}{row}{first}"));
            assert!(long.len() > LONG && short.len() < LONG);
            let (long, short) = (read(&long, &options).unwrap(), read(&short, &options).unwrap());
            assert_eq!(long.examples, short.examples, "{labels} {options:?}");
            assert_eq!(long.notes, short.notes);
        }
    }
    let [long, short] =
        both(true, 500).map(|row| read(&row, &cut(64, LongRows::Error)).unwrap_err().to_string());
    assert_eq!(long, short);
    assert!(long.contains("r.jsonl:1") && long.contains("500 tokens"), "{long}");
}

#[test]
fn faults_are_named_as_those_of_a_short_line() {
    let change: [(&str, &str); 5] = [
        ("0, ", "1000, "),
        ("[-100,", "[\"a\", "),
        ("[-100,", "["),
        ("\"note\": null", "\"attention_mask\": [1, 1, 0]"),
        ("}\n", "\n"),
    ];
    for (from, to) in change {
        let [long, short] = both(true, 500);
        // The first place in the long line has more space behind it.
        let long = if from == "0, " { long.replacen("[0,", "[1000,", 1) } else { long.replacen(from, to, 1) };
        let short =
            if from == "0, " { short.replacen("[0,", "[1000,", 1) } else { short.replacen(from, to, 1) };
        let [long, short] =
            [long, short].map(|row| read(&row, &cut(64, LongRows::Truncate)).unwrap_err().to_string());
        if from == "}\n" {
            assert!(long.contains("r.jsonl:1") && long.contains("not valid JSON"), "{long}");
        } else {
            assert_eq!(long, short);
        }
    }
}

#[test]
fn only_lists_of_numbers_are_read_so() {
    for (start, of_tokens) in [
        ("{\"input_ids\": [1, 2", true),
        ("{\"a\": {\"b\": [1]}, \"labels\": [-100, ", true),
        ("{\"text\": \"[1, 2", false),
        ("{\"messages\": [{\"role\": ", false),
        ("{\"tags\": [\"a\", ", false),
        ("{\"a\": [[1, 2", false),
        ("[1, 2, 3", false),
    ] {
        assert_eq!(is_of_tokens(start.as_bytes()), of_tokens, "{start}");
    }
}
