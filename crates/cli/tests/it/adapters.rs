//! Adapters from elsewhere: what PEFT takes is taken, by every command alike, and what is not is named.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use mesp_formats::safetensors_file;
use serde_json::{Value, json};

use crate::support::{Ran, copy_model, demo_model, edit_json, golden, mesp, poison, read_json, temporary};

/// A case of the shared collection, or `None` with the reason printed.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn shared(case: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/cases").join(case);
    if !path.is_dir() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

fn copied(from: &Path, to: &Path) -> PathBuf {
    fs::create_dir(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry").path();
        // Read and written, so that what is written over is not write-protected.
        fs::write(to.join(entry.file_name().expect("a name")), fs::read(&entry).expect("a file"))
            .expect("written");
    }
    to.to_path_buf()
}

fn eval(model: &Path, adapter: Option<&Path>, rows: &Path) -> Ran {
    let mut args: Vec<&dyn AsRef<OsStr>> =
        vec![&"eval", &"--model", &model, &"--data", &rows, &"--compute=f64", &"--json"];
    if let Some(adapter) = &adapter {
        args.extend([&"--adapter" as &dyn AsRef<OsStr>, adapter]);
    }
    mesp(&args)
}

fn loss(ran: &Ran) -> f64 {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.json()["loss"].as_f64().expect("a loss")
}

fn merge(model: &Path, adapter: &Path, output: &Path) -> Ran {
    mesp(&[&"merge", &"--model", &model, &"--adapter", &adapter, &"--output", &output])
}

fn export(adapter: &Path, to: &str, model: &Path, output: &Path) -> Ran {
    mesp(&[&"export", &"--adapter", &adapter, &"--to", &to, &"--model", &model, &"--output", &output])
}

/// What every command that takes an adapter says to it.
fn by_all(model: &Path, adapter: &Path, rows: &Path, dir: &Path) -> Vec<(&'static str, Ran)> {
    let at = |name: &str| dir.join(name);
    let train = |command: &'static str, output: &Path| {
        let (a, d, o): (&dyn AsRef<OsStr>, _, _) = (&adapter, rows, output);
        let mut args: Vec<&dyn AsRef<OsStr>> =
            vec![&command, &"--model", &model, &"--adapter", a, &"--data", &d, &"--output", &o];
        if command == "train" {
            args.push(&"--steps=1");
        }
        mesp(&args)
    };
    vec![
        ("eval", eval(model, Some(adapter), rows)),
        ("train", train("train", &at("all-run"))),
        ("grads", train("grads", &at("all.safetensors"))),
        ("merge", merge(model, adapter, &at("all-merged"))),
        ("merge into GGUF", merge(model, adapter, &at("all-merged.gguf"))),
        ("export to GGUF", export(adapter, "gguf", model, &at("all.gguf"))),
        ("export to PEFT", export(adapter, "peft", model, &at("all-peft"))),
        ("export to mlx", export(adapter, "mlx", model, &at("all-mlx"))),
        ("export to Ollama", export(adapter, "ollama", model, &at("all-ollama"))),
    ]
}

