//! What an interrupt does: Ctrl-C, a termination (SIGTERM), or a terminal that closes.
//!
//! The program ends at once with status 130, and what it had begun to write goes: a command that has more to do says so
//! by [`instead`]. What a command has made and may have to undo is told to [`undo`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use mesp_formats::atomic;

type Answer = Box<dyn Fn() + Send>;
type Step = Box<dyn FnOnce() + Send>;

/// The exit status of a program that was interrupted.
pub const STATUS: u8 = 130;

static ANSWER: Mutex<Option<Answer>> = Mutex::new(None);
static UNDO: Mutex<Vec<(u64, Step)>> = Mutex::new(Vec::new());
static ENDING: AtomicBool = AtomicBool::new(false);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens, from the program's start on.
///
/// # Errors
/// When somebody listens already.
pub fn listen() -> Result<()> {
    ctrlc::set_handler(now).context("cannot listen for interrupts")?;
    mesp_device::ignore_hangups_again();
    Ok(())
}

/// What an interrupt does from now on.
pub fn instead(answer: impl Fn() + Send + 'static) {
    *lock(&ANSWER) = Some(Box::new(answer));
}

/// An interrupt.
pub fn now() {
    let answer = lock(&ANSWER);
    match &*answer {
        Some(answer) => answer(),
        None => end(),
    }
}

/// Ends the program, and nothing half-made stays.
pub fn end() -> ! {
    ENDING.store(true, Ordering::SeqCst);
    // The last that was made goes first. None of them is begun while others are undone.
    let mut steps = lock(&UNDO);
    while let Some((_, step)) = steps.pop() {
        step();
    }
    // Held to the end: what is half-written gets its name no more.
    let _held = atomic::remove_unfinished();
    std::process::exit(i32::from(STATUS));
}

/// Waits for the end, where an interrupt is ending the program: what failed by it is no news.
pub fn wait_for_end() {
    while ENDING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Something that an interrupt undoes as long as this lives.
pub struct Undo(u64);

/// Tells what to undo.
pub fn undo(step: impl FnOnce() + Send + 'static) -> Undo {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    lock(&UNDO).push((number, Box::new(step)));
    Undo(number)
}

impl Drop for Undo {
    fn drop(&mut self) {
        lock(&UNDO).retain(|(number, _)| *number != self.0);
    }
}
