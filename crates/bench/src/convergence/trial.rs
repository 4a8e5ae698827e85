//! A run of a contestant, in a process of its own, and what it measured.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use mesp_formats::atomic::{create_dir_all, remove_leftovers_of, temporary_name};
use serde_json::Value;

use super::super::models;
use super::contestant::Contestant;

/// What all runs share.
pub(super) struct Track {
    pub(super) program: PathBuf,
    pub(super) cache: PathBuf,
    /// Model and data.
    pub(super) files: Vec<OsString>,
    /// Options of every run.
    pub(super) options: Vec<String>,
}

/// A held-out loss on the way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) step: usize,
    pub(super) loss: f64,
    /// Trained on until then, each once however often a step computes with it.
    pub(super) tokens: u64,
    /// In steps; evaluations are not counted.
    pub(super) seconds: f64,
}

/// A run.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub(super) rate: f64,
    pub(super) steps: usize,
    /// In order; the first is before training.
    pub(super) points: Vec<Point>,
    /// Multiplications with additions of a step of the largest batch.
    pub(super) multiply_adds: u64,
    pub(super) step_seconds: f64,
    pub(super) anonymous: Option<u64>,
    pub(super) planned: u64,
    pub(super) parameters: u64,
}

impl Trial {
    /// The lowest held-out loss.
    pub(super) fn best(&self) -> f64 {
        self.points.iter().map(|p| p.loss).fold(f64::INFINITY, f64::min)
    }

    /// The last held-out loss.
    pub(super) fn last(&self) -> f64 {
        self.points.last().map_or(f64::INFINITY, |p| p.loss)
    }

    /// Where the held-out loss was first at or below a level.
    pub(super) fn reaches(&self, level: f64) -> Option<Point> {
        self.points.iter().find(|p| p.loss <= level).copied()
    }
}

/// Runs a contestant for so many steps.
pub(super) fn run(track: &Track, who: &Contestant, rate: f64, steps: usize, every: usize) -> Result<Trial> {
    let name = track.cache.join("run");
    remove_leftovers_of(&name);
    let output = temporary_name(&name)?;
    create_dir_all(&output)?;
    // Held as long as it is in use.
    let _held = File::open(&output).ok().filter(|folder| folder.try_lock().is_ok());
    let mut files = track.files.clone();
    files.extend(["--output".into(), output.clone().into()]);
    let mut options = who.options.clone();
    options.extend(track.options.iter().cloned());
    options.extend([
        format!("--learning-rate={rate}"),
        format!("--steps={steps}"),
        format!("--eval-every={every}"),
        "--overwrite".to_owned(),
    ]);
    let done = models::call(&track.program, &track.cache, "train", &files, &options)
        .and_then(|document| read(&document, &output, rate, steps));
    // What the run wrote is known by now; a folder that stays is no reason to end.
    let _ = fs::remove_dir_all(&output);
    done
}

fn read(document: &Value, output: &Path, rate: f64, steps: usize) -> Result<Trial> {
    let path = output.join("metrics.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let missing = |what: &str| anyhow!("expected {what} in the run's document, found none");
    let seconds: Vec<f64> = document["seconds"]["steps"]
        .as_array()
        .ok_or_else(|| missing("seconds.steps"))?
        .iter()
        .filter_map(Value::as_f64)
        .collect();
    let points = points(events, &seconds);
    let number =
        |pointer: &str| document.pointer(pointer).and_then(Value::as_u64).ok_or_else(|| missing(pointer));
    Ok(Trial {
        rate,
        steps,
        points,
        multiply_adds: number("/work/multiply_adds_per_step")?,
        step_seconds: document["seconds"]["step_median"].as_f64().unwrap_or(0.0),
        anonymous: document["memory"]["rss_anon_peak_bytes"].as_u64(),
        planned: number("/memory/planned_bytes")?,
        parameters: number("/adapter/parameters")?,
    })
}

/// The evaluations among a run's events; `seconds` is that of each step.
fn points(events: impl Iterator<Item = Value>, seconds: &[f64]) -> Vec<Point> {
    let (mut points, mut tokens): (Vec<Point>, u64) = (Vec::new(), 0);
    for event in events {
        match event["type"].as_str() {
            Some("train") => tokens = event["num_tokens"].as_u64().unwrap_or(tokens),
            Some("eval") => {
                let step = event["step"].as_u64().unwrap_or(0) as usize;
                // A loss that is no number was written as null; the run at least did not reach anything there.
                let loss = event["eval_loss"].as_f64().unwrap_or(f64::INFINITY);
                if points.last().is_none_or(|p| p.step < step) {
                    let seconds = seconds.iter().take(step).sum();
                    points.push(Point { step, loss, tokens, seconds });
                }
            }
            _ => {}
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn evaluations_know_what_they_cost() {
        let events = [
            json!({ "type": "eval", "step": 0, "eval_loss": 3.0 }),
            json!({ "type": "train", "step": 1, "num_tokens": 10 }),
            json!({ "type": "train", "step": 2, "num_tokens": 25 }),
            json!({ "type": "eval", "step": 2, "eval_loss": 2.0 }),
            json!({ "type": "train", "step": 3, "num_tokens": 30 }),
            json!({ "type": "eval", "step": 3, "eval_loss": null }),
            json!({ "type": "eval", "step": 3, "eval_loss": 1.0 }),
        ];
        let points = points(events.into_iter(), &[0.5, 0.25, 1.0]);
        assert_eq!(points.len(), 3);
        assert_eq!(points[1], Point { step: 2, loss: 2.0, tokens: 25, seconds: 0.75 });
        assert_eq!((points[2].loss, points[2].tokens), (f64::INFINITY, 30));
        let trial = Trial {
            rate: 1.0,
            steps: 3,
            points,
            multiply_adds: 1,
            step_seconds: 0.5,
            anonymous: None,
            planned: 1,
            parameters: 1,
        };
        assert_eq!((trial.best(), trial.last()), (2.0, f64::INFINITY));
        assert_eq!(trial.reaches(2.5).map(|p| p.step), Some(2));
        assert_eq!(trial.reaches(1.0), None);
    }
}
