//! Matrix product with strided operands and weights in any storage format.
//!
//! ```text
//! out  = init + alpha · a · b          a [m,k]   b [k,n]   out [m,n]
//! init   zero, a bias per column, or what `out` holds
//! scratch  matmul_scratch: a group of packed panels of b for each thread
//! ```
//!
//! A task owns a panel of columns of `out` (and, where columns are few, a range of rows). It packs `KC × NR`
//! values of `b` at a time, converting them from their storage format on the way, so no converted weight
//! exists whole, and runs the microkernel over all rows. `a` is read in place: the microkernel broadcasts
//! its values one by one, which works for any strides and makes `aᵀ·b` need no transposition.
//!
//! Products of one to sixteen rows with a weight are cut otherwise (`small_m`): they are limited by reading the weight. Those
//! of one to four rows with common formats pack nothing (`gemv`). With AVX512-BF16, bf16 products of many rows with a
//! weight have their rows in lanes (`rows_in_lanes`), and those of few columns, adapters' ranks, theirs (`rank_lanes`).
//!
//! **Order of terms.** Every output element is one chain of multiply-adds in ascending `k` that starts from
//! `init`. Panels, row tiles, `KC` and threads cut the work but never the chain. So a product over all rows
//! equals the same product in row tiles bit for bit, and so does a sum over rows (`aᵀ·b`) cut into tiles
//! that accumulate. Methods that differ only in what they keep rely on this.

#[cfg(target_arch = "x86_64")]
mod gemv;
mod hot;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod micro;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod pack32;
#[cfg(target_arch = "x86_64")]
mod pack512;
pub(crate) mod packed;
mod prefetch;
mod rank_lanes;
mod rank_r;
mod rounded;
#[cfg(target_arch = "x86_64")]
mod rows_in_lanes;
mod small_m;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

pub use hot::hot_tiles;
pub use micro::Micro;
pub use rank_r::{MOST_RANKS, matmul_rank_r};

use micro::Gemv;
use prefetch::Prefetch;
use small_m::small_m;

use crate::par::{Par, Pieces, share};
use crate::{Real, Values, WeightView};

/// The most rows of `b` packed at a time: a group of panels (230 KB, 400 KB of bf16) stays in the second-level cache.
/// Even, so that pairs never cross a cut.
const KC: usize = 448;
/// The most rows of a small-m product: such products (decoding, narrow tiles of the head) are limited by reading the weight.
const SMALL_M: usize = 16;
/// Columns packed at a time, of single precision and of bf16 pairs. The left factor's tile, which bf16 reads and rounds
/// once for each group, is reused for each panel of it.
const GROUP: usize = 2 * NR;
const GROUP_PAIRS: usize = 7 * NR;
/// Values of 32 bits that a thread packs at a time.
const PACKED: usize = KC * GROUP_PAIRS / 2;
/// Widest panel of any microkernel.
const NR: usize = 64;
/// Tallest tile of any microkernel.
const MR: usize = 6;

/// The left factor: element `(i, p)` is `data[i·row_stride + p·col_stride]`.
#[derive(Debug, Clone, Copy)]
pub struct Lhs<'a, R> {
    /// Values.
    pub data: Values<'a, R>,
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

impl<'a, R> Lhs<'a, R> {
    /// A row-major matrix with `cols` columns.
    pub fn rows(data: &'a [R], cols: usize) -> Self {
        Self::rows_of(Values::Full(data), cols)
    }

    /// The transpose of a row-major matrix with `cols` columns.
    pub fn transposed(data: &'a [R], cols: usize) -> Self {
        Self::transposed_of(Values::Full(data), cols)
    }

    /// As [`Lhs::rows`], however the values are stored.
    pub fn rows_of(data: Values<'a, R>, cols: usize) -> Self {
        Self { data, row_stride: cols, col_stride: 1 }
    }

    /// As [`Lhs::transposed`], however the values are stored.
    pub fn transposed_of(data: Values<'a, R>, cols: usize) -> Self {
        Self { data, row_stride: 1, col_stride: cols }
    }
}

