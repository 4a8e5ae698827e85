//! The tile: sixteen sums of sixteen rows each, in registers while depth runs.
//!
//! Its loops are assembly. Written as intrinsics, the compiler moves the broadcasts of several steps to the front and
//! keeps what does not fit into registers in memory, which costs a third of the speed.

#![allow(clippy::inline_always, reason = "compiled inside entries that enable the instructions")]

use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_ET0, _mm_prefetch, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_permutex2var_epi16, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_storeu_ps, _mm512_storeu_si512,
};

use super::{COLUMNS, ROWS};
use crate::matmul::pack512::alternating;
use crate::matmul::x86::transposed;

/// Steps between two prefetches, or between two steps of interleaving.
const SLOT: usize = 8;

/// What a tile multiplies and where it goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    /// Pairs of depth, a multiple of sixteen.
    pub(super) steps: usize,
    /// Pair p of row i at `16·p + i`.
    pub(super) left: *const f32,
    /// Rows that the result has; the panel has zeros in place of those past them.
    pub(super) height: usize,
    /// Sixteen columns of the result.
    pub(super) to: *mut f32,
    /// Values between rows of the result.
    pub(super) stride: usize,
    pub(super) start: Start,
    pub(super) end: End,
}

/// What the sums start from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    Zero,
    /// Sixteen values, one a column.
    Bias(*const f32),
    /// What is in the result's place.
    Sums,
    /// What [`End::Pause`] left there.
    Paused,
}

/// What happens to the sums in the end.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// They are put into the result's place, behind the term.
    Result(Option<Term>),
    /// They wait there for the next cut of depth, as they are: a column's sums in a row's place. For whole tiles.
    Pause,
}

/// A product of small depth that is added in the end, in single precision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term {
    pub(super) depth: usize,
    /// Depth p of row i at `16·p + i`.
    pub(super) left: *const f32,
    /// Depth p of column j at `16·p + j`.
    pub(super) right: *const f32,
}

impl Term {
    /// What the first tile of rows has, for tile `i`.
    pub(super) fn of_tile(self, i: usize) -> Self {
        Self { left: self.left.wrapping_add(i * ROWS * self.depth), ..self }
    }
}

/// `sum[j] += pairs of row lanes · the pair at an address`, for register `zmm<x>` and the operand `$at`.
macro_rules! dot {
    ($sum:literal, $x:literal, $($at:tt)*) => {
        concat!("vdpbf16ps zmm", $sum, ", zmm", $x, ", dword ptr [", $($at)*, "]{{1to16}}\n")
    };
}

/// Step `$u` with the weight's rows at `b0` (rows 0 to 4), `b1` (5 to 9), `b2` (10 to 14) and `b3` (15), `s` bytes apart.
macro_rules! step_of_rows {
    ($u:literal, $x:literal) => {
        concat!(
            "vmovups zmm",
            $x,
            ", [{x} + 64*",
            $u,
            "]\n",
            dot!(0, $x, "{b0} + 4*", $u),
            dot!(1, $x, "{b0} + {s} + 4*", $u),
            dot!(2, $x, "{b0} + 2*{s} + 4*", $u),
            dot!(3, $x, "{b0} + {s3} + 4*", $u),
            dot!(4, $x, "{b0} + 4*{s} + 4*", $u),
            dot!(5, $x, "{b1} + 4*", $u),
            dot!(6, $x, "{b1} + {s} + 4*", $u),
            dot!(7, $x, "{b1} + 2*{s} + 4*", $u),
            dot!(8, $x, "{b1} + {s3} + 4*", $u),
            dot!(9, $x, "{b1} + 4*{s} + 4*", $u),
            dot!(10, $x, "{b2} + 4*", $u),
            dot!(11, $x, "{b2} + {s} + 4*", $u),
            dot!(12, $x, "{b2} + 2*{s} + 4*", $u),
            dot!(13, $x, "{b2} + {s3} + 4*", $u),
            dot!(14, $x, "{b2} + 4*{s} + 4*", $u),
            dot!(15, $x, "{b3} + 4*", $u),
        )
    };
}