/// All refuse it, with one text that says all this, and write nothing.
fn refused_by_all(model: &Path, adapter: &Path, rows: &Path, parts: &[&str]) {
    let dir = temporary();
    for (command, ran) in by_all(model, adapter, rows, dir.path()) {
        assert_eq!(ran.code, 2, "{command}: {}{}", ran.stdout, ran.stderr);
        for part in parts {
            assert!(ran.stderr.contains(part), "{command}: {part:?} is missing in {}", ran.stderr);
        }
    }
    let left: Vec<_> = fs::read_dir(dir.path()).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Losses of PEFT 0.21.2 in single precision. Folding rounds weights to single precision again: 6e-8 of each.
#[test]
fn losses_are_those_of_peft() {
    let Some(case) = shared("adapter-config-accepted-by-peft") else { return };
    let (base, rows, dir) = (case.join("base"), case.join("ids.jsonl"), temporary());
    for (name, expected) in [
        ("swift_regex", 5.225_303),
        ("list_extra", 5.339_559),
        ("excl_regex", 5.339_559),
        ("rankpat_look", 5.097_794),
    ] {
        let adapter = case.join(name);
        let found = loss(&eval(&base, Some(&adapter), &rows));
        assert!((found - expected).abs() < 2e-6, "{name}: {found}");
        let to = dir.path().join(name);
        fs::create_dir(&to).expect("a directory");
        for (command, ran) in by_all(&base, &adapter, &rows, &to) {
            assert_eq!(ran.code, 0, "{name}, {command}: {}", ran.stderr);
        }
        for (what, ran) in [
            ("merged", eval(&to.join("all-merged"), None, &rows)),
            ("GGUF", eval(&base, Some(&to.join("all.gguf")), &rows)),
            ("mlx", eval(&base, Some(&to.join("all-mlx")), &rows)),
            ("PEFT", eval(&base, Some(&to.join("all-peft")), &rows)),
        ] {
            let again = loss(&ran);
            assert!((again - found).abs() < 1e-6, "{name}, {what}: {again}, expected {found}");
        }
    }
}

/// One set of tensors under configurations that name the same modules, and in all layouts: one loss.
#[test]
fn configurations_that_mean_the_same_are_the_same() {
    let dir = temporary();
    let at = |name: &str| dir.path().join(name);
    let (model, own) = (golden("llama/model"), golden("llama/adapter"));
    let rows = golden("llama/rows.jsonl");
    let expected = loss(&eval(&model, Some(&own), &rows));
    let layers = r"^(model(?=\.).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj))$";
    for (i, (key, value)) in [
        ("target_modules", json!(layers)),
        ("target_modules", json!(r"^(?!.*(visual|lm_head)).*_proj$")),
        ("target_modules", json!("all-linear")),
        ("exclude_modules", json!(".*(vision|visual|audio).*")),
        ("exclude_modules", json!(["lm_head", "vision_tower"])),
        ("rank_pattern", json!({ "(?!.*layers).*nothing": 7 })),
        ("alpha_pattern", json!({ "(?<=mlp\\.)(up|down)_proj": 6, "q_proj": 6 })),
        ("layers_to_transform", json!([0, 1, 2, 3, 4, 99])),
        ("fan_in_fan_out", json!(true)),
        ("modules_to_save", json!([])),
        ("a_key_of_a_later_version", json!({ "x": true })),
    ]
    .into_iter()
    .enumerate()
    {
        let adapter = copied(&own, &at(&i.to_string()));
        edit_json(&adapter.join("adapter_config.json"), |config| {
            config[key] = value.clone();
            if key == "target_modules" && value.is_array() {
                config["layers_to_transform"] = Value::Null;
            }
        });
        let found = loss(&eval(&model, Some(&adapter), &rows));
        assert_eq!(found.to_bits(), expected.to_bits(), "{key} {value}: {found}, expected {expected}");
    }
    for (to, name) in [("gguf", "a.gguf"), ("mlx", "mlx"), ("peft", "peft")] {
        export(&own, to, &model, &at(name)).ok();
        let found = loss(&eval(&model, Some(&at(name)), &rows));
        assert!((found - expected).abs() < 1e-7, "{to}: {found}, expected {expected}");
        let text = mesp(&[&"inspect", &at(name)]).ok().stdout;
        assert!(text.contains("adapter"), "{text}");
    }
    // A run goes on from any of them, and what it saves is PEFT's.
    let train = mesp(&[
        &"train",
        &"--model",
        &model,
        &"--data",
        &rows,
        &"--adapter",
        &at("a.gguf"),
        &"--steps=1",
        &"--learning-rate=0",
        &"--output",
        &at("run"),
    ]);
    train.ok();
    let found = loss(&eval(&model, Some(&at("run")), &rows));
    assert!((found - expected).abs() < 1e-7, "{found}, expected {expected}");
}

/// The tensors say one thing and the configuration another.
#[test]
fn tensors_and_configuration_are_held_against_each_other() {
    let dir = temporary();
    let (model, rows) = (golden("llama/model"), golden("llama/rows.jsonl"));
    let with = |name: &str, edit: &dyn Fn(&mut Value)| {
        let adapter = copied(&golden("llama/adapter"), &dir.path().join(name));
        edit_json(&adapter.join("adapter_config.json"), |config| edit(config));
        adapter
    };
    let fewer = with("fewer", &|c| c["target_modules"] = json!(["q_proj", "v_proj"]));
    refused_by_all(
        &model,
        &fewer,
        &rows,
        &[
            "expected an adapter of the modules that adapter_config.json names, q_proj, v_proj, found tensors of this one",
        ],
    );
    let excluded = with("excluded", &|c| c["exclude_modules"] = json!(["mlp.down_proj"]));
    refused_by_all(&model, &excluded, &rows, &["down_proj: expected an adapter of the modules"]);
    let more = with("more", &|c| {
        c["target_modules"] =
            json!(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]);
    });
    refused_by_all(&model, &more, &rows, &["found none of 1, the first is lm_head"]);
    let rank = with("rank", &|c| c["rank_pattern"] = json!({ "(?<=self_attn\\.)q_proj": 3 }));
    refused_by_all(&model, &rank, &rows, &["q_proj: expected rank 3, as adapter_config.json says, found 4"]);
    let endless = with("endless", &|c| c["target_modules"] = json!(r"(?:(?:[a-z_.0-9]+)+)+(?=!)"));
    refused_by_all(&model, &endless, &rows, &["key `target_modules`", "takes more than 20000 steps"]);
    let nothing = with("nothing", &|c| c["target_modules"] = json!(["Wqkv", "c_attn"]));
    refused_by_all(&model, &nothing, &rows, &["key `target_modules`", "found [\"Wqkv\",\"c_attn\"]"]);
    let another = with("another", &|c| c["peft_type"] = json!("IA3"));
    refused_by_all(&model, &another, &rows, &["expected \"LORA\", found \"IA3\""]);
    let biased = with("biased", &|c| c["lora_bias"] = json!(true));
    refused_by_all(
        &model,
        &biased,
        &rows,
        &["key `lora_bias`", "a bias in the adapter's matrices is not supported"],
    );
}

