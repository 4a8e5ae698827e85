//! Parameter updates and the vector operations around them.
//!
//! ```text
//! SGD     m ← μ·m + (g + λ·p);   p ← p − η·m          (without momentum m is not kept: p ← p − η·(g + λ·p))
//! AdamW   p ← p·(1 − η·λ)
//!         m ← β₁·m + (1−β₁)·g;   v ← β₂·v + (1−β₂)·g²
//!         p ← p − η·(m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + ε)
//! ```
//! A parameter in bf16 is widened, stepped, and rounded at random (`compact.rs`): the nearest bf16 would lose every
//! update below half of its last place.
//!
//! Both are PyTorch's (`torch.optim.SGD` with dampening 0, `torch.optim.AdamW`; Loshchilov & Hutter 2019).

use crate::Real;
use crate::compact::{round_at_random, widen_into};
use crate::isa::vectorized;
use crate::par::{Par, Pieces};
use crate::real::sum;

/// Values that one task works on.
const CHUNK: usize = 16 * 1024;

/// Settings of one SGD update.
#[derive(Debug, Clone, Copy)]
pub struct Sgd {
    /// η.
    pub learning_rate: f64,
    /// μ.
    pub momentum: f64,
    /// λ, added to the gradient.
    pub weight_decay: f64,
}

/// Settings of one AdamW update.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// η.
    pub learning_rate: f64,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
    /// λ, decoupled from the gradient.
    pub weight_decay: f64,
    /// t, counted from 1.
    pub step: u64,
}

/// One SGD update; `m` is empty when there is no momentum.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn sgd<R: Real>(p: &mut [R], m: &mut [R], g: &[R], s: Sgd, par: Par<'_>) {
    check_sgd(p.len(), m, g);
    let m = Pieces::new(m);
    par.chunks(p, CHUNK, |i, p| {
        // SAFETY: chunk `i` of m belongs to this task alone, as that of p does.
        let m = unsafe { m.piece(i, CHUNK) };
        sgd_chunk(p, m, &g[i * CHUNK..][..p.len()], s);
    });
}

/// [`sgd`] of a parameter in bf16, rounded at random by `key`.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn sgd_bf16<R: Real>(p: &mut [u16], m: &mut [R], g: &[R], s: Sgd, key: u64, par: Par<'_>) {
    check_sgd(p.len(), m, g);
    let m = Pieces::new(m);
    par.chunks(p, CHUNK, |i, p| {
        // SAFETY: chunk `i` of m belongs to this task alone, as that of p does.
        let m = unsafe { m.piece(i, CHUNK) };
        let g = &g[i * CHUNK..][..p.len()];
        widened(p, i * CHUNK, key, |at, p| {
            let m = if m.is_empty() { &mut [] } else { &mut m[at..at + p.len()] };
            sgd_chunk(p, m, &g[at..at + p.len()], s);
        });
    });
}

#[track_caller]
fn check_sgd<R>(p: usize, m: &[R], g: &[R]) {
    assert_eq!(p, g.len(), "sgd: gradient");
    assert!(m.is_empty() || m.len() == p, "sgd: momentum");
}

fn sgd_chunk<R: Real>(p: &mut [R], m: &mut [R], g: &[R], s: Sgd) {
    let [lr, mu, decay] = [s.learning_rate, s.momentum, s.weight_decay].map(R::from_f64);
    if m.is_empty() { sgd_plain(p, g, lr, decay) } else { sgd_momentum(p, m, g, lr, mu, decay) }
}

/// One AdamW update.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn adamw<R: Real>(p: &mut [R], m: &mut [R], v: &mut [R], g: &[R], s: AdamW, par: Par<'_>) {
    check_adamw(p.len(), m, v, g);
    let (c, v) = (AdamStep::new(s), Pieces::new(v));
    par.chunks2(p, CHUNK, m, CHUNK, |i, p, m| {
        // SAFETY: chunk `i` of v belongs to this task alone, as those of p and m do.
        let v = unsafe { v.piece(i, CHUNK) };
        adamw_chunk(p, m, v, &g[i * CHUNK..][..p.len()], c);
    });
}

