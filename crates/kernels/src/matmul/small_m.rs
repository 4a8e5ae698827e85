//! Products of one to sixteen rows with a frozen weight (decoding, narrow tiles of the head): the weight is read once, as
//! fast as memory gives it, so what it costs besides must be little.
//!
//! ```text
//! scratch   a turn of a packed panel, the panel's sums, the left factor as the microkernel reads it
//! ```
//!
//! The left factor is prepared once for all columns of a task. A panel is packed some depth at a time, into the first-level
//! cache, and multiplied at once. That packing and multiplying are not one loop is on purpose: a sum waits for its last
//! multiply-add, and the processor does not look far enough ahead to fill the time with the conversion of other columns.

use std::ops::Range;

use super::prefetch::Prefetch;
use super::{Init, Lhs, Micro, NR, PACKED, Rhs, SMALL_M, Target, start, store};
use crate::{Real, Values};

/// Depth packed at a time: whole groups of the quantized formats, two of those that share their bytes.
const TURN: usize = 64;
const PANEL: usize = TURN * NR;
const SUMS: usize = SMALL_M * NR;
/// Bytes of rows' length below which the next panel's rows are asked for, and not the next depth.
const NEAR: usize = 192 * 1024;

/// Columns `cols` of a product of at most [`SMALL_M`] rows.
///
/// # Safety
/// The operands' elements exist, nobody else touches these columns of the output, and `scratch` holds [`PACKED`] values.
pub(super) unsafe fn small_m<R: Real>(
    micro: &Micro<R>,
    cols: Range<usize>,
    [m, n, k]: [usize; 3],
    alpha: R,
    a: Lhs<'_, R>,
    b: Rhs<'_, R>,
    init: Init<'_>,
    c: Target<R>,
    scratch: &mut [R],
) {
    let (panel, rest) = scratch.split_at_mut(PANEL);
    let (sums, left) = rest.split_at_mut(SUMS);
    let most = (left.len() / m * micro.per_step / TURN * TURN).min(k.next_multiple_of(TURN)).max(TURN);
    let strides = [a.row_stride, a.col_stride];
    let mut k0 = 0;
    loop {
        let depth = most.min(k - k0);
        let steps = depth.div_ceil(micro.per_step);
        let from = if depth == 0 { 0 } else { k0 * a.col_stride };
        let (a_at, a_rows, a_cols) = match a.data {
            Values::Full(a) if micro.left.is_none() => (a[from..].as_ptr(), strides[0], strides[1]),
            a => {
                for (i, row) in left.chunks_exact_mut(steps.max(1)).enumerate().take(m) {
                    let (at, strides, size) = (from + i * strides[0], [0, strides[1]], [1, depth]);
                    match (a, micro.left) {
                        (Values::Full(a), Some(prepare)) => prepare(row, &a[at..], strides, size),
                        (Values::Full(_), None) => unreachable!("read in place"),
                        (Values::Bf16(a), _) => (micro.left_bf16)(row, &a[at..], strides, size),
                    }
                }
                (left.as_ptr(), steps, 1)
            }
        };
        for first in cols.clone().step_by(micro.nr) {
            let width = micro.nr.min(cols.end - first);
            let (vectors, columns) = (width.div_ceil(micro.lane), first..first + width);
            let padded = vectors * micro.lane;
            let from = if k0 == 0 { init } else { Init::Accumulate };
            // SAFETY: `m` rows of `columns` are the caller's; the sums' rows are as long as a panel's.
            unsafe {
                let origin = c.start.add(first * c.col_stride);
                start(sums.as_mut_ptr(), padded, origin, [c.row_stride, c.col_stride], m, &columns, from);
            }
            for p in (k0..k0 + depth).step_by(TURN) {
                let turn = TURN.min(k0 + depth - p);
                let next = columns.end..(columns.end + micro.nr).min(n);
                let mut ahead = Prefetch::new(&b, p..p + turn, next);
                if ahead.reach() > NEAR {
                    let later = (p + 4 * TURN).min(k)..(p + 5 * TURN).min(k);
                    ahead = Prefetch::new(&b, later, columns.clone());
                }
                ahead.ask(ahead.len());
                (micro.pack)(panel, b, p, turn, first, width, padded, alpha);
                for i in (0..m).step_by(micro.mr) {
                    let height = micro.mr.min(m - i);
                    // SAFETY: rows `i..i+height` of the left factor and of the sums, whole vectors of the panel, all of
                    // this turn's depth.
                    unsafe {
                        let a_at = a_at.add(i * a_rows + (p - k0) / micro.per_step * a_cols);
                        let at = sums.as_mut_ptr().add(i * padded);
                        let turn = turn.div_ceil(micro.per_step);
                        (micro.run)(
                            height,
                            vectors,
                            turn,
                            a_at,
                            a_rows,
                            a_cols,
                            panel.as_ptr(),
                            padded,
                            at,
                            padded,
                        );
                    }
                }
            }
            // SAFETY: as above.
            unsafe { store(sums, padded, c, 0..m, &columns) };
        }
        k0 += depth;
        if k0 >= k {
            return;
        }
    }
}

const _: () = assert!(PANEL + SUMS + SMALL_M * TURN <= PACKED);
