//! Rotary position embedding (Su et al. 2021).
//!
//! ```text
//! forward   (a, b) → (a·cos θ − b·sin θ, a·sin θ + b·cos θ),    θ = position · f_i for the i-th pair
//! backward  the same with −θ: a rotation's transpose is its inverse
//! pairs     Half: (i, i + r/2)   Interleaved: (2i, 2i + 1)       reads  positions only
//! shapes    x [n, heads·D]       f [r/2], r ≤ D                  derivation: docs/math/rope.md
//! ```
//!
//! The first r values of a head are turned, the others stay. What is turned may be multiplied by a factor besides
//! (longrope's attention factor), and so is its gradient.
//!
//! Frequencies, angles, sines and cosines are single precision for every `Real`, as in the reference
//! implementations: checkpoints are trained with these very angles, and at position 10⁴ a single precision
//! angle differs from the exact one by 10⁻³.

use crate::par::rows_per_task;
use crate::{Par, Real};

/// Which values of a head form a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `(i, i + r/2)`: Hugging Face checkpoints, GGUF of qwen2, qwen3, gemma.
    Half,
    /// `(2i, 2i + 1)`: GGUF of llama.
    Interleaved,
}

/// `f_i = base^(−2i/r)`, `i < r/2`, rounded to single precision.
pub fn inverse_frequencies(rotary_dim: usize, base: f64) -> Vec<f32> {
    (0..rotary_dim / 2).map(|i| base.powf(-2.0 * i as f64 / rotary_dim as f64) as f32).collect()
}

/// Which values of a row are turned, and how.
#[derive(Debug, Clone, Copy)]
pub struct RopeShape<'a> {
    /// Angle per position of each pair: half as many as values are turned of a head.
    pub frequencies: &'a [f32],
    /// Which values form a pair.
    pub layout: Layout,
    /// D.
    pub head_dim: usize,
    /// By what turned values are multiplied.
    pub factor: f32,
}

/// Rotates every head of every row by its position's angle, or back by it when `inverse`.
///
/// # Panics
/// When `x` is not `positions.len()` rows of whole heads, or more of a head is turned than it has, or than
/// [`MAX_ROTARY_DIM`].
#[track_caller]
pub fn rope<R: Real>(x: &mut [R], positions: &[u32], shape: RopeShape<'_>, inverse: bool, par: Par<'_>) {
    let RopeShape { frequencies, layout, head_dim: head, factor } = shape;
    let turned = 2 * frequencies.len();
    if positions.is_empty() {
        return;
    }
    let cols = x.len() / positions.len();
    assert_eq!(x.len(), cols * positions.len(), "rope: rows");
    assert!(
        head > 0 && cols.is_multiple_of(head) && turned <= head.min(MAX_ROTARY_DIM),
        "rope: {cols} columns in heads of {head}, {turned} of each turned"
    );
    let rows = rows_per_task(cols);
    par.chunks(x, rows * cols, |i, x| {
        let mut turn = [(R::ZERO, R::ZERO); MAX_PAIRS];
        for (row, position) in x.chunks_exact_mut(cols).zip(&positions[i * rows..]) {
            for (t, f) in turn.iter_mut().zip(frequencies) {
                let (sin, cos) = f64::from(*position as f32 * f).sin_cos();
                let sin = if inverse { -sin } else { sin };
                *t = (R::from_f32(cos as f32 * factor), R::from_f32(sin as f32 * factor));
            }
            for head in row.chunks_exact_mut(head) {
                rotate(&mut head[..turned], &turn[..frequencies.len()], layout);
            }
        }
    });
}

/// The most values of a head that are turned.
pub const MAX_ROTARY_DIM: usize = 2 * MAX_PAIRS;
const MAX_PAIRS: usize = 256;

