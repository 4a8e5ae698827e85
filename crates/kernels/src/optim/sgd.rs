//! Stochastic gradient descent.
//!
//! ```text
//! m ← μ·m + (g + λ·p);   p ← p − η·m          without momentum p ← p − η·(g + λ·p)
//! ```
//! `torch.optim.SGD` with dampening 0.

use super::kept::stepped;
use super::{MomentMut, ParamMut};
use crate::Real;
use crate::isa::vectorized;
use crate::par::Par;

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

/// One SGD update; `m` is empty when there is no momentum.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn sgd<R: Real>(p: ParamMut<'_, R>, m: &mut [R], g: &[R], s: Sgd, par: Par<'_>) {
    assert_eq!(p.len(), g.len(), "sgd: gradient");
    assert!(m.is_empty() || m.len() == p.len(), "sgd: momentum");
    let [lr, mu, decay] = [s.learning_rate, s.momentum, s.weight_decay].map(R::from_f64);
    if m.is_empty() {
        return stepped([p.into()], |at, [p]| sgd_plain(p, &g[at..][..p.len()], lr, decay), par);
    }
    let step = |at: usize, [p, m]: [&mut [R]; 2]| sgd_momentum(p, m, &g[at..][..m.len()], lr, mu, decay);
    stepped([p.into(), MomentMut::Full(m).into()], step, par);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;
    use crate::compact::wide;

    #[test]
    fn with_and_without_momentum() {
        let s = Sgd { learning_rate: 0.5, momentum: 0.5, weight_decay: 0.0 };
        let (mut p, mut q, mut m) = (vec![1.0f64], vec![1.0f64], vec![0.0]);
        for _ in 0..2 {
            sgd(ParamMut::Full(&mut p), &mut [], &[1.0], s, Par::serial());
            sgd(ParamMut::Full(&mut q), &mut m, &[1.0], s, Par::serial());
        }
        assert_eq!((p[0], q[0]), (0.0, 1.0 - 0.5 - 0.75));
    }

    /// 4000 steps of a hundredth of the last place: rounded to the nearest nothing would move.
    #[test]
    fn small_updates_of_bf16_add_up() {
        const N: usize = 64;
        let pool = Threads::new(2).expect("threads");
        let s = Sgd { learning_rate: 1.0 / 12800.0, momentum: 0.0, weight_decay: 0.0 };
        let run = |par: Par<'_>| {
            let mut p = vec![0x3f80u16; N];
            for step in 1..=4000 {
                let key = crate::random::bits(1, step, 0);
                sgd(ParamMut::Random { values: &mut p, key, first: 0 }, &mut [], &[-1.0f32; N], s, par);
            }
            p
        };
        let p = run(Par::serial());
        let mean = p.iter().map(|p| f64::from(wide(*p))).sum::<f64>() / N as f64;
        // 1 + 4000/12800. Each step's rounding has a deviation of at most 0.1 of 1/128: √4000/√64 of them, five times.
        assert!((mean - 1.3125).abs() < 5.0 * 0.1 / 128.0 * 62.5f64.sqrt(), "{mean}");
        assert_eq!(run(Par::on(&pool)), p);
        // Kept with what is cut off, each value is right by itself: 2⁻¹⁷ of it is lost a step at most, to both sides.
        let (mut p, mut rest) = (vec![0x3f80u16; N], vec![0u16; N]);
        for _ in 0..4000 {
            let p = ParamMut::Compensated { values: &mut p, rest: &mut rest };
            sgd(p, &mut [], &[-1.0f32; N], s, Par::serial());
        }
        assert!(p.iter().all(|p| (wide(*p) - 1.3125).abs() <= 2.0 / 128.0), "{}", wide(p[0]));
    }
}
