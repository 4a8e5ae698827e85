//! Preference losses of the rows after the last block.
//!
//! ```text
//! nothing above the blocks is trained   one time through the words: statistics, and x ← direction of w = 1
//!                                       losses of the pairs, w = −dL/dP      x[rows of a completion] ·= w
//! the head, its adapter or its norm is  once for the statistics, losses of the pairs, once more for dz = w·(p − [y])
//! ```
//! Neither keeps anything that next-token training does not: weights are made on the host, a number a completion.
//! derivation: `docs/math/preference.md`

use mesp_device::{Act, Backend, RowStat};

use super::{Batch, Objective, Top, head, head_gradient, sums_over_rows};
use crate::gradient::{Factors, Nothing};
use crate::preference::{Completion, Preference, Score, Totals};

/// Memory for the completions of a micro-batch, sized once.
#[derive(Debug, Default)]
pub struct Room {
    completions: Vec<Completion>,
    derivatives: Vec<f64>,
}

/// A preference loss of the batch's sequences, which are pairs, the chosen completion before the rejected one, or
/// completions with a label ([`Batch::preferences`]).
#[derive(Debug)]
pub struct Preferences<'a> {
    /// Which loss.
    pub preference: Preference,
    /// Those of the whole optimizer step.
    pub totals: Totals,
    /// κ of kto.
    pub kl: f64,
    /// A place for each trained row.
    pub stats: &'a mut [RowStat],
    /// Memory.
    pub room: &'a mut Room,
    /// What the batch came to, once it was computed.
    pub score: Score,
}

impl Preference {
    /// What the loss reads of a batch's completions, from the statistics of its trained rows.
    pub fn completions(&self, batch: &Batch, stats: &[RowStat]) -> impl Iterator<Item = Completion> {
        batch.preferences.iter().zip(batch.targets_by_sequence()).map(|(label, rows)| {
            let tokens = rows.len();
            self.completion(label, tokens, -stats[rows].iter().map(RowStat::nats).sum::<f64>())
        })
    }
}

impl Preferences<'_> {
    /// Losses and derivatives of the completions, from the rows' statistics.
    fn compare(&mut self, batch: &Batch) {
        let Room { completions, derivatives } = &mut *self.room;
        completions.clear();
        completions.extend(self.preference.completions(batch, self.stats));
        derivatives.clear();
        derivatives.resize(completions.len(), 0.0);
        self.score = self.preference.score(completions, self.totals, self.kl, derivatives);
    }
}

impl<B: Backend> Objective<B> for Preferences<'_> {
    fn losses(&mut self, be: &mut B, top: Top<'_>, x: &mut Act) {
        head(be, top, x, None::<(f64, &mut Nothing)>, self.stats);
        self.compare(top.batch);
    }

    fn gradient(&mut self, be: &mut B, top: Top<'_>, x: &mut Act, factors: &mut impl Factors<B>) {
        let batch = top.batch;
        if sums_over_rows(top, factors) {
            self.losses(be, top, x);
            for (derivative, rows) in self.room.derivatives.iter().zip(batch.targets_by_sequence()) {
                self.stats[rows].iter_mut().for_each(|stat| stat.weight = -*derivative as f32);
            }
            head_gradient(be, top, x, (1.0, factors), self.stats);
        } else {
            // All is linear from dL/dz to dx: the weight may come last, and the words are gone through once.
            head(be, top, x, Some((1.0, factors)), self.stats);
            self.compare(batch);
            for (derivative, rows) in self.room.derivatives.iter().zip(batch.offsets.windows(2)) {
                be.scale(x.rows_mut(rows[0]..rows[1]), -*derivative);
            }
        }
    }

    fn of_logits(&self) -> Option<(f64, &[RowStat])> {
        Some((1.0, self.stats))
    }
}