/// The right factor.
#[derive(Debug, Clone, Copy)]
pub enum Rhs<'a, R> {
    /// Element `(p, j)` is `data[p·row_stride + j·col_stride]`.
    Dense {
        /// Values.
        data: &'a [R],
        /// Distance between rows.
        row_stride: usize,
        /// Distance between columns.
        col_stride: usize,
    },
    /// A matrix in a stored type, `W [n, k]`, used as `Wᵀ` (a layer's forward).
    WeightTransposed(WeightView<'a>),
    /// A matrix in a stored type, `W [k, n]`, used as it is (a layer's input gradient).
    Weight(WeightView<'a>),
}

impl<'a, R> Rhs<'a, R> {
    /// A row-major matrix with `cols` columns.
    pub fn rows(data: &'a [R], cols: usize) -> Self {
        Self::Dense { data, row_stride: cols, col_stride: 1 }
    }

    /// The transpose of a row-major matrix with `cols` columns.
    pub fn transposed(data: &'a [R], cols: usize) -> Self {
        Self::Dense { data, row_stride: 1, col_stride: cols }
    }

    /// As [`Rhs::rows`], however the values are stored.
    pub fn rows_of(data: Values<'a, R>, cols: usize) -> Self {
        match data {
            Values::Full(data) => Self::rows(data, cols),
            Values::Bf16(data) => Self::Weight(WeightView::halves(data, cols)),
        }
    }

    /// As [`Rhs::transposed`], however the values are stored.
    pub fn transposed_of(data: Values<'a, R>, cols: usize) -> Self {
        match data {
            Values::Full(data) => Self::transposed(data, cols),
            Values::Bf16(data) => Self::WeightTransposed(WeightView::halves(data, cols)),
        }
    }

    /// Some rows of a factor that is not transposed.
    ///
    /// # Panics
    /// For a weight that is transposed: its columns are not cut.
    #[must_use]
    #[track_caller]
    pub fn part(self, rows: Range<usize>) -> Self {
        match self {
            Self::Dense { data, row_stride, col_stride } => {
                Self::Dense { data: &data[rows.start * row_stride..], row_stride, col_stride }
            }
            Self::Weight(w) => Self::Weight(w.row_range(rows)),
            Self::WeightTransposed(_) => panic!("rows of a transposed weight are its columns"),
        }
    }
}

/// The result: element `(i, j)` is `data[i·row_stride + j·col_stride]`.
#[derive(Debug)]
pub struct Out<'a, R> {
    /// Values.
    pub data: &'a mut [R],
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

impl<'a, R> Out<'a, R> {
    /// A row-major matrix with `cols` columns.
    pub fn rows(data: &'a mut [R], cols: usize) -> Self {
        Self { data, row_stride: cols, col_stride: 1 }
    }

    /// The transpose of a row-major matrix with `cols` columns.
    pub fn transposed(data: &'a mut [R], cols: usize) -> Self {
        Self { data, row_stride: 1, col_stride: cols }
    }
}

/// What numbers a product multiplies. Sums are of the output's type always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compute {
    /// Those of the output.
    #[default]
    Full,
    /// Both factors rounded to bf16, where the output is `f32`; products are exact, sums are `f32`.
    Bf16,
}

/// What the sums start from.
#[derive(Debug, Clone, Copy)]
pub enum Init<'a> {
    /// 0.
    Zero,
    /// One value per column.
    Bias(&'a [f32]),
    /// What `out` holds.
    Accumulate,
}

/// A second product of the same output, of small depth, added to the first while the output is in cache:
/// `alpha·a·b` in full precision.
#[derive(Debug, Clone, Copy)]
pub struct Term<'a, R> {
    /// Columns of `a`, rows of `b`.
    pub depth: usize,
    /// Factor.
    pub alpha: R,
    /// `[m, depth]`
    pub a: Lhs<'a, R>,
    /// `[depth, n]`
    pub b: Rhs<'a, R>,
}

/// Values of scratch that [`matmul`] needs for a number of threads.
pub const fn matmul_scratch(threads: usize) -> usize {
    threads * PACKED
}

