//! No operation reads or writes past its buffers: every buffer lies against a page that may not be touched, at its
//! end and then at its start, in odd shapes, for every instruction set that this machine has. Under Miri, which
//! watches allocations itself, the portable code runs on fewer shapes.
//!
//! ```text
//! cargo test -p mesp-kernels --test bounds
//! cargo +nightly miri test -p mesp-kernels --test bounds
//! ```

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod guarded;
mod products;
mod updates;
mod vectors;

use guarded::{Guarded, Side};
use mesp_kernels::{Dtype, Real};

/// The sets of this architecture; naming more than the machine has gives what it has.
#[cfg(not(miri))]
const ISAS: &[&str] = if cfg!(target_arch = "x86_64") {
    &["portable", "avx2", "avx512", "avx512bf16"]
} else {
    &["portable", "neon", "neonbf16"]
};

/// A touched page ends a process, so each instruction set has its own.
#[cfg(not(miri))]
#[test]
fn no_operation_leaves_its_buffers() {
    let program = std::env::current_exe().expect("the test's own path");
    for isa in ISAS {
        let run = std::process::Command::new(&program)
            .args(["--exact", "operations_on_guarded_buffers", "--ignored", "--nocapture"])
            .env("MESP_ISA", isa)
            .output()
            .expect("the test runs itself");
        let said = String::from_utf8_lossy(&run.stderr);
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        assert!(run.status.success(), "{isa}: {}; the last it did, last first: {last:?}", run.status);
        assert!(said.lines().count() > 100, "{isa}: {} cases only", said.lines().count());
    }
}

/// The guards guard: a read past the end, and one before the start, end the process.
#[cfg(not(miri))]
#[test]
fn a_touched_page_is_noticed() {
    let program = std::env::current_exe().expect("the test's own path");
    for test in ["reads_past_the_end", "reads_before_the_start"] {
        let run = std::process::Command::new(&program)
            .args(["--exact", test, "--ignored"])
            .output()
            .expect("the test runs itself");
        let signal = std::os::unix::process::ExitStatusExt::signal(&run.status);
        assert_eq!(signal, Some(libc::SIGSEGV), "{test}: {}", run.status);
    }
}

#[cfg(not(miri))]
#[test]
#[ignore = "ends the process: run by `a_touched_page_is_noticed`"]
fn reads_past_the_end() {
    let x = Guarded::new(Side::End, &[1.0f32; 5]);
    // SAFETY: none; the fault is what is asked for.
    std::hint::black_box(unsafe { x.as_ptr().add(5).read_volatile() });
}

#[cfg(not(miri))]
#[test]
#[ignore = "ends the process: run by `a_touched_page_is_noticed`"]
fn reads_before_the_start() {
    let x = Guarded::new(Side::Start, &[1.0f32; 5]);
    // SAFETY: none; the fault is what is asked for.
    std::hint::black_box(unsafe { x.as_ptr().sub(1).read_volatile() });
}

#[test]
#[cfg_attr(not(miri), ignore = "run by `no_operation_leaves_its_buffers` for each instruction set")]
fn operations_on_guarded_buffers() {
    for side in [Side::End, Side::Start] {
        let mut on = Buffers { side, state: 1 };
        products::products(&mut on);
        products::small_m(&mut on);
        products::terms(&mut on);
        products::attention::<f32>(&mut on);
        vectors::vectors::<f32>(&mut on);
        updates::updates::<f32>(&mut on);
        vectors::tables::<f32>(&mut on);
        vectors::heads::<f32>(&mut on);
        if side == Side::End {
            products::attention::<f64>(&mut on);
            vectors::vectors::<f64>(&mut on);
            updates::updates::<f64>(&mut on);
            vectors::heads::<f64>(&mut on);
        }
    }
}

/// Makes guarded buffers.
pub(crate) struct Buffers {
    side: Side,
    state: u64,
}

impl Buffers {
    /// Told before each case, so that the last one told is the one that failed.
    #[allow(clippy::print_stderr, reason = "read by the test that runs this one")]
    pub(crate) fn case(&self, what: std::fmt::Arguments<'_>) {
        eprintln!("{what}, {:?}", self.side);
    }

    fn next(&mut self) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state >> 33
    }

    /// Values in [−1, 1).
    pub(crate) fn values<R: Real>(&mut self, n: usize) -> Guarded<R> {
        let values: Vec<R> =
            (0..n).map(|_| R::from_f32(self.next() as f32 / (1u32 << 30) as f32 - 1.0)).collect();
        Guarded::new(self.side, &values)
    }

    pub(crate) fn of<T: Copy>(&mut self, values: &[T]) -> Guarded<T> {
        Guarded::new(self.side, values)
    }

    /// A weight whose values are finite.
    pub(crate) fn weight(&mut self, dtype: Dtype, rows: usize, cols: usize) -> Guarded<u8> {
        // Bytes up to 0x3b keep every half, bf16 and single below 1 in size.
        let bytes: Vec<u8> = (0..rows * dtype.row_bytes(cols)).map(|_| (self.next() % 0x3c) as u8).collect();
        Guarded::new(self.side, &bytes)
    }
}

/// That a result was written, and from finite values alone.
pub(crate) fn finite<R: Real>(x: &[R]) {
    assert!(x.iter().all(|x| x.to_f64().is_finite()), "a value that is not finite");
}
