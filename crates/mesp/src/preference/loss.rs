//! The losses and their derivatives.
//!
//! ```text
//! sigmoid  −(1−ε)·ln σ(βΔ) − ε·ln σ(−βΔ)      Δ = ρ_c − ρ_r     ρ = P − R
//! hinge    max(0, 1 − βΔ)
//! ipo      (ρ_c/T_c − ρ_r/T_r − 1/(2β))²
//! simpo    as sigmoid, of β(m_c − m_r) − γ     m = P/T
//! orpo     −m_c − β·ln σ(λ)                    λ = (m_c − m_r) − (ln(1−e^{m_c}) − ln(1−e^{m_r}))
//! kto      σ(−β(ρ − κ)), desirable; σ(−β(κ − ρ)), not
//! rpo      + α·n/M·(−P_c)
//! ```
//! derivation: `docs/math/preference.md`

use serde::{Deserialize, Serialize};

use super::{Completion, PreferenceLabel, Score, Side, Totals};

/// Which loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
#[allow(clippy::doc_markdown, reason = "the program shows these texts as help")]
pub enum LossType {
    /// DPO (Rafailov et al. 2023, arXiv 2305.18290)
    #[default]
    Sigmoid,
    /// IPO (Azar et al. 2023, arXiv 2310.12036), with ratios averaged over a completion's tokens
    Ipo,
    /// SLiC (Zhao et al. 2023, arXiv 2305.10425)
    Hinge,
    /// SimPO (Meng et al. 2024, arXiv 2405.14734): no reference
    Simpo,
    /// ORPO (Hong et al. 2024, arXiv 2403.07691): no reference
    Orpo,
    /// KTO (Ethayarajh et al. 2024, arXiv 2402.01306): completions with a label, one by one
    Kto,
}

impl LossType {
    /// Every loss.
    pub const ALL: [Self; 6] = [Self::Sigmoid, Self::Ipo, Self::Hinge, Self::Simpo, Self::Orpo, Self::Kto];

    /// Its name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Ipo => "ipo",
            Self::Hinge => "hinge",
            Self::Simpo => "simpo",
            Self::Orpo => "orpo",
            Self::Kto => "kto",
        }
    }

    /// Whether an example is a pair of completions, and not one that is marked.
    pub const fn is_paired(self) -> bool {
        !matches!(self, Self::Kto)
    }

    /// Completions of an example.
    pub const fn completions(self) -> usize {
        if self.is_paired() { 2 } else { 1 }
    }

    /// Whether it compares with a reference.
    pub const fn has_reference(self) -> bool {
        !matches!(self, Self::Simpo | Self::Orpo)
    }

    /// Whether it has label smoothing.
    pub const fn smooths(self) -> bool {
        matches!(self, Self::Sigmoid | Self::Simpo)
    }

    /// Whether a share of the ordinary loss on the chosen completions can be added.
    pub const fn takes_rpo_alpha(self) -> bool {
        !matches!(self, Self::Orpo | Self::Kto)
    }

    /// β unless another is asked for.
    pub const fn default_beta(self) -> f64 {
        if matches!(self, Self::Simpo) { 2.0 } else { 0.1 }
    }
}

/// A preference loss with its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preference {
    /// Which loss.
    pub loss_type: LossType,
    /// β.
    pub beta: f64,
    /// γ, by how much the chosen completion of simpo should be ahead.
    pub simpo_gamma: f64,
    /// ε, the share of pairs that are taken to be the wrong way round.
    pub label_smoothing: f64,
    /// α, the share of the ordinary loss on the chosen completions.
    pub rpo_alpha: f64,
    /// Whether a loss that compares with a reference takes one under which all completions are equally likely: R = 0.
    pub reference_free: bool,
}

impl Preference {
    /// A loss with its default numbers.
    pub const fn new(loss_type: LossType) -> Self {
        let beta = loss_type.default_beta();
        let (label_smoothing, rpo_alpha) = (0.0, 0.0);
        Self { loss_type, beta, simpo_gamma: 0.5, label_smoothing, rpo_alpha, reference_free: false }
    }

    /// Whether it reads the log-probabilities of a reference model.
    pub const fn has_reference(&self) -> bool {
        self.loss_type.has_reference() && !self.reference_free
    }

    /// What the loss reads of a completion of so many trained tokens with log-probability P.
    pub fn completion(&self, label: &PreferenceLabel, tokens: usize, logp: f64) -> Completion {
        let reference = if self.has_reference() { label.reference } else { 0.0 };
        Completion { side: label.side, tokens, logp, reference }
    }

