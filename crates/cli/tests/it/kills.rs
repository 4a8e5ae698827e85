//! A run that is killed at any moment, again and again, is the run that is not, to the bit.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{command, events, golden, mesp, read_json, temporary};

const STEPS: usize = 240;
/// Times that the run is killed, unless `MESP_KILLS` says another number.
const KILLS: usize = 8;

fn run(output: &Path, more: &[&str]) -> Vec<std::ffi::OsString> {
    let (model, rows) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"));
    let steps = STEPS.to_string();
    let files: [&dyn AsRef<OsStr>; 9] =
        [&"train", &"--model", &model, &"--data", &rows, &"--eval-data", &rows, &"--output", &output];
    let options = "--learning-rate 0.01 --grad-accum 2 --save-every 7 --eval-every 20 --save-total-limit 2 \
                   --early-stopping-patience 100 --load-best-at-end --tensorboard --steps";
    let mut args: Vec<std::ffi::OsString> = files.iter().map(|a| a.as_ref().to_owned()).collect();
    args.extend(options.split_whitespace().map(Into::into));
    args.push(steps.into());
    args.extend(more.iter().map(Into::into));
    args
}

fn listed(args: &[std::ffi::OsString]) -> Vec<&dyn AsRef<OsStr>> {
    args.iter().map(|a| a as &dyn AsRef<OsStr>).collect()
}

/// Numbers that are the same in every run of the test.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound.max(1)
    }
}

/// The last step that a run has written down.
fn reached(run: &Path) -> usize {
    let text = fs::read(run.join("metrics.jsonl")).unwrap_or_default();
    let lines = text.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice::<Value>(l).ok());
    lines.filter(|e| e["type"] == "train").filter_map(|e| e["step"].as_u64()).next_back().unwrap_or(0)
        as usize
}

fn trained(run: &Path, fields: &[&str]) -> Vec<Vec<Value>> {
    let of = |e: &Value| fields.iter().map(|f| e[*f].clone()).collect();
    events(run).iter().filter(|e| e["type"] == "train").map(of).collect()
}

#[expect(clippy::print_stderr, reason = "how far it came is the result")]
#[test]
fn killed_at_random() {
    let kills = std::env::var("MESP_KILLS").ok().map_or(KILLS, |n| n.parse().expect("a number"));
    let dir = temporary();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    mesp(&listed(&run(&whole, &[]))).ok();

    let mut random = Random(20_240_229);
    let (mut killed, mut begun) = (0, 0);
    while killed < kills {
        begun += 1;
        assert!(begun < 2 * kills + 20, "the run gets on: {killed} kills, step {}", reached(&cut));
        let resume: &[&str] = if cut.join("metrics.jsonl").exists() { &["--resume"] } else { &[] };
        let mut child = command(&listed(&run(&cut, resume)));
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        // Some steps further, and then some time: within a step, a checkpoint, or the start.
        let more = random.below(2 * (STEPS - reached(&cut)).saturating_sub(20) / (kills - killed + 1));
        let (from, since) = (reached(&cut), Instant::now());
        while more > 0 && reached(&cut) < from + more && child.try_wait().expect("a child").is_none() {
            assert!(since.elapsed().as_secs() < 120, "steps are made");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_micros(random.below(60_000) as u64));
        if child.try_wait().expect("a child").is_none() {
            child.kill().expect("killed");
            killed += 1;
        }
        child.wait().expect("it ends");
    }
    eprintln!("killed {killed} times, the last time after step {}", reached(&cut));
    let resume: &[&str] = if cut.join("metrics.jsonl").exists() { &["--resume"] } else { &[] };
    mesp(&listed(&run(&cut, resume))).ok();

    let read = |run: &Path| fs::read(run.join("adapter_model.safetensors")).expect("an adapter");
    assert!(read(&cut) == read(&whole), "the adapter is the same to the bit");
    let same = ["step", "epoch", "loss", "learning_rate", "grad_norm", "num_tokens"];
    assert_eq!(trained(&cut, &same), trained(&whole, &same), "every step once, in order, the same");
    let evals =
        |run: &Path| -> Vec<Value> { events(run).into_iter().filter(|e| e["type"] == "eval").collect() };
    assert_eq!(evals(&cut), evals(&whole));
    for field in ["steps", "tokens", "target_tokens", "loss", "best", "status"] {
        assert_eq!(
            read_json(&cut.join("run.json"))[field],
            read_json(&whole.join("run.json"))[field],
            "{field}"
        );
    }
    // Nothing half-written is left, and no checkpoint too many.
    for folder in [cut.clone(), cut.join("checkpoints")] {
        let names = |dir: &Path| -> Vec<String> {
            let entries = fs::read_dir(dir).expect("a folder");
            entries.map(|e| e.expect("an entry").file_name().into_string().expect("text")).collect()
        };
        let hidden: Vec<_> = names(&folder).into_iter().filter(|n| n.starts_with('.')).collect();
        assert!(hidden.is_empty(), "{hidden:?}");
    }
    assert!(fs::read_dir(cut.join("checkpoints")).expect("checkpoints").count() <= 3);
}