fn rotate<R: Real>(head: &mut [R], turn: &[(R, R)], layout: Layout) {
    let half = turn.len();
    for (i, (cos, sin)) in turn.iter().enumerate() {
        let (first, second) = match layout {
            Layout::Half => (i, i + half),
            Layout::Interleaved => (2 * i, 2 * i + 1),
        };
        let (a, b) = (head[first], head[second]);
        head[first] = a * *cos - b * *sin;
        head[second] = a * *sin + b * *cos;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{Rng, dot, relative};

    fn whole(frequencies: &[f32], layout: Layout) -> RopeShape<'_> {
        RopeShape { frequencies, layout, head_dim: 2 * frequencies.len(), factor: 1.0 }
    }

    #[test]
    fn the_inverse_is_the_transpose() {
        let mut rng = Rng(7);
        let (heads, d) = (3, 10);
        let f = inverse_frequencies(d, 100.0);
        let positions = [0, 5, 1, 900];
        for layout in [Layout::Half, Layout::Interleaved] {
            let u: Vec<f64> = rng.vec(positions.len() * heads * d);
            let w: Vec<f64> = rng.vec(u.len());
            let (mut there, mut back) = (u.clone(), w.clone());
            rope(&mut there, &positions, whole(&f, layout), false, Par::serial());
            rope(&mut back, &positions, whole(&f, layout), true, Par::serial());
            // ⟨R u, w⟩ = ⟨u, Rᵀ w⟩; cosines rounded to f32 keep this exact, as both use the same ones.
            assert!((dot(&there, &w) - dot(&u, &back)).abs() < 1e-12);
            rope(&mut there, &positions, whole(&f, layout), true, Par::serial());
            assert!(relative(&there, &u) < 2e-7, "cos² + sin² = 1 within f32 rounding");
        }
    }

    #[test]
    fn layouts_are_permutations_of_each_other() {
        let f = inverse_frequencies(4, 10_000.0);
        let mut half = vec![1.0f32, 2.0, 3.0, 4.0];
        let mut interleaved = vec![1.0f32, 3.0, 2.0, 4.0];
        rope(&mut half, &[3], whole(&f, Layout::Half), false, Par::serial());
        rope(&mut interleaved, &[3], whole(&f, Layout::Interleaved), false, Par::serial());
        assert_eq!([half[0], half[2], half[1], half[3]], interleaved[..]);
        let (sin, cos) = 3f64.sin_cos();
        assert!((f64::from(half[0]) - (cos - 3.0 * sin)).abs() < 1e-6);
    }

    /// In `[a b c d | e f]` with two pairs turned, the pairs are (a, c) and (b, d) as in
    /// `apply_rotary_pos_emb` of transformers' phi3, and the rest stays as it is.
    #[test]
    fn a_part_of_a_head_is_turned_and_the_rest_stays() {
        let f = [1.0f32, 0.5];
        let shape = RopeShape { frequencies: &f, layout: Layout::Half, head_dim: 6, factor: 2.0 };
        let x = [1.0f64, 2.0, 3.0, 4.0, 5.0, 6.0, -1.0, 0.0, 1.0, 0.0, 7.0, 8.0];
        let mut turned = x;
        rope(&mut turned, &[3], shape, false, Par::serial());
        for head in [0, 6] {
            for (i, angle) in [(0, 3.0f64), (1, 1.5)] {
                let (a, b) = (x[head + i], x[head + i + 2]);
                let (sin, cos) = angle.sin_cos();
                assert!((turned[head + i] - 2.0 * (a * cos - b * sin)).abs() < 1e-6);
                assert!((turned[head + i + 2] - 2.0 * (a * sin + b * cos)).abs() < 1e-6);
            }
            assert_eq!(turned[head + 4..head + 6], x[head + 4..head + 6]);
        }
        // ⟨R x, y⟩ = ⟨x, Rᵀ y⟩
        let y: Vec<f64> = Rng(5).vec(12);
        let mut back = y.clone();
        rope(&mut back, &[3], shape, true, Par::serial());
        assert!((dot(&turned, &y) - dot(&x, &back)).abs() < 1e-12);
    }

    /// Three roundings of each of two products and their sum, none of which is larger than the pair is long.
    #[test]
    fn a_turned_pair_is_within_three_roundings_of_its_length() {
        let d = 64;
        let f = inverse_frequencies(d, 10_000.0);
        let positions: Vec<u32> = (0..64).map(|i| i * 977).collect();
        let x: Vec<f32> = Rng(8).vec(positions.len() * d);
        let mut turned = x.clone();
        rope(&mut turned, &positions, whole(&f, Layout::Half), false, Par::serial());
        for (t, position) in positions.iter().enumerate() {
            for (i, f) in f.iter().enumerate() {
                let (a, b) = (f64::from(x[t * d + i]), f64::from(x[t * d + i + d / 2]));
                let (sin, cos) = f64::from(*position as f32 * f).sin_cos();
                for (found, exact) in
                    [(turned[t * d + i], a * cos - b * sin), (turned[t * d + i + d / 2], a * sin + b * cos)]
                {
                    let off = (f64::from(found) - exact).abs() / a.hypot(b);
                    assert!(off <= 3.0 / f64::from(1 << 24), "position {position}, pair {i}: {off:e}");
                }
            }
        }
    }
}
