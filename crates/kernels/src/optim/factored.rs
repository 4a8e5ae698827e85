//! A second moment that is a mean for each row times one for each column, with normed steps.
//!
//! ```text
//! moments   q = g² + ε₁;   r_i ← β·r_i + (1−β)·mean_j q_ij;   c_j ← β·c_j + (1−β)·mean_i q_ij
//! norms     v_ij = r_i·c_j / mean(r);   u = g/√v                      of a vector v_i = r_i, and c is not there
//! step      û = u / max(1, rms(u)/τ);   η' = η·max(ε₂, rms(p)), or η
//!           p ← p·(1 − η'·λ) − η'·û                                   rms(x) = ‖x‖/√(values)
//! shapes    p g [n, d]   r [n]   c [d]   sums = (Σr, Σu², Σp²)
//! ```
//! AdaLomo (Lv et al. 2023, arXiv 2310.10195, with β = 1 − t^−0.8 as in its authors' code) and Adafactor without momentum
//! (Shazeer & Stern 2018, arXiv 1804.04235; Hugging Face's `Adafactor`): the moment of n·d values takes n + d.
//!
//! Each of the three goes over all of g, in tiles of rows in their order, so that g need never be there as a whole. Sums
//! over rows are added row by row in blocks of 64 rows, then block by block: tiles that begin at multiples of 64 rows
//! change no bit. The root of v is taken of its factors, as `r_i·c_j` underflows where neither does.

use super::ParamMut;
use super::kept::{Cut, Kept, STRETCH, stepped};
use crate::compact::widen_into;
use crate::isa::vectorized;
use crate::par::{Par, rows_per_task};
use crate::real::sum;
use crate::{Real, Values};

/// Rows whose sums are added by themselves.
const BLOCK_ROWS: usize = 64;

/// Rows at least that a task takes, so that the roots of columns serve several.
const TASK_ROWS: usize = 16;

/// Columns of a task that adds over rows: two cache lines and more of each row.
const COLUMNS: usize = 128;

/// Settings of one update with a factored second moment.
#[derive(Debug, Clone, Copy)]
pub struct Factored {
    /// n, of the whole tensor.
    pub rows: usize,
    /// d; 1 for a vector.
    pub cols: usize,
    /// β of this step; 0 takes nothing of what was there, except where that is no number.
    pub beta: f64,
    /// ε₁, added to squares. Not 0, so that v is not.
    pub eps1: f64,
    /// ε₂, the least norm of a parameter that its step follows.
    pub eps2: f64,
    /// τ, the largest rms of u.
    pub threshold: f64,
    /// Whether the step follows rms(p).
    pub scale_parameter: bool,
    /// η.
    pub learning_rate: f64,
    /// λ, decoupled from the gradient.
    pub weight_decay: f64,
}

impl Factored {
    #[track_caller]
    fn check<R>(&self, r: &[R], c: Option<&[R]>, sums: &[R], g: &[R]) {
        assert_eq!(g.len(), r.len() * self.cols, "factored: rows of the gradient");
        assert_eq!(c.map_or(1, <[R]>::len), self.cols, "factored: columns");
        assert_eq!(sums.len(), 3, "factored: sums");
    }
}

#[track_caller]
fn check_tile(first_row: usize) {
    assert!(first_row.is_multiple_of(BLOCK_ROWS), "factored: a tile begins at a multiple of 64 rows");
}

/// Adds `x` to `to` in blocks.
fn add_blocks<R: Real>(to: &mut R, x: &[R]) {
    for block in x.chunks(BLOCK_ROWS) {
        *to += block.iter().fold(R::ZERO, |all, x| all + *x);
    }
}

/// The first visit, for rows from `first_row` on: their `r`, their part of the whole `c`, and Σr. A vector has no `c`,
/// and `r` is its second moment.
///
/// # Panics
/// When shapes disagree, or the tile does not begin at a multiple of 64 rows.
#[track_caller]
pub fn factored_moments<R: Real>(
    r: &mut [R],
    c: Option<&mut [R]>,
    sums: &mut [R],
    g: &[R],
    s: Factored,
    first_row: usize,
    par: Par<'_>,
) {
    s.check(r, c.as_deref(), sums, g);
    check_tile(first_row);
    let (cols, task) = (s.cols, rows_per_task(s.cols));
    let [beta, mean, eps] = [s.beta, (1.0 - s.beta) / cols as f64, s.eps1].map(R::from_f64);
    par.chunks(r, task, |i, r| add_rows(r, &g[i * task * cols..][..r.len() * cols], [beta, mean, eps]));
    if let Some(c) = c {
        // β takes part once.
        let beta = if first_row == 0 { beta } else { R::ONE };
        let mean = R::from_f64((1.0 - s.beta) / s.rows as f64);
        par.chunks(c, COLUMNS, |i, c| add_columns(c, g, i * COLUMNS, cols, [beta, mean, eps]));
    }
    if first_row == 0 {
        sums[0] = R::ZERO;
    }
    add_blocks(&mut sums[0], r);
}