/// `out = init + alpha·a·b`; see the module's page.
///
/// # Panics
/// When an operand is too short for its shape, a weight's shape is not the product's, or `scratch` is shorter
/// than [`matmul_scratch`]`(par.threads())`.
#[track_caller]
pub fn matmul<R: Real>(
    out: Out<'_, R>,
    size: [usize; 3],
    alpha: R,
    a: Lhs<'_, R>,
    b: Rhs<'_, R>,
    init: Init<'_>,
    compute: Compute,
    scratch: &mut [R],
    par: Par<'_>,
) {
    matmul_plus(out, size, alpha, a, b, init, compute, None, scratch, par);
}

/// [`matmul`] and then `out += term`, to the bit as two products one after the other, in one pass over `out`.
///
/// # Panics
/// As [`matmul`].
#[track_caller]
pub fn matmul_plus<R: Real>(
    out: Out<'_, R>,
    [m, n, k]: [usize; 3],
    alpha: R,
    a: Lhs<'_, R>,
    b: Rhs<'_, R>,
    init: Init<'_>,
    compute: Compute,
    term: Option<Term<'_, R>>,
    scratch: &mut [R],
    par: Par<'_>,
) {
    check(&out, [m, n, k], &a, &b, init);
    if let Some(t) = &term {
        check(&out, [m, n, t.depth], &t.a, &t.b, Init::Accumulate);
    }
    assert!(scratch.len() >= matmul_scratch(par.threads()), "matmul scratch: {} values", scratch.len());
    if m == 0 || n == 0 {
        return;
    }
    let micro = Micro::of(compute);
    if let Some(gemv) = micro.gemv
        && m <= gemv.rows
        && alpha == R::ONE
        && let Rhs::WeightTransposed(w) = b
        && (gemv.streams)(w.dtype)
        && k.is_multiple_of(32)
        && k > 0
    {
        streamed(gemv, &micro, out, [m, n, k], a, w, init, term, scratch, par);
        return;
    }
    if let Some(many) = micro.many
        && alpha == R::ONE
        && (many.takes)(&out, [m, n, k], &a, &b)
    {
        (many.run)(&micro, out, [m, n, k], a, b, init, term, scratch, par);
        return;
    }
    let panels = n.div_ceil(micro.nr);
    let few_rows = m <= SMALL_M && !matches!(b, Rhs::Dense { .. });
    let (groups, row_blocks) = match par.threads() {
        1 if few_rows => (1, 1),
        threads if few_rows => ((4 * threads).min(panels), 1),
        threads => cut(m, panels, threads, &micro),
    };
    let rows_each = m.div_ceil(row_blocks).next_multiple_of(micro.mr);
    let (row_stride, col_stride) = (out.row_stride, out.col_stride);
    let c = Pieces::new(out.data);
    let scratch = Pieces::new(&mut scratch[..matmul_scratch(par.threads())]);
    par.tasks(groups * row_blocks, |task, worker| {
        let (g, block) = (task / row_blocks, task % row_blocks);
        let group = share(panels, groups, g);
        let cols = group.start * micro.nr..(group.end * micro.nr).min(n);
        let rows = (block * rows_each).min(m)..((block + 1) * rows_each).min(m);
        // SAFETY: each worker runs one task at a time and owns its piece of the scratch.
        let packed = unsafe { scratch.piece(worker, PACKED) };
        let c = Target { start: c.as_ptr(), row_stride, col_stride };
        // SAFETY: `check` proved that every index of this tile lies inside the operands; tasks own disjoint
        // rows × columns of `out`.
        unsafe {
            if few_rows {
                small_m(&micro, cols.clone(), [m, n, k], alpha, a, b, init, c, packed);
            } else {
                block_product(
                    &micro,
                    rows.clone(),
                    cols.clone(),
                    [n, k, micro.kc],
                    alpha,
                    a,
                    b,
                    init,
                    c,
                    packed,
                );
            }
        };
        if let Some(t) = &term {
            // SAFETY: as above, for the same tile.
            unsafe { add_term(t, rows, cols, n, c, packed) };
        }
    });
}

