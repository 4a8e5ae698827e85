//! Adam with decoupled weight decay.
//!
//! ```text
//! p ← p·(1 − η·λ)
//! m ← β₁·m + (1−β₁)·g;   v ← β₂·v + (1−β₂)·g²
//! p ← p − η·(m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + ε)
//! ```
//! `torch.optim.AdamW` (Loshchilov & Hutter 2019).

use super::kept::stepped;
use super::{MomentMut, ParamMut};
use crate::Real;
use crate::isa::vectorized;
use crate::par::Par;

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

/// One AdamW update. The step is made with the moments as they are before they are stored.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn adamw<R: Real>(
    p: ParamMut<'_, R>,
    m: MomentMut<'_, R>,
    v: MomentMut<'_, R>,
    g: &[R],
    s: AdamW,
    par: Par<'_>,
) {
    assert!(p.len() == g.len() && p.len() == m.len() && p.len() == v.len(), "adamw: lengths");
    let c = AdamStep::new(s);
    let step = |at: usize, [p, m, v]: [&mut [R]; 3]| adamw_chunk(p, m, v, &g[at..][..v.len()], c);
    stepped([p.into(), m.into(), v.into()], step, par);
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
fn adamw_chunk<R: Real>(p: &mut [R], m: &mut [R], v: &mut [R], g: &[R], c: AdamStep<R>) {
    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
        *m = c.beta1 * *m + c.rest1 * *g;
        *v = c.beta2 * *v + c.rest2 * *g * *g;
        *p = *p * c.keep - c.rate * *m / (v.sqrt() * c.root + c.eps);
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;
    use crate::compact::wide;
    use crate::optim::blocks;
    use crate::random::bits;
    use crate::test_util::{Rng, relative};

    const SETTINGS: AdamW =
        AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, step: 1 };

    /// PyTorch 2, two steps of AdamW(lr 0.1, betas (0.9, 0.99), eps 1e-8, decay 0.1) on p = [1, −2],
    /// g = [0.5, −1] then [−0.25, 1]: by hand in double precision below.
    #[test]
    fn by_hand() {
        let (mut p, mut m, mut v) = (vec![1.0f64, -2.0], vec![0.0; 2], vec![0.0; 2]);
        let mut exact = [(1.0f64, 0.0f64, 0.0f64), (-2.0, 0.0, 0.0)];
        for (t, g) in [[0.5, -1.0], [-0.25, 1.0]].iter().enumerate() {
            let s = AdamW { step: t as u64 + 1, ..SETTINGS };
            let (m, v) = (MomentMut::Full(&mut m), MomentMut::Full(&mut v));
            adamw(ParamMut::Full(&mut p), m, v, g, s, Par::serial());
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

    /// 4000 steps of a hundredth of the last place: rounded to the nearest nothing would move.
    #[test]
    fn small_updates_of_bf16_add_up() {
        const N: usize = 64;
        let pool = Threads::new(2).expect("threads");
        let run = |par: Par<'_>| {
            let (mut p, mut m, mut v) = (vec![0x3f80u16; N], vec![0.0f32; N], vec![0.0f32; N]);
            for step in 1..=4000 {
                let s = AdamW { learning_rate: 1.0 / 12800.0, weight_decay: 0.0, step, ..SETTINGS };
                let p = ParamMut::Random { values: &mut p, key: bits(1, step, 1), first: 0 };
                adamw(p, MomentMut::Full(&mut m), MomentMut::Full(&mut v), &[-1.0; N], s, par);
            }
            p
        };
        let p = run(Par::serial());
        let mean = p.iter().map(|p| f64::from(wide(*p))).sum::<f64>() / N as f64;
        // 1 + 4000/12800. Each step's rounding has a deviation of at most 0.1 of 1/128: √4000/√64 of them, five times.
        assert!((mean - 1.3125).abs() < 5.0 * 0.1 / 128.0 * 62.5f64.sqrt(), "{mean}");
        assert_eq!(run(Par::on(&pool)), p);
    }

    /// A gradient of 1 and then of 2: v goes from 1 to 4 as 4 − 3·0.999ⁿ, by changes below half of a bf16's last place.
    #[test]
    fn a_second_moment_in_bf16_follows() {
        const N: usize = 4096;
        let (mut p, mut m, mut v) = (vec![0.0f32; N], vec![0u16; N], vec![0x3f80u16; N]);
        for step in 1..=1000 {
            let s = AdamW { beta2: 0.999, step, ..SETTINGS };
            let m = MomentMut::Bf16 { values: &mut m, key: bits(2, step, 0), first: 0 };
            let v = MomentMut::Bf16 { values: &mut v, key: bits(2, step, 1), first: 0 };
            adamw(ParamMut::Full(&mut p), m, v, &[2.0; N], s, Par::serial());
        }
        let mean = |x: &[u16]| x.iter().map(|x| f64::from(wide(*x))).sum::<f64>() / N as f64;
        let expected = 4.0 - 3.0 * 0.999f64.powi(1000);
        // A step's rounding deviates by at most half of 2⁻⁶, 1000 steps' by √1000 of it, the mean's by one in 64.
        let bound = 5.0 * 0.5 / 64.0 * 1000f64.sqrt() / 64.0;
        assert!((mean(&v) - expected).abs() < bound, "{} {expected}", mean(&v));
        assert!((mean(&m) - 2.0).abs() < bound, "{}", mean(&m));
    }

    /// Three steps of 8-bit moments by a transcription: the nearest of all codes' numbers, found one by one.
    #[test]
    fn moments_in_8_bits_are_those_of_their_codes() {
        const N: usize = 600;
        let mut rng = Rng(52);
        let stored = |x: &mut [f64], signed: bool| {
            for x in x.chunks_mut(256) {
                let scale = x.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                for x in x {
                    let codes = (0..=255u8).map(|code| {
                        let mut value = [0.0f64];
                        blocks::decode(&mut value, &[code], scale, blocks::map(signed));
                        value[0]
                    });
                    let distance = |value: &f64| (value - *x).abs();
                    let nearest = codes.min_by(|a, b| distance(a).total_cmp(&distance(b)));
                    *x = nearest.expect("a code");
                }
            }
        };
        let mut p: Vec<f64> = rng.vec(N);
        let (mut q, mut first, mut second) = (p.clone(), vec![0.0; N], vec![0.0; N]);
        let [(mut m, mut m_scales), (mut v, mut v_scales)] = [(); 2].map(|()| (vec![0u8; N], vec![0.0; 3]));
        for step in 1..=3 {
            let g: Vec<f64> = rng.vec(N);
            let s = AdamW { step, ..SETTINGS };
            let moment = MomentMut::Blocks { codes: &mut m, scales: &mut m_scales, signed: true };
            let square = MomentMut::Blocks { codes: &mut v, scales: &mut v_scales, signed: false };
            adamw(ParamMut::Full(&mut p), moment, square, &g, s, Par::serial());
            let t = step as i32;
            for (((q, m), v), g) in q.iter_mut().zip(&mut first).zip(&mut second).zip(g) {
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.99 * *v + 0.01 * g * g;
                let (m_hat, v_hat) = (*m / (1.0 - 0.9f64.powi(t)), *v / (1.0 - 0.99f64.powi(t)));
                *q = *q * (1.0 - 0.01) - 0.1 * m_hat / (v_hat.sqrt() + 1e-8);
            }
            stored(&mut first, true);
            stored(&mut second, false);
        }
        assert!(relative(&p, &q) < 1e-12, "{}", relative(&p, &q));
    }

    #[test]
    fn threads_change_no_bit_of_8_bit_moments() {
        const N: usize = 50_001;
        let pool = Threads::new(3).expect("threads");
        let g: Vec<f32> = Rng(53).vec(N);
        let run = |par: Par<'_>| {
            let [(mut m, mut m_scales), (mut v, mut v_scales)] =
                [(); 2].map(|()| (vec![0u8; N], vec![0.0f32; N.div_ceil(256)]));
            let mut p = vec![0x3f80u16; N];
            for step in 1..=2 {
                let m = MomentMut::Blocks { codes: &mut m, scales: &mut m_scales, signed: true };
                let v = MomentMut::Blocks { codes: &mut v, scales: &mut v_scales, signed: false };
                let p = ParamMut::Random { values: &mut p, key: step, first: 0 };
                adamw(p, m, v, &g, AdamW { step, ..SETTINGS }, par);
            }
            (p, m, v, m_scales, v_scales)
        };
        assert!(run(Par::serial()) == run(Par::on(&pool)));
    }
}
