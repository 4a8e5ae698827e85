//! What the process really uses: its heap, counted, and its resident memory, as the kernel counts it.
//!
//! The kernel keeps a high-water mark of all resident memory (`VmHWM`), mapped weights included, but none of
//! anonymous memory (`RssAnon`), which is what a system under pressure cannot drop. So `RssAnon` is read after
//! every optimizer step and every evaluation, and once before and once after the run; the arena stays allocated
//! throughout, so between these points only transient allocations could go unseen.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use std::{process, thread};

use mesp_device::CountingAllocator;

use mesp::ByteSize;
use mesp::memory::Resident;

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator::new().when_exhausted(crate::machine::exhausted);

static ANONYMOUS_PEAK: AtomicU64 = AtomicU64::new(0);

/// The most anonymous memory of this process and a child of it together, by what the child was for.
static WITH_CHILD: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
/// That of a child alone.
static CHILDS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// What this process and a child of it may have together; 0 for no limit.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// How often a child's memory is read.
const EVERY: Duration = Duration::from_millis(2);

/// What this program runs itself for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Child {
    /// Text to tokens, before anything is planned.
    Tokens,
    /// Answers and spelled rows, while a run goes on too.
    Sample,
    /// A command that is measured, which is no part of a run.
    Measured,
}

/// High-water marks; resident ones only where the system tells (Linux).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// High-water mark of the heap since the program's start.
    pub heap: u64,
    /// High-water mark of the heap since training began.
    pub heap_training: u64,
    /// High-water mark of `RssAnon` at the points where it was read.
    pub rss_anonymous: Option<u64>,
    /// `RssAnon` now.
    pub rss_anonymous_now: Option<u64>,
    /// `VmHWM`.
    pub rss: Option<u64>,
    /// The most anonymous memory of this process with a child for tokens, and with one that speaks; 0 without one.
    pub with_child: [u64; 2],
}

impl Marks {
    /// The most anonymous memory of this process and its children, where the system tells.
    pub fn tree(&self) -> Option<u64> {
        let [tokens, sample] = self.with_child;
        Some(self.rss_anonymous?.max(tokens).max(sample))
    }
}

/// Training begins: its own high-water mark starts here.
pub fn begin_training() {
    HEAP.begin_phase();
}

/// Bytes of heap in use.
pub fn in_use() -> u64 {
    HEAP.current() as u64
}

/// Reads all marks.
pub fn marks() -> Marks {
    let now = Resident::now();
    let (anonymous, high_water) = now.map(|now| (now.anonymous, now.high_water)).unzip();
    let peak = anonymous.map(|now| ANONYMOUS_PEAK.fetch_max(now, Relaxed).max(now));
    Marks {
        heap: HEAP.peak() as u64,
        heap_training: HEAP.phase_peak() as u64,
        rss_anonymous: peak,
        rss_anonymous_now: anonymous,
        rss: high_water,
        with_child: [Child::Tokens, Child::Sample].map(with_child),
    }
}

/// The most anonymous memory of this process and a child of this kind together.
pub fn with_child(kind: Child) -> u64 {
    WITH_CHILD[kind as usize].load(Relaxed)
}

/// The most anonymous memory of a child of this kind.
pub fn childs(kind: Child) -> u64 {
    CHILDS[kind as usize].load(Relaxed)
}

/// Says what this process and a child of it may have together: the budget of the run they work for.
pub fn keep_children_within(budget: Option<ByteSize>) {
    LIMIT.store(budget.map_or(0, |budget| budget.0), Relaxed);
}

/// Waits for a child's end, and reads what memory it takes until then; `over` is called once when that is more than
/// this process and its children may have.
///
/// # Errors
/// When the system does not tell of its end.
pub fn wait(kind: Child, child: process::Child, over: impl FnOnce() + Send) -> io::Result<process::Output> {
    let (status, ended) = (format!("/proc/{}/status", child.id()), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut over = Some(over);
            while !ended.load(Relaxed) {
                let both = (Resident::now(), Resident::read(&status));
                if let (Some(Resident { anonymous: own, .. }), Some(Resident { anonymous: childs, .. })) =
                    both
                {
                    WITH_CHILD[kind as usize].fetch_max(own + childs, Relaxed);
                    CHILDS[kind as usize].fetch_max(childs, Relaxed);
                    let limit = LIMIT.load(Relaxed);
                    if limit > 0
                        && own + childs > limit
                        && let Some(over) = over.take()
                    {
                        over();
                    }
                }
                thread::sleep(EVERY);
            }
        });
        let output = child.wait_with_output();
        ended.store(true, Relaxed);
        output
    })
}
