use super::*;

fn directory(names: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in names {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    directory
}

fn found(names: &[&str], split: &str) -> Result<Vec<String>> {
    let directory = directory(names);
    let within = |path: &PathBuf| path.strip_prefix(directory.path()).unwrap().to_str().unwrap().to_owned();
    Ok(files(directory.path(), split)?.iter().map(within).collect())
}

/// Layouts of the page "Structure your repository" of `datasets`, and of files that the hub makes.
#[test]
fn the_files_of_a_split_are_found() {
    let shards = [
        "data/train-00001-of-00002-5f3a.parquet",
        "data/train-00000-of-00002-9c.parquet",
        "data/test-00000-of-00001.parquet",
    ];
    assert_eq!(found(&shards, "train").unwrap(), [shards[1], shards[0]]);
    assert_eq!(found(&shards, "test").unwrap(), [shards[2]]);
    for names in [
        &["train.jsonl", "valid.jsonl", "README.md"][..],
        &["train.csv", "test.csv"],
        &["train.json.gz"],
        &["data/train.parquet", "data/validation.parquet"],
        &["training.tsv"],
        &["train/0000.parquet", "test/0000.parquet"],
        &["data/train/part.jsonl", "notes.txt"],
    ] {
        assert_eq!(found(names, "train").unwrap(), [names[0]]);
    }
    assert_eq!(
        found(&["train/b.jsonl", "train/a.jsonl"], "train").unwrap(),
        ["train/a.jsonl", "train/b.jsonl"]
    );
    // Nothing is named for a split: all of it is rows to train on.
    assert_eq!(
        found(&["0001.parquet", "0000.parquet", "README.md"], "train").unwrap(),
        ["0000.parquet", "0001.parquet"]
    );
    // A split has several names.
    assert_eq!(found(&["train.jsonl", "dev.jsonl"], "validation").unwrap(), ["dev.jsonl"]);
}

#[test]
fn what_is_not_one_set_of_rows_is_refused() {
    for (names, words) in [
        (&["valid.jsonl"][..], "expected a file train.jsonl in this directory"),
        (&["train.jsonl", "train.csv"], "expected one set of rows, found train.csv beside train.jsonl"),
        (&["a.jsonl", "b.parquet"], "found a.jsonl beside b.parquet"),
        (
            &["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"],
            "expected 3 shards of `train`, found 2: number 00001",
        ),
        (
            &["train-00000-of-00002.jsonl", "train-00001-of-00003.jsonl"],
            "found train-00000-of-00002.jsonl beside",
        ),
        (&["train-00000-of-99999.jsonl"], "number 00001 is missing"),
        (&["notes.txt", "config.json"], "found config.json, notes.txt"),
        (&["dataset_info.json", "state.json", "data-00000-of-00001.arrow"], "load_from_disk"),
        (&["dataset_dict.json", "train/data-00000-of-00001.arrow"], "for s in d]"),
    ] {
        let error = found(names, "train").unwrap_err().to_string();
        assert!(error.contains(words), "{names:?}: {error}");
    }
}

#[test]
fn a_split_has_a_path_of_its_own() {
    let directory = directory(&[
        "train.csv",
        "data/validation-00000-of-00002.csv",
        "data/validation-00001-of-00002.csv",
        "test.csv",
    ]);
    let path = |name: &str| directory.path().join(name);
    let split = split_of(directory.path(), &["valid", "validation"]).unwrap().unwrap();
    assert_eq!(split, path("validation"));
    let shards = [0, 1].map(|n| path(&format!("data/validation-{n:05}-of-00002.csv")));
    assert_eq!(files(&split, "train").unwrap(), shards);
    assert_eq!(split_of(directory.path(), &["test"]).unwrap(), Some(path("test.csv")));
    assert_eq!(split_of(directory.path(), &["eval"]).unwrap(), None);
    let all = [path("train.csv"), shards[0].clone(), shards[1].clone(), path("test.csv")];
    assert_eq!(all_files(directory.path()).unwrap(), all);
    assert_eq!(files(&path("no.csv"), "train").unwrap(), [path("no.csv")]);
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn names_say_what_a_file_is_for() {
    for held in ["eval.jsonl", "valid.jsonl", "validation.jsonl", "val.json", "dev.jsonl", "Dev.ndjson"] {
        let directory = directory(&["train.jsonl", held, "test.jsonl"]);
        let all = all_files(directory.path()).unwrap();
        assert_eq!(
            all.iter().map(|path| name(path)).collect::<Vec<_>>(),
            ["train.jsonl", held, "test.jsonl"]
        );
        assert_eq!(name(&split_of(directory.path(), HELD_OUT).unwrap().unwrap()), held);
        assert_eq!(name(&split_of(directory.path(), TEST).unwrap().unwrap()), "test.jsonl");
    }
    let directory = directory(&[
        "train.json",
        "train.jsonl",
        "dev.jsonl",
        "validation.jsonl",
        "notes.csv",
        "README.md",
        "LICENSE.txt",
        "script.py",
        "dataset_info.json",
        "more.jsonl",
        "rows.xlsx",
        "rows.jsonl.gz",
        "train/more.parquet",
        "data/test.arrow",
    ]);
    let used = all_files(directory.path()).unwrap();
    assert_eq!(used.iter().map(|path| name(path)).collect::<Vec<_>>(), ["train.jsonl", "validation.jsonl"]);
    assert_eq!(
        unused(directory.path(), &used).unwrap(),
        [
            "dev.jsonl",
            "more.jsonl",
            "notes.csv",
            "rows.jsonl.gz",
            "rows.xlsx",
            "train.json",
            "data/test.arrow",
            "train/more.parquet"
        ]
    );
    // The name that is asked for, then those that mean the same.
    assert_eq!(files(directory.path(), "dev").unwrap(), [directory.path().join("dev.jsonl")]);
    assert_eq!(files(directory.path(), "val").unwrap(), [directory.path().join("validation.jsonl")]);
    assert!(files(directory.path(), "other").is_err());
}

#[test]
fn a_train_file_may_have_another_extension() {
    for train in ["train.json", "train.ndjson", "train.txt", "train.csv", "train.parquet", "Train.JSONL.zst"]
    {
        assert_eq!(found(&[train, "README.md"], "train").unwrap(), [train]);
    }
    for (names, first) in [
        (["train.txt", "train.json"], "train.json"),
        (["train.json", "train.ndjson"], "train.ndjson"),
        (["train.ndjson", "train.jsonl"], "train.jsonl"),
    ] {
        assert_eq!(found(&names, "train").unwrap(), [first]);
    }
    for names in [["train.jsonl", "train.jsonl.gz"], ["train.csv", "train.parquet"]] {
        assert!(found(&names, "train").unwrap_err().to_string().contains(" beside "), "{names:?}");
    }
}

#[test]
fn files_of_a_folder_that_is_named_for_a_split_are_its_rows() {
    let directory = directory(&["validation/a.json", "validation/b.json", "validation/README.md"]);
    let rows = ["a", "b"].map(|name| directory.path().join(format!("validation/{name}.json")));
    assert_eq!(files(&directory.path().join("validation"), "train").unwrap(), rows);
    assert_eq!(files(directory.path(), "validation").unwrap(), rows);
}
