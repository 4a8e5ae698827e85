//! Watches a run: every event to `metrics.jsonl`, to `TensorBoard` and to the terminal, memory measured at every
//! step.

use std::path::{Path, PathBuf};

use mesp::preference::Metrics as Rewards;
use mesp::train::{Cancel, Event, Notice};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::lines::{GenerationLine, MemoryLine, PlanLine, RunLine, SampleLine, TrainLine};
use crate::memory::{self, Marks};
use crate::metrics::Metrics;
use crate::progress::Line;
use crate::samples::SampleProcess;
use crate::sizes::{bytes, duration};
use crate::tensorboard::{self, Board};

/// What a run's events are written with.
pub(crate) struct Scene {
    /// Fields of the `run` line.
    pub(crate) settings: Map<String, Value>,
    pub(crate) data: Value,
    pub(crate) plan: PlanLine,
    /// Rows to show, of a run that begins.
    pub(crate) samples: Vec<SampleLine>,
    pub(crate) sampler: SampleProcess,
    /// The adapter to start from.
    pub(crate) adapter: Option<PathBuf>,
    pub(crate) output: PathBuf,
    /// Planned memory, and the budget.
    pub(crate) memory: (u64, Option<u64>),
}

/// The receiver of a run's events.
pub(crate) struct Watch<'a> {
    metrics: Metrics,
    board: Option<Board>,
    scene: Scene,
    line: Line,
    cancel: &'a Cancel,
    total_steps: usize,
    mean: Option<f64>,
    marks: Option<Marks>,
    /// Loss of every step.
    pub(crate) losses: Vec<f64>,
    /// Why events could not be written; the run is stopped then.
    pub(crate) trouble: Option<mesp::Error>,
}

/// What a person reads of rewards: by how much the better completion is ahead, and how often.
fn said(rewards: Rewards) -> Option<String> {
    let margin = format!("margin {:.3}", rewards.rewards_margins?);
    Some(match rewards.rewards_accuracies {
        Some(share) => format!("{margin}, ahead in {:.0}%", 100.0 * share),
        None => margin,
    })
}

/// What the last loss weighs in the running mean.
const LAST: f64 = 0.1;

impl<'a> Watch<'a> {
    /// `losses` are those of the steps before.
    pub(crate) fn new(
        metrics: Metrics,
        board: Option<Board>,
        scene: Scene,
        losses: Vec<f64>,
        cancel: &'a Cancel,
    ) -> Self {
        let mut watch = Self {
            metrics,
            board,
            scene,
            line: Line::new(0),
            cancel,
            total_steps: 0,
            mean: None,
            marks: None,
            losses: Vec::new(),
            trouble: None,
        };
        for loss in &losses {
            watch.follow(*loss);
        }
        watch.losses = losses;
        watch
    }

    /// Takes an event.
    pub(crate) fn on(&mut self, event: &Event) {
        match *event {
            Event::Run { step, total_steps, rows, .. } => self.begin(event, step, total_steps, rows),
            Event::Train { step, loss, .. } => {
                self.follow(loss);
                self.losses.push(loss);
                self.trained(event, step);
            }
            Event::Eval { step, eval_loss, eval_accuracy, target_tokens, best, preference, .. } => {
                self.write(event);
                self.measure(step);
                self.draw(step, &[("eval/loss", eval_loss), ("eval/accuracy", eval_accuracy)]);
                self.draw_rewards(step, "eval", preference);
                let best = if best { ", the best so far" } else { "" };
                let rewards = preference.and_then(said).map_or_else(String::new, |said| format!(", {said}"));
                self.line.print(format!(
                    "eval at step {step}: loss {eval_loss:.4}{rewards}, accuracy {:.1}%, {target_tokens} target tokens{best}",
                    100.0 * eval_accuracy
                ));
                if (1..self.total_steps).contains(&step) {
                    let output = self.scene.output.clone();
                    self.generate(step, "eval", Some(&output));
                }
            }
            Event::Notice { ref message, ref what, .. } => {
                if matches!(what, Notice::FolderMadeAgain) {
                    self.open_again();
                }
                self.write(event);
                if matches!(what, Notice::Checkpoint { .. }) {
                    let synced = self.metrics.sync();
                    self.check(synced);
                }
                self.line.print(message);
            }
            Event::End { step, status } => {
                if ["done", "stopped"].contains(&status) {
                    let output = self.scene.output.clone();
                    self.generate(step, "end", Some(&output));
                }
                self.measure(step);
                self.write(event);
                let synced = self.metrics.sync();
                self.check(synced);
                self.line.end();
            }
            _ => self.write(event),
        }
    }

    fn begin(&mut self, event: &Event, step: usize, total_steps: usize, rows: usize) {
        self.total_steps = total_steps;
        self.line = Line::new(total_steps as u64);
        // Once and for all: a step takes no heap.
        self.losses.reserve_exact(total_steps.saturating_sub(self.losses.len()));
        self.write_run(event);
        self.scene.plan.step = step;
        let written = self.metrics.write(&self.scene.plan);
        self.check(written);
        self.scene.plan.timeline.forget();
        self.measure(step);
        if step == 0 {
            for sample in std::mem::take(&mut self.scene.samples) {
                self.write(&sample);
            }
            let adapter = self.scene.adapter.clone();
            self.generate(0, "before", adapter.as_deref());
        }
        let from = if step > 0 { format!("from step {step} ") } else { String::new() };
        self.line.print(format!("training {from}to step {total_steps} on {rows} rows"));
    }

