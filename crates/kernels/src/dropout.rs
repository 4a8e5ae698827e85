//! Dropout by counter: a mask that is computed wherever it is read, and never stored.
//!
//! ```text
//! dropout    y_i = k_i·x_i/(1−p), or y_i +=       k_i = 0 with probability p, else 1
//! backward   dx_i = k_i·dy_i/(1−p): the same operation of dy
//! k          a function of (key, place of the value in the whole matrix), nothing else
//! reads      x      scratch  none      shapes  y x [n, d]
//! ```
//! As PyTorch's `nn.Dropout` in training: kept values are scaled, so that the mean stays. 32 random bits decide for a
//! value, so the probability is p to 2⁻³².

use crate::compact::{Stored, Values};
use crate::isa::vectorized;
use crate::par::{Par, rows_per_task};
use crate::{Real, random};

/// Which values of a matrix are dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// p, from 0 to less than 1.
    pub p: f64,
    /// Names the random numbers.
    pub key: u64,
}

impl Dropout {
    /// The same probability with random numbers of its own.
    #[must_use]
    pub const fn stream(self, index: u64) -> Self {
        Self { key: random::at(self.key, index), ..self }
    }

    /// k of the value at a place of the whole matrix, row after row.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
    pub const fn keeps(self, place: u64) -> bool {
        // p below 1 keeps the share of 2^32 in 32 bits.
        random::at(self.key, place) >> 32 >= (self.p * 4_294_967_296.0) as u64
    }
}

/// `y = k∘x/(1−p)`, or `y +=`, for rows of `d` values from the row `first` of the matrix on.
///
/// # Panics
/// When lengths differ, or are not whole rows.
#[track_caller]
pub fn dropout<R: Real>(
    y: &mut [R],
    x: Values<'_, R>,
    d: usize,
    mask: Dropout,
    first: usize,
    accumulate: bool,
    par: Par<'_>,
) {
    assert_eq!(y.len(), x.len(), "dropout: lengths");
    assert!(y.len().is_multiple_of(d.max(1)), "dropout: whole rows");
    let chunk = rows_per_task(d) * d;
    par.chunks(y, chunk.max(1), |i, y| {
        let from = i * chunk;
        let at = (first * d + from) as u64;
        match x {
            Values::Full(x) => drop_values(y, &x[from..][..y.len()], mask, at, accumulate),
            Values::Bf16(x) => drop_bf16(y, &x[from..][..y.len()], mask, at, accumulate),
        }
    });
}

vectorized! {
    fn drop_values<R: Real>(y: &mut [R], x: &[R], mask: Dropout, at: u64, accumulate: bool) {
        drop_stored(y, x, mask, at, accumulate);
    }
}

vectorized! {
    fn drop_bf16<R: Real>(y: &mut [R], x: &[u16], mask: Dropout, at: u64, accumulate: bool) {
        drop_stored(y, x, mask, at, accumulate);
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vectorize inside its callers")]
fn drop_stored<R: Real, S: Stored<R>>(y: &mut [R], x: &[S], mask: Dropout, at: u64, accumulate: bool) {
    let scale = R::from_f64(1.0 / (1.0 - mask.p));
    for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
        let value = if mask.keeps(at + i as u64) { scale * x.get() } else { R::ZERO };
        *y = if accumulate { *y + value } else { value };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped<R: Real>(x: &[R], d: usize, p: f64, key: u64, first: usize) -> Vec<R> {
        let mut y = vec![R::ZERO; x.len()];
        dropout(&mut y, Values::Full(x), d, Dropout { p, key }, first, false, Par::serial());
        y
    }

    #[test]
    fn values_are_zero_or_scaled_with_the_right_shares() {
        let (n, d) = (400, 250);
        for p in [0.0, 0.05, 0.5, 0.9] {
            let y = dropped(&vec![1.0f64; n * d], d, p, 7, 0);
            let zeros = y.iter().filter(|y| **y == 0.0).count() as f64;
            assert!(y.iter().all(|y| *y == 0.0 || *y == 1.0 / (1.0 - p)), "p = {p}");
            // Five standard deviations of a binomial share.
            let (count, bound) = ((n * d) as f64, 5.0 * (p * (1.0 - p) * (n * d) as f64).sqrt());
            assert!((zeros - p * count).abs() <= bound, "p = {p}: {zeros} zeros of {count}");
        }
    }

    #[test]
    fn rows_that_are_cut_are_rows_of_the_whole() {
        let (n, d) = (13, 37);
        let x: Vec<f32> = (0..n * d).map(|i| i as f32 - 100.0).collect();
        let whole = dropped(&x, d, 0.3, 1, 0);
        for cut in [1, 5, 12] {
            let mut parts = dropped(&x[..cut * d], d, 0.3, 1, 0);
            parts.extend(dropped(&x[cut * d..], d, 0.3, 1, cut));
            assert_eq!(parts, whole, "cut at row {cut}");
        }
    }

    #[test]
    fn keys_and_streams_are_independent() {
        let x = vec![1.0f64; 20_000];
        let base = Dropout { p: 0.5, key: 3 };
        let of = |mask: Dropout| dropped(&x, 100, mask.p, mask.key, 0);
        let [a, b, c] = [of(base), of(base.stream(0)), of(base.stream(1))];
        for (a, b) in [(&a, &b), (&b, &c), (&a, &c)] {
            let both = a.iter().zip(b).filter(|(a, b)| **a != 0.0 && **b != 0.0).count() as f64;
            // A quarter of the places, five standard deviations.
            assert!((both - 5000.0).abs() < 5.0 * 3750f64.sqrt(), "{both} kept in both");
        }
    }

    #[test]
    fn the_operation_is_its_own_adjoint_and_adds() {
        let (n, d) = (6, 11);
        let x: Vec<f64> = (0..n * d).map(|i| (i as f64).sin()).collect();
        let dy: Vec<f64> = (0..n * d).map(|i| (i as f64).cos()).collect();
        let (y, dx) = (dropped(&x, d, 0.4, 9, 2), dropped(&dy, d, 0.4, 9, 2));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        assert!((dot(&y, &dy) - dot(&x, &dx)).abs() < 1e-12);
        let mut sum = x.clone();
        dropout(&mut sum, Values::Full(&x), d, Dropout { p: 0.4, key: 9 }, 2, true, Par::serial());
        assert!(sum.iter().zip(&x).zip(&y).all(|((sum, x), y)| *sum == x + y));
    }

    #[test]
    fn bf16_is_read_as_it_is() {
        let halves: Vec<u16> = (0..60).map(|i| 0x3f80 + i).collect();
        let wide: Vec<f32> = halves.iter().map(|h| f32::from_bits(u32::from(*h) << 16)).collect();
        let mut y = vec![0.0f32; 60];
        let mask = Dropout { p: 0.25, key: 5 };
        dropout(&mut y, Values::Bf16(&halves), 20, mask, 0, false, Par::serial());
        assert_eq!(y, dropped(&wide, 20, 0.25, 5, 0));
    }
}
