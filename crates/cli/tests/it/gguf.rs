//! GGUF files as models: made, used, refused.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use insta::assert_snapshot;

use crate::support::{demo_model, golden, mesp, temporary};

#[test]
fn a_made_file_is_trained_planned_and_inspected() {
    let dir = temporary();
    for ty in ["q4_0", "q8_0", "f16"] {
        let (file, run) = (dir.path().join(format!("tiny-{ty}.gguf")), dir.path().join("run"));
        let made =
            mesp(&[&"init-model", &"--preset", &"tiny", &"--type", &ty, &"--output", &file, &"--json"])
                .ok()
                .json();
        let rows = made["rows"].as_str().expect("rows").to_owned();
        let common: [&dyn AsRef<OsStr>; 6] =
            [&"--model", &file, &"--data", &rows, &"--max-seq-len=64", &"--json"];
        let train: [&dyn AsRef<OsStr>; 5] = [&"train", &"--output", &run, &"--overwrite", &"--steps=2"];
        let document = mesp(&[&train[..], &common[..]].concat()).ok().json();
        assert_eq!(
            (document["model"]["stored"].as_str(), document["compute"].as_str()),
            (Some(ty), Some("bf16"))
        );
        let plan = mesp(&[&[&"plan" as &dyn AsRef<OsStr>, &"--steps=2"], &common[..]].concat()).ok().json();
        assert_eq!(plan["memory"]["planned_bytes"], document["memory"]["planned_bytes"]);
        assert_eq!(plan["memory"]["ledger"], document["memory"]["ledger"]);
        let held = mesp(&[&train[..], &common[..], &[&"--base=bf16"]].concat()).ok().json();
        assert!(held["memory"]["ledger"]["base_resident"].as_u64() > Some(200_000));
        let inspected = mesp(&[&"inspect", &file, &"--json"]).ok().json();
        assert_eq!((inspected["kind"].as_str(), inspected["dtype"].as_str()), (Some("gguf"), Some(ty)));
        assert_eq!(inspected["parameters"], made["parameters"]);
        if ty == "q4_0" {
            assert_snapshot!("inspect_gguf", mesp(&[&"inspect", &file]).ok().stdout);
            let again = mesp(&[&"init-model", &"--preset", &"tiny", &"--type", &ty, &"--output", &file]);
            assert_snapshot!("a_file_is_there", again.failure(dir.path()));
        }
    }
}

#[test]
fn a_quantized_model_speaks_with_the_tokenizer_beside_it() {
    let dir = temporary();
    let file = dir.path().join("demo.gguf");
    let (model, rows) = (demo_model(), demo_model().join("../eval.jsonl"));
    let made = mesp(&[&"quantize", &"--model", &model, &"--type", &"q8_0", &"--output", &file, &"--json"]);
    let made = made.ok().json();
    // A vocabulary that GGUF has no name for stays where it is.
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model.join(name), dir.path().join(name)).expect("copied");
    }
    let error = made["relative_errors"][0]["mean"].as_f64().expect("an error");
    assert!(error > 0.0 && error < 0.02, "{made:#}");
    let loss = |model: &dyn AsRef<OsStr>| {
        let ran = mesp(&[&"eval", &"--model", model, &"--data", &rows, &"--json"]);
        ran.ok().json()["loss"].as_f64().expect("a loss")
    };
    assert!((loss(&model) - loss(&file)).abs() < 0.05);
    let said = mesp(&[&"generate", &"--model", &file, &"--prompt", &"Who is Lina?", &"--max-tokens=24"]).ok();
    assert!(said.stdout.contains("Lina"), "{}", said.stdout);
    let again = mesp(&[&"quantize", &"--model", &file, &"--type", &"q4_0", &"--output", &"x.gguf"]);
    assert_snapshot!("quantize_a_file", again.failure(dir.path()));
}

/// A run on a damaged file.
fn refused(file: &Path, bytes: &[u8], dir: &Path) -> String {
    fs::write(file, bytes).expect("written");
    let rows = golden("qwen2/rows.jsonl");
    let (output, train) = (dir.join("run"), mesp(&[&"plan", &"--model", &file, &"--data", &rows]));
    let run = mesp(&[&"train", &"--model", &file, &"--data", &rows, &"--output", &output]);
    assert_eq!(run.failure(dir), train.failure(dir), "a plan and a run say the same");
    run.failure(dir)
}

#[test]
fn damaged_files_are_refused() {
    let dir = temporary();
    let file = dir.path().join("model.gguf");
    mesp(&[&"init-model", &"--preset", &"tiny", &"--type", &"q4_0", &"--output", &file]).ok();
    let whole = fs::read(&file).expect("a model");
    let with = |at: usize, new: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    let find = |text: &str| {
        whole.windows(text.len()).position(|w| w == text.as_bytes()).expect("the text") + text.len()
    };
    let say = |bytes: &[u8]| refused(&file, bytes, dir.path());
    assert_snapshot!("gguf_no_magic", say(&with(0, b"GGML")));
    assert_snapshot!("gguf_version", say(&with(4, &9u32.to_le_bytes())));
    assert_snapshot!("gguf_many_tensors", say(&with(8, &u64::MAX.to_le_bytes())));
    assert_snapshot!("gguf_much_metadata", say(&with(16, &(1u64 << 60).to_le_bytes())));
    assert_snapshot!("gguf_long_key", say(&with(24, &(1u64 << 62).to_le_bytes())));
    assert_snapshot!("gguf_truncated", say(&whole[..whole.len() - 100]));
    assert_snapshot!("gguf_header_only", say(&whole[..100]));
    assert_snapshot!("gguf_empty", say(&[]));
    let table = find("token_embd.weight");
    // After the name: the number of sizes, two sizes, the type, the offset.
    assert_snapshot!("gguf_unknown_type", say(&with(table + 20, &99u32.to_le_bytes())));
    assert_snapshot!("gguf_offset", say(&with(table + 24, &(1u64 << 40).to_le_bytes())));
    assert_snapshot!("gguf_misaligned", say(&with(table + 24, &1u64.to_le_bytes())));
    assert_snapshot!("gguf_shape", say(&with(table + 4, &96u64.to_le_bytes())));
    let architecture = find("general.architecture") + 12;
    assert_snapshot!("gguf_architecture", say(&with(architecture, b"mamba")));
}
