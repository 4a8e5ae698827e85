//! bf16 products of many rows with a stored weight on AVX512-BF16, rows of the left factor in the lanes of a vector.
//!
//! ```text
//! out[i, j] = init + Σ_p a[i, p] · w[p, j] + term          a tile: sixteen rows i in lanes, sixteen columns j in registers
//! each pair of depth                                       one load of the left factor, sixteen broadcasts of the weight
//! ```
//!
//! The left factor is rounded and laid out once for all columns. Of the weight single pairs are read, so one whose depth
//! lies along its rows in memory (a layer's forward) is read in place. One whose depth goes across its rows (the input
//! gradient) must be interleaved into pairs: tiles do it for the next columns, between their own multiplications. So
//! neither packs in a separate step. Tiles are turned in registers on the way to their place in the result, which is
//! read and written once where the depth fits into a thread's scratch.
//!
//! Where rows are many, each thread has rows of its own: so there is no false sharing, and reading the
//! weight once for each thread costs little with 64 rows or more.
//!
//! The terms of a sum, their order and the instruction are those of [`super::block_product`]: so are all bits.

mod left;
mod plan;
mod tile;
mod walk;

use super::{Init, Lhs, Micro, Out, PACKED, Rhs, SMALL_M, Target, Term, matmul_scratch};
use crate::Dtype;
use crate::par::{Par, Pieces};
use plan::Plan;
use walk::Job;

/// Rows and columns of a tile.
const ROWS: usize = 16;
const COLUMNS: usize = 16;
/// Columns that go together.
const PANEL: usize = 2 * COLUMNS;
/// Depth is cut in multiples of this only.
const DEPTH: usize = 32;
/// The most tiles of rows whose left factor is laid out together: with a depth of 900 they fill a quarter of the
/// second-level cache. The second is for weights that are converted, which every block of rows does anew.
const BLOCK: [usize; 2] = [8, 16];
/// The fewest tiles of rows that are worth a pass over the weight by a thread. Where columns are at most [`GROUP`], half as
/// many are: threads that share rows would write close to each other.
const OWN: [usize; 2] = [4, 16];
/// Columns of a task where the depth is not cut: tasks are what a thread takes over from a slower one.
const GROUP: usize = 1024;
/// Values that a line of memory holds.
const LINE: usize = 16;

/// Whether this is the way to make the product.
pub(super) fn takes(out: &Out<'_, f32>, [m, n, k]: [usize; 3], a: &Lhs<'_, f32>, b: &Rhs<'_, f32>) -> bool {
    let weight = !matches!(b, Rhs::Dense { .. });
    // Rows past the last are computed too: at most a ninth of them.
    let filled = m > SMALL_M && m.next_multiple_of(ROWS) * 9 <= m * 10;
    let whole = n >= PANEL && k > 0 && k.is_multiple_of(DEPTH);
    weight && filled && whole && out.col_stride == 1 && a.col_stride == 1
}

/// [`super::matmul_plus`] for what [`takes`].
pub(super) fn run(
    micro: &Micro<f32>,
    out: Out<'_, f32>,
    size @ [m, n, k]: [usize; 3],
    a: Lhs<'_, f32>,
    b: Rhs<'_, f32>,
    init: Init<'_>,
    term: Option<Term<'_, f32>>,
    scratch: &mut [f32],
    par: Par<'_>,
) {
    let inside = term.filter(|t| Plan::takes_term(t.depth) && left::reads(&t.a));
    let after = if inside.is_some() { None } else { term };
    let converts = !matches!(b, Rhs::WeightTransposed(w) | Rhs::Weight(w) if w.dtype == Dtype::Bf16);
    let plan = Plan::new(size, par.threads(), inside.map_or(0, |t| t.depth), converts);
    let row_stride = out.row_stride;
    let c = Pieces::new(out.data);
    let scratch = &mut scratch[..matmul_scratch(par.threads())];
    for piece in scratch.chunks_exact_mut(PACKED) {
        *Scratch::new(piece, &plan).holds = Scratch::NOTHING;
    }
    let scratch = Pieces::new(scratch);
    par.tasks(plan.blocks * plan.groups, |task, worker| {
        let (block, group) = (task / plan.groups, task % plan.groups);
        // SAFETY: each worker runs one task at a time and owns its piece of the scratch.
        let piece = unsafe { scratch.piece(worker, PACKED) };
        let c = Target { start: c.as_ptr(), row_stride, col_stride: 1 };
        let rows = plan.rows(block, m);
        let mut cols = plan.columns(group);
        let job = Job { plan: &plan, size, a, b, init, term: inside, c, block, group };
        // SAFETY: `matmul_plus` proved that every index of these rows and columns lies inside the operands; tasks own
        // disjoint rows × columns of the result. The machine has the instructions: this is the way of its microkernel.
        unsafe { job.run(Scratch::new(piece, &plan)) };
        let rest = if group + 1 == plan.groups { cols.end..n } else { 0..0 };
        if rest.is_empty() && after.is_none() {
            return;
        }
        if !rest.is_empty() {
            // SAFETY: as above; these columns are less than a panel.
            unsafe {
                let size = [n, k, micro.kc];
                super::block_product(micro, rows.clone(), rest.clone(), size, 1.0, a, b, init, c, piece);
                if let Some(t) = &inside {
                    super::add_term(t, rows.clone(), rest, n, c, piece);
                }
            }
            cols.end = n;
        }
        if let Some(t) = &after {
            // SAFETY: as above.
            unsafe { super::add_term(t, rows, cols, n, c, piece) };
        }
        // What was laid out has been written over.
        *Scratch::new(piece, &plan).holds = Scratch::NOTHING;
    });
}

/// A thread's scratch.
struct Scratch<'a> {
    /// Which block and cut of depth `left` is of.
    holds: &'a mut f32,
    left: &'a mut [f32],
    /// The panel at work and the next.
    panels: [&'a mut [f32]; 2],
    term: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    const NOTHING: f32 = -1.0;

    fn new(piece: &'a mut [f32], plan: &Plan) -> Self {
        let from = piece.as_ptr().align_offset(4 * LINE).min(LINE);
        let (first, rest) = piece[from..].split_at_mut(LINE);
        let (left, rest) = rest.split_at_mut(plan.tiles.div_ceil(plan.blocks) * ROWS * plan.depth / 2);
        let (now, rest) = rest.split_at_mut(PANEL * plan.depth / 2);
        let (next, term) = rest.split_at_mut(PANEL * plan.depth / 2);
        Self { holds: &mut first[0], left, panels: [now, next], term }
    }
}

#[cfg(test)]
mod tests;
