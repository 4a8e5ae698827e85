//! What a person sees while something runs: one living line on a terminal, plain lines elsewhere.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::sizes::duration;
use crate::ui;

/// Seconds between plain lines.
const PLAIN: Duration = Duration::from_secs(2);

/// The line of a task of so many parts.
pub struct Line {
    bar: Option<ProgressBar>,
    total: u64,
    last: Option<Instant>,
}

impl Line {
    /// A line of so many parts.
    pub fn new(total: u64) -> Self {
        let bar = ui::watched().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("{bar:16} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let style =
                if ui::unicode() { style.progress_chars("━╸─") } else { style.progress_chars("=>-") };
            bar.set_style(style);
            bar
        });
        Self { bar, total, last: None }
    }

    /// There are more parts than was known.
    pub fn grow(&mut self, total: u64) {
        self.total = total.max(13);
        if let Some(bar) = &self.bar {
            bar.set_length(self.total);
        }
    }

    /// `done` parts are done. The text is written on a terminal at once, elsewhere for the first part, the
    /// last, and every two seconds between, or always when there are few parts.
    pub fn at(&mut self, done: u64, text: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_message(text());
            bar.set_position(done);
            return;
        }
        let due = self.last.is_none_or(|last| last.elapsed() >= PLAIN);
        if due || done >= self.total || self.total <= 12 {
            ui::note(text());
            self.last = Some(Instant::now());
        }
    }

    /// A line that stays, above the living one.
    pub fn print(&self, text: impl AsRef<str>) {
        match &self.bar {
            Some(bar) => bar.suspend(|| ui::note(text)),
            None => ui::note(text),
        }
    }

    /// The living line goes.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Progress of something that is only counted; nothing is said of what takes less than two seconds.
pub struct Counter {
    what: Cow<'static, str>,
    started: Instant,
    line: Option<Line>,
    total: u64,
}

impl Counter {
    /// Counts up to `total`; `what` begins the line.
    pub fn new(what: impl Into<Cow<'static, str>>, total: u64) -> Self {
        Self { what: what.into(), started: Instant::now(), line: None, total }
    }

    /// So much is done.
    pub fn at(&mut self, done: u64) {
        let elapsed = self.started.elapsed();
        if self.line.is_none() && elapsed < PLAIN {
            return;
        }
        let (total, what) = (self.total, &self.what);
        self.line.get_or_insert_with(|| Line::new(total.max(13))).at(done, || {
            let share = done as f64 / total.max(1) as f64;
            let left = duration(elapsed.as_secs_f64() * (1.0 - share) / share.max(1e-9));
            let left = if done < total { format!(" | ETA {left}") } else { String::new() };
            format!("{what} {:.0}%{left}", 100.0 * share)
        });
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.end();
        }
    }
}

/// Tells how far the log-probabilities of a reference are.
pub fn reference_progress() -> impl FnMut(usize, usize) {
    let mut counter = None;
    move |row, count| {
        let start = || {
            ui::note(format!("reference: computing the log-probabilities of {count} rows"));
            Counter::new("reference", count as u64)
        };
        counter.get_or_insert_with(start).at(row as u64);
    }
}
