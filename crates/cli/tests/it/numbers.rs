//! Numbers that an option cannot take: the message names the option, what it expects and what it found, in the words of
//! its own range, however the number is typed.

use std::path::Path;

use crate::support::{demo_model, mesp, temporary};

/// What is typed, and what the message has to say.
type Case = (&'static str, &'static str);

/// No number of any option may be one of these.
const NEVER: [&str; 6] = ["", " ", "nan", "inf", "-inf", "one"];

const TRAIN: [Case; 56] = [
    ("--learning-rate -1e-4", "--learning-rate is -0.0001, expected 0 or more"),
    ("--learning-rate=-1", "--learning-rate is -1, expected 0 or more"),
    ("--learning-rate 1e60", "expected 0 or more, such as 2e-4"),
    ("--alpha 0", "--alpha is 0, expected a number above 0"),
    ("--alpha -16", "--alpha is -16, expected a number above 0"),
    ("--alpha 1e-60", "expected a number above 0 that f32 can hold"),
    ("--alpha-pattern q_proj=0", "with a number above 0, found \"q_proj=0\""),
    ("--rank 0", "--rank is 0, expected 1 or more"),
    ("--rank -1", "'-1' for '--rank <R>': expected a whole number from 0"),
    ("--rank 1.5", "'1.5' for '--rank <R>': expected a whole number"),
    ("--rank 1e3", "expected a whole number"),
    ("--rank 99999999999999999999", "expected a whole number from 0 to 18446744073709551615"),
    ("--rank-pattern q_proj=-2", "a rank of 1 or more, found \"q_proj=-2\""),
    ("--layers -1", "--layers: expected numbers and ranges, found \"-1\""),
    ("--max-seq-len 0", "--max-seq-len is 0, which leaves nothing to predict"),
    ("--max-seq-len 1", "--max-seq-len is 1, which leaves nothing to predict"),
    ("--max-seq-len -5", "expected a whole number"),
    ("--batch-size 0", "--batch-size is 0, expected 1 or more"),
    ("--batch-tokens 0", "--batch-tokens is 0, expected 1 or more"),
    ("--grad-accum 0", "--grad-accum is 0, expected 1 or more"),
    ("--steps 0", "--steps is 0, expected 1 or more"),
    ("--steps -3", "'-3' for '--steps <N>': expected a whole number"),
    ("--epochs 0", "--epochs is 0, expected a number above 0"),
    ("--epochs -1", "--epochs is -1, expected a number above 0"),
    ("--warmup-ratio -0.1", "--warmup-ratio is -0.1, expected a number from 0 to 1"),
    ("--warmup-ratio 2", "--warmup-ratio is 2, expected a number from 0 to 1"),
    ("--momentum -1", "--momentum is -1, expected a number from 0 to 1"),
    ("--momentum 1.5", "--momentum is 1.5, expected a number from 0 to 1"),
    ("--weight-decay -0.1", "--weight-decay is -0.1, expected 0 or more"),
    ("--weight-decay 1e60", "expected 0 or more"),
    ("--max-grad-norm -1", "--max-grad-norm is -1, expected 0 or more"),
    ("--lora-plus-ratio 0", "--lora-plus-ratio is 0, expected a positive number"),
    ("--lora-plus-ratio -1", "--lora-plus-ratio is -1, expected a positive number"),
    ("--eval-split 0", "--eval-split is 0, expected a share of the rows"),
    ("--eval-split 1", "--eval-split is 1, expected a share of the rows"),
    ("--eval-split -0.1", "--eval-split is -0.1, expected a share of the rows"),
    ("--eval-every 0", "--eval-every is 0, expected 1 or more"),
    ("--save-every 0", "--save-every is 0, expected 1 or more"),
    ("--save-total-limit 0", "--save-total-limit is 0, expected 1 or more"),
    ("--eval-every 1 --early-stopping-patience 0", "--early-stopping-patience is 0, expected 1 or more"),
    ("--early-stopping-min-delta -1", "--early-stopping-min-delta is -1, expected 0 or more"),
    ("--spike-factor 0.5", "--spike-factor is 0.5, expected a number above 1, or 0 for none"),
    ("--spike-factor -2", "--spike-factor is -2, expected a number above 1, or 0 for none"),
    ("--sample-tokens 0", "--sample-tokens is 0, expected 1 or more"),
    ("--mlp-rows 0", "--mlp-rows is 0, expected 1 or more"),
    ("--head-rows 0", "--head-rows is 0, expected 1 or more"),
    ("--seed -1", "'-1' for '--seed <N>': expected a whole number"),
    ("--memory-budget -1MB", "expected a size such as 128MB"),
    ("--memory-budget 0", "expected a size such as 128MB"),
    ("--method mezo --eps 0", "--eps is 0, expected a positive number"),
    ("--method mezo --eps -1e-3", "--eps is -0.001, expected a positive number"),
    ("--method mezo --directions 0", "--directions is 0, expected 1 to 65536"),
    ("--method mezo --sparsity 1", "--sparsity is 1, expected a number from 0"),
    ("--method mezo --sparsity -0.5", "--sparsity is -0.5, expected a number from 0"),
    ("--method lcsb --block-share 0", "--block-share is 0, expected a number above 0"),
    ("--method lcsb --block-share -1", "--block-share is -1, expected a number above 0"),
];