/// [`adamw`] of a parameter in bf16, rounded at random by `key`.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn adamw_bf16<R: Real>(
    p: &mut [u16],
    m: &mut [R],
    v: &mut [R],
    g: &[R],
    s: AdamW,
    key: u64,
    par: Par<'_>,
) {
    check_adamw(p.len(), m, v, g);
    let (c, v) = (AdamStep::new(s), Pieces::new(v));
    par.chunks2(p, CHUNK, m, CHUNK, |i, p, m| {
        // SAFETY: chunk `i` of v belongs to this task alone, as those of p and m do.
        let v = unsafe { v.piece(i, CHUNK) };
        let g = &g[i * CHUNK..][..p.len()];
        widened(p, i * CHUNK, key, |at, p| {
            let range = at..at + p.len();
            adamw_chunk(p, &mut m[range.clone()], &mut v[range.clone()], &g[range], c);
        });
    });
}

#[track_caller]
fn check_adamw<R>(p: usize, m: &[R], v: &[R], g: &[R]) {
    assert!(p == g.len() && p == m.len() && p == v.len(), "adamw: lengths");
}

/// Calls `step(at, values)` for stretches of `p`, which begins `first` values into its tensor, and rounds what
/// became of them back.
#[allow(clippy::inline_always, reason = "it must vectorize inside its callers")]
#[inline(always)]
pub(crate) fn widened<R: Real>(p: &mut [u16], first: usize, key: u64, mut step: impl FnMut(usize, &mut [R])) {
    const STRETCH: usize = 256;
    let mut values = [R::ZERO; STRETCH];
    for (i, p) in p.chunks_mut(STRETCH).enumerate() {
        let (at, values) = (i * STRETCH, &mut values[..p.len()]);
        widen_into(values, p);
        step(at, values);
        round_at_random(p, values, key, first + at);
    }
}

#[derive(Clone, Copy)]
struct AdamStep<R> {
    keep: R,
    beta1: R,
    rest1: R,
    beta2: R,
    rest2: R,
    rate: R,
    root: R,
    eps: R,
}

impl<R: Real> AdamStep<R> {
    fn new(s: AdamW) -> Self {
        let correct1 = 1.0 - s.beta1.powf(s.step as f64);
        let correct2 = 1.0 - s.beta2.powf(s.step as f64);
        Self {
            keep: R::from_f64(1.0 - s.learning_rate * s.weight_decay),
            beta1: R::from_f64(s.beta1),
            rest1: R::from_f64(1.0 - s.beta1),
            beta2: R::from_f64(s.beta2),
            rest2: R::from_f64(1.0 - s.beta2),
            rate: R::from_f64(s.learning_rate / correct1),
            root: R::from_f64(1.0 / correct2.sqrt()),
            eps: R::from_f64(s.eps),
        }
    }
}

vectorized! {
fn sgd_plain<R: Real>(p: &mut [R], g: &[R], lr: R, decay: R) {
    for (p, g) in p.iter_mut().zip(g) {
        *p -= lr * (*g + decay * *p);
    }
}
}

vectorized! {
fn sgd_momentum<R: Real>(p: &mut [R], m: &mut [R], g: &[R], lr: R, mu: R, decay: R) {
    for ((p, m), g) in p.iter_mut().zip(m).zip(g) {
        *m = mu * *m + (*g + decay * *p);
        *p -= lr * *m;
    }
}
}

vectorized! {
fn adamw_chunk<R: Real>(p: &mut [R], m: &mut [R], v: &mut [R], g: &[R], c: AdamStep<R>) {
    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
        *m = c.beta1 * *m + c.rest1 * *g;
        *v = c.beta2 * *v + c.rest2 * *g * *g;
        *p = *p * c.keep - c.rate * *m / (v.sqrt() * c.root + c.eps);
    }
}
}

/// `y[t] += bias`, rows of `bias.len()`.
///
/// # Panics
/// When `y` is not whole rows.
#[track_caller]
pub fn add_bias<R: Real>(y: &mut [R], bias: &[f32], par: Par<'_>) {
    assert!(y.len().is_multiple_of(bias.len()), "add_bias: rows");
    par.chunks(y, crate::par::rows_per_task(bias.len()) * bias.len(), |_, y| {
        for row in y.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += R::from_f32(*b));
        }
    });
}

/// `x ← c·x`.
pub fn scale<R: Real>(x: &mut [R], c: f64, par: Par<'_>) {
    let c = R::from_f64(c);
    par.chunks(x, CHUNK, |_, x| x.iter_mut().for_each(|x| *x *= c));
}

/// Σ x², the chunks added in order in double precision: the same for any number of threads.
pub fn sum_of_squares<R: Real>(x: &[R]) -> f64 {
    x.chunks(1024).map(|c| sum(c.len(), |i| c[i] * c[i]).to_f64()).sum()
}

