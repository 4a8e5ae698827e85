//! Ctrl-C while there is text to make: the answer ends and what was said stays. At any other time, and the second
//! time, the program ends.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::{interrupt, ui};

const IDLE: u8 = 0;
const ANSWERING: u8 = 1;
const STOPPED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(IDLE);

/// Listens from now on.
pub(crate) fn listen() {
    interrupt::instead(|| {
        if STATE.compare_exchange(ANSWERING, STOPPED, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            ui::note("");
            interrupt::end();
        }
    });
}

/// An answer begins, or ended.
pub(crate) fn answering(begins: bool) {
    STATE.store(if begins { ANSWERING } else { IDLE }, Ordering::Relaxed);
}

/// Whether the answer is to end.
pub(crate) fn stopped() -> bool {
    STATE.load(Ordering::Relaxed) == STOPPED
}
