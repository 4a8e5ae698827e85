//! Errors as a program reads them: kind, settings, path, line, key, expected and found, without a look at the message.

use std::path::{Path, PathBuf};

use mesp::data::{FileRows, ReadOptions};
use mesp::settings::{Settings, Train};
use mesp::{Dataset, Error, ErrorKind, Model};

use crate::support::golden;

fn of(change: impl FnOnce(&mut Settings)) -> Error {
    let mut settings = Settings::default();
    change(&mut settings);
    settings.resolve().expect_err("settings that cannot be carried out")
}

/// What a program would branch on: the kind, the settings at fault, and what was expected and found.
#[test]
fn settings_at_fault_are_fields() {
    for (error, kind, settings, expected, found) in [
        (
            of(|s| s.adapter.rank = Some(0)),
            ErrorKind::OutOfRange,
            &["rank"][..],
            Some("1 or more"),
            Some("0"),
        ),
        (
            of(|s| s.training.momentum = 1.5),
            ErrorKind::OutOfRange,
            &["momentum"],
            Some("a number from 0 to 1"),
            Some("1.5"),
        ),
        (
            of(|s| s.training.optimizer = Some("rmsprop".to_owned())),
            ErrorKind::Unknown,
            &["optimizer"],
            Some("sgd, adamw, adamw-bf16, adamw-8bit, adafactor, lion, muon, foam, lomo, adalomo"),
            Some("\"rmsprop\""),
        ),
        (
            of(|s| s.adapter.layers = Some("3-1".to_owned())),
            ErrorKind::Malformed,
            &["layers"],
            Some("numbers and ranges"),
            Some("\"3-1\""),
        ),
        (
            of(|s| {
                s.directions.full = true;
                s.adapter.train = Some(Train::Lora);
            }),
            ErrorKind::Conflict,
            &["train", "full"],
            None,
            None,
        ),
        (
            of(|s| {
                s.method.method = Some("mezo".to_owned());
                s.adapter.freeze_a = true;
            }),
            ErrorKind::Conflict,
            &["freeze_a"],
            None,
            None,
        ),
    ] {
        assert!(matches!(error, Error::Usage { .. }), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.settings().collect::<Vec<_>>(), settings, "{error}");
        assert_eq!(error.setting(), settings.first().copied(), "{error}");
        let problem = error.problem().expect("a problem");
        assert_eq!((problem.expected.as_deref(), problem.found.as_deref()), (expected, found), "{error}");
        assert!(problem.hint.is_some() || kind == ErrorKind::Unknown, "{error}");
        assert_eq!((error.path(), error.line()), (None, None), "{error}");
    }
}

fn row_error(dir: &Path, text: &str) -> Error {
    let path = dir.join("rows.jsonl");
    std::fs::write(&path, text).expect("a file");
    FileRows::read(&path, None, &ReadOptions::new(32)).map(|_| ()).expect_err("rows that cannot be used")
}

/// A row says its file, its line and its key.
#[test]
fn a_row_at_fault_has_its_line_and_key() {
    let dir = tempfile::tempdir().expect("a folder");
    for (text, kind, line, key) in [
        ("{\"input_ids\": 7}\n", ErrorKind::WrongType, Some(1), Some("input_ids")),
        (
            "{\"input_ids\": [1, 2]}\n{\"input_ids\": [1, 99]}\n",
            ErrorKind::OutOfRange,
            Some(2),
            Some("input_ids[1]"),
        ),
        ("{\"input_ids\": [1, 2], \"labels\": [1]}\n", ErrorKind::Mismatch, Some(1), Some("labels")),
        ("{\"input_ids\": [1\n", ErrorKind::Malformed, Some(1), None),
        ("{\"input_ids\": []}\n", ErrorKind::Empty, Some(1), Some("input_ids")),
        ("", ErrorKind::Empty, None, None),
    ] {
        let error = row_error(dir.path(), text);
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.line(), line, "{error}");
        assert_eq!(error.problem().and_then(|problem| problem.key.as_deref()), key, "{error}");
        assert_eq!(error.path(), Some(&*dir.path().join("rows.jsonl")), "{error}");
        assert_eq!(error.setting(), None, "{error}");
    }
}

fn copied(to: &Path) -> PathBuf {
    for entry in std::fs::read_dir(golden("qwen2/model")).expect("a model") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
    to.to_path_buf()
}

/// A file of a model says its path, and the key or the tensor.
#[test]
fn a_file_at_fault_has_its_path() {
    let nowhere = Model::open("/nowhere/at/all").map(|_| ()).expect_err("no model");
    assert_eq!(nowhere.kind(), ErrorKind::Missing, "{nowhere}");
    assert_eq!(nowhere.path(), Some(Path::new("/nowhere/at/all")), "{nowhere}");

    let dir = tempfile::tempdir().expect("a folder");
    let model = copied(dir.path());
    let config = model.join("config.json");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["num_hidden_layers"] = 0.into();
    std::fs::write(&config, json.to_string()).expect("a file");
    let error = Model::open(&model).map(|_| ()).expect_err("a model of no layers");
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    assert_eq!(error.path(), Some(&*config), "{error}");
    let problem = error.problem().expect("a problem");
    assert_eq!(problem.key.as_deref(), Some("num_hidden_layers"), "{error}");
    assert_eq!(problem.found.as_deref(), Some("0"), "{error}");

    std::fs::write(&config, text).expect("a file");
    let weights = model.join("model.safetensors");
    std::fs::write(&weights, [0; 4]).expect("a file");
    let error = Model::open(&model).map(|_| ()).expect_err("weights cut short");
    assert_eq!((error.kind(), error.path()), (ErrorKind::Malformed, Some(&*weights)), "{error}");
    assert!(matches!(error, Error::File(_)), "{error}");

    let header = br#"{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend([0; 4]);
    std::fs::write(&weights, bytes).expect("a file");
    let error = Model::open(&model).map(|_| ()).expect_err("numbers of no known type");
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    assert_eq!(error.problem().and_then(|problem| problem.tensor.as_deref()), Some("a"), "{error}");
}

/// What the system refuses is told apart from what a file holds.
#[test]
fn what_the_system_refuses_is_a_kind() {
    let model = Model::open(golden("qwen2/model")).expect("a model");
    let error = Dataset::read("/nowhere/rows.jsonl", &model).map(|_| ()).expect_err("no rows");
    assert_eq!(error.kind(), ErrorKind::System, "{error}");
    assert_eq!(error.path(), Some(Path::new("/nowhere/rows.jsonl")), "{error}");
    assert_eq!(error.problem(), None, "{error}");
}