#[test]
fn values_that_are_no_numbers_are_named() {
    let dir = temporary();
    let adapter = copied(&golden("llama/adapter"), &dir.path().join("adapter"));
    let name = "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight";
    poison(&adapter.join("adapter_model.safetensors"), name);
    let (model, rows) = (golden("llama/model"), golden("llama/rows.jsonl"));
    let parts =
        ["adapter_model.safetensors: tensor ", name, "expected finite numbers, found NaN", "diverged"];
    refused_by_all(&model, &adapter, &rows, &parts);
}

#[test]
fn what_is_no_adapter_is_named() {
    let dir = temporary();
    let (model, rows) = (golden("llama/model"), golden("llama/rows.jsonl"));
    let pickled = dir.path().join("pickled");
    fs::create_dir(&pickled).expect("a directory");
    fs::copy(golden("llama/adapter/adapter_config.json"), pickled.join("adapter_config.json"))
        .expect("copied");
    fs::write(pickled.join("adapter_model.bin"), "PK").expect("written");
    refused_by_all(
        &model,
        &pickled,
        &rows,
        &["found only adapter_model.bin, a Python pickle", "save_file(torch.load("],
    );
    refused_by_all(&model, &model, &rows, &["expected an adapter", "found a model (config.json)"]);
    let file = golden("llama/adapter/adapter_model.safetensors");
    refused_by_all(&model, &file, &rows, &["found a file of such a folder", "Name the folder"]);
    refused_by_all(&model, &dir.path().join("no"), &rows, &["expected an adapter", "found nothing"]);
}

