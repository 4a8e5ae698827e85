//! Models that are not what they seem: each command says the same of them, with status 2.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;

use crate::support::{Ran, command, copy_model, demo_model, edit_json, golden, mesp, read_json, temporary};

/// The demo's model with three tokens that its embeddings have no rows for: their numbers are 1024 to 1026.
fn with_tokens_beyond(dir: &Path) -> PathBuf {
    let model = dir.join("model");
    fs::create_dir(&model).expect("a directory");
    for entry in fs::read_dir(demo_model()).expect("the demo") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), model.join(entry.file_name())).expect("copied");
    }
    let size = read_json(&model.join("config.json"))["vocab_size"].clone();
    assert_eq!(size, 1024);
    edit_json(&model.join("tokenizer.json"), |t| {
        let added = t["added_tokens"].as_array_mut().expect("a list");
        for (id, content) in [(1024, "<pad>"), (1025, "<|tool|>"), (1026, "<|think|>")] {
            added.push(json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}));
        }
    });
    model
}

#[test]
fn tokens_beyond_the_vocabulary_are_refused_by_every_command() {
    let dir = temporary();
    let model = with_tokens_beyond(dir.path());
    let file = |name: &str, row: &str| {
        let path = dir.path().join(name);
        fs::write(&path, format!("{row}\n")).expect("written");
        path
    };
    let rows = file("rows.jsonl", r#"{"text":"What is a wolf? <|think|>"}"#);
    let sound = file("sound.jsonl", r#"{"input_ids":[1,2,3,4]}"#);
    let choices = file("choices.jsonl", r#"{"prompt":"A wolf <|think|>","choices":["a","b"],"answer":0}"#);
    let texts = file("texts.jsonl", r#"{"prompt":"A wolf <|think|>","answer":"a"}"#);
    let output = dir.path().join("out");
    let check = |ran: &Ran| {
        let expected = "the tokenizer makes token 1026; the model's vocabulary has 1024 tokens";
        assert!(ran.code == 2 && ran.stderr.contains(expected), "{} {}", ran.code, ran.stderr);
    };
    let calls: [&[&dyn AsRef<OsStr>]; 9] = [
        &[&"generate", &"--prompt", &"A wolf <|think|>", &"--max-tokens=2"],
        &[&"generate", &"--raw", &"--prompt", &"A wolf <|think|>", &"--max-tokens=2"],
        &[&"eval", &"--data", &rows],
        &[&"eval", &"--task", &choices],
        &[&"eval", &"--task", &choices, &"--chat"],
        &[&"eval", &"--task", &texts],
        &[&"train", &"--data", &rows, &"--steps=1", &"--output", &output],
        &[
            &"train",
            &"--data",
            &sound,
            &"--steps=1",
            &"--output",
            &output,
            &"--sample-prompt",
            &"a <|think|>",
        ],
        &[&"plan", &"--data", &rows],
    ];
    for call in calls {
        check(&mesp(&[call, &[&"--model", &model]].concat()));
        assert!(!output.exists(), "nothing is written");
    }
    let mut chat = command(&[&"chat", &"--model", &model]);
    chat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = chat.spawn().expect("the program starts");
    child.stdin.take().expect("its input").write_all(b"A wolf <|think|>\n").expect("written");
    // What was typed ends no conversation.
    let ran = Ran::of(child.wait_with_output().expect("it ends"));
    let expected = "the tokenizer makes token 1026; the model's vocabulary has 1024 tokens";
    assert!(ran.code == 0 && ran.stderr.contains(expected), "{} {}", ran.code, ran.stderr);
    // Markers of the chat template that no turn can do without.
    edit_json(&model.join("tokenizer_config.json"), |c| {
        c["chat_template"] = json!("{% for m in messages %}<|think|>{{ m.content }}{% endfor %}");
    });
    check(&mesp(&[&"chat", &"--model", &model]));
}

/// What a path names that is no model.
#[test]
fn paths_that_are_no_models_get_advice() {
    let (dir, rows) = (temporary(), golden("qwen2/rows.jsonl"));
    let model = copy_model("qwen2", dir.path());
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).expect("a directory");
    fs::write(folder.join("x.gguf"), "GGUF").expect("written");
    let pickled = dir.path().join("pickled");
    fs::create_dir(&pickled).expect("a directory");
    fs::copy(model.join("config.json"), pickled.join("config.json")).expect("copied");
    fs::write(pickled.join("pytorch_model.bin"), "x").expect("written");
    for (path, expected) in [
        (model.join("model.safetensors"), "Name the folder that holds it"),
        (pickled.join("pytorch_model.bin"), "save it with save_pretrained"),
        (pickled, "found only pytorch_model.bin"),
        (folder.clone(), "found a folder with a GGUF file\n  Name the file: "),
    ] {
        let ran = mesp(&[&"eval", &"--model", &path, &"--data", &rows]);
        assert!(ran.code == 2 && ran.stderr.contains(expected), "{}: {}", path.display(), ran.stderr);
    }
    let shared = golden("").join("../../shared/cases/misleading-messages");
    for (name, expected) in
        [("lora.gguf", "name it with --adapter"), ("imatrix.gguf", "name the model itself")]
    {
        let path = shared.join(name);
        if !path.is_file() {
            continue;
        }
        let ran = mesp(&[&"eval", &"--model", &path, &"--data", &rows]);
        assert!(ran.code == 2 && ran.stderr.contains(expected), "{name}: {}", ran.stderr);
    }
}

#[test]
fn what_is_worth_knowing_of_a_model_is_said_once() {
    let (dir, rows) = (temporary(), golden("qwen2/rows.jsonl"));
    let model = copy_model("qwen2", dir.path());
    fs::write(model.join("adapter_config.json"), "{}").expect("written");
    let output = dir.path().join("out");
    let calls: [&[&dyn AsRef<OsStr>]; 3] =
        [&[&"eval"], &[&"plan"], &[&"train", &"--steps=1", &"--base=bf16", &"--output", &output]];
    for call in calls {
        let ran = mesp(&[call, &[&"--model", &model, &"--data", &rows]].concat()).ok();
        let count = ran.stderr.matches("an adapter lies beside the model (adapter_config.json)").count();
        assert_eq!(count, 1, "{}", ran.stderr);
    }
}

#[test]
fn inspect_lists_tensors_of_every_type() {
    let dir = temporary();
    let model = copy_model("qwen2", dir.path());
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).expect("weights");
    let header = mesp_formats::safetensors_file::parse(&path, &bytes).expect("a header");
    let mut tensors: Vec<_> =
        header.tensors.iter().map(|t| (t.name.clone(), t.dtype, t.shape.clone())).collect();
    let count = tensors.len();
    tensors.push(("model.ids".to_owned(), mesp_formats::Dtype::I64, vec![2]));
    mesp_formats::safetensors_file::write(
        &path,
        &tensors,
        &std::collections::BTreeMap::default(),
        &mut |i, w| w.write_all(header.tensors.get(i).map_or(&[0; 16][..], |t| &bytes[t.range.clone()])),
    )
    .expect("weights");
    let found = mesp(&[&"inspect", &model, &"--json"]).ok().json();
    assert_eq!(found["tensors"], count + 1);
    assert_eq!(found["types"]["I64"], 1);
    let found = mesp(&[&"inspect", &path, &"--json"]).ok().json();
    assert_eq!(found["skipped"], json!(["model.ids"]));
    assert_eq!(found["tensors"].as_array().expect("a list").len(), count + 1);
}
