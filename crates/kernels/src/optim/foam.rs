//! Adam with a moment for each block of adjacent values.
//!
//! ```text
//! fold     ḡ = the mean of g over a block of 2ˡ adjacent values of a row (the last one of a row may be shorter)
//! moments  m̃ ← β₁·m̃ + (1−β₁)·ḡ;   ṽ ← β₂·ṽ + (1−β₂)·mean(g²)        or with ḡ² in place of mean(g²)
//! unfold   r = g − ḡ;   M = m̃ + ρ·r;   V = ṽ + ρ²·r²                  each block's m̃, ṽ and ḡ for all its values
//! step     p ← p·(1 − η·λ) − η·α·√(1−β₂ᵗ)/(1−β₁ᵗ)·M/(√V + ε)
//! shapes   p g [n, d]   m̃ ṽ [n, ⌈d/2ˡ⌉]
//! ```
//! FOAM (Wen et al. 2025, arXiv 2512.07112), as its authors' code has it: mean(g²), both corrections in one factor, and ε
//! beside the root that is not corrected. Their article's fold has ḡ². Where a row is no multiple of a block they divide the
//! last block's sum by 2ˡ; here it is the mean of what is there.

use super::ParamMut;
use super::kept::{Cut, Kept, STRETCH};
use crate::Real;
use crate::isa::vectorized;
use crate::par::{Par, Pieces, rows_per_task};
use crate::real::sum;

/// Settings of one FOAM update.
#[derive(Debug, Clone, Copy)]
pub struct Foam {
    /// d, values of a row.
    pub cols: usize,
    /// l: a block has 2ˡ values, at most a row's.
    pub level: u32,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
    /// α, of the step.
    pub scale: f64,
    /// ρ, of what a value's gradient differs by from its block's mean.
    pub residual: f64,
    /// Whether the second moment takes the square of a block's mean in place of the mean of its squares.
    pub square_of_mean: bool,
    /// η.
    pub learning_rate: f64,
    /// λ, decoupled from the gradient.
    pub weight_decay: f64,
    /// t, counted from 1.
    pub step: u64,
}

impl Foam {
    /// Values of a block.
    fn block(&self) -> usize {
        1usize.checked_shl(self.level).unwrap_or(self.cols).min(self.cols)
    }

    /// ⌈d/2ˡ⌉, the values of a row of each moment.
    ///
    /// # Panics
    /// When rows have no values.
    #[must_use]
    #[track_caller]
    pub fn folded(&self) -> usize {
        assert!(self.cols > 0, "foam: columns");
        self.cols.div_ceil(self.block())
    }
}

/// One FOAM update of rows `p` with moments `m` and `v` and gradient `g`.
///
/// # Panics
/// When shapes disagree.
#[track_caller]
pub fn foam<R: Real>(p: ParamMut<'_, R>, m: &mut [R], v: &mut [R], g: &[R], s: Foam, par: Par<'_>) {
    let (cols, folded, len) = (s.cols, s.folded(), p.len());
    assert!(len == g.len() && len.is_multiple_of(cols), "foam: whole rows, and a gradient of each value");
    let states = len / cols * folded;
    assert!(m.len() == states && v.len() == states, "foam: a moment of each block");
    let (c, rows) = (FoamStep::new(s), rows_per_task(cols));
    let (p, m, v) = (Cut::new(p.into()), Pieces::new(m), Pieces::new(v));
    par.tasks((len / cols).div_ceil(rows), |task, _| {
        // SAFETY: the rows of a task are its own, as are their blocks.
        let (mut p, m, v) = unsafe {
            let states = rows * folded;
            (p.piece(task, rows * cols), m.piece(task, states), v.piece(task, states))
        };
        let g = g[task * rows * cols..].chunks_exact(cols).enumerate();
        for (((i, g), m), v) in g.zip(m.chunks_exact_mut(folded)).zip(v.chunks_exact_mut(folded)) {
            foam_row(&mut p, i * cols, m, v, g, c);
        }
    });
}

