//! Preference losses: which of two completions of a prompt is the better one (DPO and its kin).
//!
//! The scalar part: from the log-probability of each completion to the loss and to the weight of its tokens. It knows
//! no model. derivation: `docs/math/preference.md`

mod loss;
mod score;

pub use loss::{LossType, Preference};
pub use score::{Metrics, Score};

/// Which completion of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The better one; a desirable one where completions have labels (kto).
    Chosen,
    /// The other; an undesirable one.
    Rejected,
}

/// What a sequence of a batch is to a preference loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreferenceLabel {
    /// Which completion it is.
    pub side: Side,
    /// R, the sum of its tokens' log-probabilities under the reference; NaN where that is not known.
    pub reference: f64,
}

impl PreferenceLabel {
    /// A completion of which the reference is not known yet.
    pub fn new(side: Side) -> Self {
        Self { side, reference: f64::NAN }
    }
}

/// What a loss reads of a completion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Completion {
    /// Which it is.
    pub side: Side,
    /// T, its trained tokens.
    pub tokens: usize,
    /// P, the sum of their log-probabilities.
    pub logp: f64,
    /// R, the same of the reference; 0 for a loss that has none.
    pub reference: f64,
}

impl Completion {
    /// ρ = P − R.
    pub fn log_ratio(&self) -> f64 {
        self.logp - self.reference
    }

    /// `value / T`
    fn per_token(&self, value: f64) -> f64 {
        value / self.tokens.max(1) as f64
    }

    /// m = P/T.
    pub fn mean_logp(&self) -> f64 {
        self.per_token(self.logp)
    }
}

/// Over what the losses of an optimizer step are means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// n, its pairs; its completions where these have labels (kto).
    pub examples: usize,
    /// M, trained tokens of its chosen completions.
    pub chosen_tokens: usize,
}

impl Totals {
    /// Takes completions into account.
    pub fn add(&mut self, completions: impl IntoIterator<Item = (Side, usize)>, loss_type: LossType) {
        let (mut count, mut tokens) = (0, 0);
        for (side, of_it) in completions {
            count += 1;
            tokens += if side == Side::Chosen { of_it } else { 0 };
        }
        self.examples += if loss_type.is_paired() { count / 2 } else { count };
        self.chosen_tokens += tokens;
    }
}
