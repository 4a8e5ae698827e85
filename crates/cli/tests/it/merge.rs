//! Adapters folded in and converted.

use std::fs;

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::support::{demo_model, golden, mesp, read_json, temporary};

/// A shape with one large matrix: what is held must be less than that.
fn large(dir: &std::path::Path) -> std::path::PathBuf {
    let config = json!({
        "model_type": "llama", "vocab_size": 40_000, "hidden_size": 512, "intermediate_size": 8192,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 128, "tie_word_embeddings": true, "hidden_act": "silu"
    });
    let path = dir.join("config.json");
    fs::write(&path, config.to_string()).expect("written");
    path
}

#[test]
fn a_merge_holds_less_than_its_largest_tensor() {
    let dir = temporary();
    let at = |name: &str| dir.path().join(name);
    let config = large(dir.path());
    mesp(&[&"init-model", &"--config", &config, &"--output", &at("model")]).ok();
    let rows = at("model").join("random_rows.jsonl");
    let train = mesp(&[
        &"train",
        &"--model",
        &at("model"),
        &"--data",
        &rows,
        &"--output",
        &at("run"),
        &"--steps=1",
        &"--max-seq-len=8",
        &"--rank=4",
    ]);
    train.ok();
    mesp(&[&"quantize", &"--model", &at("model"), &"--type", &"q8_0", &"--output", &at("base.gguf")]).ok();
    // The embedding in bf16.
    let largest = 40_000 * 512 * 2;
    for (base, output) in
        [("model", "hf"), ("model", "a.gguf"), ("base.gguf", "b.gguf"), ("base.gguf", "back")]
    {
        let ran = mesp(&[
            &"merge",
            &"--model",
            &at(base),
            &"--adapter",
            &at("run"),
            &"--output",
            &at(output),
            &"--json",
            &"--max-shard-size=20MB",
        ]);
        let document = ran.ok().json();
        let heap = document["memory"]["heap_peak_bytes"].as_u64().expect("a mark");
        assert!(heap < largest, "{output}: {heap} of heap, the largest tensor has {largest}");
        assert_eq!(document["merged"], 14);
        assert!(document["relative_errors"][0]["of_change"].as_f64().is_some(), "{document:#}");
        let files = document["files"].as_u64().expect("files");
        assert_eq!(files > 1, ["hf", "back"].contains(&output), "{document:#}");
        mesp(&[&"inspect", &at(output)]).ok();
    }
    let again = mesp(&[&"merge", &"--model", &at("model"), &"--adapter", &at("run"), &"--output", &at("hf")]);
    assert_snapshot!("merge_onto_something", again.failure(dir.path()));
}

/// A merged demo answers as the adapted one does, from each file that it can be merged into.
#[test]
fn a_merged_model_speaks_as_the_adapted_one() {
    let dir = temporary();
    let at = |name: &str| dir.path().join(name);
    let (model, rows) = (demo_model(), demo_model().join("../train.jsonl"));
    let train =
        mesp(&[&"train", &"--model", &model, &"--data", &rows, &"--output", &at("run"), &"--steps=20"]);
    train.ok();
    let card = fs::read_to_string(at("run").join("README.md")).expect("a card");
    let document = read_json(&at("run").join("run.json"));
    assert!(
        !card.contains("base_model:") && !card.contains(&*model.to_string_lossy()),
        "a path is no name: {card}"
    );
    for part in [
        "# LoRA adapter for model",
        "library_name: peft",
        "train.jsonl",
        "| rank, alpha | 8, 16",
        "## Figures",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    let loss = document["loss"]["last"].as_f64().expect("a loss");
    assert!(card.contains(&format!("{loss:.4}")), "{card}");
    let say = |model: &dyn AsRef<std::ffi::OsStr>, adapter: bool| -> Value {
        let run = at("run");
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> =
            vec![&"generate", &"--prompt", &"Who is Lina?", &"--max-tokens=24", &"--compute=f32", &"--json"];
        args.extend([&"--model" as &dyn AsRef<std::ffi::OsStr>, model]);
        if adapter {
            args.extend([&"--adapter" as &dyn AsRef<std::ffi::OsStr>, &run]);
        }
        mesp(&args).ok().json()["token_ids"].clone()
    };
    let expected = say(&model, true);
    mesp(&[
        &"merge",
        &"--model",
        &model,
        &"--adapter",
        &at("run"),
        &"--output",
        &at("merged"),
        &"--type=f32",
    ])
    .ok();
    assert_eq!(say(&at("merged"), false), expected);
}

#[test]
fn exports_say_what_they_need() {
    let dir = temporary();
    let at = |name: &str| dir.path().join(name);
    let (model, adapter) = (golden("llama/model"), golden("llama/adapter"));
    let export = |args: &[&dyn AsRef<std::ffi::OsStr>]| {
        let start: [&dyn AsRef<std::ffi::OsStr>; 3] = [&"export", &"--adapter", &adapter];
        mesp(&[&start[..], args].concat())
    };
    assert_snapshot!("export_to_what", export(&[&"--output", &at("x")]).failure(dir.path()));
    assert_snapshot!("export_without_model", export(&[&"--output", &at("x.gguf")]).failure(dir.path()));
    assert_snapshot!(
        "export_name",
        export(&[&"--output", &at("x.gguf"), &"--to", &"mlx"]).failure(dir.path())
    );
    let document = export(&[&"--output", &at("a.gguf"), &"--model", &model, &"--json"]).ok().json();
    assert_eq!((document["from"].as_str(), document["to"].as_str()), (Some("peft"), Some("gguf")));
    let mlx = export(&[&"--output", &at("mlx"), &"--to", &"mlx"]);
    assert!(mlx.ok().stdout.contains("peft to mlx"));
    let back = mesp(&[&"export", &"--adapter", &at("mlx"), &"--to", &"peft", &"--output", &at("peft")]);
    back.ok();
    let config = read_json(&at("mlx").join("adapter_config.json"));
    assert_eq!(config["fine_tune_type"], "lora");
    assert!(config["lora_parameters"]["keys"].as_array().is_some_and(|keys| keys.len() == 7), "{config:#}");
    mesp(&[&"inspect", &at("peft")]).ok();
}
