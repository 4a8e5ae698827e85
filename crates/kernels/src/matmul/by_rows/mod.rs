//! bf16 products of many rows with a stored weight on AVX512-BF16, rows of the left factor in the lanes of a vector.
//!
//! ```text
//! out[i, j] = init + Σ_p a[i, p] · w[p, j] + term          a tile: sixteen rows i in lanes, sixteen columns j in registers
//! each pair of depth                                       one load of the left factor, sixteen broadcasts of the weight
//! ```
//!
//! The left factor is rounded and laid out once for all columns. Of the weight single pairs are read, so one whose depth
//! lies along its rows in memory (a layer's forward) is read in place. One whose depth goes across its rows (the input
//! gradient) must be woven into pairs: tiles do it for the columns that come next, between their own multiplications. So
//! neither packs as a step of its own. Tiles are turned in registers on the way to their place in the result, which is
//! read and written once where the depth fits into a thread's scratch.
//!
//! Where rows are many, each thread has rows of its own: threads then write nothing close to each other, and a weight
//! that every thread reads costs little beside 64 rows and more.
//!
//! The terms of a sum, their order and the instruction are those of [`super::block_product`]: so are all bits.

mod left;
mod tile;

use std::ops::Range;

use super::ahead::{self, Ahead};
use super::{FEW, Init, Lhs, Micro, Out, PACKED, Rhs, Target, Term, matmul_scratch};
use crate::Dtype;
use crate::par::{Par, Pieces, share};
use crate::weight::WeightView;
use tile::{Start, Tile, Weave};

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
/// The fewest tiles of rows that are worth a pass over the weight by a thread.
const OWN: [usize; 2] = [4, 16];
/// Columns of a task where the depth is not cut: tasks are what a thread takes over from a slower one.
const GROUP: usize = 1024;
/// Values that a line of memory holds.
const LINE: usize = 16;

/// Whether this is the way to make the product.
pub(super) fn takes(out: &Out<'_, f32>, [m, n, k]: [usize; 3], a: &Lhs<'_, f32>, b: &Rhs<'_, f32>) -> bool {
    let weight = !matches!(b, Rhs::Dense { .. });
    // Rows past the last are computed too: at most a ninth of them.
    let filled = m > FEW && m.next_multiple_of(ROWS) * 9 <= m * 10;
    let whole = n >= PANEL && k > 0 && k.is_multiple_of(DEPTH);
    weight && filled && whole && out.col_stride == 1 && a.col_stride == 1
}

/// How the product is cut.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Tiles of all rows, and the blocks that they are dealt out to.
    tiles: usize,
    blocks: usize,
    /// Panels of all columns, and the groups that they are dealt out to.
    panels: usize,
    groups: usize,
    /// Depth that is laid out at a time.
    depth: usize,
}

impl Plan {
    /// `rank` is the depth of a term; `converts` tells of a weight that is not bf16.
    fn new([m, n, k]: [usize; 3], threads: usize, rank: usize, converts: bool) -> Self {
        let (tiles, panels) = (m.div_ceil(ROWS), n / PANEL);
        let [block, own] = [BLOCK, OWN].map(|tiles| tiles[usize::from(converts)]);
        let least = tiles.div_ceil(block);
        let blocks = if tiles >= own * threads { least.next_multiple_of(threads) } else { least };
        let most = tiles.div_ceil(blocks);
        let room = PACKED - 2 * LINE - (most + 1) * LINE * rank;
        let fits = room / (most * ROWS / 2 + PANEL) / DEPTH * DEPTH;
        let cuts = k.div_ceil(fits);
        // As many tasks for each thread, and where nothing is laid out twice for it, more of them.
        let even = threads / gcd(threads, blocks);
        let more = if cuts == 1 { (n / (GROUP * even)).max(1) } else { 1 };
        let depth = k.div_ceil(cuts).next_multiple_of(DEPTH);
        Self { tiles, blocks, panels, groups: (even * more).min(panels), depth }
    }

    /// Whether the panels of a term of this depth leave the larger part of the scratch.
    fn takes_term(rank: usize) -> bool {
        (BLOCK[1] + 1) * LINE * rank <= PACKED / 2
    }

    fn rows(&self, block: usize, m: usize) -> Range<usize> {
        let tiles = share(self.tiles, self.blocks, block);
        tiles.start * ROWS..(tiles.end * ROWS).min(m)
    }

