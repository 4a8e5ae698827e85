//! What happens where the system gives no more memory.

use std::io::{Cursor, Write as _};

/// What the allocator calls when the system gives no more: the end of the process, with a message in place of an abort.
pub(crate) fn exhausted(asked: usize) {
    // On the stack: there is no memory for a text.
    let mut line = [0u8; 128];
    let mut text = Cursor::new(&mut line[..]);
    let _ = writeln!(text, "error: the system has not enough memory for {asked} bytes more");
    let end = usize::try_from(text.position()).unwrap_or(0);
    let _ = std::io::stderr().write_all(&line[..end]);
    std::process::exit(1);
}
