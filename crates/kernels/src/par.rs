//! Cutting work over threads without allocating.
//!
//! Work is cut by outputs only: no two threads add to the same element, so the number of threads never
//! changes a result.

use crate::Threads;
pub(crate) use crate::threads::share;

/// Where a kernel runs: on the caller's thread, or on several.
#[derive(Clone, Copy, Debug)]
pub struct Par<'a> {
    threads: Option<&'a Threads>,
}

impl<'a> Par<'a> {
    /// On the calling thread alone.
    pub const fn serial() -> Self {
        Self { threads: None }
    }

    /// On all of `threads`.
    pub const fn on(threads: &'a Threads) -> Self {
        Self { threads: Some(threads) }
    }

    /// How many threads may run at once: per-thread scratch comes in this many pieces.
    pub fn threads(self) -> usize {
        self.threads.map_or(1, Threads::count)
    }

    /// Runs `f(task, worker)` for every `task < n`; `worker < self.threads()` names the thread.
    pub fn tasks(self, n: usize, f: impl Fn(usize, usize) + Sync) {
        match self.threads {
            Some(threads) if n > 1 && threads.count() > 1 => threads.run(n, f),
            _ => (0..n).for_each(|task| f(task, 0)),
        }
    }

    /// Runs `f(index, chunk)` for every piece of `chunk` values of `data`.
    pub(crate) fn chunks<R: Send>(
        self,
        data: &mut [R],
        chunk: usize,
        f: impl Fn(usize, &mut [R]) + Sync + Send,
    ) {
        self.chunks2(data, chunk, &mut [] as &mut [R], 0, |i, a, _| f(i, a));
    }

    /// Runs `f(index, a_chunk, b_chunk)` over two slices cut alike.
    pub(crate) fn chunks2<A: Send, B: Send>(
        self,
        a: &mut [A],
        a_chunk: usize,
        b: &mut [B],
        b_chunk: usize,
        f: impl Fn(usize, &mut [A], &mut [B]) + Sync + Send,
    ) {
        let a_chunk = a_chunk.max(1);
        let n = a.len().div_ceil(a_chunk);
        debug_assert!(b_chunk == 0 || b.len().div_ceil(b_chunk) == n, "slices are cut into as many pieces");
        let (a, b) = (Pieces::new(a), Pieces::new(b));
        self.tasks(n, |i, _| {
            // SAFETY: task `i` runs once, and pieces of different tasks do not overlap.
            let (a, b) = unsafe { (a.piece(i, a_chunk), b.piece(i, b_chunk)) };
            f(i, a, b);
        });
    }
}

/// A mutable slice that tasks may take disjoint pieces of.
pub(crate) struct Pieces<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: the only access is through the unsafe `piece` and `range`, whose callers keep pieces disjoint.
unsafe impl<T: Send> Sync for Pieces<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Pieces<T> {}

impl<T> Pieces<T> {
    pub(crate) fn new(data: &mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len() }
    }

    /// The `i`-th piece of `chunk` values, the last one shorter.
    ///
    /// # Safety
    /// No piece that overlaps this one is alive, and the slice given to `new` outlives the result.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(crate) unsafe fn piece(&self, i: usize, chunk: usize) -> &mut [T] {
        let from = (i * chunk).min(self.len);
        let to = (from + chunk).min(self.len);
        // SAFETY: within the slice by the two `min`; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), to - from) }
    }

    /// The start of the slice, for outputs that are strided.
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.start
    }
}

/// How many rows one task takes, so that small operations are not cut to dust.
pub(crate) fn rows_per_task(cols: usize) -> usize {
    const VALUES: usize = 16 * 1024;
    (VALUES / cols.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_task_and_chunk_once() {
        let pool = Threads::new(3).expect("threads");
        for par in [Par::serial(), Par::on(&pool)] {
            let hits = AtomicUsize::new(0);
            par.tasks(17, |_, worker| {
                assert!(worker < par.threads());
                hits.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(hits.into_inner(), 17);
            let mut data = vec![0usize; 10];
            par.chunks(&mut data, 4, |i, c| c.iter_mut().for_each(|x| *x += i + 1));
            assert_eq!(data, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]);
        }
    }
}
