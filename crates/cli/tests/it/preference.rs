//! Preferences: from a file of pairs to an adapter, and what is refused on the way.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{command, demo_model, events, golden, mesp, read_json, temporary, tensors};

fn pairs() -> PathBuf {
    golden("preference/pairs.jsonl")
}

#[expect(clippy::ptr_arg, reason = "a Path is unsized, and the list holds trait objects")]
fn train<'a>(
    output: &'a PathBuf,
    [model, data]: &'a [PathBuf; 2],
    also: &'a [&'a str],
) -> Vec<&'a dyn AsRef<OsStr>> {
    let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"train", &"--model", model, &"--data", data];
    args.extend([&"--objective" as &dyn AsRef<OsStr>, &"preference", &"--output", output]);
    args.extend(also.iter().map(|arg| arg as &dyn AsRef<OsStr>));
    args
}

/// Losses and gradients of the adapter are PyTorch's (golden/preference.py), through the program.
#[test]
fn grads_are_those_of_pytorch() {
    let dir = temporary();
    let model = golden("qwen2/model");
    let adapter = golden("qwen2/adapter");
    for (stem, rows, also) in [
        ("sigmoid", "pairs.jsonl", &[][..]),
        ("hinge", "pairs.jsonl", &["--loss-type", "hinge"]),
        // All rows count, whatever the length of a run would be.
        ("hinge", "pairs.jsonl", &["--loss-type", "hinge", "--batch-size", "1", "--steps", "1"]),
        ("simpo", "pairs.jsonl", &["--loss-type", "simpo", "--batch-size", "1"]),
        ("kto", "marked.jsonl", &["--loss-type", "kto"]),
        ("kto", "marked.jsonl", &["--loss-type", "kto", "--batch-size", "2"]),
    ] {
        let expected = golden("preference/qwen2").join(format!("{stem}.safetensors"));
        let output = dir.path().join("grads.safetensors");
        let rows = golden("preference").join(rows);
        let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"grads", &"--model", &model, &"--data", &rows];
        args.extend([&"--adapter" as &dyn AsRef<OsStr>, &adapter, &"--objective", &"preference"]);
        args.extend([&"--output" as &dyn AsRef<OsStr>, &output, &"--overwrite"]);
        let ((theirs, text), mut numbers) = (tensors(&expected), Vec::new());
        for (key, option) in [("beta", "--beta"), ("simpo_gamma", "--simpo-gamma")] {
            let given = text.get(key).map(|number| [option.to_owned(), number.clone()]);
            numbers.extend(given.into_iter().flatten());
        }
        args.extend(numbers.iter().map(|arg| arg as &dyn AsRef<OsStr>));
        args.extend(also.iter().map(|arg| arg as &dyn AsRef<OsStr>));
        mesp(&args).ok();
        let (ours, metadata) = tensors(&output);
        let [loss, golden] =
            [&metadata["loss"], &text["loss"]].map(|loss| loss.parse::<f64>().expect("a number"));
        assert!((loss - golden).abs() <= 1e-5 * golden.abs(), "{stem}: {loss} {golden}");
        assert_eq!(ours.len(), theirs.len());
        for (name, theirs) in &theirs {
            let ours = &ours[name];
            let norm = |values: &mut dyn Iterator<Item = f32>| {
                values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
            };
            let off = norm(&mut ours.iter().zip(theirs).map(|(a, b)| a - b));
            assert!(off <= 1e-5 * norm(&mut theirs.iter().copied()), "{stem} {name}: {off}");
        }
    }
}

/// What a run tells of rewards, in all places where a person looks.
#[test]
fn rewards_are_told() {
    let dir = temporary();
    let output = dir.path().join("run");
    let files = [golden("qwen2/model"), pairs()];
    let eval = pairs().display().to_string();
    let also = ["--eval-data", &eval, "--steps", "6", "--learning-rate", "0.01", "--tensorboard"];
    let ran = mesp(&train(&output, &files, &also)).ok();
    assert!(ran.stderr.contains("reference: computing the log-probabilities of 4 rows"), "{}", ran.stderr);
    assert!(ran.stderr.contains("eval at step 0: loss 0.6931, margin 0.000, ahead in 0%"), "{}", ran.stderr);
    let run = read_json(&output.join("run.json"));
    assert_eq!(run["preference"]["loss_type"], "sigmoid");
    assert_eq!((&run["preference"]["beta"], &run["preference"]["reference"]), (&0.1.into(), &"base".into()));
    let margin = |when: &str| run["rewards"][when]["rewards/margins"].as_f64().expect("a margin");
    assert!(margin("after") > margin("before"));
    let last = events(&output).into_iter().rfind(|event| event["type"] == "train").expect("a step");
    for name in
        ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen"]
    {
        assert!(last[name].is_number(), "{name}: {last}");
    }
    let card = fs::read_to_string(output.join("README.md")).expect("a card");
    assert!(
        card.contains("| preference loss | sigmoid, β 0.1, label smoothing 0.0, α 0.0; reference base |"),
        "{card}"
    );
    assert!(card.contains("| held-out: margin of rewards, before and after | 0.0000 |"), "{card}");
    let memory = &run["memory"];
    assert!(memory["heap_training_peak_bytes"].as_u64() <= memory["planned_bytes"].as_u64(), "{memory}");

    // The evaluation of the adapter is the run's last one; and its plan the planned one.
    let args: [&dyn AsRef<OsStr>; 9] = [
        &"eval",
        &"--model",
        &files[0],
        &"--adapter",
        &output,
        &"--data",
        &files[1],
        &"--objective",
        &"preference",
    ];
    let table = mesp(&args).ok();
    let also = ["--json", "--compute", "f32"];
    let mut json: Vec<&dyn AsRef<OsStr>> = args.to_vec();
    json.extend(also.iter().map(|arg| arg as &dyn AsRef<OsStr>));
    let told = mesp(&json).ok().json();
    let after = &run["rewards"]["after"];
    assert_eq!(told["preference"], *after, "{}", table.stdout);
    assert_eq!(told["loss"], run["loss"]["eval_after"]);
    assert!(table.stdout.contains("rewards/accuracies"), "{}", table.stdout);
    let also = ["--objective", "preference", "--json"];
    let mut plan: Vec<&dyn AsRef<OsStr>> = vec![&"plan", &"--model", &files[0], &"--data", &files[1]];
    plan.extend([&"--eval-data" as &dyn AsRef<OsStr>, &eval, &"--steps", &"6"]);
    plan.extend(also.iter().map(|arg| arg as &dyn AsRef<OsStr>));
    assert_eq!(mesp(&plan).ok().json()["memory"]["planned_bytes"], memory["planned_bytes"]);
}

