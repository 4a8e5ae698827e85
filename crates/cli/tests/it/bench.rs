//! `mesp bench memory` on the tiny shape.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Ran, mesp, read_json, temporary};

fn bench(dir: &Path, more: &[&str]) -> Ran {
    let (cache, output) = (dir.join("cache"), dir.join("results"));
    let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"bench", &"memory", &"--models=tiny", &"--type=bf16"];
    args.extend([&"--cache" as &dyn AsRef<OsStr>, &cache, &"--output", &output]);
    args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
    mesp(&args)
}

#[test]
fn two_rungs_are_measured() {
    let dir = temporary();
    let options = ["--quick", "--tokens=256", "--rungs=mebp,mesp", "--name=two", "--json"];
    let ran = bench(dir.path(), &options).ok();
    let document = ran.json();
    assert_eq!(document, read_json(&dir.path().join("results/memory-two.json")));
    assert_eq!(document["settings"]["steps"], 1);
    assert_eq!(document["tables"][0]["configurations"], serde_json::json!([0, 1]));
    for key in ["planned", "heap", "anonymous", "resident", "published"] {
        assert!(document["definitions"][key].is_string(), "{key} in {document:#}");
    }
    let bytes = |i: usize, key: &str| document["configurations"][i][key].as_u64().expect("bytes");
    for (i, rung) in ["mebp", "mesp"].iter().enumerate() {
        let row = &document["configurations"][i];
        assert_eq!((row["rung"].as_str(), row["measured"].as_bool()), (Some(*rung), Some(true)), "{row:#}");
        assert!(bytes(i, "heap_peak_bytes") <= bytes(i, "planned_bytes"), "{row:#}");
        if cfg!(target_os = "linux") {
            assert!(bytes(i, "rss_anon_peak_bytes") <= bytes(i, "rss_peak_bytes"), "{row:#}");
        }
        assert!(row["step_seconds"].is_number() && row["published_mb"].is_null(), "{row:#}");
    }
    assert!(bytes(1, "heap_peak_bytes") < bytes(0, "heap_peak_bytes"));
    let picture = fs::read_to_string(dir.path().join("results/memory-two.svg")).expect("a picture");
    assert!(picture.starts_with("<svg") && picture.contains(">mebp<"), "{picture}");
    assert!(ran.stderr.contains("anonymous"), "{}", ran.stderr);
}

#[test]
fn plans_stand_for_what_is_not_run() {
    let dir = temporary();
    let options =
        ["--plan-only", "--parts=table-2", "--tokens=64,128", "--rungs=mesp,mesp-paper", "--name=plans"];
    let said = bench(dir.path(), &options).ok().stdout;
    assert!(said.contains("128 tokens mesp-paper") && said.contains("published: the paper's MB"), "{said}");
    let document = read_json(&dir.path().join("results/memory-plans.json"));
    let rows = document["configurations"].as_array().expect("a list");
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row["measured"] == false && row["heap_peak_bytes"] == Value::Null));
    assert!(!dir.path().join("cache").read_dir().expect("a folder").any(|_| true), "no model is needed");

    bench(dir.path(), &["--timeline"]).ok();
    for name in ["memory-timeline.svg", "memory-timeline-mesp.svg"] {
        let picture = fs::read_to_string(dir.path().join("results").join(name)).expect("a picture");
        assert!(picture.ends_with("</svg>\n") && picture.len() < 100_000, "{name}");
    }
}

#[test]
fn unknown_names_are_refused() {
    let dir = temporary();
    for (option, known) in [
        ("--rungs=adam", "store-all"),
        ("--parts=table-4", "table-5"),
        ("--tokens=0", "2 or more"),
        ("--steps=0", "1 or more"),
        ("--name=../x", "--output"),
    ] {
        let failure = bench(dir.path(), &[option]).failure(dir.path());
        assert!(failure.starts_with("exit status 2") && failure.contains(known), "{failure}");
    }
}