/// Adds a term to a tile of the result.
///
/// # Safety
/// As [`block_product`], for any columns.
unsafe fn add_term<R: Real>(
    t: &Term<'_, R>,
    rows: Range<usize>,
    cols: Range<usize>,
    n: usize,
    c: Target<R>,
    packed: &mut [R],
) {
    let full = Micro::of(Compute::Full);
    let width = full.group * full.nr;
    for from in cols.clone().step_by(width) {
        let (cols, size) = (from..(from + width).min(cols.end), [n, t.depth, full.kc]);
        // SAFETY: the caller's promise, for a group of panels.
        unsafe {
            block_product(&full, rows.clone(), cols, size, t.alpha, t.a, t.b, Init::Accumulate, c, packed);
        }
    }
}

/// [`matmul`] for a weight and few rows: ranges of columns go to the threads, those past whole groups take the way
/// of many rows.
fn streamed<R: Real>(
    gemv: Gemv<R>,
    micro: &Micro<R>,
    out: Out<'_, R>,
    [m, n, k]: [usize; 3],
    a: Lhs<'_, R>,
    w: WeightView<'_>,
    init: Init<'_>,
    term: Option<Term<'_, R>>,
    scratch: &mut [R],
    par: Par<'_>,
) {
    let (row_stride, col_stride) = (out.row_stride, out.col_stride);
    let c = Pieces::new(out.data);
    let scratch = Pieces::new(&mut scratch[..matmul_scratch(par.threads())]);
    let groups = n / gemv.columns;
    let whole = groups * gemv.columns;
    let each = groups.div_ceil(8 * par.threads()).max(1) * gemv.columns;
    let tasks = whole.div_ceil(each);
    par.tasks(tasks + usize::from(whole < n), |task, worker| {
        // SAFETY: each worker runs one task at a time and owns its piece of the scratch.
        let scratch = unsafe { scratch.piece(worker, PACKED) };
        let c = Target { start: c.as_ptr(), row_stride, col_stride };
        // SAFETY: `check` proved that every index lies inside the operands; tasks own disjoint columns, whole
        // groups of them but for the last task's, which are at most a panel.
        unsafe {
            let cols = if task < tasks {
                let cols = task * each..((task + 1) * each).min(whole);
                (gemv.run)(m, cols.clone(), k, a, w, init, c, scratch);
                cols
            } else {
                let b = Rhs::WeightTransposed(w);
                small_m(micro, whole..n, [m, n, k], R::ONE, a, b, init, c, scratch);
                whole..n
            };
            if let Some(t) = &term {
                add_term(t, 0..m, cols, n, c, scratch);
            }
        }
    });
}

/// What packing a panel takes, as that many rows of its product.
const PACKING: usize = 20;
/// What preparing a row of the left factor takes for a group, as a part of one panel's product with it.
const PREPARING: f64 = 0.2;

/// Groups of panels and ranges of rows whose slowest thread is done first: each range of rows packs the panels anew,
/// each group prepares the left factor anew, and threads without work wait.
fn cut<R>(m: usize, panels: usize, threads: usize, micro: &Micro<R>) -> (usize, usize) {
    let least = panels.div_ceil(micro.group);
    let mut best = (f64::INFINITY, (least, 1));
    for row_blocks in 1..=threads.min(m.div_ceil(micro.mr)) {
        let rows = m.div_ceil(row_blocks).next_multiple_of(micro.mr);
        for groups in least..=panels.min(least + 2 * threads) {
            let tasks = (groups * row_blocks).div_ceil(threads);
            let panels = (panels * tasks).div_ceil(groups);
            let time = (panels * (rows + PACKING)) as f64 + (tasks * rows) as f64 * PREPARING;
            if time < best.0 {
                best = (time, (groups, row_blocks));
            }
        }
    }
    best.1
}

/// Panels of a group in the order in which a tile of rows goes through them: no neighbours one after the other. Going
/// along a row, the processor would fetch what follows the last panel, which another thread is writing.
fn apart(panels: usize) -> impl Iterator<Item = usize> {
    let half = panels.div_ceil(2);
    (0..panels).map(move |i| i / 2 + i % 2 * half)
}

/// Where tiles of `each` rows begin, in turns by which columns of `n` they are for: groups that are at work together
/// are in different rows, so that they do not write close to each other.
fn turned(rows: &Range<usize>, each: usize, column: usize, n: usize) -> impl Iterator<Item = usize> {
    let (start, tiles) = (rows.start, rows.len().div_ceil(each));
    let first = tiles * column / n.max(1);
    (0..tiles).map(move |i| start + (first + i) % tiles * each)
}

