//! Runs as people use them: evaluation on the way, the best checkpoint, files of options, steps that go wrong,
//! folders that vanish.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{
    Ran, Running, command, copy_model, demo_model, events, golden, mesp, poison, read_json, temporary,
};

#[expect(clippy::ptr_arg, reason = "a Path is unsized, and the list holds trait objects")]
fn args<'a>(output: &'a PathBuf, files: &'a [PathBuf; 2], more: &'a [&'a str]) -> Vec<&'a dyn AsRef<OsStr>> {
    let [model, rows] = files;
    let mut args: Vec<&dyn AsRef<OsStr>> =
        vec![&"train", &"--model", model, &"--data", rows, &"--output", output];
    args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
    args
}

fn files() -> [PathBuf; 2] {
    [golden("qwen2/model"), golden("qwen2/rows.jsonl")]
}

fn adapter(run: &Path) -> Vec<u8> {
    fs::read(run.join("adapter_model.safetensors")).expect("an adapter")
}

fn of_type<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["type"] == kind).collect()
}

#[test]
fn a_run_that_does_not_improve_ends_early_and_keeps_the_best() {
    let dir = temporary();
    let (run, files) = (dir.path().join("run"), files());
    let rows = files[1].display().to_string();
    let more = [
        "--eval-data",
        &rows,
        "--steps",
        "40",
        "--eval-every",
        "2",
        "--early-stopping-patience",
        "3",
        "--early-stopping-min-delta",
        "100",
        "--save-every",
        "1",
        "--save-total-limit",
        "2",
        "--load-best-at-end",
        "--learning-rate",
        "0.3",
        "--optimizer",
        "adamw",
    ];
    let ran = mesp(&args(&run, &files, &more)).ok();
    let events = events(&run);
    // The first evaluation is the one to improve on; three more do not, by 100.
    assert_eq!(events.last().expect("an event")["status"], "stopped", "{}", ran.stderr);
    assert_eq!(of_type(&events, "train").len(), 8);
    let evals = of_type(&events, "eval");
    assert_eq!(
        evals.iter().map(|e| e["step"].as_u64().expect("a step")).collect::<Vec<_>>(),
        [0, 2, 4, 6, 8]
    );
    assert_eq!(evals.last().expect("an evaluation")["patience_left"], 0);
    let lowest = evals[1..]
        .iter()
        .min_by(|a, b| a["eval_loss"].as_f64().partial_cmp(&b["eval_loss"].as_f64()).expect("numbers"))
        .expect("an evaluation");
    let document = read_json(&run.join("run.json"));
    assert_eq!(document["status"], "stopped");
    assert_eq!(
        (&document["best"]["step"], &document["best"]["loaded"]),
        (&lowest["step"], &Value::Bool(true))
    );
    let best = run.join(document["best"]["checkpoint"].as_str().expect("a checkpoint"));
    assert_eq!(adapter(&run), adapter(&best), "the adapter is the best one's");
    let left = fs::read_dir(run.join("checkpoints")).expect("checkpoints").count();
    assert!(left <= 2 && run.join("checkpoints/step-8").is_dir(), "{left} checkpoints");
    assert!(ran.stderr.contains("held-out loss was lowest at step"), "{}", ran.stderr);

    let refused = mesp(&args(&dir.path().join("no"), &files, &["--early-stopping-patience", "2"]));
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("--eval-every"), "{}", refused.stderr);
}