/// A row of `p`, whose first value is at `first`.
fn foam_row<R: Real>(p: &mut Kept<'_, R>, first: usize, m: &mut [R], v: &mut [R], g: &[R], c: FoamStep<R>) {
    let mut room = [R::ZERO; STRETCH];
    // As many whole blocks as a stretch has, or one that has several stretches.
    let blocks = (STRETCH / c.block).max(1);
    let parts = g.chunks(blocks * c.block).zip(m.chunks_mut(blocks)).zip(v.chunks_mut(blocks));
    for (i, ((g, m), v)) in parts.enumerate() {
        let mut means = [R::ZERO; STRETCH];
        fold(&mut means, m, v, g, c);
        for (k, g) in g.chunks(STRETCH).enumerate() {
            let at = first + i * blocks * c.block + k * STRETCH;
            unfold(p.lend(at..at + g.len(), &mut room), m, v, &means[..m.len()], g, c);
            p.keep(at..at + g.len(), &room);
        }
    }
}

#[derive(Clone, Copy)]
struct FoamStep<R> {
    block: usize,
    square_of_mean: bool,
    beta1: [R; 2],
    beta2: [R; 2],
    residual: R,
    keep: R,
    rate: R,
    eps: R,
}

impl<R: Real> FoamStep<R> {
    fn new(s: Foam) -> Self {
        let correct1 = 1.0 - s.beta1.powf(s.step as f64);
        let correct2 = 1.0 - s.beta2.powf(s.step as f64);
        Self {
            block: s.block(),
            square_of_mean: s.square_of_mean,
            beta1: [s.beta1, 1.0 - s.beta1].map(R::from_f64),
            beta2: [s.beta2, 1.0 - s.beta2].map(R::from_f64),
            residual: R::from_f64(s.residual),
            keep: R::from_f64(1.0 - s.learning_rate * s.weight_decay),
            rate: R::from_f64(s.learning_rate * s.scale * correct2.sqrt() / correct1),
            eps: R::from_f64(s.eps),
        }
    }
}

/// Σ f(x) over each block: of short ones in order.
#[allow(clippy::inline_always, reason = "it must vectorize inside its callers")]
#[inline(always)]
fn block_sums<R: Real>(to: &mut [R], x: &[R], block: usize, f: impl Fn(R) -> R) {
    /// For blocks of a length that the compiler knows.
    #[allow(clippy::inline_always, reason = "as its caller")]
    #[inline(always)]
    fn short<R: Real, const B: usize>(to: &mut [R], x: &[R], f: impl Fn(R) -> R) {
        let (blocks, rest) = x.as_chunks::<B>();
        let all = |x: &[R]| x.iter().fold(R::ZERO, |all, x| all + f(*x));
        let (whole, last) = to.split_at_mut(blocks.len());
        for (to, x) in whole.iter_mut().zip(blocks) {
            *to = all(x);
        }
        last.fill(all(rest));
    }
    match block {
        1 => short::<R, 1>(to, x, f),
        2 => short::<R, 2>(to, x, f),
        4 => short::<R, 4>(to, x, f),
        8 => short::<R, 8>(to, x, f),
        _ => {
            for (to, x) in to.iter_mut().zip(x.chunks(block)) {
                *to = sum(x.len(), |i| f(x[i]));
            }
        }
    }
}

/// Each block's number for all of its values.
#[allow(clippy::inline_always, reason = "it must vectorize inside its callers")]
#[inline(always)]
fn spread<R: Real>(to: &mut [R], x: &[R], block: usize) {
    #[allow(clippy::inline_always, reason = "as its caller")]
    #[inline(always)]
    fn short<R: Real, const B: usize>(to: &mut [R], x: &[R]) {
        let (blocks, rest) = to.as_chunks_mut::<B>();
        let (whole, last) = x.split_at(blocks.len());
        for (to, x) in blocks.iter_mut().zip(whole) {
            *to = [*x; B];
        }
        if let Some(x) = last.first() {
            rest.fill(*x);
        }
    }
    match block {
        1 => short::<R, 1>(to, x),
        2 => short::<R, 2>(to, x),
        4 => short::<R, 4>(to, x),
        8 => short::<R, 8>(to, x),
        _ => {
            for (to, x) in to.chunks_mut(block).zip(x) {
                to.fill(*x);
            }
        }
    }
}