    fn columns(&self, group: usize) -> Range<usize> {
        let panels = share(self.panels, self.groups, group);
        panels.start * PANEL..panels.end * PANEL
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
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
        if group + 1 < plan.groups || cols.end == n {
            if after.is_none() {
                return;
            }
        } else {
            let rest = cols.end..n;
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

/// A task: a block of rows by a group of columns.
#[derive(Clone, Copy)]
struct Job<'a> {
    plan: &'a Plan,
    size: [usize; 3],
    a: Lhs<'a, f32>,
    b: Rhs<'a, f32>,
    init: Init<'a>,
    term: Option<Term<'a, f32>>,
    c: Target<f32>,
    block: usize,
    group: usize,
}

/// A cut of depth of a [`Job`], its left factor laid out.
struct Cut<'a> {
    job: &'a Job<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
    depth: Range<usize>,
    /// The next cut's depth, where there is one.
    next: Option<Range<usize>>,
    left: *const f32,
    term: &'a mut [f32],
    ahead: Ahead,
}

impl Job<'_> {
    /// # Safety
    /// The task's rows and columns of the result are the caller's alone and lie inside the operands; the machine has
    /// the instructions.
    unsafe fn run(&self, scratch: Scratch<'_>) {
        let [m, _, k] = self.size;
        let (rows, cols) = (self.plan.rows(self.block, m), self.plan.columns(self.group));
        let Scratch { holds, left, mut panels, term } = scratch;
        let cut = |from: usize| from..(from + self.plan.depth).min(k);
        let mut woven = false;
        for (i, k0) in (0..k).step_by(self.plan.depth).enumerate() {
            // Small numbers are exact.
            let name = (self.block * k.div_ceil(self.plan.depth) + i) as f32;
            if *holds != name {
                left::lay_out(left, &self.a, &rows, &cut(k0));
                if let Some(t) = &self.term {
                    left::lay_out_term(term, t, &rows);
                }
                *holds = name;
            }
            let next = cut(k0).end;
            let next = (next < k).then(|| cut(next));
            // What of the left factor this thread is likely to lay out next.
            let ahead = if let Some(next) = &next {
                ahead::left(&self.a, &rows, next)
            } else if self.group + 1 == self.plan.groups && self.block + 1 < self.plan.blocks {
                ahead::left(&self.a, &self.plan.rows(self.block + 1, m), &cut(0))
            } else {
                ahead::left(&self.a, &(0..0), &cut(0))
            };
            let mut cut = Cut {
                job: self,
                rows: rows.clone(),
                cols: cols.clone(),
                depth: cut(k0),
                next,
                left: left.as_ptr(),
                term,
                ahead,
            };
            // SAFETY: the caller's promise.
            unsafe {
                match self.b {
                    Rhs::WeightTransposed(w) if w.dtype == Dtype::Bf16 => cut.of_rows(&w),
                    Rhs::Weight(w) if w.dtype == Dtype::Bf16 => {
                        cut.of_woven_panels(&w, &mut panels, &mut woven)
                    }
                    _ => cut.of_panels(panels[0]),
                }
            }
        }
    }
}