#[test]
fn numbers_that_are_none_are_left_out_when_asked() {
    let dir = temporary();
    let model = copy_model("qwen2", dir.path());
    poison(&model.join("model.safetensors"), "model.norm.weight");
    let (run, files) = (dir.path().join("run"), [model, golden("qwen2/rows.jsonl")]);
    mesp(&args(&run, &files, &["--steps", "5", "--on-nonfinite", "skip", "--batch-size", "2"])).ok();
    let all = events(&run);
    let told = of_type(&all, "event");
    assert_eq!(told.len(), 5);
    for event in told {
        assert_eq!((&event["kind"], &event["action"]), (&"non_finite".into(), &"skip".into()));
        let rows = event["rows"].as_array().expect("rows");
        assert!(rows.iter().all(|r| r.as_str().is_some_and(|r| r.contains("rows.jsonl:"))), "{event}");
    }
    let steps = of_type(&all, "train");
    assert!(steps.len() == 5 && steps.iter().all(|e| e["loss"].is_null() && e["skipped"] == true));
    assert!(read_json(&run.join("run.json"))["loss"]["last"].is_null());
    // Not for ever.
    let ran = mesp(&args(&run, &files, &["--steps", "50", "--on-nonfinite", "skip", "--overwrite"]));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert_eq!(of_type(&events(&run), "train").len(), 20);
    let refused =
        mesp(&args(&run, &files, &["--update", "per-block", "--on-nonfinite", "skip", "--overwrite"]));
    assert_eq!(refused.code, 2, "{}", refused.stderr);
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = temporary();
    let (run, files) = (dir.path().join("run"), files());
    let ran = mesp(&args(&run, &files, &["--dry-run", "--epochs", "2", "--json"])).ok();
    let document = ran.json();
    assert_eq!(document["dry_run"], true);
    assert_eq!((document["steps"].as_u64(), document["data_counts"]["rows"].as_u64()), (Some(8), Some(5)));
    assert!(document["memory"]["planned_bytes"].is_u64() && document["adapter"]["rank"] == 8);
    assert!(!run.exists());
    let text = mesp(&args(&run, &[demo_model(), demo_model().join("../train.jsonl")], &["--dry-run"])).ok();
    assert!(text.stdout.contains("nothing was trained or written"), "{}", text.stdout);
    assert!(!run.exists());
    assert_eq!(mesp(&args(&run, &files, &["--dry-run", "--memory-budget", "1kB"])).code, 3);
}

#[test]
fn options_come_from_a_file_and_the_command_line_wins() {
    let dir = temporary();
    let (run, file) = (dir.path().join("run"), dir.path().join("run.toml"));
    let [model, rows] = files();
    let head = format!("model = {model:?}\ndata = {rows:?}\noutput = {run:?}\n");
    let with = |body: &str, more: &[&str]| -> Ran {
        fs::write(&file, head.clone() + body).expect("written");
        let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"train", &"--config", &file];
        args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
        mesp(&args)
    };
    let body = "rank = 4\nsteps = 3\nlearning-rate = 1e-3\ntarget-modules = [\"q_proj\", \"v_proj\"]\n\
                rslora = true\nmax_grad_norm = 0.5\n";
    let document = with(body, &["--json", "--rank", "2"]).ok().json();
    assert_eq!((document["adapter"]["rank"].as_u64(), document["steps"].as_u64()), (Some(2), Some(3)));
    assert_eq!(document["adapter"]["targets"], serde_json::json!(["q_proj", "v_proj"]));
    assert_eq!(
        (&document["adapter"]["rslora"], document["max_grad_norm"].as_f64()),
        (&Value::Bool(true), Some(0.5))
    );
    // What the command line has excludes what the file has, not the other way round.
    let document = with(body, &["--json", "--epochs", "1", "--overwrite"]).ok().json();
    assert_eq!(document["steps"], 4);

    let refused = |body: &str, parts: &[&str]| {
        let ran = with(body, &[]);
        assert_eq!(ran.code, 2, "{body}: {}", ran.stderr);
        for part in parts {
            assert!(ran.stderr.contains(part), "{body}: expected {part:?} in {}", ran.stderr);
        }
    };
    refused(
        "steps = 3\nlearning-rat = 1",
        &["run.toml:5: unknown key learning-rat", "nearest is learning-rate"],
    );
    refused("rank = \"many\"", &["run.toml:4: rank: expected R, found \"many\"", "expected a whole number"]);
    refused("rslora = 3", &["run.toml:4: rslora: expected true or false, found 3"]);
    refused("rank = true", &["run.toml:4: rank: expected R, found true"]);
    refused(
        "on-spike = \"explode\"",
        &["run.toml:4: on-spike: expected report, skip, stop, found \"explode\""],
    );
    refused("[training]\nrank = 3", &["run.toml:4: unknown key training"]);
    refused("rank = = 3", &["run.toml:4:"]);
    refused("rank = 3\nrank = 4", &["run.toml:5:"]);
    refused("config = \"other.toml\"", &["run.toml:4: unknown key config"]);
    let none = mesp(&[&"train", &"--config", &dir.path().join("none.toml")]);
    assert_eq!(none.code, 2, "{}", none.stderr);

    let example = dir.path().join("example.toml");
    mesp(&[&"init-config", &example]).ok();
    let text = fs::read_to_string(&example).expect("an example");
    assert!(text.contains("#learning-rate = 0.0002") && text.contains("model = "), "{text}");
    let ran = mesp(&[
        &"train",
        &"--config",
        &example,
        &"--model",
        &model,
        &"--data",
        &rows,
        &"--output",
        &dir.path().join("new"),
        &"--dry-run",
    ]);
    ran.ok();
    assert_eq!(mesp(&[&"init-config", &example]).code, 2, "what is there is not overwritten");
}

fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 })
    })
}

#[test]
fn tensorboard_finds_whole_records() {
    let dir = temporary();
    let (run, files) = (dir.path().join("run"), files());
    let rows = files[1].display().to_string();
    mesp(&args(&run, &files, &["--steps", "4", "--tensorboard", "--eval-data", &rows])).ok();
    let mut entries = fs::read_dir(run.join("tensorboard")).expect("a folder");
    let path = entries.next().expect("a file").expect("an entry").path();
    assert!(path.file_name().expect("a name").to_string_lossy().starts_with("events.out.tfevents."));
    let bytes = fs::read(path).expect("a file");
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let masked = |data: &[u8]| crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8);
    let (mut at, mut records) = (0, Vec::new());
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize;
        assert_eq!(word(at + 8), masked(&bytes[at..at + 8]));
        let record = &bytes[at + 12..at + 12 + length];
        assert_eq!(word(at + 12 + length), masked(record));
        records.push(record.to_vec());
        at += 16 + length;
    }
    let holds = |record: &[u8], text: &str| record.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(holds(&records[0], "brain.Event:2"));
    let losses: Vec<f64> =
        of_type(&events(&run), "train").iter().map(|e| e["loss"].as_f64().expect("a loss")).collect();
    let drawn: Vec<&Vec<u8>> = records.iter().filter(|r| holds(r, "train/loss")).collect();
    assert_eq!((drawn.len(), records.iter().filter(|r| holds(r, "eval/loss")).count()), (4, 2));
    for (record, loss) in drawn.iter().zip(losses) {
        assert!(record.windows(4).any(|w| w == (loss as f32).to_le_bytes()), "{loss}");
    }
}

#[test]
fn samples_and_answers_are_written_down() {
    let dir = temporary();
    let run = dir.path().join("run");
    let demo = demo_model();
    let files = [demo.clone(), demo.join("../train.jsonl")];
    let eval = demo.join("../eval.jsonl").display().to_string();
    let more = [
        "--steps",
        "4",
        "--eval-data",
        &eval,
        "--eval-every",
        "2",
        "--sample-prompt",
        "Who is Lina?",
        "--sample-tokens",
        "8",
        "--samples",
        "2",
    ];
    mesp(&args(&run, &files, &more)).ok();
    let events = events(&run);
    let samples = of_type(&events, "sample");
    assert_eq!(samples.len(), 2);
    for sample in samples {
        let tokens = sample["tokens"].as_array().expect("tokens");
        let text: String = tokens.iter().map(|t| t["text"].as_str().expect("text")).collect();
        let trained: String = tokens
            .iter()
            .filter(|t| t["trained"] == true)
            .map(|t| t["text"].as_str().expect("text"))
            .collect();
        assert!(
            !trained.is_empty() && trained.len() < text.len() && text.contains(&trained),
            "{text:?} {trained:?}"
        );
    }
    let said = of_type(&events, "generation");
    let when: Vec<&str> = said.iter().map(|e| e["when"].as_str().expect("when")).collect();
    assert_eq!(when, ["before", "eval", "end"]);
    assert!(said.iter().all(|e| e["text"].as_str().is_some_and(|t| !t.is_empty())));

    // The plan's ledger adds up, and the step's memory has its peak where it says.
    let plan = of_type(&events, "plan")[0];
    let sum: u64 = plan["ledger"].as_object().expect("a ledger").values().filter_map(Value::as_u64).sum();
    assert_eq!(Some(sum), plan["planned_bytes"].as_u64());
    let timeline = &plan["timeline"];
    let columns: Vec<u64> = timeline["columns"]
        .as_array()
        .expect("columns")
        .iter()
        .map(|c| c.as_array().expect("classes").iter().filter_map(Value::as_u64).sum())
        .collect();
    assert_eq!(columns.iter().max().copied(), timeline["peak_bytes"].as_u64());
    let peak = timeline["peak_column"].as_u64().expect("a column") as usize;
    assert_eq!(Some(columns[peak]), timeline["peak_bytes"].as_u64());
    let layers = read_json(&demo.join("config.json"))["num_hidden_layers"].as_u64().expect("layers");
    for phase in ["forward", "backward"] {
        let blocks = timeline["blocks"].as_array().expect("blocks").iter().filter(|b| b["phase"] == phase);
        let mut blocks: Vec<u64> = blocks.map(|b| b["block"].as_u64().expect("a number")).collect();
        blocks.sort_unstable();
        assert_eq!(blocks, (0..layers).collect::<Vec<_>>(), "{phase}");
    }
    let memory = of_type(&events, "memory");
    assert_eq!(memory[0]["ledger"], plan["ledger"]);
    assert!(
        of_type(&events, "train").iter().all(|e| e["heap_peak_bytes"].is_u64() && e["loss_mean"].is_f64())
    );
}