vectorized! {
/// The blocks' means of `g`, and their moments.
fn fold<R: Real>(means: &mut [R; STRETCH], m: &mut [R], v: &mut [R], g: &[R], c: FoamStep<R>) {
    let (means, mut squares) = (&mut means[..m.len()], [R::ZERO; STRETCH]);
    let squares = &mut squares[..means.len()];
    let last = g.len() - (means.len() - 1) * c.block;
    let [n, last] = [c.block, last].map(|n| R::from_f64(n as f64));
    let divide = |sums: &mut [R]| {
        if let Some((end, whole)) = sums.split_last_mut() {
            for sum in whole {
                *sum = *sum / n;
            }
            *end = *end / last;
        }
    };
    block_sums(means, g, c.block, |g| g);
    divide(means);
    if c.square_of_mean {
        for (square, mean) in squares.iter_mut().zip(&*means) {
            *square = *mean * *mean;
        }
    } else {
        block_sums(squares, g, c.block, |g| g * g);
        divide(squares);
    }
    for (((m, v), mean), square) in m.iter_mut().zip(v).zip(means).zip(squares) {
        *m = c.beta1[0] * *m + c.beta1[1] * *mean;
        *v = c.beta2[0] * *v + c.beta2[1] * *square;
    }
}
}

vectorized! {
/// The step of a stretch of `p`, with what its blocks have.
fn unfold<R: Real>(p: &mut [R], m: &[R], v: &[R], means: &[R], g: &[R], c: FoamStep<R>) {
    // So that the loop below is one over values.
    let [mut wide_m, mut wide_v, mut wide_mean] = [[R::ZERO; STRETCH]; 3];
    for (wide, x) in [(&mut wide_m, m), (&mut wide_v, v), (&mut wide_mean, means)] {
        spread(&mut wide[..g.len()], x, c.block);
    }
    for ((((p, g), m), v), mean) in p.iter_mut().zip(g).zip(&wide_m).zip(&wide_v).zip(&wide_mean) {
        let rest = c.residual * (*g - *mean);
        *p = *p * c.keep - c.rate * (*m + rest) / ((*v + rest * rest).sqrt() + c.eps);
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;
    use crate::test_util::{Rng, relative};

    const SETTINGS: Foam = Foam {
        cols: 11,
        level: 2,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-3,
        scale: 0.25,
        residual: 0.5,
        square_of_mean: false,
        learning_rate: 0.1,
        weight_decay: 0.1,
        step: 1,
    };

    /// The update by its operators: A folds, E unfolds.
    fn transcribed(p: &mut [f64], m: &mut [f64], v: &mut [f64], g: &[f64], s: Foam) {
        let (d, b) = (s.cols, 1 << s.level.min(20));
        let (n, t) = (d.div_ceil(b), s.step as i32);
        for (row, g) in g.chunks(d).enumerate() {
            let of = |j: usize| (j * b)..((j + 1) * b).min(d);
            let fold =
                |f: &dyn Fn(f64) -> f64, j: usize| of(j).map(|k| f(g[k])).sum::<f64>() / of(j).len() as f64;
            for j in 0..n {
                let (m, v) = (&mut m[row * n + j], &mut v[row * n + j]);
                let mean = fold(&|g| g, j);
                let square = if s.square_of_mean { mean.powi(2) } else { fold(&|g| g * g, j) };
                *m = s.beta1 * *m + (1.0 - s.beta1) * mean;
                *v = s.beta2 * *v + (1.0 - s.beta2) * square;
                for k in of(j) {
                    let r = g[k] - mean;
                    let (big_m, big_v) = (*m + s.residual * r, *v + s.residual.powi(2) * r * r);
                    let rate =
                        s.learning_rate * s.scale * (1.0 - s.beta2.powi(t)).sqrt() / (1.0 - s.beta1.powi(t));
                    let p = &mut p[row * d + k];
                    *p =
                        *p * (1.0 - s.learning_rate * s.weight_decay) - rate * big_m / (big_v.sqrt() + s.eps);
                }
            }
        }
    }

    fn check<R: Real>(bound: f64) {
        let levels = [0, 1, 2, 3, 8, 9, 40, u32::MAX];
        for (level, cols) in levels.into_iter().flat_map(|l| [1, 11, 256, 700, 1030].map(|d| (l, d))) {
            for square_of_mean in [false, true] {
                let s = Foam { cols, level, square_of_mean, ..SETTINGS };
                let mut rng = Rng(80);
                let mut p: Vec<R> = rng.vec(3 * cols);
                let (mut m, mut v) = (vec![R::ZERO; 3 * s.folded()], vec![R::ZERO; 3 * s.folded()]);
                let wide = |x: &[R]| x.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
                let (mut q, mut n, mut w) = (wide(&p), wide(&m), wide(&v));
                for step in 1..=3 {
                    let (g, s) = (rng.vec::<R>(3 * cols), Foam { step, ..s });
                    foam(ParamMut::Full(&mut p), &mut m, &mut v, &g, s, Par::serial());
                    transcribed(&mut q, &mut n, &mut w, &wide(&g), s);
                }
                for (x, y) in [(&p, &q), (&m, &n), (&v, &w)] {
                    let error = relative(x, y);
                    assert!(error <= bound, "{error} at level {level} of {cols} columns");
                }
            }
        }
    }

    #[test]
    fn is_the_transcription() {
        check::<f64>(1e-13);
        check::<f32>(2e-6);
    }

    /// Adam whose ε is beside the root that is not corrected, as in the first version of Hugging Face's `AdamW`.
    #[test]
    fn level_0_is_adam() {
        const N: usize = 300;
        let mut rng = Rng(81);
        let mut p: Vec<f32> = rng.vec(N);
        let (mut m, mut v, mut q) = ([0.0; N], [0.0; N], p.clone());
        let (mut first, mut second) = ([0.0f32; N], [0.0f32; N]);
        for step in 1..=5 {
            let g: Vec<f32> = rng.vec(N);
            let s = Foam { cols: 30, level: 0, scale: 1.0, residual: 1.0, eps: 1e-6, step, ..SETTINGS };
            let s = Foam { square_of_mean: step % 2 == 0, ..s };
            foam(ParamMut::Full(&mut p), &mut m, &mut v, &g, s, Par::serial());
            let t = step as f64;
            let rate = (0.1 * (1.0 - 0.99f64.powf(t)).sqrt() / (1.0 - 0.9f64.powf(t))) as f32;
            for (((q, m), v), g) in q.iter_mut().zip(&mut first).zip(&mut second).zip(g) {
                *m = 0.9f64 as f32 * *m + (1.0f64 - 0.9) as f32 * g;
                *v = 0.99f64 as f32 * *v + (1.0f64 - 0.99) as f32 * (g * g);
                *q = *q * (1.0f64 - 0.1 * 0.1) as f32 - rate * *m / (v.sqrt() + 1e-6);
            }
        }
        assert_eq!((p, m, v), (q, first, second));
    }

    /// Where g is one number in each block, the blocks are Adam's variables.
    #[test]
    fn gradients_of_whole_blocks_leave_no_rest() {
        let (mut p, mut m, mut v) = ([1.0f64; 8], [0.0; 2], [0.0; 2]);
        let g = [1.0, 1.0, 1.0, 1.0, -3.0, -3.0, -3.0, -3.0];
        let (mut q, mut n, mut w) = ([1.0f64; 2], [0.0; 2], [0.0; 2]);
        let s = Foam { cols: 8, ..SETTINGS };
        foam(ParamMut::Full(&mut p), &mut m, &mut v, &g, s, Par::serial());
        let s = Foam { cols: 2, level: 0, ..s };
        foam(ParamMut::Full(&mut q), &mut n, &mut w, &[1.0, -3.0], s, Par::serial());
        assert_eq!((m, v), (n, w));
        assert!(p[..4] == [q[0]; 4] && p[4..] == [q[1]; 4]);
    }

    #[test]
    fn threads_and_tiles_of_rows_change_nothing() {
        let (rows, cols) = (90, 1003);
        let pool = Threads::new(3).expect("threads");
        let s = Foam { cols, ..SETTINGS };
        let g: Vec<f32> = Rng(82).vec(rows * cols);
        let run = |tile: usize, par: Par<'_>| {
            let mut p = vec![0x3f80u16; rows * cols];
            let [mut m, mut v] = [vec![0.5f32; rows * s.folded()], vec![0.25f32; rows * s.folded()]];
            let states = m.chunks_mut(tile * s.folded()).zip(v.chunks_mut(tile * s.folded()));
            let tiles = p.chunks_mut(tile * cols).zip(g.chunks(tile * cols)).zip(states).enumerate();
            for (i, ((values, g), (m, v))) in tiles {
                foam(ParamMut::Random { values, key: 5, first: i * tile * cols }, m, v, g, s, par);
            }
            (p, m, v)
        };
        let whole = run(rows, Par::serial());
        assert!(whole == run(rows, Par::on(&pool)) && whole == run(7, Par::serial()));
    }
}
