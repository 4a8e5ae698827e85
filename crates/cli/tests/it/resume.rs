//! A run that is cut in two is the run that is not, to the bit.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Ran, command, events, golden, mesp, read_json, temporary};

#[expect(clippy::ptr_arg, reason = "a Path is unsized, and the list holds trait objects")]
fn args<'a>(output: &'a PathBuf, steps: &'a &'a str, files: &'a [PathBuf; 2]) -> Vec<&'a dyn AsRef<OsStr>> {
    let [model, rows] = files;
    let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"train", &"--model", model, &"--data", rows];
    args.extend([&"--output" as &dyn AsRef<OsStr>, output, &"--steps", steps]);
    args.extend([&"--learning-rate" as &dyn AsRef<OsStr>, &"0.01", &"--grad-accum", &"2"]);
    args
}

fn files() -> [PathBuf; 2] {
    [golden("qwen2/model"), golden("qwen2/rows.jsonl")]
}

fn adapter(run: &Path) -> Vec<u8> {
    fs::read(run.join("adapter_model.safetensors")).expect("an adapter")
}

#[test]
fn from_a_saved_checkpoint() {
    resume_at_step_4(&[], None);
}

#[test]
fn from_a_saved_checkpoint_in_bf16() {
    resume_at_step_4(&["--adapter-type", "bf16"], Some("adapter_type"));
}

#[test]
fn from_a_saved_checkpoint_with_activations_in_bf16() {
    resume_at_step_4(&["--activations", "bf16"], Some("activations"));
}

/// The masks of a resumed run are those of the uninterrupted one.
#[test]
fn from_a_saved_checkpoint_with_dropout() {
    resume_at_step_4(&["--lora-dropout", "0.2"], Some("lora_dropout"));
}

#[test]
fn dropout_is_refused_where_it_means_nothing() {
    for (also, words) in [
        (&["--lora-dropout", "1"][..], "--lora-dropout is 1, expected a number from 0 to less than 1"),
        (&["--lora-dropout=-0.1"], "expected a number from 0 to less than 1"),
        (&["--lora-dropout", "0.1", "--dora"], "cannot be combined with DoRA"),
        (&["--lora-dropout", "0.1", "--method", "mezo"], "cannot be combined with an estimate"),
        (&["--lora-dropout", "0.1", "--method", "forward"], "cannot be combined with an estimate"),
    ] {
        let dir = temporary();
        let output = dir.path().join("run");
        let rows = golden("qwen2/rows.jsonl");
        let model = golden("qwen2/model");
        let mut args: Vec<&dyn AsRef<OsStr>> =
            vec![&"train", &"--model", &model, &"--data", &rows, &"--output", &output];
        args.extend(also.iter().map(|arg| arg as &dyn AsRef<OsStr>));
        let ran = mesp(&args);
        assert!(ran.code == 2 && ran.stderr.contains(words), "{also:?}: {} {}", ran.code, ran.stderr);
        assert!(!output.exists());
    }
}

/// Ranks and scales of single modules, some layers, and A frozen.
#[test]
fn from_a_saved_checkpoint_of_a_patterned_adapter() {
    let settings =
        ["--rank-pattern", "q_proj=3,mlp.down_proj=2", "--alpha-pattern", "v_proj=5", "--layers", "0,2"];
    resume_at_step_4(&settings, Some("rank_pattern"));
    resume_at_step_4(&["--target-modules", "q_proj,lm_head,embed_tokens"], Some("target_modules"));
    resume_at_step_4(&["--dora"], Some("dora"));
    resume_at_step_4(&["--dora", "--adapter-type", "bf16"], Some("dora"));
    resume_at_step_4(&["--freeze-a", "--lora-plus-ratio", "4"], Some("freeze_a"));
}

fn resume_at_step_4(settings: &[&str], fixed: Option<&str>) {
    let dir = temporary();
    let files = files();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let mut first = args(&whole, &"10", &files);
    first.extend([&"--save-every" as &dyn AsRef<OsStr>, &"4"]);
    first.extend(settings.iter().map(|s| s as &dyn AsRef<OsStr>));
    mesp(&first).ok();

    // The machine stopped after step 4: there is its checkpoint, and nothing later.
    let step = cut.join("checkpoints/step-4");
    fs::create_dir_all(&step).expect("a directory");
    for entry in fs::read_dir(whole.join("checkpoints/step-4")).expect("a checkpoint") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), step.join(entry.file_name())).expect("copied");
    }
    let mut second = args(&cut, &"10", &files);
    second.push(&"--resume");
    second.extend(settings.iter().map(|s| s as &dyn AsRef<OsStr>));
    let ran = mesp(&second).ok();
    assert!(ran.stderr.contains("training from step 4 to step 10"), "{}", ran.stderr);
    assert_eq!(adapter(&cut), adapter(&whole));
    let losses = |run: &Path| -> Vec<f64> {
        let events = events(run);
        events.iter().filter(|e| e["type"] == "train").map(|e| e["loss"].as_f64().expect("a loss")).collect()
    };
    assert_eq!(losses(&cut), losses(&whole)[4..]);
    assert_eq!(read_json(&cut.join("run.json"))["steps"], 10);

    // Other settings are another run.
    let mut other = args(&cut, &"10", &files);
    other.extend([&"--resume" as &dyn AsRef<OsStr>, &step]);
    if let Some(fixed) = fixed {
        let refused = mesp(&other).failure(dir.path());
        assert!(refused.contains(&format!("was written with {fixed} ")), "{refused}");
        return;
    }
    other.extend([&"--rank" as &dyn AsRef<OsStr>, &"4"]);
    insta::assert_snapshot!("another_run", mesp(&other).failure(dir.path()));
}

#[cfg(unix)]
#[test]
fn after_an_interrupt() {
    let dir = temporary();
    let files = files();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    mesp(&args(&whole, &"1500", &files)).ok();

    let mut first = command(&args(&cut, &"1500", &files));
    first.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = first.spawn().expect("the program starts");
    let metrics = cut.join("metrics.jsonl");
    let begun = std::time::Instant::now();
    while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 20 {
        assert!(begun.elapsed().as_secs() < 60, "twenty steps in a minute");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let id = child.id().to_string();
    let signal = std::process::Command::new("kill").args(["-INT", &id]).status().expect("kill");
    assert!(signal.success());
    let ran = Ran::of(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert!(ran.stderr.contains("finishing this step, then writing a checkpoint"), "{}", ran.stderr);
    assert!(ran.stderr.contains("the same command with --resume goes on"), "{}", ran.stderr);
    let run = read_json(&cut.join("run.json"));
    assert_eq!(run["status"], "interrupted");
    let step = run["steps"].as_u64().expect("steps");
    assert!(step < 1500 && cut.join(format!("checkpoints/step-{step}")).is_dir());

    let mut second = args(&cut, &"1500", &files);
    second.push(&"--resume");
    mesp(&second).ok();
    assert_eq!(adapter(&cut), adapter(&whole));
    let events = events(&cut);
    assert_eq!(events.iter().filter(|e| e["type"] == "train").count(), 1500, "no step twice, none left out");
    assert_eq!(events.iter().filter(|e| e["type"] == "end").count(), 2);
}
