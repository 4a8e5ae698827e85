//! This program as a process of its own that ends when this one does, however it ends: a pipe to its standard input, in
//! which nothing is written, is closed then.

use std::fs::File;
use std::io::{self, Read as _};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::interrupt::{self, Undo};
use crate::memory;

/// Set for such a process.
const VARIABLE: &str = "MESP_ENDS_WITH_STDIN";

/// The time for a child to undo what it has begun, after an interrupt.
const PATIENCE: Duration = Duration::from_secs(2);

/// A child.
pub struct Bound {
    child: Child,
    /// Held as long as this process lives.
    pipe: Option<ChildStdin>,
}

/// The program; to end with this one it is started by [`Bound::start`].
pub fn program() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "mesp".into()));
    command.env_remove(VARIABLE);
    command
}

/// In a child: ends as by an interrupt when the parent is gone.
///
/// # Errors
/// When the system gives no thread.
pub fn follow_parent() -> Result<()> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(());
    }
    thread::Builder::new().name("parent".to_owned()).stack_size(128 << 10).spawn(|| {
        // The library's own standard input has a buffer, which would count as this process's heap.
        let Ok(mut pipe) = File::open("/dev/stdin") else { return };
        // Nothing comes but the end.
        while !matches!(pipe.read(&mut [0; 64]), Ok(0) | Err(_)) {}
        interrupt::end();
    })?;
    Ok(())
}

impl Bound {
    /// Starts a command, with its output to be read at its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command) -> io::Result<Self> {
        command.env(VARIABLE, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Waits for its end, and reads what memory it takes. An interrupt lets it undo what it has begun, and waits for
    /// that. Whether it was ended because it took more than the run may have comes with its output.
    ///
    /// # Errors
    /// When the system does not tell of its end.
    pub fn wait(self, kind: memory::Child) -> io::Result<(Output, bool)> {
        let Self { child, pipe } = self;
        let pipe = Arc::new(Mutex::new(pipe));
        let close = |pipe: &Mutex<Option<ChildStdin>>| drop(pipe.lock().map(|mut pipe| pipe.take()));
        let (ended, end) = mpsc::channel::<()>();
        let ours = Arc::clone(&pipe);
        let _undo: Undo = interrupt::undo(move || {
            close(&ours);
            // The sender goes when the child has ended.
            let _ = end.recv_timeout(PATIENCE);
        });
        let over = AtomicBool::new(false);
        let output = memory::wait(kind, child, || {
            over.store(true, Ordering::Relaxed);
            close(&pipe);
        });
        drop(ended);
        Ok((output?, over.into_inner()))
    }
}
