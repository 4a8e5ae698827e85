//! Rates of the kernels on one thread, contestants in alternation.
//!
//! ```text
//! cargo bench -p mesp-kernels                       all tables
//! cargo bench -p mesp-kernels -- "product 256x"     tables whose title contains one of the words
//! MESP_BENCH_PYTHON=.venv/bin/python cargo bench …  PyTorch beside us in products
//! MESP_BENCH_SECONDS=2                              seconds for each table, 1 if not said
//! ```

#![allow(clippy::print_stdout, reason = "the tables are the result")]

mod alternate;
mod attention;
mod products;
mod rank_r;
mod small_m;

use std::time::Duration;

fn main() {
    let seconds = std::env::var("MESP_BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0);
    let budget = Duration::from_secs_f64(seconds);
    println!("instructions: {:?}", mesp_kernels::isa());
    products::products(budget);
    small_m::small_m(budget);
    attention::attention_rates(budget);
    attention::norms(budget);
    rank_r::rank_r(budget);
}

/// Whether the command line asks for a table: it names no part of any title, or a part of this one.
pub(crate) fn wanted(title: &str) -> bool {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    words.is_empty() || words.iter().any(|w| title.contains(w.as_str()))
}

/// A small generator (SplitMix64); values uniform in [−1, 1).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next_u64() >> 40) as f32 / (1u32 << 23) as f32 - 1.0).collect()
    }
}