/// A safetensors file with all tensors of another, and one more.
fn with_tensor(file: &Path, name: &str, shape: [usize; 2], values: &[f32]) {
    let bytes = fs::read(file).expect("a file");
    let header = safetensors_file::parse(file, &bytes).expect("a header");
    let mut all: Vec<_> = header.tensors.iter().map(|t| (t.name.clone(), t.dtype, t.shape.clone())).collect();
    all.push((name.to_owned(), mesp_formats::Dtype::F32, shape.to_vec()));
    safetensors_file::write(file, &all, &header.metadata, &mut |i, out| match header.tensors.get(i) {
        Some(t) => out.write_all(&bytes[t.range.clone()]),
        None => values.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
    })
    .expect("written");
}

/// PEFT's `save_embedding_layers`: the base's own table changes nothing, another one is the base of the adapter.
#[test]
fn whole_tables_of_the_base_are_compared() {
    let dir = temporary();
    let at = |name: &str| dir.path().join(name);
    let (model, rows) = (golden("llama/model"), golden("llama/rows.jsonl"));
    let expected = loss(&eval(&model, Some(&golden("llama/adapter")), &rows));
    let (mut found, mut shape) = (Vec::new(), [0, 0]);
    for shard in mesp_formats::ModelDir::open(&model).expect("a model").shards {
        let bytes = fs::read(&shard).expect("a file");
        let header = safetensors_file::parse(&shard, &bytes).expect("a header");
        if let Some(t) = header.tensors.iter().find(|t| t.name == "lm_head.weight") {
            (found, shape) =
                (safetensors_file::read_f32(&shard, &bytes, t).expect("values"), [t.shape[0], t.shape[1]]);
        }
    }
    let name = "base_model.model.lm_head.weight";
    let adapter = |folder: &str, shape: [usize; 2], values: &[f32]| {
        let adapter = copied(&golden("llama/adapter"), &at(folder));
        with_tensor(&adapter.join("adapter_model.safetensors"), name, shape, values);
        adapter
    };
    let same = adapter("same", shape, &found);
    assert_eq!(loss(&eval(&model, Some(&same), &rows)).to_bits(), expected.to_bits());
    merge(&model, &same, &at("merged")).ok();
    export(&same, "mlx", &model, &at("mlx")).ok();
    let mut other = found.clone();
    other[shape[1]] += 0.5;
    let parts =
        [name, "a whole table of the base model", "differs from the model's in row 1", "merge_and_unload()"];
    refused_by_all(&model, &adapter("other", shape, &other), &rows, &parts);
    let shorter = adapter("shorter", [shape[0] - 1, shape[1]], &found[shape[1]..]);
    let expected = format!("expected the model's shape {shape:?}, found [{}, {}]", shape[0] - 1, shape[1]);
    refused_by_all(&model, &shorter, &rows, &[name, &expected, "the vocabulary was resized"]);
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// transformers attaches an adapter wherever it finds `adapter_config.json`.
#[test]
fn a_merged_model_has_what_a_model_needs_and_no_more() {
    let dir = temporary();
    let at = |name: &str| dir.path().join(name);
    let model = copy_model("llama", dir.path());
    let kept = [
        "LICENSE",
        "NOTICE.txt",
        "USE_POLICY.md",
        "added_tokens.json",
        "chat_template.jinja",
        "generation_config.json",
        "merges.txt",
        "modeling_custom.py",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    ];
    let left = [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "metrics.jsonl",
        "run.json",
        "trainer_state.json",
        "optimizer.pt",
        "events.out.tfevents.1",
        "train.py",
        "quantize_config.json",
        "consolidated.00.pth",
        ".gitattributes",
    ];
    for name in kept.iter().chain(&left) {
        fs::write(model.join(name), "{}").expect("written");
    }
    fs::create_dir(model.join("checkpoints")).expect("a directory");
    fs::create_dir(model.join("additional_chat_templates")).expect("a directory");
    fs::write(model.join("additional_chat_templates/rag.jinja"), "x").expect("written");
    // An empty folder is nothing that could be overwritten.
    fs::create_dir(at("merged")).expect("a directory");
    merge(&model, &golden("llama/adapter"), &at("merged")).ok();
    let mut expected: Vec<String> = kept.iter().map(|name| (*name).to_owned()).collect();
    expected.extend(["additional_chat_templates", "config.json", "model.safetensors"].map(str::to_owned));
    expected.sort();
    assert_eq!(names(&at("merged")), expected);
    assert_eq!(names(&at("merged/additional_chat_templates")), ["rag.jinja"]);
}

/// A tensor whose numbers are not computed with is in the merged model byte for byte, or the merge is refused.
#[test]
fn no_tensor_is_left_out_of_a_merged_model() {
    let dir = temporary();
    let model = copy_model("qwen2", dir.path());
    let name = "model.layers.0.mlp.up_proj.weight";
    let mut stored = Vec::new();
    for shard in mesp_formats::ModelDir::open(&model).expect("a model").shards {
        let bytes = fs::read(&shard).expect("a file");
        let header = safetensors_file::parse(&shard, &bytes).expect("a header");
        let Some(t) = header.tensors.iter().find(|t| t.name == name) else { continue };
        stored = bytes[t.range.clone()].to_vec();
        // Numbers of as many bytes.
        let key = format!("\"{name}\":{{\"dtype\":\"F32\"");
        let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).expect("its type");
        let mut changed = bytes.clone();
        changed[at + key.len() - 4..][..3].copy_from_slice(b"I32");
        fs::write(&shard, changed).expect("written");
    }
    assert!(!stored.is_empty());
    let merged = dir.path().join("merged");
    let adapter = copied(&golden("qwen2/adapter"), &dir.path().join("adapter"));
    edit_json(&adapter.join("adapter_config.json"), |c| c["target_modules"] = json!(["q_proj"]));
    // Of q_proj alone, so that the tensor is none that is merged.
    let file = adapter.join("adapter_model.safetensors");
    let bytes = fs::read(&file).expect("a file");
    let header = safetensors_file::parse(&file, &bytes).expect("a header");
    let q: Vec<_> = header.tensors.iter().filter(|t| t.name.contains("q_proj")).collect();
    let heads: Vec<_> = q.iter().map(|t| (t.name.clone(), t.dtype, t.shape.clone())).collect();
    safetensors_file::write(&file, &heads, &header.metadata, &mut |i, out| {
        out.write_all(&bytes[q[i].range.clone()])
    })
    .expect("written");
    let ran = merge(&model, &adapter, &merged);
    if ran.code == 0 {
        let bytes = fs::read(merged.join("model.safetensors")).expect("a file");
        assert!(bytes.windows(stored.len()).any(|w| w == stored), "the tensor's bytes are there");
        let text = String::from_utf8_lossy(&bytes[8..4096]).into_owned();
        assert!(text.contains(&format!("\"{name}\":{{\"dtype\":\"I32\"")), "{text}");
    } else {
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("tensor {name} is stored as I32")), "{}", ran.stderr);
        assert!(!merged.exists());
    }
}

