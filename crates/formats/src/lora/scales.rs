//! Scales of many pairs as one, and what is left to fold into B.

use super::{Matrix, Pair, Values};

/// The most frequent value of the pairs; the first among equals.
pub(super) fn most<T: PartialEq + Copy>(pairs: &[Pair], value: impl Fn(&Pair) -> T) -> T {
    let count = |x: T| pairs.iter().filter(|p| value(p) == x).count();
    let mut best = (value(&pairs[0]), 0);
    for pair in pairs {
        let n = count(value(pair));
        if n > best.1 {
            best = (value(pair), n);
        }
    }
    best.0
}

/// α where the scale is α/r, without what the division has left in the last place.
pub(super) fn alpha(scale: f64, rank: usize) -> f64 {
    let alpha = scale * rank as f64;
    let whole = alpha.round();
    // Half a unit of single precision: nothing that any of the layouts keeps.
    if (alpha - whole).abs() <= 1e-9 * alpha.abs() { whole } else { alpha }
}

/// A matrix, B multiplied by what the file's one scale leaves out.
pub(super) fn folded(
    values: Values<'_>,
    pair: usize,
    matrix: Matrix,
    factor: f64,
) -> std::io::Result<Vec<f32>> {
    let mut x = values(pair, matrix)?;
    if matrix == Matrix::B && factor != 1.0 {
        for x in &mut x {
            *x = (f64::from(*x) * factor) as f32;
        }
    }
    Ok(x)
}
