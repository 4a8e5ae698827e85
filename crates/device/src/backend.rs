//! What a model needs from a device: buffers, and operations whose math is in `mesp-kernels`.

use mesp_kernels::{
    AdamW, AttentionShape as Attention, Dropout, Factored, Foam, Gate, Lion, Noise, RowStat, Sgd,
};

use crate::op::{Form, Moment, Op, Probs, Rope, Updated, operations};
use crate::{Act, Elem, Label, View, ViewMut, Weight};

/// A sequence of allocations that is planned as one: a training step, an evaluation, a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program(pub usize);

/// A place in a program's sequence of allocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(
    /// Allocations before it.
    pub usize,
);

macro_rules! methods {
    ($a:lifetime; $($(#[$doc:meta])* $method:ident $variant:ident { $($field:ident: $ty:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            fn $method<$a>(&mut self, $($field: $ty),*) {
                self.run(Op::$variant { $($field),* });
            }
        )*
    };
}

/// A device: memory, and [`Backend::run`] for operations on it. Implementations: [`crate::Cpu`], [`crate::Dry`]; a crate
/// of its own can hold another, whose buffers [`crate::Owner`] makes.
///
/// The methods of operations run the value of the same name ([`Op`]); nobody implements them.
///
/// Every operation panics when shapes disagree: shapes follow from the model, so a disagreement is a mistake
/// in the program and never in a user's file. The same holds for buffers in bf16 where they are not provided
/// for: they are for `load`, `store`, `zero`, `copy`, for factors of products, for the outputs of `rms_norm`, for
/// `gated_in_place` and its gradient (gate and up alike), for parameters and their moments, and where operations say so.
/// Those in bytes are for `load`, `store`, `zero` and moments.
pub trait Backend {
    /// Names the program whose allocations follow, from its first.
    fn begin(&mut self, program: Program);
    /// A buffer that lives as long as the backend, zero at first. Before any program begins.
    fn persist_as(&mut self, rows: usize, cols: usize, elem: Elem, label: Label) -> Act;
    /// A buffer with unspecified content.
    fn alloc_as(&mut self, rows: usize, cols: usize, elem: Elem, label: Label) -> Act;
    /// [`Backend::persist_as`] of the backend's numbers.
    fn persist(&mut self, rows: usize, cols: usize, label: Label) -> Act {
        self.persist_as(rows, cols, Elem::Full, label)
    }
    /// [`Backend::alloc_as`] of the backend's numbers.
    fn alloc(&mut self, rows: usize, cols: usize, label: Label) -> Act {
        self.alloc_as(rows, cols, Elem::Full, label)
    }
    /// Its end.
    fn free(&mut self, act: Act);
    /// The place where a loop begins. Each turn makes the same allocations and frees all of them, so a plan
    /// for one turn serves any number; [`Backend::rewind`] goes back to the place before each turn.
    fn mark(&self) -> Mark;
    /// See [`Backend::mark`].
    fn rewind(&mut self, mark: Mark);

    /// Fills a view from the host: `from(i)` is its i-th value.
    fn load(&mut self, to: ViewMut<'_>, from: &mut dyn FnMut(usize) -> f64);
    /// Hands a view's values to the host: `to(i, value)`.
    fn store(&self, from: View<'_>, to: &mut dyn FnMut(usize, f64));
    /// Σ x·y
    fn dot(&mut self, x: View<'_>, y: View<'_>) -> f64;
    /// Σ x²
    fn sum_of_squares(&mut self, x: View<'_>) -> f64;

    /// Writes a view into a slot of the backend's file.
    fn spill(&mut self, slot: usize, from: View<'_>);
    /// Reads it back.
    fn fetch(&mut self, slot: usize, to: ViewMut<'_>);
    /// Whether the file failed since [`Backend::take_fault`] was called last.
    fn faulty(&self) -> bool;
    /// Why the file failed, if it did since the last call: what was computed since then is void.
    fn take_fault(&mut self) -> Option<std::io::Error>;
    /// A weight is read soon: its pages may be fetched ahead.
    fn will_need(&self, w: &Weight);

    /// Runs an operation.
    fn run(&mut self, op: Op<'_>);

    operations!(methods);
}