/// Step `$u` with a panel, pair p of column j at `16·p + j`.
macro_rules! step_of_panel {
    ($u:literal, $x:literal) => {
        concat!(
            "vmovups zmm",
            $x,
            ", [{x} + 64*",
            $u,
            "]\n",
            dot!(0, $x, "{b} + 64*", $u, " + 0"),
            dot!(1, $x, "{b} + 64*", $u, " + 4"),
            dot!(2, $x, "{b} + 64*", $u, " + 8"),
            dot!(3, $x, "{b} + 64*", $u, " + 12"),
            dot!(4, $x, "{b} + 64*", $u, " + 16"),
            dot!(5, $x, "{b} + 64*", $u, " + 20"),
            dot!(6, $x, "{b} + 64*", $u, " + 24"),
            dot!(7, $x, "{b} + 64*", $u, " + 28"),
            dot!(8, $x, "{b} + 64*", $u, " + 32"),
            dot!(9, $x, "{b} + 64*", $u, " + 36"),
            dot!(10, $x, "{b} + 64*", $u, " + 40"),
            dot!(11, $x, "{b} + 64*", $u, " + 44"),
            dot!(12, $x, "{b} + 64*", $u, " + 48"),
            dot!(13, $x, "{b} + 64*", $u, " + 52"),
            dot!(14, $x, "{b} + 64*", $u, " + 56"),
            dot!(15, $x, "{b} + 64*", $u, " + 60"),
        )
    };
}

/// A loop with the sums in `zmm0` to `zmm15`.
macro_rules! looped {
    ([$($line:expr),* $(,)?], $sums:ident, $($operands:tt)*) => {
        asm!(
            "2:",
            $($line,)*
            "dec {n}",
            "jnz 2b",
            $($operands)*
            inout("zmm0") $sums[0], inout("zmm1") $sums[1], inout("zmm2") $sums[2], inout("zmm3") $sums[3],
            inout("zmm4") $sums[4], inout("zmm5") $sums[5], inout("zmm6") $sums[6], inout("zmm7") $sums[7],
            inout("zmm8") $sums[8], inout("zmm9") $sums[9], inout("zmm10") $sums[10], inout("zmm11") $sums[11],
            inout("zmm12") $sums[12], inout("zmm13") $sums[13], inout("zmm14") $sums[14], inout("zmm15") $sums[15],
            out("zmm16") _, out("zmm17") _,
            options(nostack),
        )
    };
}

/// A tile with sixteen rows of a bf16 weight, `stride` bytes apart, each the depth of a column. The line of memory at
/// `ahead` and those that follow are asked for, and as many `stride` bytes later.
///
/// # Safety
/// What the tile names exists, and its place in the result is the caller's alone; sixteen rows of `4·steps` bytes
/// begin at `w`. `ahead` may be any address. The machine has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn of_rows(tile: &Tile, w: *const u8, stride: usize, ahead: *const u8) {
    const { assert!(ROWS == 16 && COLUMNS == 16 && 2 * SLOT == 16) };
    // SAFETY: the caller's promise; the loop goes through `steps` pairs of the panel and of each row.
    unsafe {
        let mut sums = begin(tile);
        if tile.steps > 0 {
            let [b0, b1, b2, b3] = [0, 5, 10, 15].map(|row| w.add(row * stride));
            looped!(
                [
                    "prefetcht0 [{ahead}]",
                    step_of_rows!(0, 16), step_of_rows!(1, 17), step_of_rows!(2, 16), step_of_rows!(3, 17),
                    step_of_rows!(4, 16), step_of_rows!(5, 17), step_of_rows!(6, 16), step_of_rows!(7, 17),
                    "prefetcht0 [{ahead} + {s}]",
                    step_of_rows!(8, 16), step_of_rows!(9, 17), step_of_rows!(10, 16), step_of_rows!(11, 17),
                    step_of_rows!(12, 16), step_of_rows!(13, 17), step_of_rows!(14, 16), step_of_rows!(15, 17),
                    "add {x}, 1024", "add {b0}, 64", "add {b1}, 64", "add {b2}, 64", "add {b3}, 64", "add {ahead}, 64",
                ],
                sums,
                n = inout(reg) tile.steps / 16 => _,
                x = inout(reg) tile.left => _,
                b0 = inout(reg) b0 => _,
                b1 = inout(reg) b1 => _,
                b2 = inout(reg) b2 => _,
                b3 = inout(reg) b3 => _,
                s = in(reg) stride,
                s3 = in(reg) 3 * stride,
                ahead = inout(reg) ahead => _,
            );
        }
        end(tile, sums);
    }
}