const GENERATE: [Case; 14] = [
    ("--max-tokens 0", "--max-tokens is 0, expected 1 or more"),
    ("--max-tokens -1", "expected a whole number"),
    ("--temperature -0.5", "--temperature is -0.5, expected 0 or more"),
    ("--top-k -1", "'-1' for '--top-k <K>': expected a whole number"),
    ("--top-p 0", "--top-p is 0, expected a number above 0 and at most 1"),
    ("--top-p -1", "--top-p is -1, expected"),
    ("--top-p 1.5", "--top-p is 1.5, expected"),
    ("--min-p -0.1", "--min-p is -0.1, expected a number from 0 to 1"),
    ("--min-p 2", "--min-p is 2, expected a number from 0 to 1"),
    ("--repetition-penalty 0", "--repetition-penalty is 0, expected a number above 0"),
    ("--repetition-penalty -1", "--repetition-penalty is -1, expected a number above 0"),
    ("--repetition-window -1", "expected a whole number"),
    ("--adapter=x --adapter-scale 1e60", "expected a number that f32 can hold"),
    ("--seed 1.5", "expected a whole number"),
];

fn refused(before: &[&str], typed: &str, expected: &str) {
    let words = typed.split(' ').map(|word| word.replace('\u{1}', " "));
    let all: Vec<String> = before.iter().map(|word| (*word).to_owned()).chain(words).collect();
    let all: Vec<&dyn AsRef<std::ffi::OsStr>> =
        all.iter().map(|a| a as &dyn AsRef<std::ffi::OsStr>).collect();
    let said = mesp(&all).failure(Path::new("/nowhere"));
    assert!(said.starts_with("exit status 2\n") && said.contains(expected), "{before:?} {typed}: {said}");
}

#[test]
fn of_training() {
    let dir = temporary();
    let (model, rows) = (demo_model(), demo_model().join("../train.jsonl"));
    let (model, rows, output) = (model.to_string_lossy(), rows.to_string_lossy(), dir.path().join("out"));
    let before = ["train", "--model", &*model, "--data", &*rows, "--output", &output.to_string_lossy()]
        .map(str::to_owned);
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    for (typed, expected) in TRAIN {
        refused(&before, typed, expected);
    }
    for option in ["--learning-rate", "--alpha", "--steps", "--rank", "--epochs", "--max-grad-norm", "--seed"]
    {
        for never in NEVER {
            let typed = format!("{option}={}", never.replace(' ', "\u{1}"));
            refused(&before, &typed, &format!("'{option} <"));
        }
    }
    refused(&before[..5], "--threads 0", "cannot be used multiple times");
    assert!(!output.exists());
}

#[test]
fn of_generation_and_others() {
    let model = demo_model();
    let (model, rows) = (model.to_string_lossy(), demo_model().join("../train.jsonl"));
    let rows = rows.to_string_lossy();
    for (typed, expected) in GENERATE {
        refused(&["generate", "--model", &model, "--prompt", "x"], typed, expected);
    }
    refused(&["chat", "--model", &model], "--context 0", "--context is 0, expected 1 or more");
    refused(&["chat", "--model", &model], "--context -1", "expected a whole number");
    refused(
        &["data", "show", "--model", &model, "--data", &rows],
        "--rows 0",
        "--rows is 0, expected 1 or more",
    );
    refused(
        &["data", "show", "--model", &model, "--data", &rows],
        "--from-line 0",
        "--from-line is 0, expected 1",
    );
    refused(
        &["eval", "--model", &model, "--data", &rows],
        "--batch-size 0",
        "--batch-size is 0, expected 1 or more",
    );
    refused(&["dash"], "--port 65536", "expected a whole number from 0 to 65535");
    refused(&["init-model", "--preset=tiny", "--output=x"], "--seed -1", "expected a whole number");
}

/// `~` where the shell leaves it: after `=`, and in a file of options.
#[cfg(unix)]
#[test]
fn a_tilde_is_the_home_folder() {
    let home = temporary();
    std::os::unix::fs::symlink(demo_model(), home.path().join("m")).expect("a link");
    let run = |args: &[&dyn AsRef<std::ffi::OsStr>]| {
        let output = crate::support::command(args).env("HOME", home.path()).output();
        crate::support::Ran::of(output.expect("the program starts"))
    };
    run(&[&"inspect", &"~/m"]).ok();
    let rows = demo_model().join("../eval.jsonl");
    run(&[&"eval", &"--model=~/m", &"--data", &rows]).ok();
    std::fs::write(
        home.path().join("run.toml"),
        format!("model = \"~/m\"\ndata = {:?}\noutput = \"~/out\"\nsteps = 1\n", rows.to_string_lossy()),
    )
    .expect("written");
    run(&[&"train", &"--config=~/run.toml"]).ok();
    let document = crate::support::read_json(&home.path().join("out/run.json"));
    assert_eq!(document["model"]["path"].as_str(), home.path().join("m").to_str());
    let wrong = run(&[&"inspect", &"~nobody/m"]);
    assert!(wrong.stderr.contains("~nobody/m: expected a model"), "{}", wrong.stderr);
}
