//! A work-stealing pool whose workers spin for 200 µs before they sleep.
//!
//! A training step is some two thousand operations of a fraction of a millisecond, one after another. A thread that
//! sleeps between them takes 50 µs and more to wake, in a virtual machine most of all. These spin for a moment
//! after each operation, and the caller is one of them.
//!
//! **Protocol.** `state` holds a generation, whether its job is open, and how many threads are inside. The caller
//! writes the job, then opens it under a new generation; a thread enters by adding itself to the very state that it
//! read, which fails when the job was closed in between; the caller closes the job when no task is left, and
//! returns when nobody is inside. So the job may borrow from the caller's stack, and a thread that sleeps through a
//! whole job is not waited for.
//!
//! Tasks are dealt out in equal ranges. A thread takes its own from the front, and when they are done those of others
//! from the back. Nothing is allocated.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a thread without work spins before it sleeps.
const SPIN: Duration = Duration::from_micros(200);
/// Looks at the state between two offers of the processor to others.
const LOOKS: usize = 64;

/// In `state`: threads inside, whether the job is open, and from there on the generation.
const OPEN: u64 = 1 << 16;
const INSIDE: u64 = OPEN - 1;
const GENERATION: u64 = 1 << 17;

/// What the threads are to do: `run(data, task, worker)`.
#[derive(Clone, Copy)]
struct Job {
    run: unsafe fn(*const (), usize, usize),
    data: *const (),
}

/// A thread's tasks, on cache lines of their own: the next in the lower half, the end in the upper.
#[repr(align(128))]
struct Share {
    tasks: AtomicU64,
    asleep: AtomicBool,
}

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Job>,
    shares: Box<[Share]>,
    ends: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the job is written by the one caller while no thread is inside, and read by threads inside.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointers are used between opening and closing only.
unsafe impl Send for Shared {}

/// A number of threads, the caller's among them, that run the tasks of one operation after another.
pub struct Threads {
    shared: Arc<Shared>,
    others: Vec<JoinHandle<()>>,
    /// Whether they are at work for somebody.
    taken: AtomicBool,
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threads").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl Threads {
    /// So many threads, at least the caller's.
    ///
    /// # Errors
    /// When the system has no more threads to give.
    pub fn new(count: usize) -> std::io::Result<Self> {
        unsafe fn nothing(_: *const (), _: usize, _: usize) {}
        let count = count.clamp(1, 1 << 10);
        let share = |_| Share { tasks: AtomicU64::new(0), asleep: AtomicBool::new(false) };
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { run: nothing, data: std::ptr::null() }),
            shares: (0..count).map(share).collect(),
            ends: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut threads = Self {
            shared: Arc::clone(&shared),
            others: Vec::with_capacity(count - 1),
            taken: AtomicBool::new(false),
        };
        for worker in 1..count {
            let shared = Arc::clone(&shared);
            let named = std::thread::Builder::new().name(format!("mesp-{worker}"));
            threads.others.push(named.spawn(move || shared.work(worker))?);
        }
        Ok(threads)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shared.shares.len()
    }

    /// Runs `f(task, worker)` for every `task < n`, `worker < self.count()`; no two of the same worker at once. Alone
    /// on the calling thread where the others are at work for somebody else, as inside of a task.
    pub(crate) fn run<F: Fn(usize, usize) + Sync>(&self, n: usize, f: F) {
        let Some(tasks) = u32::try_from(n).ok().filter(|_| !self.taken.swap(true, Acquire)) else {
            return (0..n).for_each(|task| f(task, 0));
        };
        let done = self.shared.give(tasks, &f, self.others.iter().map(JoinHandle::thread));
        self.taken.store(false, Release);
        if let Err(panic) = done {
            resume_unwind(panic);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.ends.store(true, SeqCst);
        for other in self.others.drain(..) {
            other.thread().unpark();
            // A thread catches what its tasks panic with and hands it on.
            let _ = other.join();
        }
    }
}

