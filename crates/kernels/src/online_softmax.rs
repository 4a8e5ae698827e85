//! Embedding rows weighted by their probabilities, in one pass over the vocabulary: the gradient of the head's
//! input without a second product for the logits (the recurrence of Milakov & Gimelshein 2018, as in attention).
//!
//! ```text
//! per vocab step     m' = max(m, max z)   p = exp(z − m')   s ← s·exp(m − m') + p·E   Z ← Z·exp(m − m') + Σ p
//! at the end         dn = c·(s / Z − E[y]),   c = 1 / targets of the optimizer step
//! reads     z, which p takes the place of; E of the step     scratch  that of the product
//! shapes    z [n, w]: rows × a range of the vocabulary   E [w, d]   s dn [n, d]   y [n]
//! derivation: docs/math/cross_entropy.md
//! ```
//!
//! Rows are rescaled at multiples of [`VOCAB_STEP`] only, and within a step every element of `s` is one chain
//! of multiply-adds: ranges of the vocabulary, tiles of rows and threads change no bit.

use crate::Real;
use crate::cross_entropy::{RowStat, VOCAB_STEP, check, take_step};
use crate::isa::vectorized;
use crate::matmul::{Compute, Init, Lhs, Out, Rhs, matmul};
use crate::par::{Par, Pieces};

/// Takes a range of the vocabulary, which begins at `first` and has the rows `words` `[range, d]` of the embedding table, into the
/// rows' statistics and weighted sums. The first range sets `sum`, whatever it holds.
///
/// # Panics
/// When shapes disagree, `first` is not a multiple of [`VOCAB_STEP`], or the product's scratch is too short.
#[track_caller]
pub fn softmax_sum<R: Real>(
    sum: &mut [R],
    z: &mut [R],
    labels: &[u32],
    first: usize,
    stats: &mut [RowStat],
    words: Rhs<'_, R>,
    compute: Compute,
    scratch: &mut [R],
    par: Par<'_>,
) {
    let Some(width) = check(z.len(), labels, first, stats) else { return };
    let (rows, d) = (labels.len(), sum.len() / labels.len());
    if let Rhs::Weight(words) = words {
        assert_eq!(width, words.rows, "softmax sum: columns of logits against rows of the table");
        assert_eq!(sum.len(), rows * words.cols, "softmax sum: values of the sum");
    }
    for start in (0..width).step_by(VOCAB_STEP) {
        let step = start..(start + VOCAB_STEP).min(width);
        let begins = first + start == 0;
        {
            let (z, sum, stats) = (Pieces::new(z), Pieces::new(sum), Pieces::new(stats));
            par.tasks(rows, |t, _| {
                // SAFETY: task `t` runs once and takes row `t` of each.
                let (z, sum, stat) = unsafe { (z.piece(t, width), sum.piece(t, d), stats.piece(t, 1)) };
                let factor = weigh(&mut z[step.clone()], labels[t] as usize, first + start, &mut stat[0]);
                if !begins && factor != R::ONE {
                    rescale(sum, factor);
                }
            });
        }
        let init = if begins { Init::Zero } else { Init::Accumulate };
        let p = Lhs::rows(&z[start..], width);
        let part = words.part(step.clone());
        matmul(Out::rows(sum, d), [rows, d, step.len()], R::ONE, p, part, init, compute, scratch, par);
    }
}

/// `sum ← c·w·(sum / Z − word)`, w the row's weight, once all of the vocabulary was taken in; `word` has the label's
/// row of the table for each row.
///
/// # Panics
/// When shapes disagree.
#[track_caller]
pub fn softmax_sum_gradient<R: Real>(sum: &mut [R], word: &[R], c: f64, stats: &[RowStat], par: Par<'_>) {
    assert_eq!(sum.len(), word.len(), "softmax gradient: labels' words");
    if stats.is_empty() {
        return;
    }
    let d = sum.len() / stats.len();
    assert_eq!(sum.len(), d * stats.len(), "softmax gradient: rows");
    par.chunks(sum, d, |t, sum| {
        let c = c * f64::from(stats[t].weight);
        finish(sum, &word[t * d..][..d], R::from_f64(c / stats[t].total), R::from_f64(c));
    });
}

vectorized! {
/// Turns a step's logits into exp(z − top) and gives what sums over earlier steps are to be multiplied by.
fn weigh<R: Real>(z: &mut [R], label: usize, start: usize, stat: &mut RowStat) -> R {
    let factor = take_step(z, label, start, stat);
    let top = R::from_f64(stat.top);
    for x in z.iter_mut() {
        *x = (*x - top).exp();
    }
    stat.total += crate::real::sum(z.len(), |v| z[v]).to_f64();
    factor
}
}

vectorized! {
fn rescale<R: Real>(sum: &mut [R], factor: R) {
    for s in sum.iter_mut() {
        *s *= factor;
    }
}
}