/// The log-probabilities of a reference are found again by what they depend on.
#[test]
fn a_reference_is_computed_once() {
    let dir = temporary();
    let output = dir.path().join("run");
    let files = [golden("qwen2/model"), pairs()];
    let computes = |also: &[&str]| {
        let ran = mesp(&train(&output, &files, also)).ok();
        ran.stderr.contains("reference: computing")
    };
    assert!(computes(&["--steps", "4"]));
    assert!(!computes(&["--steps", "8", "--overwrite"]), "the same rows and the same model");
    assert!(!computes(&["--steps", "4", "--overwrite", "--loss-type", "ipo", "--rank", "4"]));
    let adapter = golden("qwen2/adapter").display().to_string();
    assert!(computes(&["--steps", "4", "--overwrite", "--reference", &adapter]));
    // A file that is damaged is made again.
    for file in fs::read_dir(output.join("tokens")).expect("a folder") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|end| end == "reference") {
            let mut bytes = fs::read(&path).expect("bytes");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).expect("written");
        }
    }
    assert!(computes(&["--steps", "4", "--overwrite"]));
    assert!(!computes(&["--steps", "4", "--overwrite", "--loss-type", "simpo"]), "it has no reference");
}

/// Accumulated or block by block, within a budget or without, the adapter is the same.
#[test]
fn budgets_and_blocks_change_no_bit() {
    let dir = temporary();
    let files = [golden("qwen2/model"), pairs()];
    let adapter = |name: &str, also: &[&str]| {
        let output = dir.path().join(name);
        let mut all =
            vec!["--steps", "4", "--optimizer", "sgd", "--learning-rate", "0.1", "--max-grad-norm", "0"];
        all.extend(also);
        let ran = mesp(&train(&output, &files, &all)).ok();
        (fs::read(output.join("adapter_model.safetensors")).expect("an adapter"), ran.stderr)
    };
    let (plain, _) = adapter("plain", &[]);
    assert!(adapter("blocks", &["--update", "per-block"]).0 == plain);
    let (budgeted, told) = adapter("budget", &["--update", "per-block", "--memory-budget", "6MB"]);
    assert!(budgeted == plain && told.contains("budget: kept"), "{told}");
}

/// Cut in two, the run is the same to the bit; with another reference it is another run.
#[test]
fn a_resumed_run_has_the_same_reference() {
    let dir = temporary();
    let files = [golden("qwen2/model"), golden("preference/marked.jsonl")];
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let settings = ["--loss-type", "kto", "--steps", "8", "--learning-rate", "0.01"];
    let with = |also: &[&'static str]| [&settings[..], also].concat();
    mesp(&train(&whole, &files, &with(&["--save-every", "4"]))).ok();
    let step = cut.join("checkpoints/step-4");
    fs::create_dir_all(&step).expect("a folder");
    for entry in fs::read_dir(whole.join("checkpoints/step-4")).expect("a checkpoint") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), step.join(entry.file_name())).expect("copied");
    }
    let adapter = golden("qwen2/adapter").display().to_string();
    let settings = with(&["--resume"]);
    let other = [&settings[..], &["--reference", &adapter]].concat();
    let refused = mesp(&train(&cut, &files, &other));
    assert!(
        refused.code == 2 && refused.stderr.contains("reference \"base\", this run has"),
        "{}",
        refused.stderr
    );
    mesp(&train(&cut, &files, &settings)).ok();
    let adapter = |run: &Path| fs::read(run.join("adapter_model.safetensors")).expect("an adapter");
    assert!(adapter(&cut) == adapter(&whole));
}

