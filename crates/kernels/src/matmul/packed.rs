//! A right factor packed once and multiplied by many left factors: for tiles inside another kernel.

use std::ops::Range;

use super::{Compute, MR, Micro, Rhs, check_right};
use crate::Real;

/// Columns of panels are filled up to whole vectors of every machine.
const WIDTH: usize = 16;

/// Columns of a result of so many columns, filled up.
pub(crate) const fn padded(cols: usize) -> usize {
    cols.next_multiple_of(WIDTH)
}

/// Values of scratch for a left factor's rows of so much depth, as the microkernel reads them.
pub(crate) const fn left_scratch(depth: usize) -> usize {
    MR * depth
}

/// `depth × cols` values in the microkernel's order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packed<'a, R> {
    values: &'a [R],
    depth: usize,
    cols: usize,
    micro: Micro<R>,
}

/// Packs `b [depth, cols]` into the first `depth · padded(cols)` values of `to`, or half of them as pairs of bf16.
///
/// # Panics
/// When either is too short.
#[track_caller]
pub(crate) fn pack<'a, R: Real>(
    to: &'a mut [R],
    b: Rhs<'_, R>,
    [depth, cols]: [usize; 2],
    compute: Compute,
) -> Packed<'a, R> {
    check_right(&b, depth, cols);
    let micro = Micro::of(compute);
    let steps = depth.div_ceil(micro.per_step);
    let to = &mut to[..steps * padded(cols)];
    for from in (0..cols).step_by(micro.nr) {
        let width = micro.nr.min(cols - from);
        (micro.pack)(&mut to[from * steps..], b, 0, depth, from, width, padded(width), R::ONE);
    }
    Packed { values: to, depth, cols, micro }
}

impl<R: Real> Packed<'_, R> {
    /// Columns of a product with it, filled up.
    pub(crate) fn stride(&self) -> usize {
        padded(self.cols)
    }

    /// `out += a·b` or `out = a·b`: `out [m, padded(cols)]`, whose columns past `cols` get zeros added, and rows of
    /// `a` begin `a_rows` apart. Outside `within(rows)` these rows of `a` hold zeros: that depth is passed over.
    /// `left` holds [`left_scratch`] of the depth.
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
        a_rows: usize,
        left: &mut [R],
        within: impl Fn(Range<usize>) -> Range<usize>,
    ) {
        let (micro, depth) = (self.micro, self.depth);
        let Some(out) = self.begun(out, accumulate, m) else { return };
        assert!(a.len() >= (m - 1) * a_rows + depth, "a tile's left factor is too short");
        assert!(left.len() >= left_scratch(depth), "scratch for a tile's left factor");
        for i in (0..m).step_by(micro.mr) {
            let height = micro.mr.min(m - i);
            let some = within(i..i + height);
            let (p, end) = (some.start / micro.per_step * micro.per_step, some.end.min(depth));
            if p >= end {
                continue;
            }
            let a = &a[i * a_rows + p..];
            let steps = (end - p).div_ceil(micro.per_step);
            let (a, a_rows) = match micro.left {
                None => (a.as_ptr(), a_rows),
                Some(prepare) => {
                    prepare(left, a, [a_rows, 1], [height, end - p]);
                    (left.as_ptr(), steps)
                }
            };
            // SAFETY: `a` was checked or prepared, for `height` rows of `steps`, which follow `p` in the panels.
            unsafe { self.tile(out, i..i + height, [p / micro.per_step, steps], a, [a_rows, 1]) };
        }
    }

    /// [`Packed::multiply`] with `a` transposed, `[depth, stride]`, `m` of its columns, adding to `out`. Leaves `a` as
    /// the microkernel reads it.
    ///
    /// # Panics
    /// As [`Packed::multiply`].
    #[track_caller]
    pub(crate) fn multiply_transposed(
        &self,
        out: &mut [R],
        m: usize,
        a: &mut [R],
        stride: usize,
        within: impl Fn(Range<usize>) -> Range<usize>,
    ) {
        let (micro, depth) = (self.micro, self.depth);
        let Some(out) = self.begun(out, true, m) else { return };
        assert!(m <= stride && a.len() >= depth * stride, "a tile's left factor is too short");
        if let Some(prepare) = micro.transposed {
            prepare(&mut a[..depth * stride], stride);
        }
        for i in (0..m).step_by(micro.mr) {
            let height = micro.mr.min(m - i);
            let some = within(i..i + height);
            let (p, end) = (some.start / micro.per_step, some.end.min(depth).div_ceil(micro.per_step));
            if p < end {
                // SAFETY: steps `p..end` of `a` have `stride` columns, and those of the panels exist.
                unsafe {
                    let a = a.as_ptr().add(p * stride + i);
                    self.tile(out, i..i + height, [p, end - p], a, [1, stride]);
                }
            }
        }
    }

    /// The result's `m` rows, with what the sums start from; none if there is nothing to add.
    fn begun<'o>(&self, out: &'o mut [R], accumulate: bool, m: usize) -> Option<&'o mut [R]> {
        let out = &mut out[..m * self.stride()];
        if !accumulate {
            out.fill(R::ZERO);
        }
        (m > 0 && self.depth > 0).then_some(out)
    }

    /// Adds `steps` from step `p` on to some rows, at most a tile.
    ///
    /// # Safety
    /// `a` has as many steps of as many rows, and the panels have them from `p` on.
    unsafe fn tile(
        &self,
        out: &mut [R],
        rows: Range<usize>,
        [p, steps]: [usize; 2],
        a: *const R,
        [a_rows, a_cols]: [usize; 2],
    ) {
        let (micro, stride) = (self.micro, self.stride());
        let out = &mut out[rows.start * stride..rows.end * stride];
        let all = self.depth.div_ceil(micro.per_step);
        for from in (0..stride).step_by(micro.nr) {
            let vectors = micro.nr.min(stride - from) / micro.lane;
            let width = vectors * micro.lane;
            let b = self.values[from * all + p * width..].as_ptr();
            // SAFETY: columns `from..` of the rows lie inside `out`, which has `stride` columns; the panel begins at
            // `from·all` and is as wide as its vectors; the rest is the caller's promise.
            unsafe {
                let c = out.as_mut_ptr().add(from);
                (micro.run)(rows.len(), vectors, steps, a, a_rows, a_cols, b, width, c, stride);
            }
        }
    }
}
