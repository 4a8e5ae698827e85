//! All weights trained, exactly and from losses: written as a model, resumed, replayed; and what it is refused with.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::support::{Ran, golden, mesp, read_json, temporary};

fn run(command: &str, model: &Path, output: &Path, more: &[&str]) -> Ran {
    let rows = golden("qwen2/rows.jsonl");
    let mut args: Vec<&dyn AsRef<OsStr>> =
        vec![&command, &"--model", &model, &"--data", &rows, &"--output", &output];
    args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
    mesp(&args)
}

fn weights(model: &Path) -> Vec<u8> {
    fs::read(model.join("model.safetensors")).expect("weights")
}

/// Exact training of all weights: resumed it is the uninterrupted run to the bit, with every kind of optimizer state, and
/// the model that it leaves has the loss that was measured.
#[test]
fn exact_training_is_resumed_and_leaves_a_model() {
    let base = golden("qwen2/model");
    let rows = golden("qwen2/rows.jsonl");
    let rows = rows.to_str().expect("a path");
    for more in [
        &["--base", "bf16"][..],
        &["--base", "bf16", "--optimizer", "adamw-8bit", "--rounding", "kahan", "--update", "per-block"],
        &["--base", "f32", "--optimizer", "foam", "--update", "per-matrix", "--max-grad-norm", "0.5"],
        &["--base", "f32", "--optimizer", "muon", "--grad-accum", "2"],
        &["--base", "bf16", "--optimizer", "adamw-bf16"],
    ] {
        let dir = temporary();
        let output = dir.path().join("run");
        let run_on = ["--train", "full", "--steps", "4", "--save-every", "2", "--eval-data", rows];
        let more = [&run_on[..], more].concat();
        run("train", &base, &output, &more).ok();
        let document = read_json(&output.join("run.json"));
        let (model, loss) = (output.join("model"), &document["loss"]);
        assert!(loss["eval_after"].as_f64() < loss["eval_before"].as_f64(), "{more:?}: {loss}");
        let compute = document["compute"].as_str().expect("a type");
        let eval =
            mesp(&[&"eval", &"--json", &"--model", &model, &"--data", &rows, &"--compute", &compute]).ok();
        assert_eq!(eval.json()["loss"].as_f64(), loss["eval_after"].as_f64(), "{more:?}");

        let kept = weights(&model);
        fs::remove_dir_all(&model).expect("removed");
        let second = output.join("checkpoints/step-2");
        assert!(second.join("weights.safetensors").is_file() && !second.join("adapter_config.json").exists());
        let more = [&more[..], &["--resume", second.to_str().expect("a path")]].concat();
        run("train", &base, &output, &more).ok();
        assert!(weights(&model) == kept, "{more:?}");
        mesp(&[&"inspect", &second]).ok();
        mesp(&[&"inspect", &output]).ok();
    }
}

#[test]
fn a_model_is_trained_written_replayed_and_resumed() {
    let base = golden("qwen2/model");
    let rows = golden("qwen2/rows.jsonl");
    let rows = rows.to_str().expect("a path");
    for how in ["f32", "bf16"] {
        let dir = temporary();
        let output = dir.path().join("run");
        let method = ["--method", "mezo", "--full", "--base", how];
        let more = [&method[..], &["--steps", "4", "--save-every", "2", "--eval-data", rows]].concat();
        let ran = run("train", &base, &output, &more).ok();
        assert!(ran.stderr.contains(&format!("all of them trained, in {how}")), "{}", ran.stderr);
        assert!(ran.stdout.contains("model: "), "{}", ran.stdout);
        let document = read_json(&output.join("run.json"));
        assert_eq!(document["full"]["type"], how);
        assert_eq!((&document["model"]["base"], &document["adapter"]), (&how.into(), &().into()));
        assert_eq!(
            (&document["estimator"]["eps"], &document["learning_rate"]),
            (&0.001.into(), &1e-6.into())
        );
        let held = document["memory"]["ledger"]["trained"].as_u64().expect("trained weights");
        let parameters = document["model"]["parameters"].as_u64().expect("parameters");
        let bytes = if how == "f32" { 4 } else { 2 };
        assert!(held >= bytes * parameters && held < bytes * parameters + 20_000, "{held}");
        assert!(!output.join("adapter_model.safetensors").exists());
        let model = output.join("model");
        assert_ne!(weights(&model), weights(&base));

        // What it says of itself is so: evaluated by itself, with the products that the run had.
        let compute = document["compute"].as_str().expect("a type");
        let eval =
            mesp(&[&"eval", &"--json", &"--model", &model, &"--data", &rows, &"--compute", &compute]).ok();
        let (found, said) = (eval.json()["loss"].as_f64(), document["loss"]["eval_after"].as_f64());
        assert_eq!(found.expect("a loss"), said.expect("a loss"));

        let again = dir.path().join("again");
        mesp(&[&"replay", &output, &"--model", &base, &"--output", &again]).ok();
        assert!(weights(&again) == weights(&model), "{how}");
        assert!(again.join("config.json").is_file());
        let refused = mesp(&[&"replay", &output, &"--model", &base, &"--output", &again]);
        assert_eq!(refused.code, 2, "{}", refused.stderr);

        let kept = weights(&model);
        fs::remove_dir_all(&model).expect("removed");
        let second = output.join("checkpoints/step-2");
        let more = [&more[..], &["--resume", second.to_str().expect("a path")]].concat();
        run("train", &base, &output, &more).ok();
        assert!(weights(&model) == kept, "{how}");
        mesp(&[&"inspect", &second]).ok();
        mesp(&[&"inspect", &output]).ok();
        let card = fs::read_to_string(output.join("README.md")).expect("a card");
        assert!(card.contains("all of them trained") && !card.contains("peft"), "{card}");
    }
}

