//! What one rendering may use: memory, work and depth. The program is a stranger's, so each of them has a limit.
//!
//! Memory is counted while it is held: a text or a list gives its bytes back when it is dropped. The counters belong
//! to the thread, because a rendering does.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::{Fault, Res};

/// Bytes that texts, lists and dictionaries may take, beside some multiples of what the program is given.
const MEMORY: usize = 16 << 20;
const MEMORY_PER_INPUT: usize = 6;
/// Units of work, each some ten nanoseconds. Real templates take some thousand for a message.
const WORK: u64 = 5_000_000;
const WORK_PER_INPUT: u64 = 64;
/// When the work takes longer than it should.
const TIME: Duration = Duration::from_secs(2);
/// How deep expressions, statements and calls of macros may stand in each other.
const DEPTH: u32 = 300;

thread_local! {
    static METER: Meter = const { Meter {
        held: Cell::new(0), most: Cell::new(usize::MAX), work: Cell::new(0), depth: Cell::new(0), end: Cell::new(None),
    } };
}

struct Meter {
    held: Cell<usize>,
    most: Cell<usize>,
    work: Cell<u64>,
    depth: Cell<u32>,
    end: Cell<Option<Instant>>,
}

/// Bytes that are held until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Charge(usize);

impl Drop for Charge {
    fn drop(&mut self) {
        METER.with(|m| m.held.set(m.held.get().saturating_sub(self.0)));
    }
}

/// Begins a rendering of an input of so many bytes.
pub(super) fn start(input: usize) {
    METER.with(|m| {
        m.held.set(0);
        m.most.set(MEMORY.saturating_add(input.saturating_mul(MEMORY_PER_INPUT)));
        m.work.set(WORK.saturating_add((input as u64).saturating_mul(WORK_PER_INPUT)));
        m.depth.set(0);
        m.end.set(Some(Instant::now() + TIME));
    });
}

/// Takes `bytes` before they are allocated.
pub(super) fn take(bytes: usize) -> Res<Charge> {
    let mut charge = Charge(0);
    charge.grow(bytes)?;
    Ok(charge)
}

impl Charge {
    pub(super) fn grow(&mut self, bytes: usize) -> Res<()> {
        METER.with(|m| {
            let held = m.held.get().saturating_add(bytes);
            if held > m.most.get() {
                let most = m.most.get() >> 20;
                return Err(Fault::new(format!("it takes more than {most} MB of memory, and is stopped")));
            }
            m.held.set(held);
            self.0 += bytes;
            Ok(())
        })?;
        // Also what adds little has to be paid for: a text can grow a character at a time.
        work(1 + bytes as u64 / 32)
    }
}

/// Does so many units of work.
pub(super) fn work(units: u64) -> Res<()> {
    METER.with(|m| {
        let before = m.work.get();
        let Some(left) = before.checked_sub(units) else {
            return Err(Fault::new(
                "it does not end in the work that a template may do, and is stopped".into(),
            ));
        };
        m.work.set(left);
        // The clock is asked from time to time.
        let late = before >> 12 != left >> 12 && m.end.get().is_some_and(|end| Instant::now() > end);
        if late {
            return Err(Fault::new("it takes more than two seconds, and is stopped".into()));
        }
        Ok(())
    })
}

/// One level deeper, until this is dropped.
pub(super) struct Level(());

impl Drop for Level {
    fn drop(&mut self) {
        METER.with(|m| m.depth.set(m.depth.get() - 1));
    }
}

pub(super) fn deeper() -> Res<Level> {
    work(1)?;
    METER.with(|m| {
        if m.depth.get() >= DEPTH {
            return Err(Fault::new(format!("it is nested more than {DEPTH} levels deep, and is stopped")));
        }
        m.depth.set(m.depth.get() + 1);
        Ok(Level(()))
    })
}

/// A text that is being written, counted as it grows.
#[derive(Default)]
pub(super) struct Buffer {
    text: String,
    charge: Charge,
}

impl Buffer {
    pub(super) fn push_str(&mut self, text: &str) -> Res<()> {
        self.charge.grow(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    pub(super) fn push(&mut self, c: char) -> Res<()> {
        self.charge.grow(c.len_utf8())?;
        self.text.push(c);
        Ok(())
    }

    pub(super) fn repeat(&mut self, c: char, count: usize) -> Res<()> {
        self.charge.grow(count.saturating_mul(c.len_utf8()))?;
        self.text.extend(std::iter::repeat_n(c, count));
        Ok(())
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn into_parts(self) -> (String, Charge) {
        (self.text, self.charge)
    }
}