/// The largest index that a strided matrix touches must exist.
#[track_caller]
fn check<R>(out: &Out<'_, R>, [m, n, k]: [usize; 3], a: &Lhs<'_, R>, b: &Rhs<'_, R>, init: Init<'_>) {
    assert!(
        out.data.len() >= last(m, n, out.row_stride, out.col_stride),
        "matmul: out is too short for [{m},{n}]"
    );
    assert!(a.data.len() >= last(m, k, a.row_stride, a.col_stride), "matmul: a is too short for [{m},{k}]");
    check_right(b, k, n);
    if let Init::Bias(bias) = init {
        assert_eq!(bias.len(), n, "matmul: bias length");
    }
}

/// The right factor's `k × n` values must exist.
#[track_caller]
fn check_right<R>(b: &Rhs<'_, R>, k: usize, n: usize) {
    match b {
        Rhs::Dense { data, row_stride, col_stride } => {
            assert!(
                data.len() >= last(k, n, *row_stride, *col_stride),
                "matmul: b is too short for [{k},{n}]"
            );
        }
        Rhs::WeightTransposed(w) => {
            w.check();
            assert_eq!([w.rows, w.cols], [n, k], "matmul: shape of the weight against [n,k]");
        }
        Rhs::Weight(w) => {
            w.check();
            assert_eq!([w.rows, w.cols], [k, n], "matmul: shape of the weight against [k,n]");
        }
    }
}