#[test]
fn what_is_an_adapters_is_refused() {
    let dir = temporary();
    let output = dir.path().join("run");
    let base = golden("qwen2/model");
    let adapter = golden("qwen2/adapter");
    let adapter = adapter.to_str().expect("a path");
    let full = ["--method", "mezo", "--full", "--steps", "1"];
    for more in [
        &["--rank", "4"][..],
        &["--alpha", "4"],
        &["--rslora"],
        &["--dora"],
        &["--target-modules", "q_proj"],
        &["--adapter", adapter],
        &["--adapter-type", "bf16"],
        &["--layers", "0"],
        &["--blocks", "0"],
        &["--sparsity", "0.5"],
        &["--optimizer", "adamw"],
        &["--sample-prompt", "Who?"],
    ] {
        let ran = run("train", &base, &output, &[&full[..], more].concat());
        assert_eq!(ran.code, 2, "{more:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(more[0]), "{more:?}: {}", ran.stderr);
    }
    for (more, says) in [
        (&["--full", "--method", "forward"][..], "--method forward is of adapters"),
        (
            &["--train", "full", "--update", "per-matrix", "--mlp-rows", "8"],
            "--mlp-rows 8 cannot be combined",
        ),
        (&["--train", "full", "--foam-level", "2"], "--foam-level was given, and --optimizer is adalomo"),
        (&["--full", "--train", "lora"], "--train lora and --full"),
        (&["--full", "--method", "mezo", "--base", "f16"], "lost in f16"),
    ] {
        let ran = run("train", &base, &output, more);
        assert_eq!(ran.code, 2, "{more:?}");
        assert!(ran.stderr.contains(says), "{more:?}: {}", ran.stderr);
    }
    let file = dir.path().join("model.gguf");
    mesp(&[&"quantize", &"--model", &base, &"--output", &file, &"--type", &"q8_0"]).ok();
    let ran = run("train", &file, &output, &full);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("needs one to start from"), "{}", ran.stderr);
    assert!(ran.stderr.contains("with --base bf16 its weights take"), "{}", ran.stderr);
    let ran = run("grads", &base, &output, &["--method", "mezo", "--full"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("--method mezo estimates"), "{}", ran.stderr);
    let ran = run("grads", &file, &output, &["--train", "full"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("--base bf16"), "{}", ran.stderr);
    assert!(!output.exists());
}

/// Tensors of a file by name, with their shapes.
fn tensors(path: &Path) -> std::collections::BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(path).expect("a file");
    let header = mesp_formats::safetensors_file::parse(path, &bytes).expect("a header");
    let values = |t| mesp_formats::safetensors_file::read_f32(path, &bytes, t).expect("values");
    header.tensors.iter().map(|t| (t.name.clone(), (t.shape.clone(), values(t)))).collect()
}

#[test]
fn gradients_of_all_weights_are_pytorchs() {
    for family in ["qwen2", "phi3"] {
        let dir = temporary();
        let (base, output) = (golden(&format!("{family}/model")), dir.path().join("grads.safetensors"));
        let rows = golden(&format!("{family}/rows.jsonl"));
        let made = |more: &[&str]| {
            let mut args: Vec<&dyn AsRef<OsStr>> =
                vec![&"grads", &"--model", &base, &"--data", &rows, &"--output", &output];
            args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
            mesp(&args)
        };
        made(&["--train", "full", "--compute", "f32"]).ok();
        let (ours, theirs) = (tensors(&output), tensors(&golden(&format!("full/{family}.safetensors"))));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{family}");
        for (name, (shape, values)) in &theirs {
            assert_eq!(ours[name].0, *shape, "{family} {name}");
            let largest = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (x, y) in ours[name].1.iter().zip(values) {
                assert!((x - y).abs() <= 1e-5 * largest, "{family} {name}: {x} against {y}");
            }
        }
        // The plan is printed beside a refusal, and nothing is written.
        fs::remove_file(&output).expect("the file goes");
        let small = made(&["--train", "full", "--memory-budget", "1MB"]);
        assert_eq!(small.code, 3, "{}", small.stderr);
        assert!(!output.exists());
        // Tiles and store-all change no bit.
        made(&["--full", "--compute", "f32", "--method", "store-all"]).ok();
        assert!(tensors(&output) == ours, "{family}");
    }
}

/// Quantized weights are held in memory in a type that a step could move, where that is asked for.
#[test]
fn gradients_of_quantized_weights_are_of_what_is_held() {
    let (dir, base) = (temporary(), golden("qwen2/model"));
    let [file, grads] = ["model.gguf", "grads.safetensors"].map(|name| dir.path().join(name));
    mesp(&[&"quantize", &"--model", &base, &"--output", &file, &"--type", &"q8_0"]).ok();
    run("grads", &file, &grads, &["--train", "full", "--base", "f32"]).ok();
    let (ours, theirs) = (tensors(&grads), tensors(&golden("full/qwen2.safetensors")));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    // Weights in eight bits are off by half a percent, and the whole gradient by a few.
    let (mut off, mut all) = (0.0, 0.0);
    for (name, (_, values)) in &theirs {
        for (x, y) in ours[name].1.iter().zip(values) {
            off += f64::from(x - y).powi(2);
            all += f64::from(*y).powi(2);
        }
    }
    assert!(off.sqrt() <= 0.1 * all.sqrt() && off > 0.0, "{} of {}", off.sqrt(), all.sqrt());
}
