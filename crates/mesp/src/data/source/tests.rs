use super::super::test_util::write;
use super::*;

fn rows(name: &str, content: impl AsRef<[u8]>) -> Result<Vec<(usize, String)>> {
    let directory = write(name, content);
    let path = directory.path().join(name);
    let mut found = Vec::new();
    each_row(&path, kind(&path)?, None, &Columns::default(), &mut |line, row| {
        found.push((
            line,
            match row {
                Raw::Json(text) => text.to_owned(),
                Raw::Cells(row) => Value::Object(row).to_string(),
                Raw::Bad(error) => return Err(error),
                Raw::Tokens(_) => unreachable!(),
            },
        ));
        Ok(())
    })?;
    Ok(found)
}

#[test]
fn lines_are_rows() {
    let found = rows("a.jsonl", "\u{FEFF}{\"a\":1}\r\n\n   \n{\"a\":2}").unwrap();
    assert_eq!(found, [(1, "{\"a\":1}".into()), (4, "{\"a\":2}".into())]);
    assert_eq!(rows("a.json", "{\"a\":1}\n{\"a\":2}\n").unwrap().len(), 2);
    assert_eq!(rows("a.data", "\n{\"a\":1}\n").unwrap(), [(2, "{\"a\":1}".into())]);
    assert!(rows("a.jsonl", "").unwrap().is_empty());
}

#[test]
fn elements_of_an_array_are_rows() {
    let text = "[\n  {\"a\": \"x]},[\\\"\\\\\", \"b\": [1, {\"c\": 2}]},\n\n  {\n    \"a\": 1\n  } , 5\n]\n";
    let found = rows("a.json", text).unwrap();
    assert_eq!(found[0], (2, "{\"a\": \"x]},[\\\"\\\\\", \"b\": [1, {\"c\": 2}]}".into()));
    assert_eq!(found[1], (4, "{\n    \"a\": 1\n  }".into()));
    assert_eq!(found[2], (6, "5".into()));
    assert!(rows("a.json", "[]").unwrap().is_empty());
    for (broken, line, word) in [
        ("[{}\n,", 2, "ends inside"),
        ("[{\"a\": \"\n", 2, "ends inside"),
        ("[{},\n,{}]", 2, "empty place"),
        ("[{}]\n[{}]", 2, "after the end"),
    ] {
        let error = rows("a.json", broken).unwrap_err().to_string();
        assert!(error.contains(&format!("a.json:{line}: ")) && error.contains(word), "{error}");
    }
}

#[test]
fn what_is_no_text_is_refused() {
    for name in ["a.xlsx", "a.arrow", "a.zip", "a.xz"] {
        let error = rows(name, "a,b\n1,2\n").unwrap_err().to_string();
        assert!(error.contains(&name[1..]) && error.contains("\n  "), "{error}");
    }
    let error = rows("a.bin", b"ARROW1\0\0rest").unwrap_err().to_string();
    assert!(error.contains("an Arrow file") && error.contains("to_parquet"), "{error}");
    let error = rows("a.jsonl", b"{}\n\xFF\n").unwrap_err().to_string();
    assert!(error.contains("a.jsonl:2: ") && error.contains("UTF-8"), "{error}");
    let directory = write("a.txt", b"one\ntwo \xFF");
    let path = directory.path().join("a.txt");
    let error = text(&path, None).unwrap().as_str(&path).unwrap_err().to_string();
    assert!(error.contains("a.txt:2: "), "{error}");
    assert!(kind(Path::new("/absent/file.json")).is_err());
}

fn gzip(content: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn packed_files_are_what_they_hold() {
    let expected = [(1, "{\"a\":1}".to_owned()), (3, "{\"a\":2}".into())];
    for name in ["a.jsonl.gz", "a.gz", "a.json.gz", "a.jsonl"] {
        assert_eq!(rows(name, gzip(b"{\"a\":1}\n\n{\"a\":2}")).unwrap(), expected, "{name}");
    }
    assert_eq!(rows("a.json.gz", gzip(b"[{\"a\":1},\n\n{\"a\":2}]")).unwrap(), expected);
    let table = rows("a.csv.gz", gzip(b"text,id\nb,\n")).unwrap();
    assert_eq!(table, [(2, "{\"text\":\"b\",\"id\":null}".to_owned())]);
    let directory = write("a.txt.gz", gzip(b"one\ntwo"));
    let path = directory.path().join("a.txt.gz");
    assert_eq!(text(&path, None).unwrap().as_str(&path).unwrap(), "one\ntwo");
    let error = rows("a.parquet.gz", gzip(b"PAR1")).unwrap_err().to_string();
    assert!(error.contains("a packed Parquet file"), "{error}");
}

#[test]
fn what_is_in_a_packed_file_says_what_it_is() {
    for (name, content, kind) in [
        ("a.txt.gz", "{\"a\":1}\n{\"a\":2}\n", Kind::Lines),
        ("a.txt.gz", "[{\"a\":1},\n{\"a\":2}]", Kind::Array),
        ("a.txt.gz", "{\"a\":1}\nprose\n", Kind::Document),
        ("a.gz", "[{\"a\":1},\n{\"a\":2}]", Kind::Array),
        ("a.jsonl.gz", "[{\"a\":1}]\n[{\"a\":2}]\n", Kind::Lines),
        ("a.json.gz", "[{\"a\":1}]", Kind::Array),
        ("a.data.gz", "prose", Kind::Document),
    ] {
        assert_eq!(kind_of(Path::new(name), &gzip(content.as_bytes())).unwrap(), kind, "{name} {content}");
    }
    assert_eq!(kind_of(Path::new("a"), b"PAR1\0").unwrap(), Kind::Parquet);
    // A text may begin with any letters.
    assert_eq!(kind_of(Path::new("a.txt"), b"PAR1 is a road").unwrap(), Kind::Document);
}

/// A few kilobytes that hold more than a row may have.
#[test]
fn packed_rows_are_bounded() {
    let long = vec![b' '; ROW_LIMIT + 1];
    let error = rows("a.jsonl.gz", gzip(&[b"{}\n", &long[..]].concat())).unwrap_err().to_string();
    assert!(error.contains("a.jsonl.gz:2: the row has more than 64 MB"), "{error}");
    let error = rows("a.json.gz", gzip(&[b"[\n\"", &long[..]].concat())).unwrap_err().to_string();
    assert!(error.contains("a.json.gz:2: the row has more than 64 MB"), "{error}");
    let packed = gzip(&vec![b'x'; (1 << 20) + 1]);
    let error = text_up_to(Path::new("a.txt.gz"), Some(&packed), 1 << 20).unwrap_err().to_string();
    assert!(error.contains("a.txt.gz: the packed text has more than 1 MB"), "{error}");
}