/// Starts a run and waits until it has made some steps.
fn under_way(args: &[&dyn AsRef<OsStr>], run: &Path, temporary: &Path) -> Running {
    let mut running = Running::start(command(args).env("TMPDIR", temporary));
    let steps = || fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    assert!(running.until(|| steps() >= 20), "it makes steps");
    running
}

#[cfg(unix)]
#[test]
fn a_folder_that_vanishes_loses_no_step() {
    let dir = temporary();
    let (whole, run, files) = (dir.path().join("whole"), dir.path().join("run"), files());
    let steps = ["--steps", "1200", "--learning-rate", "0.01"];
    mesp(&args(&whole, &files, &steps)).ok();

    let child = under_way(&args(&run, &files, &steps), &run, dir.path());
    fs::rename(&run, dir.path().join("gone")).expect("moved");
    let ran = child.end().ok();
    assert!(ran.stderr.contains("the run directory has vanished"), "{}", ran.stderr);
    assert_eq!(adapter(&run), adapter(&whole));
    assert!(events(&run).iter().any(|e| e["kind"] == "folder_made_again"));
    assert!(run.join("run.json").is_file());

    // Where nothing can be written any more, the state goes elsewhere and the message says where.
    fs::remove_dir_all(&run).expect("removed");
    let child = under_way(&args(&run, &files, &steps), &run, dir.path());
    fs::rename(&run, dir.path().join("gone-too")).expect("moved");
    fs::write(&run, "").expect("a file in its place");
    let ran = child.end();
    // Between the two calls the folder may have been made again: then it is full, and the write failed.
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let place = ran.stderr.split("was written to ").nth(1).expect("a place").split(": --resume").next();
    let place = PathBuf::from(place.expect("a place"));
    fs::remove_file(&run).expect("removed");
    let place_text = place.display().to_string();
    let more = [&steps[..], &["--resume", &place_text]].concat();
    mesp(&args(&run, &files, &more)).ok();
    assert_eq!(adapter(&run), adapter(&whole), "from the rescued state to the same end");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_the_run_and_nothing_is_lost() {
    let dir = temporary();
    let (whole, run, files) = (dir.path().join("whole"), dir.path().join("run"), files());
    let steps = ["--steps", "900", "--learning-rate", "0.01"];
    mesp(&args(&whole, &files, &steps)).ok();
    // No file may grow beyond this many blocks: metrics.jsonl does, in the end.
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_mesp")]);
    limited.args(args(&run, &files, &steps).iter().map(AsRef::as_ref)).args(["--threads", "2"]);
    let ran = Ran::of(limited.output().expect("it starts"));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for part in ["metrics.jsonl", "stopped after step ", "--resume goes on"] {
        assert!(ran.stderr.contains(part), "expected {part:?} in {}", ran.stderr);
    }
    let more = [&steps[..], &["--resume"]].concat();
    mesp(&args(&run, &files, &more)).ok();
    assert_eq!(adapter(&run), adapter(&whole));
    // The line for which there was no room is missing; its step is not.
    assert_eq!(of_type(&events(&run), "train").len(), 899);
}

#[cfg(unix)]
#[test]
fn one_run_at_a_time_writes_to_a_folder_and_a_termination_is_an_interrupt() {
    let dir = temporary();
    let (run, files) = (dir.path().join("run"), files());
    let steps = ["--steps", "100000"];
    let child = under_way(&args(&run, &files, &steps), &run, dir.path());
    let second = mesp(&args(&run, &files, &["--steps", "2"]));
    assert_eq!(second.code, 2, "{}", second.stderr);
    assert!(second.stderr.contains("another run is writing there"), "{}", second.stderr);
    let holder = format!("another run is writing there (process {}", child.id());
    assert!(second.stderr.contains(&holder), "{}", second.stderr);
    child.signal("TERM");
    let ran = child.end();
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    let steps = read_json(&run.join("run.json"))["steps"].as_u64().expect("steps");
    assert!(run.join(format!("checkpoints/step-{steps}/state.json")).is_file());
}