/// Σ x·y, likewise.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn dot<R: Real>(x: &[R], y: &[R]) -> f64 {
    assert_eq!(x.len(), y.len(), "dot: lengths");
    x.chunks(1024).zip(y.chunks(1024)).map(|(x, y)| sum(x.len(), |i| x[i] * y[i]).to_f64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;

    /// PyTorch 2, two steps of AdamW(lr 0.1, betas (0.9, 0.99), eps 1e-8, decay 0.1) on p = [1, −2],
    /// g = [0.5, −1] then [−0.25, 1]: by hand in double precision below.
    #[test]
    fn adamw_by_hand() {
        let (mut p, mut m, mut v) = (vec![1.0f64, -2.0], vec![0.0; 2], vec![0.0; 2]);
        let mut exact = [(1.0f64, 0.0f64, 0.0f64), (-2.0, 0.0, 0.0)];
        for (t, g) in [[0.5, -1.0], [-0.25, 1.0]].iter().enumerate() {
            let s = AdamW {
                learning_rate: 0.1,
                beta1: 0.9,
                beta2: 0.99,
                eps: 1e-8,
                weight_decay: 0.1,
                step: t as u64 + 1,
            };
            adamw(&mut p, &mut m, &mut v, g, s, Par::serial());
            let t = t as i32 + 1;
            for ((p, m, v), g) in exact.iter_mut().zip(g) {
                *p *= 1.0 - 0.01;
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.99 * *v + 0.01 * g * g;
                let (m_hat, v_hat) = (*m / (1.0 - 0.9f64.powi(t)), *v / (1.0 - 0.99f64.powi(t)));
                *p -= 0.1 * m_hat / (v_hat.sqrt() + 1e-8);
            }
        }
        for (p, e) in p.iter().zip(exact) {
            assert!((p - e.0).abs() < 1e-14);
        }
    }

    #[test]
    fn sgd_with_and_without_momentum() {
        let s = Sgd { learning_rate: 0.5, momentum: 0.5, weight_decay: 0.0 };
        let (mut p, mut q, mut m) = (vec![1.0f64], vec![1.0f64], vec![0.0]);
        for _ in 0..2 {
            sgd(&mut p, &mut [], &[1.0], s, Par::serial());
            sgd(&mut q, &mut m, &[1.0], s, Par::serial());
        }
        assert_eq!((p[0], q[0]), (0.0, 1.0 - 0.5 - 0.75));
        assert_eq!(sum_of_squares(&[3.0f32, 4.0]), 25.0);
        assert_eq!(dot(&[3.0f32, 4.0], &[2.0, -1.0]), 2.0);
    }

    /// 4000 steps of a hundredth of the last place: rounded to the nearest nothing would move.
    #[test]
    fn small_updates_of_bf16_add_up() {
        const N: usize = 64;
        let pool = Threads::new(2).expect("threads");
        let run = |par: Par<'_>| {
            let (mut p, mut q) = (vec![0x3f80u16; N], vec![0x3f80u16; N]);
            let (mut m, mut v) = (vec![0.0f32; N], vec![0.0f32; N]);
            for step in 1..=4000 {
                let rate = 1.0 / 128.0 / 100.0;
                let s = Sgd { learning_rate: rate, momentum: 0.0, weight_decay: 0.0 };
                sgd_bf16(&mut p, &mut [], &[-1.0f32; N], s, crate::random::bits(1, step, 0), par);
                let s = AdamW {
                    learning_rate: rate,
                    beta1: 0.9,
                    beta2: 0.999,
                    eps: 1e-8,
                    weight_decay: 0.0,
                    step,
                };
                adamw_bf16(&mut q, &mut m, &mut v, &[-1.0f32; N], s, crate::random::bits(1, step, 1), par);
            }
            [p, q]
        };
        let [p, q] = run(Par::serial());
        for p in [&p, &q] {
            let mean = p.iter().map(|p| f64::from(crate::compact::wide(*p))).sum::<f64>() / N as f64;
            // 1 + 4000/12800. Each step's rounding has a deviation of at most 0.1 of 1/128: √4000/√64 of them, five times.
            assert!((mean - 1.3125).abs() < 5.0 * 0.1 / 128.0 * 62.5f64.sqrt(), "{mean}");
        }
        assert_eq!(run(Par::on(&pool)), [p, q]);
    }
}
