//! Another program's steps, in turns with ours.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};
use mesp_console::ui;
use serde_json::Value;

use super::engine::{Engine, Timing, median};
use crate::args::BenchStepArgs;

/// What the two came to.
pub(super) struct Beside {
    pub(super) command: String,
    pub(super) ours: Vec<Timing>,
    /// Seconds of the peer's steps, turn by turn, without the first of each.
    pub(super) peer: Vec<Vec<f64>>,
    /// What it printed, turn by turn.
    pub(super) documents: Vec<Value>,
}

impl Beside {
    /// Our time over the peer's, turn by turn.
    pub(super) fn ratios(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.peer).map(|(ours, peer)| ours.median() / median(peer)).collect()
    }
}

/// Runs both in turns; the peer is a process of its own each time.
pub(super) fn compare(
    args: &BenchStepArgs,
    engine: &Engine<'_>,
    command: &str,
    model: &Path,
    threads: usize,
) -> Result<Beside> {
    let rank = engine.setup.options.adapter.rank;
    let filled = [
        ("{model}", model.display().to_string()),
        ("{tokens}", args.tokens.to_string()),
        ("{rank}", rank.to_string()),
        ("{threads}", threads.to_string()),
        ("{steps}", (args.steps + 1).to_string()),
    ]
    .iter()
    .fold(command.to_owned(), |text, (place, value)| text.replace(place, value));
    let mut running = engine.ready(engine.plan(args.tokens, threads)?)?;
    let mut beside =
        Beside { command: command.to_owned(), ours: Vec::new(), peer: Vec::new(), documents: Vec::new() };
    for round in 1..=args.rounds {
        running.forget();
        running.steps(args.steps);
        beside.ours.push(running.timing.clone());
        let (seconds, document) = peer(&filled, threads)?;
        beside.peer.push(seconds);
        beside.documents.push(document);
        let (ours, theirs) = (beside.ours[round - 1].median(), median(&beside.peer[round - 1]));
        ui::note(format!(
            "turn {round} of {}: ours {ours:.3} s, the peer's {theirs:.3} s, ratio {:.3}",
            args.rounds,
            ours / theirs
        ));
    }
    Ok(beside)
}

/// Runs the peer once.
fn peer(command: &str, threads: usize) -> Result<(Vec<f64>, Value)> {
    let mut shell = if cfg!(windows) { Command::new("cmd") } else { Command::new("sh") };
    shell.arg(if cfg!(windows) { "/C" } else { "-c" }).arg(command);
    for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"] {
        shell.env(name, threads.to_string());
    }
    let done = shell.output().context("cannot start a shell for the peer")?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let last = said.trim().lines().next_back().unwrap_or("it said nothing").to_owned();
        bail!("the peer failed with {}: {last}", done.status);
    }
    read(&String::from_utf8_lossy(&done.stdout))
}

/// The steps in what a peer printed.
fn read(output: &str) -> Result<(Vec<f64>, Value)> {
    let objects = output.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line.trim()).ok());
    let document = objects.into_iter().find(|d| d["step_s"].is_array());
    let Some(document) = document else {
        let last = output.trim().lines().next_back().unwrap_or_default();
        return Err(anyhow!(
            "the peer's output: expected a line with a JSON object that has step_s, found {last:?} at its end"
        ));
    };
    let all: Vec<f64> =
        document["step_s"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    let timed = if all.len() > 1 { all[1..].to_vec() } else { all };
    if timed.is_empty() || timed.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
        bail!("the peer's step_s: expected seconds of one step or more, found {}", document["step_s"]);
    }
    Ok((timed, document))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_a_peer() {
        let (seconds, document) =
            read("loading\n{\"x\": 1}\n{\"step_s\": [9.0, 2.0, 3.0], \"loss\": 1.5}\n\n").expect("steps");
        assert_eq!(seconds, [2.0, 3.0]);
        assert_eq!(document["loss"], 1.5);
        assert_eq!(read("{\"step_s\": [4.0]}").expect("one step").0, [4.0]);
        for (wrong, word) in [
            ("", "step_s"),
            ("done", "done"),
            ("{\"step_s\": []}", "one step"),
            ("{\"step_s\": [1, 0]}", "[1,0]"),
        ] {
            let error = read(wrong).expect_err(wrong).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
