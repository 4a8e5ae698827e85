//! A mapped file that is cut shorter under a run.
#![cfg(unix)]

use std::fs;

use crate::support::{Running, command, mesp, temporary};

#[test]
fn a_model_that_shrinks_ends_the_run_with_its_name() {
    let dir = temporary();
    let (file, run) = (dir.path().join("tiny.gguf"), dir.path().join("run"));
    mesp(&[&"init-model", &"--preset", &"tiny", &"--type", &"q8_0", &"--output", &file]).ok();
    let rows = dir.path().join("tiny.random_rows.jsonl");
    let whole = fs::read(&file).expect("a model");
    let mut training = command(&[
        &"train",
        &"--model",
        &file,
        &"--data",
        &rows,
        &"--output",
        &run,
        &"--steps=100000",
        &"--save-every=1",
        &"--max-seq-len=64",
    ]);
    let mut training = Running::start(&mut training);
    let checkpoint = run.join("checkpoints/step-1");
    assert!(training.until(|| checkpoint.is_dir()), "it makes steps");
    fs::File::options().write(true).open(&file).expect("the model").set_len(4096).expect("cut");
    let ran = training.end();
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let message = format!("error: {}: expected the file to stay as it was", file.display());
    assert!(ran.stderr.contains(&message), "{}", ran.stderr);
    assert!(ran.stderr.contains("--resume"), "{}", ran.stderr);

    // The last checkpoint is whole, and nothing lies beside it.
    fs::write(&file, whole).expect("put back");
    let mut steps: Vec<u64> = Vec::new();
    for entry in fs::read_dir(run.join("checkpoints")).expect("checkpoints") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        steps.push(name.strip_prefix("step-").and_then(|n| n.parse().ok()).expect("a whole checkpoint"));
    }
    let last = steps.into_iter().max().expect("a checkpoint");
    let adapter = run.join(format!("checkpoints/step-{last}"));
    mesp(&[&"eval", &"--model", &file, &"--adapter", &adapter, &"--data", &rows, &"--max-seq-len=64"]).ok();
}
