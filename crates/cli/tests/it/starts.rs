//! Runs that begin together in one folder, and commands that are told to end before they have begun.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::{
    Ran, Running, below, command_of, demo_model, make_pipe, read_json, run, temporary, tree,
};

const AT_ONCE: usize = 8;

fn train(rows: &Path, output: &Path, more: &[&str]) -> Vec<OsString> {
    let mut args: Vec<OsString> =
        vec!["train".into(), "--model".into(), demo_model().into(), "--data".into()];
    args.extend([rows.into(), "--output".into(), output.into(), "--rank=1".into(), "--samples=0".into()]);
    args.extend(more.iter().map(Into::into));
    args
}

fn rows(dir: &Path) -> PathBuf {
    let rows = dir.join("rows.jsonl");
    fs::write(&rows, "{\"text\":\"How do I make tea?\"}\n").expect("written");
    rows
}

/// Starts the same run several times; gives the one that won.
fn together(what: &str, output: &Path, args: &[OsString]) -> Ran {
    let running: Vec<Running> = (0..AT_ONCE).map(|_| Running::start(&mut command_of(args))).collect();
    let numbers: Vec<u32> = running.iter().map(Running::id).collect();
    let ran: Vec<Ran> = running.into_iter().map(Running::end).collect();
    let said: Vec<&str> = ran.iter().map(|r| r.stderr.as_str()).collect();
    assert_eq!(ran.iter().filter(|r| r.code == 0).count(), 1, "{what}: {said:?}");
    for loser in ran.iter().filter(|r| r.code != 0) {
        assert_eq!(loser.code, 2, "{what}: {}", loser.stderr);
        assert_eq!(loser.stderr.matches("error: ").count(), 1, "{what}: {}", loser.stderr);
        assert!(loser.stderr.contains(&output.display().to_string()), "{what}: {}", loser.stderr);
        // Who writes there, by its number; or what is there, for one that came when the winner was gone.
        let holder = loser.stderr.split("another run is writing there (process ").nth(1);
        let number =
            holder.and_then(|rest| rest.split([')', ' ']).next()).and_then(|n| n.parse::<u32>().ok());
        let late = loser.stderr.contains("a run is there already");
        assert!(number.is_some_and(|n| numbers.contains(&n)) || late, "{what}: {}", loser.stderr);
    }
    assert!(!output.join("run.lock").exists(), "{what}");
    let hidden: Vec<String> =
        below(output).into_iter().filter(|name| name.split('/').any(|n| n.starts_with('.'))).collect();
    assert!(hidden.is_empty(), "{what}: {hidden:?}");
    ran.into_iter().find(|r| r.code == 0).expect("the winner")
}

/// Every step of a run once, in order.
fn steps(output: &Path) -> Vec<u64> {
    let events = crate::support::events(output);
    events.iter().filter(|e| e["type"] == "train").filter_map(|e| e["step"].as_u64()).collect()
}

#[test]
fn of_runs_that_begin_together_one_wins() {
    let dir = temporary();
    let rows = rows(dir.path());
    let long = ["--steps=60"];
    for round in 0..3 {
        let output = dir.path().join(format!("new-{round}/run"));
        together("a new folder", &output, &train(&rows, &output, &long));
        assert_eq!(steps(&output), (1..=60).collect::<Vec<u64>>());
        // One whose run goes: the winner's stands there whole, and nothing of another.
        fs::write(output.join("notes"), "mine").expect("written");
        let more = ["--steps=300", "--overwrite"];
        together("a run to replace", &output, &train(&rows, &output, &more));
        assert_eq!(steps(&output), (1..=300).collect::<Vec<u64>>());
        assert_eq!(read_json(&output.join("run.json"))["steps"], 300);
        assert!(output.join("notes").exists());
        // One that goes on.
        let output = dir.path().join(format!("resumed-{round}"));
        let args = train(&rows, &output, &["--steps=400", "--save-every=100"]);
        let mut begun = Running::start(&mut command_of(&args));
        assert!(begun.until(|| output.join("checkpoints/step-100").is_dir()));
        begun.kill();
        let resumed = train(&rows, &output, &["--steps=400", "--save-every=100", "--resume"]);
        together("a run that goes on", &output, &resumed);
        assert_eq!(steps(&output), (1..=400).collect::<Vec<u64>>());
    }
}

/// One that is refused after the folder was made takes away what it made, and nothing of another that has begun.
#[test]
fn one_that_is_refused_spoils_none_that_begins() {
    let dir = temporary();
    let rows = rows(dir.path());
    for round in 0..6 {
        let output = dir.path().join(format!("run-{round}"));
        let refused = train(&rows, &output, &["--steps=5", "--memory-budget=1000"]);
        let good = train(&rows, &output, &["--steps=5"]);
        let bad: Vec<Running> = (0..3).map(|_| Running::start(&mut command_of(&refused))).collect();
        let begun = Running::start(&mut command_of(&good));
        for ran in bad.into_iter().map(Running::end) {
            assert!([2, 3].contains(&ran.code), "{}", ran.stderr);
            assert!(!ran.stderr.contains("cannot"), "{}", ran.stderr);
        }
        let ran = begun.end();
        // It may have come while one that is refused held the folder; then it says so.
        if ran.code != 0 {
            assert!(ran.code == 2 && ran.stderr.contains("another run is writing there"), "{}", ran.stderr);
            run(&good).ok();
        }
        assert_eq!(steps(&output), [1, 2, 3, 4, 5]);
    }
}