/// The Modelfile's instructions are those of Ollama's reference; the template says what the model's own says
/// (`export/go_template.rs`).
#[test]
fn ollama_gets_a_model_and_how_to_talk_to_it() {
    let dir = temporary();
    let at = |name: &str| dir.path().join(name);
    let (model, rows) = (demo_model(), demo_model().join("../train.jsonl"));
    mesp(&[&"train", &"--model", &model, &"--data", &rows, &"--output", &at("run"), &"--steps=1"]).ok();
    let ran = export(&at("run"), "ollama", &model, &at("ollama")).ok();
    assert!(ran.stdout.contains("next: ollama create NAME -f"), "{}", ran.stdout);
    assert_eq!(names(&at("ollama")), ["Modelfile", "model.gguf"]);
    let text = fs::read_to_string(at("ollama/Modelfile")).expect("a Modelfile");
    assert!(
        text.starts_with(
            "FROM ./model.gguf\nTEMPLATE \"\"\"{{ if .System }}<|im_start|>system\n{{ .System }}"
        ),
        "{text}"
    );
    assert!(text.contains("\nPARAMETER stop \"<|im_end|>\"\n"), "{text}");
    let kind = mesp(&[&"inspect", &at("ollama/model.gguf"), &"--json"]).ok().json();
    assert_ne!(kind["kind"], "adapter", "{kind:#}");

    let apart = mesp(&[
        &"export",
        &"--to",
        &"ollama",
        &"--unmerged",
        &"--adapter",
        &at("run"),
        &"--model",
        &model,
        &"--output",
        &at("apart"),
    ]);
    assert!(apart.ok().stderr.contains("Ollama 0.34.1 and later refuse a Modelfile with ADAPTER"));
    assert_eq!(names(&at("apart")), ["Modelfile", "adapter.gguf"]);
    let text = fs::read_to_string(at("apart/Modelfile")).expect("a Modelfile");
    let from = format!("FROM {}\nADAPTER ./adapter.gguf\nTEMPLATE ", model.display());
    assert!(text.starts_with(&from), "{text}");

    let none =
        mesp(&[&"export", &"--to", &"ollama", &"--adapter", &golden("llama/adapter"), &"--output", &at("x")]);
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("give it with --model"), "{}", none.stderr);
    let document = read_json(&at("run/run.json"));
    assert_eq!(document["model"]["path"], model.display().to_string());
}