impl Shared {
    /// Runs a job with all who come; what a task panicked with, if one did. For one caller at a time.
    fn give<'t, F: Fn(usize, usize) + Sync>(
        &self,
        tasks: u32,
        f: &F,
        others: impl Iterator<Item = &'t Thread>,
    ) -> Result<(), Box<dyn Any + Send>> {
        unsafe fn run<F: Fn(usize, usize)>(data: *const (), task: usize, worker: usize) {
            // SAFETY: `data` is the closure below, which lives until nobody is inside.
            unsafe { (*data.cast::<F>())(task, worker) }
        }
        for (i, own) in self.shares.iter().enumerate() {
            let Range { start, end } = share(tasks as usize, self.shares.len(), i);
            own.tasks.store(range(start as u64, end as u64), Relaxed);
        }
        // SAFETY: there is one caller at a time, and nobody is inside: the last job was closed and left.
        unsafe { *self.job.get() = Job { run: run::<F>, data: std::ptr::from_ref(f).cast() } };
        let generation = self.state.load(Relaxed) / GENERATION + 1;
        self.state.store(generation * GENERATION + OPEN, Release);
        // Either a thread sees the job after it has said that it sleeps, or it is seen to sleep here.
        fence(SeqCst);
        for (share, other) in self.shares[1..].iter().zip(others) {
            if share.asleep.load(Relaxed) {
                other.unpark();
            }
        }
        // The job is closed and left even if this thread's task panics.
        let mine = catch_unwind(AssertUnwindSafe(|| self.tasks(0)));
        self.state.fetch_and(!OPEN, AcqRel);
        let mut looks = 0;
        while self.state.load(Acquire) & INSIDE != 0 {
            rest(&mut looks);
        }
        match self.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(theirs) => mine.and(Err(theirs)),
            None => mine,
        }
    }

    /// What a thread does from its start to its end.
    fn work(&self, worker: usize) {
        let mut done = 0;
        while self.enter(worker, &mut done) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.tasks(worker))) {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            self.state.fetch_sub(1, Release);
        }
    }

    /// Waits for a job that this thread has not done and enters it; false at the end of all.
    fn enter(&self, worker: usize, done: &mut u64) -> bool {
        let asleep = &self.shares[worker].asleep;
        let (mut looks, mut since) = (0, None);
        loop {
            let state = self.state.load(Acquire);
            if state & OPEN != 0 && state / GENERATION != *done {
                if self.state.compare_exchange_weak(state, state + 1, AcqRel, Relaxed).is_ok() {
                    *done = state / GENERATION;
                    return true;
                }
                continue;
            }
            if self.ends.load(Relaxed) {
                return false;
            }
            if rest(&mut looks) && since.get_or_insert_with(Instant::now).elapsed() > SPIN {
                asleep.store(true, Relaxed);
                fence(SeqCst);
                let state = self.state.load(Relaxed);
                if (state & OPEN == 0 || state / GENERATION == *done) && !self.ends.load(Relaxed) {
                    std::thread::park();
                }
                asleep.store(false, Relaxed);
                since = None;
            }
        }
    }

    /// Runs this thread's tasks, then what is left of others'.
    fn tasks(&self, worker: usize) {
        // SAFETY: this thread is inside, so that the job stays.
        let job = unsafe { *self.job.get() };
        let shares = &self.shares;
        // SAFETY: the job's data live while this thread is inside; a task is taken once.
        let run = |task: u32| unsafe { (job.run)(job.data, task as usize, worker) };
        while let Some(task) = shares[worker].first() {
            run(task);
        }
        for other in (worker + 1..shares.len()).chain(0..worker) {
            while let Some(task) = shares[other].last() {
                run(task);
            }
        }
    }
}

impl Share {
    fn first(&self) -> Option<u32> {
        self.take(|next, end| ((next + 1, end), next))
    }