    /// What completions come to, of an optimizer step with these totals: pairs, chosen before rejected, or those with a
    /// label. `derivatives[i]` becomes dL/dP of completion i, L the step's loss. `kl` is κ, which kto alone reads.
    ///
    /// # Panics
    /// When lengths disagree, or a pair is none.
    pub fn score(
        &self,
        completions: &[Completion],
        totals: Totals,
        kl: f64,
        derivatives: &mut [f64],
    ) -> Score {
        assert_eq!(completions.len(), derivatives.len(), "a derivative for each completion");
        let size = self.loss_type.completions();
        assert!(completions.len().is_multiple_of(size), "pairs of completions");
        let mut score = Score::with_kl(kl);
        // α·n/M: the sum of the losses is divided by n in the end.
        let share = if self.rpo_alpha == 0.0 {
            0.0
        } else {
            self.rpo_alpha * totals.examples as f64 / totals.chosen_tokens.max(1) as f64
        };
        for (example, derivatives) in completions.chunks(size).zip(derivatives.chunks_mut(size)) {
            match (example, &mut *derivatives) {
                ([chosen, rejected], [of_chosen, of_rejected]) => {
                    assert!((chosen.side, rejected.side) == (Side::Chosen, Side::Rejected), "a pair");
                    let (loss, derivative) = self.pair(chosen, rejected);
                    [*of_chosen, *of_rejected] = derivative;
                    *of_chosen -= share;
                    score.pair(loss - share * chosen.logp, [self.seen(chosen), self.seen(rejected)]);
                }
                ([one], [derivative]) => {
                    let (loss, of_it) = self.marked(one, kl);
                    *derivative = of_it;
                    score.marked(loss, one.side, self.seen(one));
                }
                _ => {}
            }
            for derivative in derivatives.iter_mut() {
                *derivative /= totals.examples.max(1) as f64;
            }
        }
        score
    }

    /// Reward and log-probability as they are reported.
    fn seen(&self, of: &Completion) -> [f64; 2] {
        let [compared, logp] = match self.loss_type {
            LossType::Sigmoid | LossType::Hinge | LossType::Kto => [of.log_ratio(), of.logp],
            LossType::Ipo => [of.per_token(of.log_ratio()), of.mean_logp()],
            LossType::Simpo | LossType::Orpo => [of.mean_logp(); 2],
        };
        [self.beta * compared, logp]
    }

    /// ℓ of a pair, and its derivatives by `P_c` and `P_r`.
    fn pair(&self, chosen: &Completion, rejected: &Completion) -> (f64, [f64; 2]) {
        let beta = self.beta;
        match self.loss_type {
            // Marked ones are not compared in pairs; see `marked`.
            LossType::Sigmoid | LossType::Kto => {
                let (loss, derivative) = self.smoothed(beta * (chosen.log_ratio() - rejected.log_ratio()));
                (loss, [beta * derivative, -beta * derivative])
            }
            LossType::Hinge => {
                let margin = 1.0 - beta * (chosen.log_ratio() - rejected.log_ratio());
                let derivative = if margin > 0.0 { beta } else { 0.0 };
                (margin.max(0.0), [-derivative, derivative])
            }
            LossType::Ipo => {
                let ratio = |of: &Completion| of.per_token(of.log_ratio());
                let off = ratio(chosen) - ratio(rejected) - 0.5 / beta;
                (off * off, [chosen.per_token(2.0 * off), rejected.per_token(-2.0 * off)])
            }
            LossType::Simpo => {
                let ahead = beta * (chosen.mean_logp() - rejected.mean_logp()) - self.simpo_gamma;
                let (loss, derivative) = self.smoothed(ahead);
                (loss, [chosen.per_token(beta * derivative), rejected.per_token(-beta * derivative)])
            }
            LossType::Orpo => {
                let [c, r] = [chosen, rejected].map(|of| of.mean_logp().min(LARGEST_MEAN));
                let odds = (c - r) - (log1mexp(c) - log1mexp(r));
                let lost = beta * sigmoid(-odds);
                let derivatives = [-1.0 - lost / -c.exp_m1(), lost / -r.exp_m1()];
                let loss = beta * softplus(-odds) - chosen.mean_logp();
                (loss, [chosen.per_token(derivatives[0]), rejected.per_token(derivatives[1])])
            }
        }
    }

    /// ℓ of a marked completion, and its derivative by P.
    fn marked(&self, of: &Completion, kl: f64) -> (f64, f64) {
        let sign = if of.side == Side::Chosen { 1.0 } else { -1.0 };
        let z = sign * self.beta * (of.log_ratio() - kl);
        (sigmoid(-z), -sign * self.beta * sigmoid(z) * sigmoid(-z))
    }

    /// −(1−ε)·ln σ(z) − ε·ln σ(−z), and its derivative.
    fn smoothed(&self, z: f64) -> (f64, f64) {
        let eps = self.label_smoothing;
        let loss = (1.0 - eps) * softplus(-z) + if eps > 0.0 { eps * softplus(z) } else { 0.0 };
        (loss, eps * sigmoid(z) - (1.0 - eps) * sigmoid(-z))
    }
}

/// The largest mean log-probability of orpo: logits in single precision do not tell a larger one from 0, where the
/// odds are infinite.
const LARGEST_MEAN: f64 = -1.0 / (1u64 << 24) as f64;

/// ln(1 + e^z).
fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 { 1.0 / (1.0 + (-z).exp()) } else { z.exp() / (1.0 + z.exp()) }
}

/// ln(1 − e^m), m < 0 (Mächler 2012, "Accurately computing log(1 − exp(−|a|))").
fn log1mexp(m: f64) -> f64 {
    if m > -std::f64::consts::LN_2 { (-m.exp_m1()).ln() } else { (-m.exp()).ln_1p() }
}

#[cfg(test)]
mod tests;
