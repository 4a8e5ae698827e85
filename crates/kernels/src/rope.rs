//! Rotary position embedding (Su et al. 2021).
//!
//! ```text
//! forward   (a, b) → (a·cos θ − b·sin θ, a·sin θ + b·cos θ),    θ = position · f_i for the i-th pair
//! backward  the same with −θ: a rotation's transpose is its inverse
//! pairs     Half: (i, i + D/2)   Interleaved: (2i, 2i + 1)       reads  positions only
//! shapes    x [n, heads·D]       f [D/2]                         derivation: docs/math/rope.md
//! ```
//!
//! Frequencies, angles, sines and cosines are single precision for every `Real`, as in the reference
//! implementations: checkpoints are trained with these very angles, and at position 10⁴ a single precision
//! angle differs from the exact one by 10⁻³.

use crate::par::rows_per_task;
use crate::{Par, Real};

/// Which values of a head form a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `(i, i + D/2)`: Hugging Face checkpoints, GGUF of qwen2, qwen3, gemma.
    Half,
    /// `(2i, 2i + 1)`: GGUF of llama.
    Interleaved,
}

/// `f_i = base^(−2i/D)`, `i < D/2`, rounded to single precision.
pub fn inverse_frequencies(head_dim: usize, base: f64) -> Vec<f32> {
    (0..head_dim / 2).map(|i| base.powf(-2.0 * i as f64 / head_dim as f64) as f32).collect()
}

/// Rotates every head of every row by its position's angle, or back by it when `inverse`.
///
/// # Panics
/// When `x` is not `positions.len()` rows of whole heads, or a head is longer than 512.
#[track_caller]
pub fn rope<R: Real>(
    x: &mut [R],
    positions: &[u32],
    frequencies: &[f32],
    layout: Layout,
    inverse: bool,
    par: Par<'_>,
) {
    let head = 2 * frequencies.len();
    if positions.is_empty() {
        return;
    }
    let cols = x.len() / positions.len();
    assert_eq!(x.len(), cols * positions.len(), "rope: rows");
    assert!(
        head > 0 && cols.is_multiple_of(head) && head <= 2 * MAX_PAIRS,
        "rope: {cols} columns in heads of {head}"
    );
    let rows = rows_per_task(cols);
    par.chunks(x, rows * cols, |i, x| {
        let mut turn = [(R::ZERO, R::ZERO); MAX_PAIRS];
        for (row, position) in x.chunks_exact_mut(cols).zip(&positions[i * rows..]) {
            for (t, f) in turn.iter_mut().zip(frequencies) {
                let (sin, cos) = f64::from(*position as f32 * f).sin_cos();
                let sin = if inverse { -sin } else { sin };
                *t = (R::from_f32(cos as f32), R::from_f32(sin as f32));
            }
            for head in row.chunks_exact_mut(head) {
                rotate(head, &turn[..frequencies.len()], layout);
            }
        }
    });
}

/// Half of the longest head.
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
            rope(&mut there, &positions, &f, layout, false, Par::serial());
            rope(&mut back, &positions, &f, layout, true, Par::serial());
            // ⟨R u, w⟩ = ⟨u, Rᵀ w⟩; cosines rounded to f32 keep this exact, as both use the same ones.
            assert!((dot(&there, &w) - dot(&u, &back)).abs() < 1e-12);
            rope(&mut there, &positions, &f, layout, true, Par::serial());
            assert!(relative(&there, &u) < 2e-7, "cos² + sin² = 1 within f32 rounding");
        }
    }

    #[test]
    fn layouts_are_permutations_of_each_other() {
        let f = inverse_frequencies(4, 10_000.0);
        let mut half = vec![1.0f32, 2.0, 3.0, 4.0];
        let mut interleaved = vec![1.0f32, 3.0, 2.0, 4.0];
        rope(&mut half, &[3], &f, Layout::Half, false, Par::serial());
        rope(&mut interleaved, &[3], &f, Layout::Interleaved, false, Par::serial());
        assert_eq!([half[0], half[2], half[1], half[3]], interleaved[..]);
        let (sin, cos) = 3f64.sin_cos();
        assert!((f64::from(half[0]) - (cos - 3.0 * sin)).abs() < 1e-6);
    }

    /// Three roundings of each of two products and their sum, none of which is larger than the pair is long.
    #[test]
    fn a_turned_pair_is_within_three_roundings_of_its_length() {
        let d = 64;
        let f = inverse_frequencies(d, 10_000.0);
        let positions: Vec<u32> = (0..64).map(|i| i * 977).collect();
        let x: Vec<f32> = Rng(8).vec(positions.len() * d);
        let mut turned = x.clone();
        rope(&mut turned, &positions, &f, Layout::Half, false, Par::serial());
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