/// What a tile packs between its multiplications: part of another panel of two times sixteen columns, interleaved from
/// rows of a bf16 weight, two rows of depth at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interleave {
    /// Pairs of rows.
    pub(super) pairs: usize,
    /// 64 bytes, 32 columns, of the first row.
    pub(super) from: *const u8,
    /// Bytes between rows.
    pub(super) stride: usize,
    /// Where the first pair goes.
    pub(super) to: *mut f32,
    /// Bytes from there to the place of the other sixteen columns.
    pub(super) half: usize,
    /// Where the rows to interleave next begin: they are prefetched.
    pub(super) ahead: *const u8,
}

impl Interleave {
    /// No other panel.
    pub(super) const NOTHING: Self = Self {
        pairs: 0,
        from: std::ptr::null(),
        stride: 0,
        to: std::ptr::null_mut(),
        half: 0,
        ahead: std::ptr::null(),
    };

    /// What is left of it when some pairs are done.
    pub(super) fn after(self, pairs: usize) -> Self {
        let bytes = 2 * pairs * self.stride;
        Self {
            pairs: self.pairs - pairs,
            from: self.from.wrapping_add(bytes),
            to: self.to.wrapping_add(COLUMNS * pairs),
            ahead: self.ahead.wrapping_add(bytes),
            ..self
        }
    }
}

/// A tile with a panel, pair p of column j at `16·p + j`. Returns the pairs of rows that were interleaved meanwhile.
///
/// # Safety
/// What the tile names exists, and its place in the result is the caller's alone; so do the panel, the rows to
/// interleave and their destination, which is the caller's alone. `ahead` may be any address. The machine has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn of_panel(tile: &Tile, panel: *const f32, interleave: &Interleave) -> usize {
    let slots = tile.steps / SLOT;
    let interleaved = interleave.pairs.min(slots);
    // SAFETY: the caller's promise; the loops go through `steps` pairs of both panels, the first through `interleaved` pairs
    // of rows.
    unsafe {
        let mut sums = begin(tile);
        let (mut x, mut b) = (tile.left, panel);
        if interleaved > 0 {
            let (low, high) = halves();
            looped!(
                [
                    "prefetcht0 [{ahead} + 63]", "vmovups zmm18, [{from}]",
                    step_of_panel!(0, 16),
                    "prefetcht0 [{ahead} + {s} + 63]", "vmovups zmm19, [{from} + {s}]", "vmovaps zmm20, zmm18",
                    step_of_panel!(1, 17), step_of_panel!(2, 16), step_of_panel!(3, 17),
                    "vpermt2w zmm18, zmm21, zmm19",
                    step_of_panel!(4, 16),
                    "vpermt2w zmm20, zmm22, zmm19",
                    step_of_panel!(5, 17),
                    "vmovups [{to}], zmm18",
                    step_of_panel!(6, 16),
                    "vmovups [{to} + {half}], zmm20",
                    step_of_panel!(7, 17),
                    "lea {ahead}, [{ahead} + 2*{s}]", "lea {from}, [{from} + 2*{s}]",
                    "add {to}, 64", "add {x}, 512", "add {b}, 512",
                ],
                sums,
                n = inout(reg) interleaved => _,
                x = inout(reg) x,
                b = inout(reg) b,
                ahead = inout(reg) interleave.ahead => _,
                from = inout(reg) interleave.from => _,
                to = inout(reg) interleave.to => _,
                s = in(reg) interleave.stride,
                half = in(reg) interleave.half,
                in("zmm21") low,
                in("zmm22") high,
                out("zmm18") _,
                out("zmm19") _,
                out("zmm20") _,
            );
        }
        if slots > interleaved {
            looped!(
                [
                    step_of_panel!(0, 16), step_of_panel!(1, 17), step_of_panel!(2, 16), step_of_panel!(3, 17),
                    step_of_panel!(4, 16), step_of_panel!(5, 17), step_of_panel!(6, 16), step_of_panel!(7, 17),
                    "add {x}, 512", "add {b}, 512",
                ],
                sums,
                n = inout(reg) slots - interleaved => _,
                x = inout(reg) x,
                b = inout(reg) b,
            );
        }
        let _ = (x, b);
        end(tile, sums);
    }
    interleaved
}

