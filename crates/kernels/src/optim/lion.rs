//! The sign of an interpolated momentum.
//!
//! ```text
//! p ← p·(1 − η·λ) − η·sign(β₁·m + (1−β₁)·g);   m ← β₂·m + (1−β₂)·g          sign(0) = 0
//! ```
//! Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2).

use super::kept::stepped;
use super::{MomentMut, ParamMut};
use crate::Real;
use crate::isa::vectorized;
use crate::par::Par;

/// Settings of one Lion update.
#[derive(Debug, Clone, Copy)]
pub struct Lion {
    /// η.
    pub learning_rate: f64,
    /// β₁, of the direction.
    pub beta1: f64,
    /// β₂, of the momentum.
    pub beta2: f64,
    /// λ, decoupled from the gradient.
    pub weight_decay: f64,
}

/// One Lion update of values `p` with momentum `m` and gradient `g`, as many each.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn lion<R: Real>(p: ParamMut<'_, R>, m: &mut [R], g: &[R], s: Lion, par: Par<'_>) {
    assert!(p.len() == g.len() && p.len() == m.len(), "lion: lengths");
    let rate = R::from_f64(s.learning_rate);
    let keep = R::from_f64(1.0 - s.learning_rate * s.weight_decay);
    let beta1 = [s.beta1, 1.0 - s.beta1].map(R::from_f64);
    let beta2 = [s.beta2, 1.0 - s.beta2].map(R::from_f64);
    let step =
        |at: usize, [p, m]: [&mut [R]; 2]| lion_chunk(p, m, &g[at..][..m.len()], [keep, rate], beta1, beta2);
    stepped([p.into(), MomentMut::Full(m).into()], step, par);
}

vectorized! {
fn lion_chunk<R: Real>(p: &mut [R], m: &mut [R], g: &[R], step: [R; 2], beta1: [R; 2], beta2: [R; 2]) {
    let [keep, rate] = step;
    for ((p, m), g) in p.iter_mut().zip(m).zip(g) {
        let c = beta1[0] * *m + beta1[1] * *g;
        // Zero stays zero, and NaN NaN.
        let sign = if c > R::ZERO { R::ONE } else { c };
        let sign = if c < R::ZERO { -R::ONE } else { sign };
        *p = *p * keep - rate * sign;
        *m = beta2[0] * *m + beta2[1] * *g;
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;
    use crate::test_util::Rng;

    const SETTINGS: Lion = Lion { learning_rate: 0.5, beta1: 0.5, beta2: 0.75, weight_decay: 0.25 };

    /// p = 1, 2, 3 with g = 1, −1, 0 and then −2, 2, 0; all numbers are exact.
    #[test]
    fn by_hand() {
        let (mut p, mut m) = ([1.0f64, 2.0, 3.0], [0.0; 3]);
        lion(ParamMut::Full(&mut p), &mut m, &[1.0, -1.0, 0.0], SETTINGS, Par::serial());
        assert_eq!((p, m), ([0.875 - 0.5, 1.75 + 0.5, 2.625], [0.25, -0.25, 0.0]));
        // 0.125 − 1 < 0 < −0.125 + 1: the direction follows the gradient before the momentum does.
        lion(ParamMut::Full(&mut p), &mut m, &[-2.0, 2.0, 0.0], SETTINGS, Par::serial());
        assert_eq!(p, [0.375 * 0.875 + 0.5, 2.25 * 0.875 - 0.5, 2.625 * 0.875]);
        assert_eq!(m, [0.75 * 0.25 - 0.5, -0.75 * 0.25 + 0.5, 0.0]);
        lion(ParamMut::Full(&mut p), &mut m, &[f64::NAN; 3], SETTINGS, Par::serial());
        assert!(p.iter().all(|p| p.is_nan()));
    }

    #[test]
    fn threads_change_nothing() {
        const N: usize = 40_001;
        let pool = Threads::new(3).expect("threads");
        let g: Vec<f32> = Rng(70).vec(N);
        let run = |par: Par<'_>| {
            let (mut p, mut rest, mut m) = (vec![0x3f80u16; N], vec![0u16; N], Rng(71).vec::<f32>(N));
            lion(ParamMut::Compensated { values: &mut p, rest: &mut rest }, &mut m, &g, SETTINGS, par);
            (p, rest, m)
        };
        assert!(run(Par::serial()) == run(Par::on(&pool)));
    }
}
