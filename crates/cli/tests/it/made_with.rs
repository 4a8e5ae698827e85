//! A checkpoint knows what it was made with: a run does not go on with another model, tokenizer or other rows.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Ran, copy_demo, copy_model, demo_model, edit_json, golden, mesp, read_json, temporary};

/// A run of three steps in `output`.
struct Run {
    model: PathBuf,
    data: PathBuf,
    output: PathBuf,
}

impl Run {
    fn call(&self, also: &[&str]) -> Ran {
        let Self { model, data, output } = self;
        let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"train", &"--model", model, &"--data", data];
        args.extend([&"--output" as &dyn AsRef<OsStr>, output, &"--steps", &"3", &"--rank", &"2"]);
        args.extend(also.iter().map(|arg| arg as &dyn AsRef<OsStr>));
        mesp(&args)
    }

    fn begin(&self, also: &[&str]) {
        self.call(&[also, &["--save-every", "1"]].concat()).ok();
    }

    /// Goes on from step 1, and makes the checkpoint of step 2 again.
    fn go_on(&self, also: &[&str]) -> Ran {
        let _ = fs::remove_dir_all(self.output.join("checkpoints/step-2"));
        let step = self.output.join("checkpoints/step-1");
        let step = step.to_str().expect("a text");
        self.call(&[also, &["--resume", step, "--save-every", "1"]].concat())
    }

    fn state(&self) -> PathBuf {
        self.output.join("checkpoints/step-1/state.json")
    }

    fn made_with(&self) -> Value {
        read_json(&self.state())["made_with"].clone()
    }
}

/// A run on tokens, of a model that can be changed.
fn on_tokens(dir: &Path) -> Run {
    Run { model: copy_model("qwen2", dir), data: golden("qwen2/rows.jsonl"), output: dir.join("run") }
}

/// A run on conversations.
fn on_text(dir: &Path) -> Run {
    let (model, data) = (dir.join("demo"), dir.join("rows.jsonl"));
    copy_demo(&model);
    let text = fs::read_to_string(demo_model().join("../train.jsonl")).expect("rows");
    fs::write(&data, text.lines().take(6).collect::<Vec<_>>().join("\n")).expect("written");
    Run { model, data, output: dir.join("run") }
}

/// Flips the lowest bit of a byte of a weight file: of `count` bytes from an offset in a tensor.
fn flip(model: &Path, tensor: &str, from: usize, count: usize) {
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).expect("weights");
    let header = mesp_formats::safetensors_file::parse(&path, &bytes).expect("a header");
    let info = header.tensors.iter().find(|t| t.name == tensor).expect("the tensor");
    bytes[info.range.clone()].iter_mut().skip(from).take(count).step_by(4).for_each(|b| *b ^= 1);
    fs::write(path, bytes).expect("written");
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";