vectorized! {
fn add_rows<R: Real>(r: &mut [R], g: &[R], weights: [R; 3]) {
    let [beta, mean, eps] = weights;
    let cols = g.len() / r.len();
    for (r, g) in r.iter_mut().zip(g.chunks_exact(cols)) {
        *r = beta * *r + mean * sum(cols, |j| g[j] * g[j] + eps);
    }
}
}

vectorized! {
/// Columns from `at` on of all rows.
fn add_columns<R: Real>(c: &mut [R], g: &[R], at: usize, cols: usize, weights: [R; 3]) {
    let [beta, mean, eps] = weights;
    for c in c.iter_mut() {
        *c *= beta;
    }
    for block in g.chunks(BLOCK_ROWS * cols) {
        let mut sums = [R::ZERO; COLUMNS];
        for g in block.chunks_exact(cols) {
            for (sum, g) in sums.iter_mut().zip(&g[at..at + c.len()]) {
                *sum += *g * *g + eps;
            }
        }
        for (c, sum) in c.iter_mut().zip(&sums) {
            *c += mean * *sum;
        }
    }
}
}

/// What a stretch of columns has in common: `1/√c_j`, and mean(r), by which `1/√r_i` becomes the row's part.
struct Roots<R> {
    columns: [R; STRETCH],
    mean: R,
}

impl<R: Real> Roots<R> {
    fn new(sums: &[R], s: Factored) -> Self {
        Self { columns: [R::ONE; STRETCH], mean: R::from_f64(sums[0].to_f64() / s.rows as f64) }
    }

    /// `√(mean(r)/r_i)`.
    #[allow(clippy::inline_always, reason = "it belongs to its callers' loops")]
    #[inline(always)]
    fn row(&self, r: R) -> R {
        (self.mean / r).sqrt()
    }
}

vectorized! {
fn root_columns<R: Real>(to: &mut [R; STRETCH], c: &[R]) {
    for (to, c) in to.iter_mut().zip(c) {
        *to = R::ONE / c.sqrt();
    }
}
}

/// The second visit, for rows from `first_row` on, whose first visit was that of all rows: Σu² and Σp².
///
/// # Panics
/// As [`factored_moments`].
#[track_caller]
pub fn factored_norms<R: Real>(
    sums: &mut [R],
    p: Values<'_, R>,
    r: &[R],
    c: Option<&[R]>,
    g: &[R],
    s: Factored,
    first_row: usize,
    par: Par<'_>,
) {
    /// Rows whose sums are on the stack at a time.
    const GROUP: usize = 16 * BLOCK_ROWS;
    s.check(r, c, sums, g);
    check_tile(first_row);
    assert_eq!(p.len(), g.len(), "factored: parameter");
    if first_row == 0 {
        sums[1..].fill(R::ZERO);
    }
    let (cols, task) = (s.cols, rows_per_task(s.cols).max(TASK_ROWS));
    let [mut us, mut ps] = [[R::ZERO; GROUP]; 2];
    for (group, r) in r.chunks(GROUP).enumerate() {
        let (us, ps) = (&mut us[..r.len()], &mut ps[..r.len()]);
        let mean = &*sums;
        par.chunks2(us, task, ps, task, |i, us, ps| {
            let r = &r[i * task..][..us.len()];
            let first = (group * GROUP + i * task) * cols;
            let (p, g) = (p.skip(first), &g[first..][..r.len() * cols]);
            match c {
                Some(c) => matrix_norms(us, ps, p, r, c, g, Roots::new(mean, s)),
                None => vector_norms(us, ps, p, r, g),
            }
        });
        add_blocks(&mut sums[1], us);
        add_blocks(&mut sums[2], ps);
    }
}

fn matrix_norms<R: Real>(
    us: &mut [R],
    ps: &mut [R],
    p: Values<'_, R>,
    r: &[R],
    c: &[R],
    g: &[R],
    mut roots: Roots<R>,
) {
    us.fill(R::ZERO);
    ps.fill(R::ZERO);
    let cols = c.len();
    for (k, c) in c.chunks(STRETCH).enumerate() {
        root_columns(&mut roots.columns, c);
        for (i, (r, (us, ps))) in r.iter().zip(us.iter_mut().zip(&mut *ps)).enumerate() {
            let at = i * cols + k * STRETCH;
            *us += square_steps(&g[at..][..c.len()], &roots.columns, roots.row(*r));
            *ps += squares(p.skip(at), c.len());
        }
    }
}