    fn last(&self) -> Option<u32> {
        self.take(|next, end| ((next, end - 1), end - 1))
    }

    /// Takes a task: what is left, and which one it is.
    fn take(&self, one: impl Fn(u32, u32) -> ((u32, u32), u32)) -> Option<u32> {
        let mut seen = self.tasks.load(Relaxed);
        loop {
            let (next, end) = (seen as u32, (seen >> 32) as u32);
            if next >= end {
                return None;
            }
            let ((next, end), task) = one(next, end);
            let left = range(u64::from(next), u64::from(end));
            match self.tasks.compare_exchange_weak(seen, left, Relaxed, Relaxed) {
                Ok(_) => return Some(task),
                Err(now) => seen = now,
            }
        }
    }
}

/// A range of tasks in one word.
const fn range(next: u64, end: u64) -> u64 {
    next | end << 32
}

/// A moment of waiting; true where the processor was offered to others.
fn rest(looks: &mut usize) -> bool {
    *looks += 1;
    let offer = looks.is_multiple_of(LOOKS);
    if offer {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
    offer
}

/// The `i`-th of `parts` ranges of `n`, which differ by one at most.
pub(crate) fn share(n: usize, parts: usize, i: usize) -> Range<usize> {
    i * n / parts..(i + 1) * n / parts
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn threads(count: usize) -> Threads {
        Threads::new(count).expect("threads")
    }

    #[test]
    fn every_task_runs_once_and_workers_one_at_a_time() {
        const REPEATS: usize = if cfg!(miri) { 3 } else { 200 };
        for count in [1, 2, 3, 7] {
            let threads = threads(count);
            assert_eq!(threads.count(), count);
            for n in (0..REPEATS).map(|i| i % 37) {
                let runs: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                let busy: Vec<AtomicBool> = (0..count).map(|_| AtomicBool::new(false)).collect();
                threads.run(n, |task, worker| {
                    assert!(!busy[worker].swap(true, SeqCst), "two tasks of worker {worker} at once");
                    runs[task].fetch_add(1, SeqCst);
                    busy[worker].store(false, SeqCst);
                });
                assert!(runs.iter().all(|r| r.load(SeqCst) == 1), "{n} tasks on {count} threads");
            }
        }
    }

    /// Tasks that wait for each other end only if each has a thread of its own.
    #[test]
    fn threads_that_slept_come_to_work() {
        let (threads, all) = (threads(3), Barrier::new(3));
        for _ in 0..3 {
            std::thread::sleep(20 * SPIN);
            threads.run(3, |_, _| {
                all.wait();
            });
        }
    }

    #[test]
    fn what_is_left_of_a_slow_thread_goes_to_others() {
        let (threads, others) = (threads(2), AtomicUsize::new(0));
        // The first of the caller's tasks waits until all others are done, those of its own range among them.
        threads.run(8, |task, _| {
            if task == 0 {
                while others.load(SeqCst) < 7 {
                    std::thread::yield_now();
                }
            } else {
                others.fetch_add(1, SeqCst);
            }
        });
    }

    #[test]
    fn a_task_may_ask_for_tasks_and_so_may_several_callers() {
        let (threads, sum) = (threads(3), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    threads.run(5, |_, _| {
                        threads.run(7, |task, _| {
                            sum.fetch_add(task, SeqCst);
                        });
                    });
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 5 * 21);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_ends_nothing_else() {
        let threads = threads(3);
        for bad in 0..6 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                threads.run(6, |task, _| assert!(task != bad, "task {task}"));
            }));
            let panic = result.expect_err("a task that panics");
            assert_eq!(panic.downcast_ref::<String>(), Some(&format!("task {bad}")));
            let runs = AtomicUsize::new(0);
            threads.run(9, |_, _| {
                runs.fetch_add(1, SeqCst);
            });
            assert_eq!(runs.into_inner(), 9);
        }
    }
}