/// Values that a strided matrix reaches over.
fn last(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

/// Where a product goes.
#[derive(Debug, Clone, Copy)]
struct Target<R> {
    start: *mut R,
    row_stride: usize,
    col_stride: usize,
}

/// A group of panels for a range of rows.
///
/// # Safety
/// `rows × cols` of the output and the operands' elements they need exist, nobody else touches that part of
/// the output, `packed` holds [`PACKED`] values, and `cols` are at most a group of panels.
unsafe fn block_product<R: Real>(
    micro: &Micro<R>,
    rows: Range<usize>,
    cols: Range<usize>,
    [n, k, kc]: [usize; 3],
    alpha: R,
    a: Lhs<'_, R>,
    b: Rhs<'_, R>,
    init: Init<'_>,
    c: Target<R>,
    packed: &mut [R],
) {
    let mut tile = [R::ZERO; MR * NR];
    let mut left = [R::ZERO; MR * KC];
    let mut k0 = 0;
    loop {
        let depth = kc.min(k - k0);
        let steps = depth.div_ceil(micro.per_step);
        let panels = || cols.clone().step_by(micro.nr).map(|from| from..(from + micro.nr).min(cols.end));
        for (panel, cols) in panels().enumerate() {
            let padded = cols.len().next_multiple_of(micro.lane);
            let to = &mut packed[panel * steps * micro.nr..];
            (micro.pack)(to, b, k0, depth, cols.start, cols.len(), padded, alpha);
        }
        let (next_depth, next_cols) = if k0 + depth < k {
            (k0 + depth..(k0 + depth + kc).min(k), cols.clone())
        } else {
            (0..kc.min(k), cols.end..(cols.end + cols.len()).min(n))
        };
        let mut ahead = Prefetch::new(&b, next_depth, next_cols);
        let each = ahead.len().div_ceil(rows.len().div_ceil(micro.mr).max(1) * panels().count());
        for i in turned(&rows, micro.mr, cols.start, n) {
            let height = micro.mr.min(rows.end - i);
            let below = i + height..(i + height + micro.mr).min(rows.end);
            let mut left_ahead = prefetch::left(&a, &below, &(k0..k0 + depth));
            let each_left = left_ahead.len().div_ceil(panels().count());
            let a_start = if depth == 0 { 0 } else { i * a.row_stride + k0 * a.col_stride };
            let strides = [a.row_stride, a.col_stride];
            let (a_at, a_rows, a_cols) = match a.data {
                Values::Full(a) if micro.left.is_none() => (a[a_start..].as_ptr(), strides[0], strides[1]),
                Values::Bf16(a) if in_place(micro, a, strides, depth) => {
                    (a[a_start..].as_ptr().cast(), strides[0] / micro.per_step, 1)
                }
                a => {
                    match (a, micro.left) {
                        (Values::Full(a), Some(prepare)) => {
                            prepare(&mut left, &a[a_start..], strides, [height, depth]);
                        }
                        (Values::Full(_), None) => unreachable!("read in place"),
                        (Values::Bf16(a), _) => {
                            (micro.left_bf16)(&mut left, &a[a_start..], strides, [height, depth]);
                        }
                    }
                    (left.as_ptr(), steps, 1)
                }
            };
            for panel in apart(panels().count()) {
                let from = cols.start + panel * micro.nr;
                let cols = from..(from + micro.nr).min(cols.end);
                ahead.ask(each);
                left_ahead.ask(each_left);
                let vectors = cols.len().div_ceil(micro.lane);
                let padded = vectors * micro.lane;
                let direct = c.col_stride == 1 && cols.len() == padded;
                // SAFETY: the caller's promise covers rows `i..i+height`, columns `cols`, depth
                // `k0..k0+depth`; `tile` holds `MR·NR ≥ height·padded` values, `left` `height·steps`.
                unsafe {
                    let origin = c.start.add(i * c.row_stride + cols.start * c.col_stride);
                    let (at, stride) =
                        if direct { (origin, c.row_stride) } else { (tile.as_mut_ptr(), padded) };
                    if k0 == 0 || !direct {
                        let from = if k0 == 0 { init } else { Init::Accumulate };
                        start(at, stride, origin, [c.row_stride, c.col_stride], height, &cols, from);
                    }
                    let b_at = packed[panel * steps * micro.nr..].as_ptr();
                    (micro.run)(height, vectors, steps, a_at, a_rows, a_cols, b_at, padded, at, stride);
                    if !direct {
                        store(&tile, padded, c, i..i + height, &cols);
                    }
                }
            }
        }
        k0 += depth;
        if k0 >= k {
            break;
        }
    }
}

/// Puts a tile, whose rows are `stride` apart, into its place.
///
/// # Safety
/// These rows and columns of the result exist and are the caller's alone.
unsafe fn store<R: Real>(tile: &[R], stride: usize, c: Target<R>, rows: Range<usize>, cols: &Range<usize>) {
    for (i, row) in rows.zip(tile.chunks(stride)) {
        for (j, x) in cols.clone().zip(row) {
            // SAFETY: the caller's promise.
            unsafe { *c.start.add(i * c.row_stride + j * c.col_stride) = *x };
        }
    }
}

/// Whether pairs of depth lie in rows of bf16 as the microkernel reads them.
fn in_place<R>(micro: &Micro<R>, a: &[u16], [rows, cols]: [usize; 2], depth: usize) -> bool {
    micro.per_step == 2
        && cols == 1
        && rows.is_multiple_of(2)
        && depth.is_multiple_of(2)
        && a.as_ptr().addr().is_multiple_of(align_of::<R>())
}

/// Sets the tile at `at` to what the sums start from; accumulating in place needs nothing.
///
/// # Safety
/// Both `at` (with `stride`) and `origin` (with `strides`) hold `height × cols` values.
unsafe fn start<R: Real>(
    at: *mut R,
    stride: usize,
    origin: *mut R,
    strides: [usize; 2],
    height: usize,
    cols: &Range<usize>,
    init: Init<'_>,
) {
    if matches!(init, Init::Accumulate) && at == origin {
        return;
    }
    let width = cols.len();
    for r in 0..height {
        // SAFETY: row `r < height` of a tile of `width` columns; nobody else has it.
        let row = unsafe { std::slice::from_raw_parts_mut(at.add(r * stride), width) };
        match init {
            Init::Zero => row.fill(R::ZERO),
            Init::Bias(bias) => {
                for (x, bias) in row.iter_mut().zip(&bias[cols.clone()]) {
                    *x = R::from_f32(*bias);
                }
            }
            Init::Accumulate => {
                for (j, x) in row.iter_mut().enumerate() {
                    // SAFETY: `j < width`; the tile at `at` is another one here.
                    *x = unsafe { *origin.add(r * strides[0] + j * strides[1]) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
