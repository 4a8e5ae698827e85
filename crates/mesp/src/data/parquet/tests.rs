use std::fs;
use std::path::PathBuf;

use bytes::Bytes;

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/tables").join(name)
}

fn rows(bytes: &[u8], columns: &Columns) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    each_row(Path::new("r.parquet"), Bytes::copy_from_slice(bytes), columns, &mut |number, row| {
        assert_eq!(number, rows.len() + 1);
        match row {
            Raw::Cells(row) => rows.push(Value::Object(row)),
            Raw::Bad(error) => return Err(error),
            Raw::Json(_) | Raw::Tokens(_) => unreachable!(),
        }
        Ok(())
    })?;
    Ok(rows)
}

/// The rows that pyarrow reads (`golden/tables.py`): nested, with nulls, of every kind of value, in several row groups
/// and pages of both versions, packed in four ways.
#[test]
fn rows_are_those_of_pyarrow() {
    let names =
        ["messages-snappy", "messages-zstd", "messages-gzip", "messages-none", "tokens", "types", "delta"];
    for name in names {
        let expected = golden(&format!("{}.json", name.split('-').next().unwrap()));
        let expected: Vec<Value> = serde_json::from_slice(&fs::read(expected).unwrap()).unwrap();
        let found =
            rows(&fs::read(golden(&format!("{name}.parquet"))).unwrap(), &Columns::default()).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{name}");
        }
    }
}

#[test]
fn a_file_is_read_from_disk_as_from_memory() {
    let path = golden("tokens.parquet");
    let mut numbers = Vec::new();
    let file = fs::File::open(&path).unwrap();
    each_row(&path, file, &Columns::default(), &mut |number, row| {
        let Raw::Cells(row) = row else { unreachable!() };
        assert_eq!(row["input_ids"].as_array().map(Vec::len), row["labels"].as_array().map(Vec::len));
        numbers.push(number);
        Ok(())
    })
    .unwrap();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
}

#[test]
fn columns_that_are_not_there_are_named() {
    let bytes = fs::read(golden("messages-zstd.parquet")).unwrap();
    let error = rows(&bytes, &"conversations=mesages".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("the columns are messages, source"), "{error}");
}

/// Whatever is changed or cut, there are rows or there is an error that names the file.
#[test]
fn damage_is_an_error() {
    for name in ["messages-snappy", "messages-zstd", "messages-gzip", "types", "delta"] {
        let bytes = fs::read(golden(&format!("{name}.parquet"))).unwrap();
        for at in (0..bytes.len()).step_by(if name == "types" { 23 } else { 11 }) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x41;
            for broken in [&changed[..], &bytes[..at]] {
                if let Err(error) = rows(broken, &Columns::default()) {
                    assert!(error.to_string().starts_with("r.parquet"), "{name} at {at}: {error}");
                }
            }
            assert!(rows(&bytes[..at], &Columns::default()).is_err());
        }
    }
}

/// Counts that a schema cannot bear out are refused before anything is allocated for them.
#[test]
fn a_schema_is_checked() {
    // FileMetaData { 2: [SchemaElement { 5: children }, ...] }
    let footer = |children: &[u8]| {
        let mut bytes = vec![0x29, (children.len() as u8) << 4 | 0xC];
        for count in children {
            bytes.extend([0x55, 2 * count, 0]);
        }
        bytes.push(0);
        bytes
    };
    assert!(check_schema(&footer(&[1, 0])).is_ok());
    assert!(check_schema(&footer(&[2, 1, 0, 0])).is_ok());
    assert!(check_schema(&footer(&[3, 0])).unwrap_err().contains("3 parts"));
    let deep: Vec<u8> = (0..14).map(|at| u8::from(at < 13)).collect();
    assert!(check_schema(&footer(&deep)).is_ok());
    assert!(check_schema(&[0x29, 0xFC, 0xFF, 0xFF, 0xFF, 0x7F]).is_err());
    // What the crate takes for a count of 2^29: in a text's place, in a list's, in a second schema, before the schema.
    let large = [0x80, 0x80, 0x80, 0x80, 0x04];
    let with = |parts: &[&[u8]]| check_schema(&parts.concat()).unwrap_err();
    assert!(with(&[&[0x29, 0x1C, 0x58, 2, b'a', b'b', 0, 0]]).contains("field [2, 5]"));
    assert!(with(&[&[0x29, 0x1C, 0x55, 0, 0x10, 4], &large, &[0, 0]]).contains("field"));
    assert!(with(&[&[0x29, 0x1C, 0x55, 0, 0, 0x09, 4, 0x1C, 0x55], &large, &[0, 0]]).contains("field [2]"));
    assert!(with(&[&[0x29, 0x15, 0x55, 0]]).contains("[2]"));
    assert!(with(&[&[0x35, 0, 0x09, 4, 0x1C, 0x55, 0, 0, 0]]).contains("field [3]"));
}
