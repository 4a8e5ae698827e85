use super::super::test_util::write;
use super::*;

fn rows(name: &str, content: impl AsRef<[u8]>) -> Result<Vec<(usize, String)>> {
    let directory = write(name, content);
    let path = directory.path().join(name);
    let mut found = Vec::new();
    each_row(&path, kind(&path)?, &mut |line, text| {
        found.push((line, text.to_owned()));
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
fn a_directory_means_a_file_in_it() {
    let directory = write("train.jsonl", "{}");
    assert_eq!(locate(directory.path(), "train.jsonl").unwrap(), directory.path().join("train.jsonl"));
    let error = locate(directory.path(), "valid.jsonl").unwrap_err().to_string();
    assert!(error.contains("expected a file valid.jsonl") && error.contains("found train.jsonl"), "{error}");
}

#[test]
fn what_is_no_text_is_refused() {
    let error = rows("a.csv", "a,b\n1,2\n").unwrap_err().to_string();
    assert!(error.contains(".csv"), "{error}");
    let error = rows("a.jsonl", b"{}\n\xFF\n").unwrap_err().to_string();
    assert!(error.contains("a.jsonl:2: ") && error.contains("UTF-8"), "{error}");
    let directory = write("a.txt", b"one\ntwo \xFF");
    let error = text(&directory.path().join("a.txt")).unwrap_err().to_string();
    assert!(error.contains("a.txt:2: "), "{error}");
    assert!(kind(Path::new("/absent/file.json")).is_err());
}
