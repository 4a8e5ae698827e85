//! Asks for memory before it is needed: the stored right factor of the next block while this one is multiplied,
//! and the next tile of the left factor. A block is read once and from far away, in rows too short for the
//! processor's own prediction. Hints only: they change no value and cannot fault.

use std::ops::Range;

use super::{Lhs, Rhs};
use crate::weight::WeightView;
use crate::{Real, Values};

/// Bytes that memory moves at a time.
const LINE: usize = 64;

/// Rows of bytes that will be read next, line by line.
pub(super) struct Prefetch {
    row: *const u8,
    stride: usize,
    lines_per_row: usize,
    /// The next line of the row.
    line: usize,
    /// Lines not asked for yet.
    left: usize,
}

impl Prefetch {
    /// Depths `depth` and columns `cols` of `b`.
    pub(super) fn new<R: Real>(b: &Rhs<'_, R>, depth: Range<usize>, cols: Range<usize>) -> Self {
        let of_weight = |w: &WeightView<'_>, rows: &Range<usize>, inner: &Range<usize>| {
            let stride = w.dtype.row_bytes(w.cols);
            let from = w.dtype.row_bytes(inner.start);
            Self::rows(w.data.as_ptr(), stride, rows, from..w.dtype.row_bytes(inner.end))
        };
        let dense = |data: &[R], stride: usize, rows: &Range<usize>, inner: &Range<usize>| {
            let bytes = size_of::<R>();
            Self::rows(data.as_ptr().cast(), bytes * stride, rows, bytes * inner.start..bytes * inner.end)
        };
        match b {
            Rhs::WeightTransposed(w) => of_weight(w, &cols, &depth),
            Rhs::Weight(w) => of_weight(w, &depth, &cols),
            Rhs::Dense { data, row_stride: 1, col_stride } => dense(data, *col_stride, &cols, &depth),
            Rhs::Dense { data, row_stride, col_stride: 1 } => dense(data, *row_stride, &depth, &cols),
            Rhs::Dense { .. } => Self::nothing(),
        }
    }

    /// Asks for nothing.
    pub(super) fn nothing() -> Self {
        Self { row: std::ptr::null(), stride: 0, lines_per_row: 1, line: 0, left: 0 }
    }

    fn rows(data: *const u8, stride: usize, rows: &Range<usize>, inner: Range<usize>) -> Self {
        let start = data.wrapping_add(rows.start * stride + inner.start);
        let lines_per_row = (start.addr() % LINE + inner.len()).div_ceil(LINE).max(1);
        Self { row: start, stride, lines_per_row, line: 0, left: rows.len() * lines_per_row }
    }

    /// Bytes from the first row to the end of the last.
    pub(super) fn reach(&self) -> usize {
        self.left / self.lines_per_row * self.stride
    }

    /// How many lines are not asked for yet.
    pub(super) fn len(&self) -> usize {
        self.left
    }

    /// Asks for some more, into the second-level cache.
    pub(super) fn ask(&mut self, lines: usize) {
        self.each(lines, prefetch::<false>);
    }

    /// Asks for some more, into the first-level cache: for what is read at once.
    pub(super) fn ask_near(&mut self, lines: usize) {
        self.each(lines, prefetch::<true>);
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "two instructions a line")]
    fn each(&mut self, lines: usize, prefetch: impl Fn(*const u8)) {
        for _ in 0..lines.min(self.left) {
            prefetch(self.row.wrapping_add(self.line * LINE));
            self.line += 1;
            if self.line == self.lines_per_row {
                (self.row, self.line) = (self.row.wrapping_add(self.stride), 0);
            }
        }
        self.left -= lines.min(self.left);
    }
}

/// Asks for a tile of the left factor.
pub(super) fn left<R>(a: &Lhs<'_, R>, rows: &Range<usize>, depth: &Range<usize>) -> Prefetch {
    let (data, bytes): (*const u8, _) = match a.data {
        Values::Full(data) => (data.as_ptr().cast(), size_of::<R>()),
        Values::Bf16(data) => (data.as_ptr().cast(), size_of::<u16>()),
    };
    let rows = if a.col_stride == 1 { rows.clone() } else { 0..0 };
    Prefetch::rows(data, bytes * a.row_stride, &rows, bytes * depth.start..bytes * depth.end)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "one instruction")]
fn prefetch<const NEAR: bool>(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint takes any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        if NEAR { _mm_prefetch::<_MM_HINT_T0>(at.cast()) } else { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint takes any address.
    unsafe {
        if NEAR {
            std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
        } else {
            std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
