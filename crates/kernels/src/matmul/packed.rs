//! A right factor packed once and multiplied by many left factors: for tiles inside another kernel.

use std::ops::Range;

use super::{Micro, Rhs, check_right};
use crate::Real;

/// Columns of panels are filled up to whole vectors of every machine.
const WIDTH: usize = 16;

/// Columns of a result of so many columns, filled up.
pub(crate) const fn padded(cols: usize) -> usize {
    cols.next_multiple_of(WIDTH)
}

/// `depth × cols` values in the microkernel's order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packed<'a, R> {
    values: &'a [R],
    depth: usize,
    cols: usize,
    micro: Micro<R>,
}

/// Packs `b [depth, cols]` into the first `depth · padded(cols)` values of `to`.
///
/// # Panics
/// When either is too short.
#[track_caller]
pub(crate) fn pack<'a, R: Real>(to: &'a mut [R], b: Rhs<'_, R>, [depth, cols]: [usize; 2]) -> Packed<'a, R> {
    check_right(&b, depth, cols);
    let micro = R::micro(super::Compute::Full);
    let to = &mut to[..depth * padded(cols)];
    for from in (0..cols).step_by(micro.nr) {
        let width = micro.nr.min(cols - from);
        (micro.pack)(&mut to[from * depth..], b, 0, depth, from, width, padded(width), R::ONE);
    }
    Packed { values: to, depth, cols, micro }
}

impl<R: Real> Packed<'_, R> {
    /// Columns of a product with it, filled up.
    pub(crate) fn stride(&self) -> usize {
        padded(self.cols)
    }

    /// `out += a·b` or `out = a·b`: `out [m, padded(cols)]`, whose columns past `cols` get zeros added, and
    /// element `(i, p)` of `a` at `i·rows + p·cols`. Outside `within(rows)` these rows of `a` hold zeros: that
    /// depth is passed over.
    ///
    /// # Panics
    /// When an operand is too short.
    #[track_caller]
    pub(crate) fn multiply(
        &self,
        out: &mut [R],
        accumulate: bool,
        m: usize,
        a: &[R],
        [a_rows, a_cols]: [usize; 2],
        within: impl Fn(Range<usize>) -> Range<usize>,
    ) {
        let (micro, depth, stride) = (self.micro, self.depth, self.stride());
        let out = &mut out[..m * stride];
        if !accumulate {
            out.fill(R::ZERO);
        }
        if m == 0 || depth == 0 {
            return;
        }
        assert!(a.len() > (m - 1) * a_rows + (depth - 1) * a_cols, "a tile's left factor is too short");
        for from in (0..stride).step_by(micro.nr) {
            let vectors = micro.nr.min(stride - from) / micro.lane;
            let b = self.values[from * depth..].as_ptr();
            for i in (0..m).step_by(micro.mr) {
                let height = micro.mr.min(m - i);
                let some = within(i..i + height);
                let (p, end) = (some.start, some.end.min(depth));
                if p >= end {
                    continue;
                }
                // SAFETY: rows `i..i+height` and columns `from..` of the tile lie inside `out`, which has `stride`
                // columns; the panel begins at `from·depth` and is as wide as its vectors; `a` was checked, and
                // depths `p..end` are some of it.
                unsafe {
                    let a = a.as_ptr().add(i * a_rows + p * a_cols);
                    let width = vectors * micro.lane;
                    let (b, c) = (b.add(p * width), out.as_mut_ptr().add(i * stride + from));
                    (micro.run)(height, vectors, end - p, a, a_rows, a_cols, b, width, c, stride);
                }
            }
        }
    }
}
