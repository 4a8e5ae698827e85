//! How many threads compute.

use std::sync::Arc;

use mesp_device::Threads;

use crate::{Error, ErrorKind, Result};

/// Threads at most: more than the largest machines have cores, so that more are a slip.
const MOST: usize = 1024;

/// As many threads as asked for, or as there are cores.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) for none, and for more than any machine has cores.
pub fn thread_count(asked: Option<usize>) -> Result<usize> {
    let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = asked.unwrap_or_else(available);
    if threads == 0 || threads > MOST {
        return Err(Error::usage(ErrorKind::OutOfRange, "‘threads’")
            .is(threads)
            .expected(format!("1 to {MOST}"))
            .hint("leave it out to use all cores"));
    }
    Ok(threads)
}

/// The threads themselves, to train and to generate with.
///
/// # Errors
/// As [`thread_count`]; when the system gives no threads.
pub fn threads(asked: Option<usize>) -> Result<Arc<Threads>> {
    let threads = Threads::new(thread_count(asked)?);
    let refused = |e| Error::usage(ErrorKind::System, format!("the system gives no threads: {e}"));
    Ok(Arc::new(threads.map_err(refused)?))
}