#[test]
fn another_base_of_the_same_shape_is_refused() {
    let dir = temporary();
    let mut run = on_tokens(dir.path());
    run.begin(&[]);
    let began = run.made_with();
    let print = began["weights"]["print"].as_str().expect("a fingerprint").to_owned();
    assert_eq!(print.len(), 16);
    let document = read_json(&run.output.join("run.json"));
    assert_eq!(document["model"]["fingerprint"]["weights"], json!(print));
    assert_eq!(document["model"]["fingerprint"]["all_weights"], Value::Null);
    assert_eq!(document["model"]["fingerprint"]["tokenizer"], Value::Null, "it has none");
    assert_eq!(document["data_fingerprint"]["data"], read_json(&run.state())["fixed"]["identity"]["data"]);

    // A copy elsewhere, written later, is the same model.
    let moved = dir.path().join("moved");
    fs::rename(&run.model, &moved).expect("renamed");
    run.model.clone_from(&moved);
    let ran = run.go_on(&[]).ok();
    assert!(!ran.stderr.contains("step-1: written"), "{}", ran.stderr);

    flip(&run.model, UP, 0, usize::MAX);
    let refused = run.go_on(&[]);
    let said = refused.failure(dir.path());
    assert_eq!(refused.code, 2, "{said}");
    let words =
        format!("step-1: the checkpoint was written with base weights {print} ([TMP]/model), this run has ");
    assert!(said.contains(&words) && said.contains("([TMP]/moved)\n"), "{said}");
    assert!(
        said.contains("resume with the settings, the model and the rows that the run began with"),
        "{said}"
    );

    // Everything that differs is in one message.
    edit_json(&run.model.join("config.json"), |c| c["rms_norm_eps"] = json!(1e-4));
    let rows = dir.path().join("other.jsonl");
    let text = fs::read_to_string(&run.data).expect("rows");
    fs::write(&rows, text.lines().rev().collect::<Vec<_>>().join("\n")).expect("written");
    run.data.clone_from(&rows);
    let said = run.go_on(&["--alpha", "5", "--max-seq-len", "7"]).failure(dir.path());
    for words in [
        "with alpha 4.0, this run has 5.0\n",
        "with rows to train on ",
        "(golden/qwen2/rows.jsonl)".replace("golden", "[GOLDEN]").as_str(),
        "([TMP]/other.jsonl)\n",
        "with --max-seq-len 64, this run has 7\n",
        "with base weights ",
        "with model configuration ",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// With `--verify` at both ends a change of one number is seen, which samples do not see.
#[test]
fn every_byte_is_compared_where_that_is_asked_for() {
    let dir = temporary();
    let run = on_tokens(dir.path());
    run.begin(&["--verify"]);
    let began = run.made_with();
    let all = began["all_weights"]["print"].as_str().expect("a fingerprint");
    // Of the golden's tensors, by Python's xxhash.
    assert_eq!(all, "bd404192f3a8c520");
    assert_eq!(read_json(&run.output.join("run.json"))["model"]["fingerprint"]["all_weights"], all);

    // Samples are 1024 of 10240 bytes: here is one that is none of them.
    let seen = |at: usize| {
        flip(&run.model, UP, at, 1);
        let ran = run.go_on(&[]);
        if ran.code == 0 {
            return false;
        }
        flip(&run.model, UP, at, 1);
        true
    };
    assert!((0..10240).step_by(1028).any(|at| !seen(at)));
    let later = read_json(&run.output.join("checkpoints/step-2/state.json"))["made_with"].clone();
    assert_eq!(later["all_weights"]["print"], all, "kept for later checkpoints");
    let said = run.go_on(&["--verify"]).failure(dir.path());
    assert!(
        said.contains(&format!(
            "written with base weights, by every byte, {all} ([TMP]/model), this run has"
        )),
        "{said}"
    );

    // What was not hashed then cannot be compared now; it is from here on.
    edit_json(&run.state(), |s| {
        s["made_with"].as_object_mut().expect("an object").remove("all_weights");
    });
    let ran = run.go_on(&["--verify"]).ok();
    assert!(ran.stderr.contains("its run went without --verify"), "{}", ran.stderr);
    let later = read_json(&run.output.join("checkpoints/step-2/state.json"))["made_with"].clone();
    assert!(later["all_weights"]["print"].is_string() && later["all_weights"]["print"] != all);
}

#[test]
fn checkpoints_without_fingerprints_go_on_with_a_note() {
    let dir = temporary();
    let run = on_tokens(dir.path());
    run.begin(&[]);
    edit_json(&run.state(), |s| {
        s.as_object_mut().expect("an object").remove("made_with");
        s["fixed"]["identity"].as_object_mut().expect("an object").remove("base");
    });
    flip(&run.model, UP, 0, usize::MAX);
    let ran = run.go_on(&[]).ok();
    assert!(ran.stderr.contains("recorded no fingerprints of model and tokenizer"), "{}", ran.stderr);
    // Rows were compared before, too.
    let rows = dir.path().join("other.jsonl");
    let text = fs::read_to_string(&run.data).expect("rows");
    fs::write(&rows, text.lines().rev().collect::<Vec<_>>().join("\n")).expect("written");
    let said = Run { data: rows, ..run }.go_on(&[]).failure(dir.path());
    assert!(
        said.contains("written with rows to train on ") && said.contains("([TMP]/other.jsonl)"),
        "{said}"
    );
}

#[test]
fn a_base_that_is_rounded_otherwise_is_refused() {
    let dir = temporary();
    let run = on_tokens(dir.path());
    run.begin(&["--base", "bf16", "--compute", "f32"]);
    let said = run.go_on(&["--compute", "f32"]).failure(dir.path());
    assert!(said.contains("written with base \"bf16\", this run has \"none\""), "{said}");
    // Every number of the file is in f32.
    run.begin(&["--compute", "f32", "--overwrite"]);
    run.go_on(&["--compute", "f32", "--base", "f32"]).ok();
}

/// The tokens of these rows stay as they are: a marker that no row has is found otherwise, the template gets a comment.
#[test]
fn a_tokenizer_matters_where_rows_are_text() {
    let dir = temporary();
    let run = on_text(dir.path());
    run.begin(&[]);
    let began = run.made_with();
    // Of the file without white space between values, by Python's xxhash.
    assert_eq!(began["tokenizer"]["print"], "0180dda48cc75192");
    let name = |file: &str| run.model.join(file).display().to_string();
    assert_eq!(began["tokenizer"]["of"], name("tokenizer.json"));
    assert_eq!(began["chat_template"]["of"], name("tokenizer_config.json"));

    // The same file, written by another program.
    let tokenizer = run.model.join("tokenizer.json");
    edit_json(&tokenizer, |_| {});
    let same = run.go_on(&[]).ok();
    assert!(!same.stderr.contains("step-1: written"), "{}", same.stderr);

    // A template that writes the same, and another list of end tokens, change no token.
    let config = run.model.join("tokenizer_config.json");
    edit_json(&config, |c| {
        let template = format!("{{# the same #}}{}", c["chat_template"].as_str().expect("a template"));
        c["chat_template"] = template.into();
    });
    edit_json(&run.model.join("generation_config.json"), |c| c["eos_token_id"] = json!([2, 0, 1]));
    let noted = run.go_on(&[]).ok();
    for words in ["written with chat template ", "written with end tokens of generation "] {
        assert!(noted.stderr.contains(words), "{words}: {}", noted.stderr);
    }
    assert!(
        noted.stderr.contains("the tokens of the rows are the same, and the run goes on"),
        "{}",
        noted.stderr
    );

    // A template that writes something else changes the rows, and is named beside them.
    let before = fs::read(&config).expect("a file");
    edit_json(&config, |c| {
        let template = c["chat_template"].as_str().expect("a template").replace("<|im_end|>", " <|im_end|>");
        c["chat_template"] = template.into();
    });
    let said = run.go_on(&[]).failure(dir.path());
    assert!(said.contains("with rows to train on ") && said.contains("with chat template "), "{said}");
    fs::write(&config, before).expect("written");

    edit_json(&tokenizer, |t| t["added_tokens"][0]["lstrip"] = json!(true));
    let said = run.go_on(&[]).failure(dir.path());
    let words = "with tokenizer 0180dda48cc75192 ([TMP]/demo/tokenizer.json), this run has ";
    assert!(said.contains(words) && !said.contains("rows to train on"), "{said}");
}

#[test]
fn a_tokenizer_is_a_note_where_rows_are_tokens() {
    let dir = temporary();
    let mut run = on_text(dir.path());
    let file = dir.path().join("rows.tokens");
    mesp(&[&"data", &"tokenize", &"--model", &run.model, &"--data", &run.data, &"--output", &file]).ok();
    let rows = dir.path().join("ids.jsonl");
    fs::write(&rows, "{\"input_ids\": [5, 6, 7, 8, 2]}\n{\"input_ids\": [9, 6, 7, 2]}\n").expect("written");
    let original = fs::read(run.model.join("tokenizer_config.json")).expect("a file");
    for data in [file, rows] {
        run.data.clone_from(&data);
        run.begin(&["--overwrite"]);
        edit_json(&run.model.join("tokenizer_config.json"), |c| c["eos_token"] = json!("<|endoftext|>"));
        let ran = run.go_on(&[]).ok();
        assert!(ran.stderr.contains("written with special tokens "), "{}", ran.stderr);
        fs::write(run.model.join("tokenizer_config.json"), &original).expect("written");
    }
}

#[test]
fn inspect_says_what_a_checkpoint_was_made_with() {
    let dir = temporary();
    let run = on_text(dir.path());
    run.begin(&["--verify", "--long-rows", "error"]);
    let step = run.output.join("checkpoints/step-1");
    let document = mesp(&[&"inspect", &step, &"--json"]).ok().json();
    assert_eq!(document["made_with"], run.made_with());
    let said = mesp(&[&"inspect", &step]).ok().stdout;
    let weights = run.made_with()["weights"]["print"].as_str().expect("a fingerprint").to_owned();
    assert!(said.contains(&format!("weights           {weights} ({})", run.model.display())), "{said}");
    for words in [
        "made with\n",
        "  tokenizer         0180dda48cc75192 (",
        "--long-rows error, ",
        "  eval rows         none",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let of_run = mesp(&[&"inspect", &run.output]).ok().stdout;
    assert!(of_run.contains(&format!("  weights           {weights}")), "{of_run}");
}

/// Every command that puts an adapter on a base says where that is not the one it was trained on.
#[test]
fn an_adapter_knows_its_base() {
    let dir = temporary();
    let run = on_text(dir.path());
    run.begin(&[]);
    let at = |name: &str| dir.path().join(name);
    let said = |model: &Path, n: usize| -> Vec<String> {
        let (adapter, rows) = (&run.output, &run.data);
        let [merged, exported, gradients, trained] =
            ["merged", "e.gguf", "g.safetensors", "next"].map(|name| at(&format!("{n}-{name}")));
        let calls: [&[&dyn AsRef<OsStr>]; 6] = [
            &[&"generate", &"--prompt", &"Hello", &"--max-tokens", &"2", &"--adapter", adapter],
            &[&"eval", &"--data", rows, &"--adapter", adapter],
            &[&"grads", &"--data", rows, &"--adapter", adapter, &"--output", &gradients],
            &[&"train", &"--data", rows, &"--adapter", adapter, &"--steps", &"1", &"--output", &trained],
            &[&"merge", &"--adapter", adapter, &"--output", &merged],
            &[&"export", &"--adapter", adapter, &"--to", &"gguf", &"--output", &exported],
        ];
        calls
            .iter()
            .map(|call| mesp(&[call, &[&"--model" as &dyn AsRef<OsStr>, &model][..]].concat()).ok().stderr)
            .collect()
    };
    let words = "the adapter was trained on base weights ";
    for (i, stderr) in said(&demo_model(), 0).iter().enumerate() {
        assert!(!stderr.contains(words), "call {i}: {stderr}");
    }
    let other = at("other");
    copy_demo(&other);
    flip(&other, UP, 0, usize::MAX);
    for (i, stderr) in said(&other, 1).iter().enumerate() {
        assert!(
            stderr.contains(words) && stderr.contains(&other.display().to_string()),
            "call {i}: {stderr}"
        );
    }
    // Another type is another base on purpose.
    let file = at("m.gguf");
    mesp(&[&"quantize", &"--model", &other, &"--type", &"q8_0", &"--output", &file]).ok();
    let ran = mesp(&[&"eval", &"--model", &file, &"--data", &run.data, &"--adapter", &run.output]).ok();
    assert!(!ran.stderr.contains(words), "{}", ran.stderr);
}