/// Interleaves without a tile: for the first panel, and for pairs that the tiles of another panel left over.
///
/// # Safety
/// As [`of_panel`], for what is interleaved.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn interleave(from: &Interleave) {
    let (low, high) = halves();
    for p in 0..from.pairs {
        // SAFETY: the caller's promise, for pair `p` of rows.
        unsafe {
            let row = from.from.add(2 * p * from.stride);
            let (a, b) = (_mm512_loadu_si512(row.cast()), _mm512_loadu_si512(row.add(from.stride).cast()));
            let to = from.to.add(COLUMNS * p);
            _mm512_storeu_si512(to.cast(), _mm512_permutex2var_epi16(a, low, b));
            _mm512_storeu_si512(to.byte_add(from.half).cast(), _mm512_permutex2var_epi16(a, high, b));
        }
    }
}

/// Which words of two rows of 32 make sixteen pairs of the first and of the second half.
#[target_feature(enable = "avx512f")]
fn halves() -> (__m512i, __m512i) {
    const LOW: [u16; 32] = alternating(0, 32);
    const HIGH: [u16; 32] = alternating(16, 32);
    // SAFETY: 64 bytes of constants.
    unsafe { (_mm512_loadu_si512(LOW.as_ptr().cast()), _mm512_loadu_si512(HIGH.as_ptr().cast())) }
}

/// The sums of each column, rows in lanes.
#[inline(always)]
unsafe fn begin(tile: &Tile) -> [__m512; COLUMNS] {
    // What is written without being read first is asked for now, to be there in the end.
    if !matches!(tile.start, Start::Sums | Start::Paused) {
        for i in 0..tile.height {
            // SAFETY: a hint takes any address.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(tile.to.wrapping_add(i * tile.stride).cast()) };
        }
    }
    // SAFETY: the callers' promise: `height` rows of sixteen values at `to`, or sixteen values of bias.
    unsafe {
        match tile.start {
            Start::Zero => [_mm512_setzero_ps(); COLUMNS],
            Start::Bias(bias) => {
                let mut sums = [_mm512_setzero_ps(); COLUMNS];
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_set1_ps(*bias.add(j));
                }
                sums
            }
            Start::Paused => {
                let mut sums = [_mm512_setzero_ps(); COLUMNS];
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(tile.to.add(j * tile.stride));
                }
                sums
            }
            Start::Sums => {
                let mut rows = [_mm512_setzero_si512(); ROWS];
                for (i, row) in rows.iter_mut().enumerate() {
                    // Rows past the last repeat it: this way the loop has no end of its own, and rows stay in registers.
                    let i = i.min(tile.height - 1);
                    *row = _mm512_loadu_si512(tile.to.add(i * tile.stride).cast());
                }
                let mut sums = [_mm512_setzero_ps(); COLUMNS];
                for (sum, column) in sums.iter_mut().zip(transposed(&rows)) {
                    *sum = _mm512_castsi512_ps(column);
                }
                sums
            }
        }
    }
}

/// Adds the term and puts the rows into their places, or the columns.
#[inline(always)]
unsafe fn end(tile: &Tile, mut sums: [__m512; COLUMNS]) {
    // SAFETY: the callers' promise: `height` rows of sixteen values at `to`, and the term's panels.
    unsafe {
        let End::Result(term) = tile.end else {
            for (j, sum) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(tile.to.add(j * tile.stride), sum);
            }
            return;
        };
        if let Some(term) = term {
            for p in 0..term.depth {
                let x = _mm512_loadu_ps(term.left.add(ROWS * p));
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_fmadd_ps(x, _mm512_set1_ps(*term.right.add(COLUMNS * p + j)), *sum);
                }
            }
        }
        let mut columns = [_mm512_setzero_si512(); COLUMNS];
        for (column, sum) in columns.iter_mut().zip(sums) {
            *column = _mm512_castps_si512(sum);
        }
        for (i, row) in transposed(&columns).into_iter().enumerate().take(tile.height) {
            _mm512_storeu_ps(tile.to.add(i * tile.stride), _mm512_castsi512_ps(row));
        }
    }
}
