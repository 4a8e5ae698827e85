//! Models, adapters and rows by their names in the Hugging Face cache, without any network.

use std::fs;
use std::path::{Path, PathBuf};

use insta::assert_snapshot;

use crate::support::{Ran, command, demo_model, golden, read_json, temporary};

const OLD: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const NEW: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Runs the program with a home of its own and only these variables of the hub's.
fn mesp(home: &Path, set: &[(&str, &Path)], args: &[&str]) -> Ran {
    let args: Vec<&dyn AsRef<std::ffi::OsStr>> =
        args.iter().map(|a| a as &dyn AsRef<std::ffi::OsStr>).collect();
    let mut command = command(&args);
    for name in ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"] {
        command.env_remove(name);
    }
    command.current_dir(home).env("HOME", home).envs(set.iter().copied());
    Ran::of(command.output().expect("the program starts"))
}

/// A snapshot of a folder's files.
fn snapshot(hub: &Path, repo: &str, commit: &str, folder: &Path) -> PathBuf {
    let to = hub.join(repo).join("snapshots").join(commit);
    fs::create_dir_all(&to).expect("a folder");
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
    to
}

fn reference(hub: &Path, repo: &str, name: &str, commit: &str) {
    let refs = hub.join(repo).join("refs");
    fs::create_dir_all(&refs).expect("a folder");
    fs::write(refs.join(name), commit).expect("written");
}

#[test]
fn the_cache_is_looked_up_where_the_environment_says() {
    let home = temporary();
    let home = home.path();
    let other = home.join("elsewhere");
    for (hub, set) in [
        (home.join(".cache/huggingface/hub"), vec![]),
        (home.join("x/huggingface/hub"), vec![("XDG_CACHE_HOME", home.join("x"))]),
        (home.join("y/hub"), vec![("HF_HOME", home.join("y")), ("XDG_CACHE_HOME", other.clone())]),
        (home.join("z"), vec![("HF_HUB_CACHE", home.join("z")), ("HF_HOME", other.clone())]),
        (home.join("t/hub"), vec![("HF_HOME", PathBuf::from("~/t"))]),
    ] {
        let set: Vec<(&str, &Path)> = set.iter().map(|(name, path)| (*name, path.as_path())).collect();
        let args = ["inspect", "org/demo", "--json"];
        assert_eq!(mesp(home, &set, &args).code, 2);
        snapshot(&hub, "models--org--demo", NEW, &demo_model());
        let document = mesp(home, &set, &args).ok().json();
        assert_eq!(document["kind"], "model");
        fs::remove_dir_all(&hub).expect("removed");
    }
}

#[test]
fn revisions_and_what_a_snapshot_lacks() {
    let home = temporary();
    let home = home.path();
    let hub = home.join(".cache/huggingface/hub");
    let model = "models--org--model";
    snapshot(&hub, model, OLD, &golden("qwen2/model"));
    let new = snapshot(&hub, model, NEW, &golden("llama/model"));
    reference(&hub, model, "main", NEW);
    reference(&hub, model, "v1", OLD);
    let arch = |args: &[&str]| {
        let all = [&["plan", "--json", "--max-seq-len=8"], args].concat();
        let ran = mesp(home, &[], &all).ok();
        assert!(ran.stderr.contains("org/model"), "{}", ran.stderr);
        ran.stderr.contains(OLD)
    };
    assert!(!arch(&["--model", "org/model"]));
    assert!(!arch(&["--model", "org/model", "--revision", "main"]));
    for revision in ["v1", OLD, &OLD[..8]] {
        assert!(arch(&["--model", "org/model", "--revision", revision]), "{revision}");
        assert!(arch(&["--model", &format!("org/model@{revision}")]), "{revision}");
    }
    let refused = |args: &[&str]| mesp(home, &[], args).failure(home);
    let plan = |more: &[&str]| refused(&[&["plan", "--max-seq-len=8"], more].concat());
    assert_snapshot!("revision_that_is_not_there", plan(&["--model", "org/model", "--revision=v2"]));
    assert_snapshot!("two_revisions", plan(&["--model", "org/model@v1", "--revision=main"]));
    assert_snapshot!("model_that_is_not_there", plan(&["--model", "org/other"]));
    assert_snapshot!("revision_of_a_path", plan(&["--model", &home.to_string_lossy(), "--revision=main"]));

    fs::remove_file(new.join("model-00002-of-00002.safetensors")).expect("removed");
    assert_snapshot!("snapshot_without_a_shard", plan(&["--model", "org/model"]));
    for name in ["model-00001-of-00002.safetensors", "model.safetensors.index.json"] {
        fs::remove_file(new.join(name)).expect("removed");
    }
    // What needs no weights has none.
    mesp(home, &[], &["plan", "--max-seq-len=8", "--model", "org/model"]).ok();
    let (rows, adapter) = (golden("llama/rows.jsonl"), golden("llama/adapter"));
    let (rows, adapter) = (rows.to_string_lossy(), adapter.to_string_lossy());
    let eval = ["eval", "--model", "org/model", "--data", &rows];
    assert_snapshot!("snapshot_without_weights", refused(&eval));
    fs::remove_file(new.join("config.json")).expect("removed");
    assert_snapshot!("snapshot_without_config", refused(&eval));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../../blobs/gone", new.join("config.json")).expect("a link");
        let gone = refused(&eval);
        assert!(gone.contains("expected config.json in its snapshot"), "{gone}");
    }
    // A path wins.
    let here = home.join("org/model");
    fs::create_dir_all(&here).expect("a folder");
    for entry in fs::read_dir(golden("llama/model")).expect("a model").flatten() {
        fs::copy(entry.path(), here.join(entry.file_name())).expect("copied");
    }
    let ran = mesp(home, &[], &eval).ok();
    assert!(!ran.stderr.contains("snapshots"), "{}", ran.stderr);
    mesp(home, &[], &["merge", "--model", "org/model", "--adapter", &adapter, "--output", "merged"]).ok();
}

