//! The heap, counted: a program that declares [`CountingAllocator`] as its global allocator knows its
//! high-water mark.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator, with counters of the bytes asked of it.
///
/// Counted is what was asked for, not what the system rounds it up to; memory that is mapped (files, thread
/// stacks) is not heap. While a block is resized only its new size counts.
#[derive(Debug)]
pub struct CountingAllocator {
    current: AtomicUsize,
    peak: AtomicUsize,
    phase: AtomicUsize,
    calls: AtomicUsize,
    exhausted: Option<fn(usize)>,
}

thread_local! {
    /// Whether this thread looks itself whether it got what it asked for.
    static LOOKS: Cell<bool> = const { Cell::new(false) };
}

/// Asks for memory, with an answer to null.
pub(crate) fn without_message<T>(ask: impl FnOnce() -> T) -> T {
    let before = LOOKS.replace(true);
    let got = ask();
    LOOKS.set(before);
    got
}

impl CountingAllocator {
    /// All counters zero.
    pub const fn new() -> Self {
        Self {
            current: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            phase: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            exhausted: None,
        }
    }

    /// What is called with the number of bytes that the system did not give, before whoever asked for them is told.
    /// It may end the process, and must not unwind or need more memory.
    #[must_use]
    pub const fn when_exhausted(self, call: fn(usize)) -> Self {
        Self { exhausted: Some(call), ..self }
    }

    /// Bytes in use.
    pub fn current(&self) -> usize {
        self.current.load(Relaxed)
    }

    /// The most that were in use at one time since the program's start.
    pub fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }

    /// The most since [`CountingAllocator::begin_phase`].
    pub fn phase_peak(&self) -> usize {
        self.phase.load(Relaxed)
    }

    /// Begins a phase: its high-water mark starts from what is in use now.
    pub fn begin_phase(&self) {
        self.phase.store(self.current(), Relaxed);
    }

    /// How often a block was asked for or resized.
    pub fn calls(&self) -> usize {
        self.calls.load(Relaxed)
    }

    fn added(&self, bytes: usize) {
        self.calls.fetch_add(1, Relaxed);
        let now = self.current.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(now, Relaxed);
        self.phase.fetch_max(now, Relaxed);
    }

    /// Tells of memory that was not there, unless the thread looks itself.
    fn refused(&self, bytes: usize) {
        if let Some(call) = self.exhausted.filter(|_| !LOOKS.try_with(Cell::get).unwrap_or(false)) {
            call(bytes);
        }
    }

    fn removed(&self, bytes: usize) {
        self.current.fetch_sub(bytes, Relaxed);
    }
}

impl Default for CountingAllocator {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: every call is handed to `System` with the caller's own arguments, whose requirements are the same;
// the counters touch no memory but their own and cannot unwind, nor may what is called when there is no more.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() {
            self.refused(layout.size());
        } else {
            self.added(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `GlobalAlloc::alloc_zeroed`'s contract.
        let block = unsafe { System.alloc_zeroed(layout) };
        if block.is_null() {
            self.refused(layout.size());
        } else {
            self.added(layout.size());
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `GlobalAlloc::dealloc`'s contract, and the block came from `System`.
        unsafe { System.dealloc(block, layout) };
        self.removed(layout.size());
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps `GlobalAlloc::realloc`'s contract, and the block came from `System`.
        let moved = unsafe { System.realloc(block, layout, size) };
        if moved.is_null() {
            self.refused(size);
        } else {
            // Never below what is in use: the old size goes only after the new one has come, unless it shrinks.
            match size.checked_sub(layout.size()) {
                Some(more) => self.added(more),
                None => self.removed(layout.size() - size),
            }
        }
        moved
    }
}

/// Gives pages of freed blocks back to the system, where its allocator keeps them for later (glibc); elsewhere
/// nothing happens.
pub fn release_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call takes no pointers, and locks the allocator's state itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_told() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let heap = CountingAllocator::new().when_exhausted(|bytes| ASKED.store(bytes, Relaxed));
        let most = isize::MAX as usize - 64;
        let layout = Layout::from_size_align(most, 8).expect("a layout");
        // SAFETY: the layout's size is not zero, and nothing comes of it.
        let ask = || std::hint::black_box(unsafe { heap.alloc(layout) });
        assert!(without_message(ask).is_null());
        assert_eq!(ASKED.load(Relaxed), 0);
        assert!(ask().is_null());
        assert_eq!((ASKED.load(Relaxed), heap.current()), (most, 0));
    }

    #[test]
    fn marks() {
        let heap = CountingAllocator::new();
        let layout = Layout::from_size_align(1000, 8).expect("a layout");
        // SAFETY: the layout's size is not zero, and each block is given back with the layout it has.
        unsafe {
            let a = heap.alloc(layout);
            let b = heap.alloc_zeroed(layout);
            assert_eq!((heap.current(), heap.peak()), (2000, 2000));
            heap.dealloc(a, layout);
            heap.begin_phase();
            let b = heap.realloc(b, layout, 1500);
            assert_eq!((heap.current(), heap.peak(), heap.phase_peak()), (1500, 2000, 1500));
            heap.dealloc(b, Layout::from_size_align(1500, 8).expect("a layout"));
        }
        assert_eq!((heap.current(), heap.peak(), heap.phase_peak()), (0, 2000, 1500));
    }
}
