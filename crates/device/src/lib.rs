//! Where numbers live: the [`Backend`] trait, [`Cpu`], [`Dry`], and the memory plan between them.
//!
//! Model code asks a backend for buffers ([`Act`], a handle that cannot be copied) and operations on views
//! of them. The same code run on [`Dry`], which computes nothing, yields every buffer's birth, death and
//! bytes; [`Plan`] turns these into offsets in one arena; [`Cpu`] allocates the arena once and hands out the
//! planned offsets in the same order. So the peak is known before the first byte is allocated, and a run
//! allocates nothing after its start.

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
    AdamW, Compute, Distribution, Dropout, Dtype, Gate, Layout, MOST_TURNED, Noise, Par, Real, RowStat, Sgd,
    Threads, VOCAB_STEP, f32_is_faster, hot_tiles, inverse_frequencies, matmul_scratch, probs_len,
    random_bits,
};
pub use op::{Form, Multiplied, Op, Passes, Probs, Rope};
pub use plan::{Entry, Plan, ProgramPlan, TooLarge};
pub use signals::{ignore_hangups_again, report_signals};
pub use spill::Spill;
pub use timed::{OpCost, Timed, process_cpu_time};
pub use weight::{Mapping, Motion, Weight};