impl Cut<'_> {
    fn count(&self) -> usize {
        self.rows.len().div_ceil(ROWS)
    }

    /// The tiles of sixteen columns from `col` on, from the first row to the last.
    fn tiles(&mut self, col: usize) -> impl Iterator<Item = Tile> + use<> {
        let Job { size: [_, _, k], init, term, c, .. } = *self.job;
        let steps = self.depth.len() / 2;
        let start = match init {
            _ if self.depth.start > 0 => Start::Sums,
            Init::Zero => Start::Zero,
            Init::Bias(bias) => Start::Bias(bias[col..col + COLUMNS].as_ptr()),
            Init::Accumulate => Start::Sums,
        };
        let term = term.filter(|_| self.depth.end == k);
        let term = term.map(|t| left::term_of_columns(self.term, &t, self.count(), col));
        let (left, rows) = (self.left, self.rows.clone());
        rows.clone().step_by(ROWS).enumerate().map(move |(i, row)| Tile {
            steps,
            left: left.wrapping_add(i * ROWS * steps),
            height: ROWS.min(rows.end - row),
            to: c.start.wrapping_add(row * c.row_stride + col),
            stride: c.row_stride,
            start,
            term: term.map(|t| t.of_tile(i)),
        })
    }

    /// With a weight whose rows are columns of the result.
    ///
    /// # Safety
    /// As [`Job::run`].
    unsafe fn of_rows(&mut self, w: &WeightView<'_>) {
        let (stride, count) = (2 * w.cols, self.count());
        let each = self.ahead.len().div_ceil(count * self.cols.len() / COLUMNS);
        for col in self.cols.clone().step_by(COLUMNS) {
            let at = w.data.as_ptr().wrapping_add(col * stride + 2 * self.depth.start);
            for (i, tile) in self.tiles(col).enumerate() {
                self.ahead.ask(each);
                let ahead = at.wrapping_add((COLUMNS + i * COLUMNS / count) * stride);
                // SAFETY: the caller's promise: sixteen rows of the weight from `col` on, this cut's depth of each.
                unsafe { tile::of_rows(&tile, at, stride, ahead) };
            }
        }
    }

    /// With a weight of any type, 32 columns of which are converted at a time.
    ///
    /// # Safety
    /// As [`Job::run`].
    unsafe fn of_panels(&mut self, panel: &mut [f32]) {
        let each = self.ahead.len().div_ceil(self.count() * self.cols.len() / COLUMNS);
        for col in self.cols.clone().step_by(PANEL) {
            // SAFETY: the caller's promise: a panel of columns, this cut's depth of each.
            unsafe {
                super::pack512::sixteens(panel, &self.job.b, [self.depth.start, self.depth.len()], col)
            };
            let mut next = Ahead::new(
                &self.job.b,
                self.depth.clone(),
                col + PANEL..(col + 2 * PANEL).min(self.cols.end),
            );
            let lines = next.len().div_ceil(2 * self.count());
            for (half, panel) in panel.chunks_exact(COLUMNS * self.depth.len() / 2).take(2).enumerate() {
                for tile in self.tiles(col + half * COLUMNS) {
                    self.ahead.ask(each);
                    next.ask(lines);
                    // SAFETY: the caller's promise, for the panel.
                    unsafe { tile::of_panel(&tile, panel.as_ptr(), &Weave::NOTHING) };
                }
            }
        }
    }

    /// With a weight whose columns are columns of the result. `woven` says whether the first panel is there already, and
    /// then whether that of the next cut is.
    ///
    /// # Safety
    /// As [`Job::run`].
    unsafe fn of_woven_panels(&mut self, w: &WeightView<'_>, panels: &mut [&mut [f32]; 2], woven: &mut bool) {
        let stride = 2 * w.cols;
        let rows = |depth: &Range<usize>, col: usize, to: &mut [f32]| {
            assert!(to.len() >= PANEL * depth.len() / 2, "a panel's place");
            let from = w.data.as_ptr().wrapping_add(depth.start * stride + 2 * col);
            let (pairs, half) = (depth.len() / 2, 4 * COLUMNS * depth.len() / 2);
            Weave { pairs, from, stride, to: to.as_mut_ptr(), half, ahead: from.wrapping_add(2 * PANEL) }
        };
        let tiles = self.count() * self.cols.len() / COLUMNS;
        let each = self.ahead.len().div_ceil(tiles);
        if !*woven {
            // SAFETY: the caller's promise: a panel of columns, this cut's depth of each.
            unsafe { tile::weave(&rows(&self.depth, self.cols.start, panels[0])) };
        }
        for col in self.cols.clone().step_by(PANEL) {
            let last = col + PANEL == self.cols.end;
            let mut left = match &self.next {
                _ if !last => rows(&self.depth, col + PANEL, panels[1]),
                Some(depth) => rows(depth, self.cols.start, panels[1]),
                None => Weave { pairs: 0, ..rows(&self.depth, col, panels[1]) },
            };
            if let Some(depth) = &self.next
                && col + 2 * PANEL == self.cols.end
            {
                left.ahead = w.data.as_ptr().wrapping_add(depth.start * stride + 2 * self.cols.start);
            }
            let share = left.pairs.div_ceil(2 * self.count());
            for (half, panel) in panels[0].chunks_exact(COLUMNS * self.depth.len() / 2).take(2).enumerate() {
                for tile in self.tiles(col + half * COLUMNS) {
                    self.ahead.ask(each);
                    // SAFETY: the caller's promise, for the panel at work and the next.
                    unsafe {
                        let beside = Weave { pairs: left.pairs.min(share), ..left };
                        left = left.after(tile::of_panel(&tile, panel.as_ptr(), &beside));
                    }
                }
            }
            // SAFETY: as above.
            unsafe { tile::weave(&left) };
            panels.swap(0, 1);
        }
        *woven = self.next.is_some();
    }
}

#[cfg(test)]
mod tests;
