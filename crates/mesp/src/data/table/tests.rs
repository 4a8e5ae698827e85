use std::fs;
use std::path::PathBuf;

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/tables").join(name)
}

type Rows = Vec<(usize, Result<Map<String, Value>>)>;

fn rows_with(name: &str, text: &[u8], columns: &str) -> Result<Rows> {
    let columns = if columns.is_empty() { Columns::default() } else { columns.parse()? };
    let mut rows = Vec::new();
    each_row(Path::new(name), text, &columns, &mut |line, row| {
        rows.push((
            line,
            match row {
                Raw::Cells(row) => Ok(row),
                Raw::Bad(error) => Err(error),
                Raw::Json(_) | Raw::Tokens(_) => unreachable!(),
            },
        ));
        Ok(())
    })?;
    Ok(rows)
}

fn rows(name: &str, text: &str) -> Result<Rows> {
    rows_with(name, text.as_bytes(), "")
}

/// The rows that pandas reads (`golden/tables.py`).
#[test]
fn cells_are_those_of_pandas() {
    for name in ["commas.csv", "crlf.csv", "semicolons.csv", "tabs.tsv", "loose.csv"] {
        let expected: Vec<Map<String, Value>> =
            serde_json::from_slice(&fs::read(golden(&format!("{name}.json"))).unwrap()).unwrap();
        let found = rows_with(name, &fs::read(golden(name)).unwrap(), "").unwrap();
        let found: Vec<Map<String, Value>> = found.into_iter().map(|(_, row)| row.unwrap()).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_row_has_the_line_it_begins_on() {
    let text = "prompt,completion\n\na,b\n\"two\nlines\",c\n  \n\n\"\n\",d\nlast,e";
    for text in [text.to_owned(), text.replace('\n', "\r\n"), format!("\u{FEFF}{text}\n")] {
        let lines: Vec<usize> = rows("r.csv", &text).unwrap().iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [3, 4, 8, 10], "{text:?}");
    }
}

#[test]
fn what_stands_between_cells_is_found() {
    for (name, text) in [
        ("r.csv", "prompt;completion\na,b;c\n"),
        ("r.csv", "prompt\tcompletion\na,b\tc\n"),
        ("r.tsv", "prompt\tcompletion\na,b\tc\n"),
        ("r.tsv.gz", "\u{FEFF}\"prompt\"\tid,no\tcompletion\na,b\t\tc\n"),
        ("r.csv", "note, with comma;prompt;completion\n;a,b;c\n"),
    ] {
        let rows = rows(name, text).unwrap();
        let row = rows[0].1.as_ref().unwrap();
        assert_eq!((&row["prompt"], &row["completion"]), (&"a,b".into(), &"c".into()), "{text}");
    }
    // One column.
    assert_eq!(rows("r.csv", "text\none\n").unwrap()[0].1.as_ref().unwrap()["text"], "one");
    assert!(rows("r.csv", "\n\n").unwrap().is_empty());
}

#[test]
fn a_row_of_another_length_is_named() {
    let rows = rows("r.csv", "prompt,completion\na,b\na,b,c\nonly\nd,e\n").unwrap();
    let bad: Vec<String> = rows.iter().filter_map(|(_, row)| Some(row.as_ref().err()?.to_string())).collect();
    assert_eq!(bad.len(), 2);
    assert!(bad[0].starts_with("r.csv:3: the row has 3 cells, expected 2"), "{}", bad[0]);
    assert!(bad[0].contains("`prompt`, `completion`") && bad[0].contains("double quotes"), "{}", bad[0]);
    assert!(bad[1].starts_with("r.csv:4: the row has 1 cells"), "{}", bad[1]);
}

#[test]
fn a_table_without_names_is_refused() {
    for (text, columns, words) in [
        ("Who are you?,A candle.\nWhy?,So.\n", "", "r.csv:1: the first line names no column that is known"),
        ("prompt,completion,prompt\na,b,c\n", "", "r.csv:1: two columns are named `prompt`"),
        ("prompt,completion\n\"a,b\nc,d\n", "", "r.csv:2: a double quote opens a cell"),
        ("id,question,answer\n1,a,b\n", "prompt=question,completion=anwser", "the columns are answer, "),
    ] {
        let error = rows_with("r.csv", text.as_bytes(), columns).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let renamed = rows_with("r.csv", b"user,bot\na,b\n", "prompt=user,completion=bot").unwrap();
    assert_eq!(renamed.len(), 1);
    let bad = rows_with("r.csv", b"text\nok\n\xFF\nok\n", "").unwrap();
    assert!(bad[1].1.as_ref().unwrap_err().to_string().contains("r.csv:3: these bytes are not UTF-8"));
    // A quote that swallows the file does not swallow the memory.
    let text = format!("text\nok\n\"{}", ("x".repeat(1 << 16) + "\n").repeat(ROW_LIMIT >> 16));
    let error = rows("r.csv", &text).unwrap_err().to_string();
    assert!(error.contains("r.csv:3: the row has more than 64 MB"), "{error}");
}

#[test]
fn cells_of_json_are_opened() {
    let opened = |name: &str, text: &str| {
        let mut row = Map::from_iter([(name.to_owned(), Value::from(text))]);
        open_cells(&mut row).map(|_| row[name].clone())
    };
    let message = r#"[{"role": "user", "content": "a"}]"#;
    for name in ["messages", "prompt", "conversations", "functions"] {
        assert_eq!(opened(name, message).unwrap(), serde_json::from_str::<Value>(message).unwrap(), "{name}");
    }
    assert_eq!(opened("input_ids", " [1, 2]").unwrap(), serde_json::json!([1, 2]));
    // Texts stay texts.
    for (name, text) in
        [("prompt", "[1] a note"), ("prompt", "[1, 2]"), ("text", message), ("answer", "7"), ("prompt", "7")]
    {
        assert_eq!(opened(name, text).unwrap(), text);
    }
    for (text, value) in
        [("True", Value::from(true)), ("false", false.into()), ("1", 1.into()), ("sad", "sad".into())]
    {
        assert_eq!(opened("label", text).unwrap(), value);
        assert_eq!(opened("kto_tag", text).unwrap(), value);
    }
    assert_eq!(opened("weight", "0.0").unwrap(), 0.0);
    // Python writes NaN, which JSON does not have.
    let mut row =
        Map::from_iter([("messages".to_owned(), Value::from(r#"[{"role": "user", "mood": NaN}]"#))]);
    assert!(open_cells(&mut row).unwrap());
    assert_eq!(row["messages"], serde_json::json!([{ "role": "user", "mood": null }]));
    let error = opened("messages", "[{'role': 'user', 'content': 'a'}]").unwrap_err().to_string();
    assert!(error.contains("column `messages`") && error.contains("json.dumps"), "{error}");
    let error = opened("tools", "[1, 2").unwrap_err().to_string();
    assert!(error.contains("column `tools` holds no valid JSON at character"), "{error}");
}