/// DoRA has magnitudes, which no other layout holds.
#[test]
fn dora_is_offered_a_merge() {
    let dir = temporary();
    let (model, adapter) = (golden("llama/model"), golden("dora/llama"));
    for (to, name) in [("gguf", "a.gguf"), ("mlx", "mlx")] {
        let ran = export(&adapter, to, &model, &dir.path().join(name));
        assert_eq!(ran.code, 2);
        for part in ["expected a LoRA, found DoRA", "mesp merge --model BASE --adapter"] {
            assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        }
    }
    export(&adapter, "ollama", &model, &dir.path().join("ollama")).ok();
    assert_eq!(names(&dir.path().join("ollama")), ["Modelfile", "model.gguf"]);
}

/// The cases of the shared collection that are refused, or read in another layout.
#[test]
fn cases_of_the_collection() {
    let Some(case) = shared("misleading-messages") else { return };
    let Some(merged) = shared("merge-drops-unread-dtypes") else { return };
    let Some(copies) = shared("merge-copies-adapter-config") else { return };
    let dir = temporary();
    let at = |name: &str| dir.path().join(name);
    // The tensors of the adapters are for a model of the same shapes.
    let (base, rows) = (copies.join("base"), copies.join("ids.jsonl"));
    for (adapter, parts) in [
        ("adapter-bin-only", &["found only adapter_model.bin, a Python pickle"][..]),
        ("nan-adapter", &["adapter_model.safetensors: tensor ", "expected finite numbers, found NaN"]),
    ] {
        let ran = eval(&base, Some(&case.join(adapter)), &rows);
        assert_eq!(ran.code, 2, "{adapter}: {}", ran.stderr);
        for part in parts {
            assert!(ran.stderr.contains(part), "{adapter}: {}", ran.stderr);
        }
    }
    // One adapter in three layouts, in PEFT's with tables that are the base's. The loss is from the model's equations in
    // NumPy, double precision.
    for adapter in ["whole-head-in-adapter", "mlx-adapter", "lora.gguf"] {
        let found = loss(&eval(&base, Some(&case.join(adapter)), &rows));
        assert!((found - 5.470_434_949_5).abs() < 1e-7, "{adapter}: {found}");
    }
    merge(&base, &copies.join("adapter"), &at("merged")).ok();
    assert_eq!(names(&at("merged")), ["config.json", "generation_config.json", "model.safetensors"]);
    let ran = merge(&merged.join("base"), &merged.join("adapter"), &at("unread"));
    if ran.code == 0 {
        let document = mesp(&[&"inspect", &at("unread/model.safetensors"), &"--json"]).ok().json();
        assert_eq!(document["tensors"].as_array().map(Vec::len), Some(26));
    } else {
        assert!(ran.code == 2 && ran.stderr.contains("is stored as F8_E4M3"), "{}", ran.stderr);
    }
}
