//! Buffers, operations, and the memory plan: what a model needs from a device.
//!
//! Model code asks a [`Backend`] for buffers ([`Act`], a handle that cannot be copied) and runs operations ([`Op`]) on
//! views of them ([`View`], [`ViewMut`]). The same code is run twice. On [`Dry`], which computes nothing, it yields each
//! buffer's size and lifetime, which [`Plan`] turns into offsets in one arena. [`Cpu`] allocates that arena once and hands
//! out the planned offsets in the same order. So the peak is known before the first byte is allocated, and a run allocates
//! nothing after its start.
//!
//! Start reading at `backend.rs`, then `op.rs` (the list of all operations), `dry.rs` and `plan.rs`. Other backends wrap
//! one of these two: [`Timed`] measures operations, [`Dual`] carries tangents for forward-mode derivatives, [`AllocOnly`]
//! allocates and computes nothing. [`Weight`] is a model's weight, mapped from its file or in memory; [`Spill`] is the file
//! that activation checkpoints can go to; [`CountingAllocator`] measures the heap.
//!
//! ```
//! use std::sync::Arc;
//!
//! use mesp_device::{Backend, Class, Cpu, Dry, Label, Program, Threads};
//!
//! /// Computes Σ (2·i)² for i in 0..6, in a buffer of 2 × 3 values.
//! fn run(be: &mut impl Backend) -> f64 {
//!     be.begin(Program(0));
//!     let mut x = be.alloc(2, 3, Label::new(Class::WithinBlock, "x"));
//!     be.load(x.view_mut(), &mut |i| i as f64);
//!     be.scale(x.view_mut(), 2.0);
//!     let sum = be.sum_of_squares(x.view());
//!     be.free(x);
//!     sum
//! }
//!
//! let mut dry = Dry::new(size_of::<f32>(), 1); // bytes of a value, threads
//! run(&mut dry);
//! let plan = dry.finish();
//! let planned = plan.bytes();
//!
//! let mut cpu = Cpu::<f32>::new(plan, Arc::new(Threads::new(1)?));
//! assert_eq!(run(&mut cpu), 220.0);
//! assert_eq!(cpu.reached_bytes(), planned);
//! # Ok::<(), std::io::Error>(())
//! ```

mod act;
mod alloc_only;
mod arena;
mod backend;
mod cpu;
mod dry;
mod dual;
mod heap;
mod label;
mod op;
mod plan;
mod resident;
mod signals;
mod spill;
mod timed;
mod weight;

pub use act::{Act, Elem, LINE, Owner, View, ViewMut};
pub use alloc_only::AllocOnly;
pub use backend::{Backend, Mark, Program};
pub use cpu::Cpu;
pub use dry::Dry;
pub use dual::{Dual, Tangents};
pub use heap::{CountingAllocator, release_free_memory};
pub use label::{Class, Label};
pub use mesp_kernels::AttentionShape as Attention;
pub use mesp_kernels::{
    AdamW, Compute, Distribution, Dropout, Dtype, Factored, Foam, Gate, Layout, Lion, MAX_ROTARY_DIM, Noise,
    Par, Real, RowStat, Sgd, Threads, VOCAB_STEP, f32_is_faster, hot_tiles, inverse_frequencies,
    matmul_scratch, probs_len, random_bits,
};
pub use op::{Form, Moment, Multiplied, Op, Passes, Probs, Rope, Updated};
pub use plan::{Entry, Plan, ProgramPlan, TooLarge};
pub use signals::{ignore_hangups_again, report_signals};
pub use spill::Spill;
pub use timed::{OpCost, Timed, process_cpu_time};
pub use weight::{Mapping, Motion, Weight};