    fn write_run(&mut self, event: &Event) {
        let Scene { settings, data, .. } = &self.scene;
        let (time, mesp) = (tensorboard::now(), env!("CARGO_PKG_VERSION"));
        let written = self.metrics.write(&RunLine { event, time, mesp, settings, data });
        self.check(written);
    }

    fn follow(&mut self, loss: f64) {
        if loss.is_finite() {
            self.mean = Some(self.mean.map_or(loss, |mean| mean + LAST * (loss - mean)));
        }
    }

    fn trained(&mut self, event: &Event, step: usize) {
        let marks = self.measure_marks();
        let loss_mean = self.mean.unwrap_or(f64::NAN);
        self.write(&TrainLine {
            event,
            loss_mean,
            heap_peak_bytes: marks.heap,
            rss_anon_peak_bytes: marks.rss_anonymous,
            rss_peak_bytes: marks.rss,
        });
        self.note_marks(step, marks);
        let Event::Train {
            epoch, loss, learning_rate, grad_norm, tokens_per_second, eta, preference, ..
        } = *event
        else {
            return;
        };
        self.draw_rewards(step, "train", preference);
        self.draw(
            step,
            &[
                ("train/loss", loss),
                ("train/learning_rate", learning_rate),
                ("train/grad_norm", grad_norm),
                ("train/tokens_per_second", tokens_per_second),
                ("train/epoch", epoch),
                ("memory/heap_peak_bytes", marks.heap as f64),
                ("memory/rss_anon_peak_bytes", marks.rss_anonymous.unwrap_or(0) as f64),
            ],
        );
        let total = self.total_steps;
        let memory = match (self.scene.memory, marks.rss_anonymous) {
            ((_, Some(budget)), Some(peak)) => format!("peak {} of budget {}", bytes(peak), bytes(budget)),
            ((planned, _), _) => format!("heap {} of {}", bytes(marks.heap_training), bytes(planned)),
        };
        let rate = |x: f64| if x >= 99.5 { format!("{x:.0}") } else { format!("{x:.1}") };
        self.line.at(step as u64, || {
            let share = 100.0 * step as f64 / total.max(1) as f64;
            let left = if step < total { format!(" | ETA {}", duration(eta)) } else { String::new() };
            let rewards = preference.and_then(said).map_or_else(String::new, |said| format!(" | {said}"));
            format!(
                "step {step}/{total} {share:.0}% ep {epoch:.2} | loss {loss:.3} (mean {loss_mean:.3}){rewards} | lr {learning_rate:.1e} | |g| {grad_norm:.2} | {} tok/s | {memory}{left}",
                rate(tokens_per_second)
            )
        });
    }

    /// Reads the memory marks, and writes them down when one has risen.
    fn measure(&mut self, step: usize) {
        let marks = self.measure_marks();
        self.note_marks(step, marks);
    }

    #[expect(clippy::unused_self, reason = "marks are the process's")]
    fn measure_marks(&self) -> Marks {
        memory::marks()
    }

    fn note_marks(&mut self, step: usize, marks: Marks) {
        let peaks = |m: Marks| Marks { rss_anonymous_now: None, ..m };
        if self.marks != Some(peaks(marks)) {
            let ledger = self.marks.is_none().then_some(&self.scene.plan.ledger);
            let line = MemoryLine::new(step, marks, self.scene.memory, ledger);
            let written = self.metrics.write(&line);
            self.check(written);
            self.marks = Some(peaks(marks));
        }
    }

    /// Lets the model answer the prompts. That it cannot is no reason to end a run.
    fn generate(&mut self, step: usize, when: &'static str, adapter: Option<&Path>) {
        if self.scene.sampler.prompts.is_empty() {
            return;
        }
        let answers = match self.scene.sampler.answers(adapter) {
            Ok(answers) => answers,
            Err(e) => return self.line.print(format!("no answers to --sample-prompt at step {step}: {e:#}")),
        };
        for (prompt, (text, tokens)) in self.scene.sampler.prompts.clone().iter().zip(&answers) {
            self.line.print(format!("{when}: {prompt}\n  {text}"));
            self.write(&GenerationLine { kind: "generation", step, when, prompt, text, tokens: *tokens });
        }
    }

    /// The run directory was made again: what is written from here on goes there.
    fn open_again(&mut self) {
        let opened = self.metrics.open_again();
        self.check(opened);
        if self.board.is_some() {
            match Board::open(&self.scene.output, self.losses.len()) {
                Ok(board) => self.board = Some(board),
                Err(e) => self.check(Err(e)),
            }
        }
    }

    fn draw(&mut self, step: usize, values: &[(&str, f64)]) {
        if let (None, Some(board)) = (&self.trouble, &mut self.board) {
            let written = board.scalars(step, values);
            self.check(written);
        }
    }

    /// Rewards and log-probabilities, where there are some.
    fn draw_rewards(&mut self, step: usize, of: &str, rewards: Option<Rewards>) {
        for (name, value) in rewards.iter().flat_map(Rewards::named) {
            if let Some(value) = value {
                self.draw(step, &[(&*format!("{of}/{name}"), value)]);
            }
        }
    }

    fn write(&mut self, line: &impl Serialize) {
        if self.trouble.is_none() {
            let written = self.metrics.write(line);
            self.check(written);
        }
    }

    /// The first trouble stops the run.
    fn check(&mut self, written: mesp::Result<()>) {
        if let (None, Err(e)) = (&self.trouble, written) {
            self.trouble = Some(e);
            self.cancel.cancel();
        }
    }
}