vectorized! {
fn finish<R: Real>(sum: &mut [R], word: &[R], share: R, c: R) {
    for (s, e) in sum.iter_mut().zip(word) {
        *s = *s * share - c * *e;
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;
    use crate::WeightView;
    use crate::test_util::{Rng, differences, relative};
    use crate::{Dtype, embedding, matmul_scratch, softmax_stats};

    const D: usize = 21;

    fn table(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn view(bytes: &[u8]) -> WeightView<'_> {
        WeightView { dtype: Dtype::F32, data: bytes, rows: bytes.len() / (4 * D), cols: D }
    }

    fn logits<R: Real>(n: &[R], words: WeightView<'_>, par: Par<'_>) -> Vec<R> {
        let (rows, v) = (n.len() / D, words.rows);
        let mut z = vec![R::ZERO; rows * v];
        let mut scratch = vec![R::ZERO; matmul_scratch(par.threads())];
        let (out, left) = (Out::rows(&mut z, v), Lhs::rows(n, D));
        let right = Rhs::WeightTransposed(words);
        matmul(out, [rows, v, D], R::ONE, left, right, Init::Zero, Compute::Full, &mut scratch, par);
        z
    }

    /// Gradient and statistics with the vocabulary in ranges of `width`.
    fn gradient<R: Real>(
        n: &[R],
        words: WeightView<'_>,
        labels: &[u32],
        (width, c): (usize, f64),
        par: Par<'_>,
    ) -> (Vec<R>, Vec<RowStat>) {
        let mut scratch = vec![R::ZERO; matmul_scratch(par.threads())];
        let mut stats = vec![RowStat::EMPTY; labels.len()];
        let mut sum = vec![R::from_f32(f32::NAN); n.len()];
        for first in (0..words.rows).step_by(width) {
            let part = words.row_range(first..(first + width).min(words.rows));
            let mut z = logits(n, part, par);
            let compute = Compute::Full;
            let part = Rhs::Weight(part);
            softmax_sum(&mut sum, &mut z, labels, first, &mut stats, part, compute, &mut scratch, par);
        }
        let mut word = vec![R::ZERO; n.len()];
        embedding(&mut word, words, labels, par);
        softmax_sum_gradient(&mut sum, &word, c, &stats, par);
        (sum, stats)
    }

    /// Words that grow along the vocabulary, so that the largest logit is found anew in every step.
    fn case(v: usize) -> (Vec<f32>, Vec<u32>) {
        let mut rng = Rng(22);
        let words: Vec<f32> = rng.vec::<f32>(v * D);
        let words = words.iter().enumerate().map(|(i, x)| x * (1.0 + i as f32 / (v * D) as f32)).collect();
        (words, vec![3, 0, (v - 1) as u32, (v / 2) as u32])
    }

    #[test]
    fn gradient_is_the_difference_quotient() {
        let v = 2 * VOCAB_STEP + 33;
        let (words, labels) = case(v);
        let bytes = table(&words);
        let n: Vec<f64> = Rng(23).vec::<f64>(labels.len() * D).iter().map(|x| 2.0 * x).collect();
        let loss = |n: &[f64]| {
            let mut stats = vec![RowStat::EMPTY; labels.len()];
            let z = logits(n, view(&bytes), Par::serial());
            softmax_stats(&z, &labels, 0, &mut stats, Par::serial());
            0.25 * stats.iter().map(RowStat::nats).sum::<f64>()
        };
        let (dn, _) = gradient(&n, view(&bytes), &labels, (v, 0.25), Par::serial());
        assert!(relative(&dn, &differences(&n, loss)) < 1e-8);
    }

    #[test]
    fn ranges_and_threads_change_no_bit() {
        let v = 5 * VOCAB_STEP + 77;
        let (words, labels) = case(v);
        let bytes = table(&words);
        let n: Vec<f32> = Rng(24).vec::<f32>(labels.len() * D).iter().map(|x| 4.0 * x).collect();
        let whole = gradient(&n, view(&bytes), &labels, (v, 0.5), Par::serial());
        let mut stats = vec![RowStat::EMPTY; labels.len()];
        let z = logits(&n, view(&bytes), Par::serial());
        softmax_stats(&z, &labels, 0, &mut stats, Par::serial());
        assert_eq!(stats, whole.1, "the statistics of an evaluation");
        let pool = Threads::new(3).expect("threads");
        for width in [VOCAB_STEP, 2 * VOCAB_STEP, 4 * VOCAB_STEP, v] {
            for par in [Par::serial(), Par::on(&pool)] {
                assert_eq!(gradient(&n, view(&bytes), &labels, (width, 0.5), par), whole, "{width} words");
            }
        }
        for t in 0..labels.len() {
            let one = gradient(&n[t * D..][..D], view(&bytes), &labels[t..=t], (v, 0.5), Par::serial());
            assert_eq!(one.0, whole.0[t * D..][..D], "row {t} by itself");
        }
    }

    #[test]
    fn rising_logits_stay_finite_and_nan_stays() {
        // The largest logit rises by 100 a step: earlier sums vanish, as they should.
        let v = 3 * VOCAB_STEP;
        let words: Vec<f32> =
            (0..v * D).map(|i| if i % D == 0 { (i / D / VOCAB_STEP) as f32 } else { 1.0 }).collect();
        let bytes = table(&words);
        let mut n = vec![0.0f32; D];
        n[0] = 100.0;
        let (dn, stats) = gradient(&n, view(&bytes), &[0], (VOCAB_STEP, 1.0), Par::serial());
        assert!((stats[0].nats() - (200.0 + (VOCAB_STEP as f64).ln())).abs() < 1e-4);
        // Σ p·E − E[y] = 2 − 0 in the first column, 1 − 1 in the others.
        assert!((dn[0] - 2.0).abs() < 1e-5 && dn[1..].iter().all(|x| x.abs() < 1e-5), "{dn:?}");
        n[0] = f32::NAN;
        let (dn, stats) = gradient(&n, view(&bytes), &[0], (VOCAB_STEP, 1.0), Par::serial());
        assert!(stats[0].nats().is_nan() && dn[0].is_nan());
    }
}
