//! Watches a run: every event to `metrics.jsonl` and to the terminal, memory measured at every step.

use std::sync::atomic::{AtomicBool, Ordering};

use mesp::train::Event;

use crate::memory::{self, Marks};
use crate::metrics::Metrics;
use crate::progress::Line;
use crate::sizes::{bytes, duration};

/// The receiver of a run's events.
pub(crate) struct Watch<'a> {
    metrics: Metrics,
    line: Line,
    stop: &'a AtomicBool,
    planned: u64,
    total_steps: usize,
    ema: Option<f64>,
    marks: Option<Marks>,
    /// Loss of every step.
    pub(crate) losses: Vec<f64>,
    /// Why `metrics.jsonl` could not be written; the run is stopped then.
    pub(crate) trouble: Option<mesp::Error>,
}

/// What the last loss weighs in the running mean.
const EMA: f64 = 0.1;

impl<'a> Watch<'a> {
    pub(crate) fn new(metrics: Metrics, planned: u64, stop: &'a AtomicBool) -> Self {
        let (line, losses) = (Line::new(0), Vec::new());
        Self { metrics, line, stop, planned, total_steps: 0, ema: None, marks: None, losses, trouble: None }
    }

    /// Takes an event.
    pub(crate) fn on(&mut self, event: &Event) {
        if let Event::End { step, .. } = *event {
            self.measure(step);
        }
        self.record(event);
        match *event {
            Event::Run { step, total_steps, rows, .. } => {
                self.total_steps = total_steps;
                self.line = Line::new(total_steps as u64);
                // Once and for all: a step takes no heap.
                self.losses.reserve_exact(total_steps.saturating_sub(step));
                let from = if step > 0 { format!("from step {step} ") } else { String::new() };
                self.line.say(format!("training {from}to step {total_steps} on {rows} rows"));
                self.measure(step);
            }
            Event::Train { step, epoch, loss, learning_rate, grad_norm, tokens_per_second, eta, .. } => {
                self.losses.push(loss);
                let ema = self.ema.map_or(loss, |ema| ema + EMA * (loss - ema));
                self.ema = Some(ema);
                self.measure(step);
                let (total, planned) = (self.total_steps, bytes(self.planned));
                let heap = bytes(self.marks.map_or(0, |m| m.heap_training));
                let rate = |x: f64| if x >= 99.5 { format!("{x:.0}") } else { format!("{x:.1}") };
                self.line.at(step as u64, || {
                    let share = 100.0 * step as f64 / total.max(1) as f64;
                    let left = if step < total { format!(" | ETA {}", duration(eta)) } else { String::new() };
                    format!(
                        "step {step}/{total} {share:.0}% ep {epoch:.2} | loss {loss:.3} (ema {ema:.3}) | lr {learning_rate:.1e} | |g| {grad_norm:.2} | {} tok/s | heap {heap} of {planned}{left}",
                        rate(tokens_per_second)
                    )
                });
            }
            Event::Eval { step, eval_loss, eval_accuracy, target_tokens } => {
                self.measure(step);
                self.line.say(format!(
                    "eval at step {step}: loss {eval_loss:.4}, accuracy {:.1}%, {target_tokens} target tokens",
                    100.0 * eval_accuracy
                ));
            }
            Event::Event { ref message, .. } => self.line.say(message),
            Event::End { .. } => self.line.end(),
            _ => {}
        }
    }

    /// Reads the memory marks, and writes them down when one has risen.
    fn measure(&mut self, step: usize) {
        let marks = memory::marks();
        if self.marks != Some(marks) {
            self.marks = Some(marks);
            self.record(&Event::Memory {
                step,
                heap_peak_bytes: marks.heap,
                rss_anon_peak_bytes: marks.rss_anonymous,
                rss_peak_bytes: marks.rss,
                planned_bytes: self.planned,
            });
        }
    }

    fn record(&mut self, event: &Event) {
        if self.trouble.is_none()
            && let Err(e) = self.metrics.write(event)
        {
            self.trouble = Some(e);
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}