#[test]
fn pairs_are_shown_and_checked() {
    let dir = temporary();
    let data = dir.path().join("rows.jsonl");
    let turn = |role: &str, text: &str| format!(r#"[{{"role": "{role}", "content": "{text}"}}]"#);
    let row = |chosen: &str, rejected: &str| {
        let [prompt, chosen, rejected] =
            [turn("user", "Who is Lina?"), turn("assistant", chosen), turn("assistant", rejected)];
        format!(r#"{{"prompt": {prompt}, "chosen": {chosen}, "rejected": {rejected}}}"#)
    };
    fs::write(&data, [row("The doctor.", "I do not know."), row("Yes.", "Yes."), row("Yes.", "")].join("\n"))
        .expect("written");
    let model = demo_model();
    let call = |what: &str| mesp(&[&"data", &what, &"--model", &model, &"--data", &data]);
    let checked = call("check");
    assert_eq!(checked.code, 2);
    for words in [
        "1 pair of a chosen and a rejected completion",
        "rows.jsonl:2: `chosen` and `rejected` are the same",
        "rows.jsonl:3: `rejected` is empty",
    ] {
        assert!(checked.stdout.contains(words), "{words}: {}", checked.stdout);
    }
    let refused = call("show");
    assert!(refused.code == 2 && refused.stderr.contains("rows.jsonl:2"), "{}", refused.stderr);
    fs::write(&data, row("The doctor.", "I do not know.")).expect("written");
    let shown = call("show").ok().stdout;
    assert!(shown.contains("chosen, ") && shown.contains("{+The doctor.<|im_end|>+}"), "{shown}");
    assert!(shown.contains("rejected, ") && shown.contains("{+I do not know.<|im_end|>+}"), "{shown}");
    // Elsewhere the objective says what the rows are.
    let output = dir.path().join("run");
    let refused = mesp(&[&"train", &"--model", &model, &"--data", &data, &"--output", &output]);
    assert!(
        refused.code == 2 && refused.stderr.contains("give --objective preference"),
        "{}",
        refused.stderr
    );
    let also: [&dyn AsRef<OsStr>; 11] = [
        &"train",
        &"--model",
        &model,
        &"--data",
        &data,
        &"--objective",
        &"preference",
        &"--max-seq-len",
        &"9",
        &"--output",
        &output,
    ];
    let refused = mesp(&also);
    assert!(
        refused.code == 2 && refused.stderr.contains("the prompt fills the length of 9 tokens"),
        "{}",
        refused.stderr
    );
    assert!(!output.join("run.json").exists());
    // kto reads a pair as two completions with a label.
    let ran = mesp(&train(&output, &[model, data], &["--loss-type", "kto", "--steps", "2"])).ok();
    assert!(ran.stderr.contains("each read as two completions with a label"), "{}", ran.stderr);
}

/// A file of tokens of pairs is one of pairs, and nothing else.
#[test]
fn tokens_of_pairs_are_pairs() {
    let dir = temporary();
    let (model, data) = (demo_model(), golden("").join("../assets/demo/preference_eval.jsonl"));
    let tokens = dir.path().join("rows.tokens");
    let objective: [&dyn AsRef<OsStr>; 2] = [&"--objective", &"preference"];
    let mut args: Vec<&dyn AsRef<OsStr>> =
        vec![&"data", &"tokenize", &"--model", &model, &"--data", &data, &"--output", &tokens];
    args.extend(objective);
    mesp(&args).ok();
    let output = dir.path().join("run");
    let refused = mesp(&[&"train", &"--model", &model, &"--data", &tokens, &"--output", &output]);
    assert!(
        refused.code == 2 && refused.stderr.contains("--objective sft does not take these rows"),
        "{}",
        refused.stderr
    );
    let adapter = |name: &str, data: &Path| {
        let output = dir.path().join(name);
        mesp(&train(&output, &[model.clone(), data.to_path_buf()], &["--steps", "3"])).ok();
        fs::read(output.join("adapter_model.safetensors")).expect("an adapter")
    };
    assert!(adapter("tokens", &tokens) == adapter("text", &data));
}

/// Without a model and rows: the model changes how it answers, and `--json` says so.
#[test]
fn the_demonstration_prefers_friendly_answers() {
    let dir = temporary();
    let output = dir.path().join("run");
    let mut command = command(&[&"train", &"--objective", &"preference", &"--output", &output]);
    let ran = crate::support::Ran::of(command.output().expect("the program starts")).ok();
    let (before, after) = ran.stdout.split_once("\nafter\n").expect("before and after");
    let plain = "The wolf is gray and proud. It lives in the mountains near Highcairn.";
    assert!(before.contains(&format!("    {plain}\n")), "{before}");
    let answer = after.lines().find(|line| line.contains(plain)).expect("the fact").trim();
    assert!(!answer.starts_with(plain), "an opening before it: {answer}");
    let run: Value = read_json(&output.join("run.json"));
    let ahead = run["rewards"]["after"]["rewards/accuracies"].as_f64().expect("a share");
    assert!(ahead > 0.9, "{ahead}");
}
