//! Softmax cross-entropy of a tile of rows, its gradient in place of the logits.
//!
//! ```text
//! forward   loss_t  = ℓ_t − z_t[y_t],          ℓ_t = ln Σ_v exp z_t[v]
//! backward  dz_t[v] = c·(exp(z_t[v] − ℓ_t) − [v = y_t]),   c = 1 / targets of the optimizer step
//! reads     z, y       scratch  none       derivation: docs/math/cross_entropy.md
//! shapes    z [n, V]   y [n]
//! ```
//!
//! Rows × vocabulary never exists whole: the caller hands over a tile of rows and forgets it.

use crate::Real;
use crate::isa::vectorized;
use crate::par::Par;
use crate::real::{maximum, sum};

/// What one row contributed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowLoss {
    /// −ln p(label), in nats.
    pub nats: f64,
    /// Whether the label has the largest logit (the first one, where several are equal).
    pub correct: bool,
}

/// Writes each row's loss and, when `gradient` is given, turns its logits into `gradient·dloss/dlogits`.
///
/// # Panics
/// When `logits` is not `labels.len()` rows, `losses` is not as long, or a label is not in the vocabulary.
#[track_caller]
pub fn cross_entropy<R: Real>(
    logits: &mut [R],
    labels: &[u32],
    gradient: Option<f64>,
    losses: &mut [RowLoss],
    par: Par<'_>,
) {
    if labels.is_empty() {
        return;
    }
    let vocab = logits.len() / labels.len();
    assert_eq!(logits.len(), vocab * labels.len(), "cross_entropy: rows of logits");
    assert_eq!(losses.len(), labels.len(), "cross_entropy: losses");
    par.chunks2(logits, vocab, losses, 1, |t, z, loss| {
        let label = labels[t] as usize;
        assert!(label < vocab, "cross_entropy: label {label} in a vocabulary of {vocab}");
        loss[0] = row(z, label, gradient.map(R::from_f64));
    });
}

vectorized! {
fn row<R: Real>(z: &mut [R], label: usize, gradient: Option<R>) -> RowLoss {
    let top = maximum(z);
    // NaN anywhere makes the sum NaN, and with it the loss: nothing hides it.
    let total = sum(z.len(), |v| (z[v] - top).exp());
    let nats = total.to_f64().ln() - (z[label] - top).to_f64();
    let correct = z[label] == top && !z[..label].contains(&top);
    if let Some(c) = gradient {
        let share = c / total;
        for x in z.iter_mut() {
            *x = (*x - top).exp() * share;
        }
        z[label] -= c;
    }
    RowLoss { nats, correct }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{Rng, differences, relative};

    #[test]
    fn gradient_is_the_difference_quotient() {
        let mut rng = Rng(9);
        let (n, v) = (3, 21);
        let z: Vec<f64> = rng.vec::<f64>(n * v).iter().map(|x| 5.0 * x).collect();
        let labels = [0, 20, 7];
        let run = |z: &[f64], gradient| {
            let (mut z, mut losses) = (z.to_vec(), vec![RowLoss::default(); n]);
            cross_entropy(&mut z, &labels, gradient, &mut losses, Par::serial());
            (z, losses.iter().map(|l| l.nats).sum::<f64>())
        };
        let numeric = differences(&z, |z| 0.25 * run(z, None).1);
        assert!(relative(&run(&z, Some(0.25)).0, &numeric) < 1e-8);
        assert_eq!(run(&z, None).0, z, "no gradient asked, logits untouched");
    }

    #[test]
    fn large_logits_and_nan() {
        let mut losses = [RowLoss::default(); 2];
        let mut z = vec![1e4f32, 0.0, 0.0, 0.0, 1e4, 0.0];
        cross_entropy(&mut z, &[0, 0], Some(1.0), &mut losses, Par::serial());
        assert!(losses[0].nats.abs() < 1e-6 && losses[0].correct);
        assert!((losses[1].nats - 1e4).abs() < 1.0 && !losses[1].correct);
        assert!(z.iter().all(|x| x.is_finite()));
        let mut bad = vec![1.0, f32::NAN, 0.0];
        cross_entropy(&mut bad, &[0], None, &mut losses[..1], Par::serial());
        assert!(losses[0].nats.is_nan());
    }
}