vectorized! {
fn square_steps<R: Real>(g: &[R], columns: &[R; STRETCH], row: R) -> R {
    let columns = &columns[..g.len()];
    sum(g.len(), |j| {
        let u = g[j] * columns[j] * row;
        u * u
    })
}
}

vectorized! {
/// Σp² of the first `len`, no more than a stretch.
fn squares<R: Real>(p: Values<'_, R>, len: usize) -> R {
    let mut room = [R::ZERO; STRETCH];
    let p = match p {
        Values::Full(p) => &p[..len],
        Values::Bf16(p) => {
            widen_into(&mut room[..len], &p[..len]);
            &room[..len]
        }
    };
    sum(len, |j| p[j] * p[j])
}
}

vectorized! {
fn vector_norms<R: Real>(us: &mut [R], ps: &mut [R], p: Values<'_, R>, r: &[R], g: &[R]) {
    for ((us, r), g) in us.iter_mut().zip(r).zip(g) {
        let u = *g / r.sqrt();
        *us = u * u;
    }
    match p {
        Values::Full(p) => ps.copy_from_slice(&p[..r.len()]),
        Values::Bf16(p) => widen_into(ps, &p[..r.len()]),
    }
    for p in ps {
        *p *= *p;
    }
}
}

/// The third visit: the step of some rows, whose second visit was that of all rows.
///
/// # Panics
/// When shapes disagree.
#[track_caller]
pub fn factored_step<R: Real>(
    p: ParamMut<'_, R>,
    r: &[R],
    c: Option<&[R]>,
    sums: &[R],
    g: &[R],
    s: Factored,
    par: Par<'_>,
) {
    s.check(r, c, sums, g);
    assert_eq!(p.len(), g.len(), "factored: parameter");
    let rms = |squares: R| (squares.to_f64() / (s.rows as f64 * s.cols as f64)).sqrt();
    let size = if s.scale_parameter { rms(sums[2]).max(s.eps2) } else { 1.0 };
    let rate = s.learning_rate * size;
    let clipped = rate / (rms(sums[1]) / s.threshold).max(1.0);
    let step = [1.0 - rate * s.weight_decay, clipped].map(R::from_f64);
    let Some(c) = c else {
        let vector = |at: usize, [p]: [&mut [R]; 1]| vector_step(p, &r[at..], &g[at..], step);
        return stepped([p.into()], vector, par);
    };
    let (cols, task) = (s.cols, rows_per_task(s.cols).max(TASK_ROWS));
    let p = Cut::new(p.into());
    par.tasks(r.len().div_ceil(task), |i, _| {
        // SAFETY: the rows of a task are its own.
        let p = unsafe { p.piece(i, task * cols) };
        let r = &r[i * task..][..task.min(r.len() - i * task)];
        matrix_step(p, r, c, &g[i * task * cols..][..r.len() * cols], Roots::new(sums, s), step);
    });
}

fn matrix_step<R: Real>(mut p: Kept<'_, R>, r: &[R], c: &[R], g: &[R], mut roots: Roots<R>, step: [R; 2]) {
    let mut room = [R::ZERO; STRETCH];
    for (k, part) in c.chunks(STRETCH).enumerate() {
        root_columns(&mut roots.columns, part);
        for (i, r) in r.iter().enumerate() {
            let at = i * c.len() + k * STRETCH;
            let range = at..at + part.len();
            let values = p.lend(range.clone(), &mut room);
            row_step(values, &g[range.clone()], &roots.columns, roots.row(*r), step);
            p.keep(range, &room);
        }
    }
}

vectorized! {
fn row_step<R: Real>(p: &mut [R], g: &[R], columns: &[R; STRETCH], row: R, step: [R; 2]) {
    let [keep, rate] = step;
    for ((p, g), column) in p.iter_mut().zip(g).zip(columns) {
        *p = *p * keep - rate * (*g * *column * row);
    }
}
}

vectorized! {
fn vector_step<R: Real>(p: &mut [R], r: &[R], g: &[R], step: [R; 2]) {
    let [keep, rate] = step;
    for ((p, r), g) in p.iter_mut().zip(r).zip(g) {
        *p = *p * keep - rate * (*g / r.sqrt());
    }
}
}

#[cfg(test)]
mod tests;