#[test]
fn the_folder_of_a_run_that_is_refused_is_gone() {
    let dir = temporary();
    let rows = rows(dir.path());
    let output = dir.path().join("run");
    let refused = run(&train(&rows, &output, &["--steps=5", "--memory-budget=1000"]));
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert_eq!(below(dir.path()), ["rows.jsonl"]);
    // A pipe where events go is no place for them, and nobody waits for its reader.
    fs::create_dir(&output).expect("a folder");
    make_pipe(&output.join("metrics.jsonl"));
    let args = train(&rows, &output, &["--steps=5"]);
    let ended = Running::start(&mut command_of(&args)).end_within(Duration::from_secs(20)).expect("it ends");
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("metrics.jsonl: expected a file or nothing"), "{}", ended.stderr);
}

/// Told to end at any moment before the first step, a command ends at once, and all is as it was.
#[test]
fn ended_before_it_begins_a_run_leaves_nothing() {
    let dir = temporary();
    let rows = dir.path().join("rows.jsonl");
    // As long to tokenize as it takes for some of the moments.
    fs::write(&rows, "{\"text\":\"How do I make tea? How do I make tea?\"}\n".repeat(20_000))
        .expect("written");
    let output = dir.path().join("run");
    let args = train(&rows, &output, &["--steps=100000"]);
    let mut seen: BTreeMap<bool, usize> = BTreeMap::new();
    for (i, signal) in ["INT", "TERM", "INT", "TERM", "INT", "TERM", "INT", "TERM"].into_iter().enumerate() {
        let before = tree(dir.path());
        let mut running = Running::start(&mut command_of(&args));
        if i % 2 == 0 {
            // In the middle of the tokens.
            assert!(running.until(|| below(&output).iter().any(|name| name.contains(".tokens.tmp-"))));
        } else {
            assert!(running.until(|| output.exists()));
            std::thread::sleep(Duration::from_millis(9 * i as u64));
        }
        running.signal(signal);
        let since = Instant::now();
        let ended = running.end_within(Duration::from_secs(20)).expect("it ends");
        // Not the time of the machine's other work, but no step is waited for, and no million rows.
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        assert_eq!(ended.status.code(), Some(130), "{signal}: {}", ended.stderr);
        assert!(!ended.stderr.contains("error"), "{}", ended.stderr);
        assert!(tree(dir.path()) == before && !output.exists(), "{:?}", below(dir.path()));
        *seen.entry(i % 2 == 0).or_default() += 1;
    }
    assert_eq!(seen[&true], 4);
    // In a folder that was there all stays that was, and nothing is added.
    fs::create_dir(&output).expect("a folder");
    fs::write(output.join("notes"), "mine").expect("written");
    let mut running = Running::start(&mut command_of(&args));
    assert!(running.until(|| below(&output).iter().any(|name| name.contains(".tokens.tmp-"))));
    running.signal("TERM");
    assert_eq!(running.end().code, 130);
    let left = below(&output);
    assert!(left.iter().all(|name| ["notes", "tokens"].contains(&name.as_str())), "{left:?}");
}

/// The process that turns text into tokens ends with the one that asked it to, also one that is killed.
#[test]
fn no_child_outlives_a_killed_run() {
    let dir = temporary();
    let rows = dir.path().join("rows.jsonl");
    fs::write(&rows, "{\"text\":\"How do I make tea? How do I make tea?\"}\n".repeat(40_000))
        .expect("written");
    let output = dir.path().join("run");
    let mut running = Running::start(&mut command_of(&train(&rows, &output, &["--steps=1"])));
    assert!(running.until(|| below(&output).iter().any(|name| name.contains(".tokens.tmp-"))));
    running.kill();
    let since = Instant::now();
    while below(&output).iter().any(|name| name.contains(".tokens.tmp-")) {
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", below(&output));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!below(&output).iter().any(|name| name.ends_with(".tokens")), "it did not go on to its end");
}

/// Under `nohup` the end of the terminal is no interrupt: it was told to ignore that.
#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let dir = temporary();
    let (rows, output) = (rows(dir.path()), dir.path().join("run"));
    let plain = command_of(&train(&rows, &output, &["--steps=100000"]));
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    let mut running = Running::start(&mut shell);
    let begun = || fs::read_to_string(output.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    assert!(running.until(|| begun() > 10));
    running.signal("HUP");
    let before = begun();
    assert!(running.until(|| begun() > before + 20), "it goes on");
    running.signal("TERM");
    let ran = running.end();
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert_eq!(read_json(&output.join("run.json"))["status"], "interrupted");
}
