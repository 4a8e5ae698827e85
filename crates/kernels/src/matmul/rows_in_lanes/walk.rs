//! A task's way through its rows and columns: depth by depth, then columns, then tiles of rows.

use std::ops::Range;

use super::plan::Plan;
use super::tile::{self, End, Interleave, Start, Tile};
use super::{COLUMNS, PANEL, ROWS, Scratch, left};
use crate::Dtype;
use crate::matmul::prefetch::{self, Prefetch};
use crate::matmul::{Init, Lhs, Rhs, Target, Term, pack512};
use crate::weight::WeightView;

/// A task: a block of rows by a group of columns.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) plan: &'a Plan,
    pub(super) size: [usize; 3],
    pub(super) a: Lhs<'a, f32>,
    pub(super) b: Rhs<'a, f32>,
    pub(super) init: Init<'a>,
    pub(super) term: Option<Term<'a, f32>>,
    pub(super) c: Target<f32>,
    pub(super) block: usize,
    pub(super) group: usize,
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
    ahead: Prefetch,
    /// Lines that are asked for with each tile.
    each: usize,
}

impl Job<'_> {
    /// # Safety
    /// The task's rows and columns of the result are the caller's alone and lie inside the operands; the machine has
    /// the instructions.
    pub(super) unsafe fn run(&self, scratch: Scratch<'_>) {
        let [m, _, k] = self.size;
        let (rows, cols) = (self.plan.rows(self.block, m), self.plan.columns(self.group));
        let Scratch { holds, left, mut panels, term } = scratch;
        let cut = |from: usize| from..(from + self.plan.depth).min(k);
        let mut interleaved = false;
        for (i, k0) in (0..k).step_by(self.plan.depth).enumerate() {
            // Small numbers are exact.
            let name = (self.block * k.div_ceil(self.plan.depth) + i) as f32;
            if *holds != name {
                left::lay_out(left, &self.a, &rows, &cut(k0));
                if let Some(t) = &self.term
                    && i == 0
                {
                    left::lay_out_term(term, t, &rows);
                }
                *holds = name;
            }
            let next = cut(k0).end;
            let next = (next < k).then(|| cut(next));
            // What of the left factor this thread is likely to lay out next.
            let ahead = if let Some(next) = &next {
                prefetch::left(&self.a, &rows, next)
            } else if self.group + 1 == self.plan.groups && self.block + 1 < self.plan.blocks {
                prefetch::left(&self.a, &self.plan.rows(self.block + 1, m), &cut(0))
            } else {
                Prefetch::nothing()
            };
            let tiles = rows.len().div_ceil(ROWS) * cols.len() / COLUMNS;
            let each = ahead.len().div_ceil(tiles);
            let mut cut = Cut {
                job: self,
                rows: rows.clone(),
                cols: cols.clone(),
                depth: cut(k0),
                next,
                left: left.as_ptr(),
                term,
                ahead,
                each,
            };
            // SAFETY: the caller's promise.
            unsafe {
                match self.b {
                    Rhs::WeightTransposed(w) if w.dtype == Dtype::Bf16 => cut.of_rows(&w),
                    Rhs::Weight(w) if w.dtype == Dtype::Bf16 => {
                        cut.of_interleaved_panels(&w, &mut panels, &mut interleaved);
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
            Init::Zero => Start::Zero,
            Init::Bias(bias) => Start::Bias(bias[col..col + COLUMNS].as_ptr()),
            Init::Accumulate => Start::Sums,
        };
        let (first, last) = (self.depth.start == 0, self.depth.end == k);
        let term = term.filter(|_| last);
        let term = term.map(|t| left::term_of_columns(self.term, &t, self.count(), col));
        let (left, rows) = (self.left, self.rows.clone());
        rows.clone().step_by(ROWS).enumerate().map(move |(i, row)| {
            let height = ROWS.min(rows.end - row);
            // A tile without all of its rows has no place for its columns.
            let pauses = height == ROWS;
            let start = match pauses {
                _ if first => start,
                true => Start::Paused,
                false => Start::Sums,
            };
            let end = if last || !pauses { End::Result(term.map(|t| t.of_tile(i))) } else { End::Pause };
            Tile {
                steps,
                left: left.wrapping_add(i * ROWS * steps),
                height,
                to: c.start.wrapping_add(row * c.row_stride + col),
                stride: c.row_stride,
                start,
                end,
            }
        })
    }

    /// With a weight whose rows are columns of the result.
    ///
    /// # Safety
    /// As [`Job::run`].
    unsafe fn of_rows(&mut self, w: &WeightView<'_>) {
        let (stride, count) = (2 * w.cols, self.count());
        for col in self.cols.clone().step_by(COLUMNS) {
            let at = w.data.as_ptr().wrapping_add(col * stride + 2 * self.depth.start);
            for (i, tile) in self.tiles(col).enumerate() {
                self.ahead.ask(self.each);
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
        for col in self.cols.clone().step_by(PANEL) {
            // SAFETY: the caller's promise: a panel of columns, this cut's depth of each.
            unsafe {
                pack512::sixteens(panel, &self.job.b, [self.depth.start, self.depth.len()], col);
            };
            let mut next = Prefetch::new(
                &self.job.b,
                self.depth.clone(),
                col + PANEL..(col + 2 * PANEL).min(self.cols.end),
            );
            // SAFETY: as above.
            unsafe { self.of_panel(panel, col, &mut next, Interleave::NOTHING) };
        }
    }

    /// The tiles of a panel, whose columns begin at `col`; meanwhile `next` is prefetched and `interleave` interleaved.
    ///
    /// # Safety
    /// As [`Job::run`], for the panel, what is interleaved, and its place.
    unsafe fn of_panel(
        &mut self,
        panel: &[f32],
        col: usize,
        next: &mut Prefetch,
        mut interleave: Interleave,
    ) {
        let tiles = 2 * self.count();
        let (lines, pairs) = (next.len().div_ceil(tiles), interleave.pairs.div_ceil(tiles));
        for (half, panel) in panel.chunks_exact(COLUMNS * self.depth.len() / 2).take(2).enumerate() {
            for tile in self.tiles(col + half * COLUMNS) {
                self.ahead.ask(self.each);
                next.ask(lines);
                // SAFETY: the caller's promise.
                unsafe {
                    let beside = Interleave { pairs: interleave.pairs.min(pairs), ..interleave };
                    interleave = interleave.after(tile::of_panel(&tile, panel.as_ptr(), &beside));
                }
            }
        }
        // SAFETY: the caller's promise, for what the tiles did not get to.
        unsafe { tile::interleave(&interleave) };
    }

    /// With a weight whose columns are columns of the result. `interleaved` says whether the first panel is there already, and
    /// then whether that of the next cut is.
    ///
    /// # Safety
    /// As [`Job::run`].
    unsafe fn of_interleaved_panels(
        &mut self,
        w: &WeightView<'_>,
        panels: &mut [&mut [f32]; 2],
        interleaved: &mut bool,
    ) {
        let stride = 2 * w.cols;
        let rows = |depth: &Range<usize>, col: usize, to: &mut [f32]| {
            assert!(to.len() >= PANEL * depth.len() / 2, "a panel's place");
            let from = w.data.as_ptr().wrapping_add(depth.start * stride + 2 * col);
            let (pairs, half) = (depth.len() / 2, 4 * COLUMNS * depth.len() / 2);
            Interleave { pairs, from, stride, to: to.as_mut_ptr(), half, ahead: from.wrapping_add(2 * PANEL) }
        };
        if !*interleaved {
            // SAFETY: the caller's promise: a panel of columns, this cut's depth of each.
            unsafe { tile::interleave(&rows(&self.depth, self.cols.start, panels[0])) };
        }
        for col in self.cols.clone().step_by(PANEL) {
            let last = col + PANEL == self.cols.end;
            let mut interleave = match &self.next {
                _ if !last => rows(&self.depth, col + PANEL, panels[1]),
                Some(depth) => rows(depth, self.cols.start, panels[1]),
                None => Interleave::NOTHING,
            };
            if let Some(depth) = &self.next
                && col + 2 * PANEL == self.cols.end
            {
                interleave.ahead = w.data.as_ptr().wrapping_add(depth.start * stride + 2 * self.cols.start);
            }
            // SAFETY: the caller's promise, for the panel at work and the next.
            unsafe { self.of_panel(panels[0], col, &mut Prefetch::nothing(), interleave) };
            panels.swap(0, 1);
        }
        *interleaved = self.next.is_some();
    }
}