#[test]
fn adapters_rows_and_files_by_their_names() {
    let home = temporary();
    let home = home.path();
    let hub = home.join(".cache/huggingface/hub");
    snapshot(&hub, "models--org--model", NEW, &golden("qwen2/model"));
    let adapter = snapshot(&hub, "models--me--adapter", OLD, &golden("qwen2/adapter"));
    let rows = hub.join("datasets--org--rows/snapshots").join(NEW);
    fs::create_dir_all(&rows).expect("a folder");
    fs::copy(golden("qwen2/rows.jsonl"), rows.join("train.jsonl")).expect("copied");

    let eval =
        ["eval", "--model", "org/model", "--data", "org/rows", "--adapter", "me/adapter", "--with-base"];
    let table = mesp(home, &[], &eval).ok().stdout;
    assert!(table.lines().next().is_some_and(|head| head.contains("me/adapter")), "{table}");
    let train = ["train", "--model", "org/model", "--data", "org/rows", "--steps=1", "--output", "run"];
    mesp(home, &[], &train).ok();
    let run = read_json(&home.join("run/run.json"));
    assert_eq!((&run["data"], &run["model"]["path"]), (&"org/rows".into(), &"org/model".into()));
    assert_eq!(run["model"]["revision"], NEW);
    for file in ["org/rows/train.jsonl", "org/rows@bbbbbbb/train.jsonl"] {
        mesp(home, &[], &["eval", "--model", "org/model", "--data", file]).ok();
    }
    let refused = |args: &[&str]| mesp(home, &[], args).failure(home);
    assert_snapshot!(
        "rows_that_are_not_there",
        refused(&["eval", "--model", "org/model", "--data", "org/lines"])
    );
    assert_snapshot!(
        "file_that_is_not_there",
        refused(&["eval", "--model", "org/model", "--data", "org/rows/x.jsonl"])
    );
    assert_snapshot!(
        "adapter_that_is_not_there",
        refused(&["eval", "--model", "org/model", "--data", "org/rows", "--adapter", "me/other"])
    );
    fs::remove_file(adapter.join("adapter_model.safetensors")).expect("removed");
    assert_snapshot!("adapter_without_weights", refused(&eval));
    // What looks like a file stays one.
    let file = refused(&["eval", "--model", "org/model", "--data", "data/rows.jsonl"]);
    assert!(file.contains("data/rows.jsonl: no such data file"), "{file}");

    // GGUF files: one is the model, of several one is named.
    let gguf = hub.join("models--org--q/snapshots").join(NEW);
    fs::create_dir_all(&gguf).expect("a folder");
    let one = gguf.join("a.gguf");
    let one = one.to_string_lossy();
    mesp(home, &[], &["quantize", "--model", "org/model", "--type=f16", "--output", &one]).ok();
    let plan = |model: &str| mesp(home, &[], &["plan", "--max-seq-len=8", "--model", model]);
    plan("org/q").ok();
    fs::copy(gguf.join("a.gguf"), gguf.join("b.gguf")).expect("copied");
    assert_snapshot!("several_gguf_files", plan("org/q").failure(home));
    plan("org/q/b.gguf").ok();
}
