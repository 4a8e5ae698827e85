use super::*;

const NONE: Totals = Totals { examples: 1, chosen_tokens: 1 };

fn completion(side: Side, tokens: usize, logp: f64, reference: f64) -> Completion {
    Completion { side, tokens, logp, reference }
}

fn pair(logps: [f64; 2], references: [f64; 2], tokens: [usize; 2]) -> [Completion; 2] {
    [
        completion(Side::Chosen, tokens[0], logps[0], references[0]),
        completion(Side::Rejected, tokens[1], logps[1], references[1]),
    ]
}

fn loss(preference: &Preference, of: &[Completion]) -> f64 {
    preference.score(of, NONE, 0.0, &mut vec![0.0; of.len()]).loss
}

fn near(ours: f64, expected: f64) {
    assert!((ours - expected).abs() <= 1e-13 * expected.abs().max(1.0), "{ours} {expected}");
}

#[test]
fn losses_are_those_of_the_formulas() {
    let new = Preference::new;
    // Δ = (−5 + 7) − (−8 + 6) = 4, 0.1·4 = 0.4.
    let of = pair([-5.0, -8.0], [-7.0, -6.0], [4, 2]);
    near(loss(&new(LossType::Sigmoid), &of), -(1.0 / (1.0 + (-0.4f64).exp())).ln());
    near(loss(&new(LossType::Hinge), &of), 0.6);
    // 2/4 + 2/2 − 5 = −3.5.
    near(loss(&new(LossType::Ipo), &of), 12.25);
    // 2·(−5/4 + 8/2) − 0.5 = 5.
    near(loss(&new(LossType::Simpo), &of), -(1.0 / (1.0 + (-5.0f64).exp())).ln());
    // p = e^{−1.25} and e^{−4}: odds of each are p/(1 − p).
    let odds = |m: f64| m.exp() / (1.0 - m.exp());
    let ratio = odds(-1.25) / odds(-4.0);
    near(loss(&new(LossType::Orpo), &of), 1.25 - 0.1 * (ratio / (1.0 + ratio)).ln());

    let smoothed = Preference { label_smoothing: 0.25, ..new(LossType::Sigmoid) };
    let sigma = 1.0 / (1.0 + (-0.4f64).exp());
    near(loss(&smoothed, &of), -0.75 * sigma.ln() - 0.25 * (1.0 - sigma).ln());
    // 3 pairs with 10 chosen tokens in the step: + 0.5·3/10·5 in the sum.
    let rpo = Preference { rpo_alpha: 0.5, ..new(LossType::Hinge) };
    let totals = Totals { examples: 3, chosen_tokens: 10 };
    near(rpo.score(&of, totals, 0.0, &mut [0.0; 2]).loss, 0.6 + 0.75);

    // ρ = 2 with κ = 0.5 : 1 − σ(0.15); ρ = −2 : 1 − σ(0.25).
    let mut derivatives = [0.0; 2];
    let score = new(LossType::Kto).score(&of, Totals { examples: 2, ..NONE }, 0.5, &mut derivatives);
    let sigma = |z: f64| 1.0 / (1.0 + (-z).exp());
    near(score.loss, 2.0 - sigma(0.15) - sigma(0.25));
    assert_eq!(score.examples, 2);
}

#[test]
fn slopes_equal_central_differences() {
    let mut cases = Vec::new();
    for loss_type in LossType::ALL {
        let plain = Preference::new(loss_type);
        cases.push(plain);
        cases.push(Preference { beta: 0.7, simpo_gamma: 1.5, ..plain });
        if loss_type.smooths() {
            cases.push(Preference { label_smoothing: 0.1, beta: 0.4, ..plain });
        }
        if loss_type.takes_rpo_alpha() {
            cases.push(Preference { rpo_alpha: 0.8, ..plain });
        }
    }
    let pairs = [
        pair([-5.0, -8.0], [-7.0, -6.0], [4, 2]),
        pair([-21.5, -3.25], [-20.0, -4.0], [17, 1]),
        pair([-0.3, -0.1], [-0.2, -0.4], [3, 5]),
    ];
    let of: Vec<Completion> = pairs.concat();
    for preference in cases {
        let examples = of.len() / preference.loss_type.completions();
        let totals = Totals { examples, chosen_tokens: 24 };
        let mean =
            |of: &[Completion]| preference.score(of, totals, 0.3, &mut vec![0.0; of.len()]).mean_loss();
        let mut derivatives = vec![0.0; of.len()];
        preference.score(&of, totals, 0.3, &mut derivatives);
        for (i, derivative) in derivatives.iter().enumerate() {
            let at = |by: f64| {
                let mut of = of.clone();
                of[i].logp += by;
                mean(&of)
            };
            // Fourth order: near certain completions orpo bends too much for the second.
            let difference = (8.0 * (at(1e-4) - at(-1e-4)) - (at(2e-4) - at(-2e-4))) / 12e-4;
            assert!((derivative - difference).abs() <= 1e-8, "{preference:?} {i}: {derivative} {difference}");
        }
    }
}

/// Far apart, and where a completion is certain: every number is finite, and has the right limit.
#[test]
fn extremes_are_finite() {
    for loss_type in LossType::ALL {
        let preference = Preference {
            label_smoothing: if loss_type.smooths() { 0.1 } else { 0.0 },
            ..Preference::new(loss_type)
        };
        for logps in [[-1e4, 0.0], [0.0, -1e4], [0.0, 0.0], [-1e4, -1e4], [-1e-300, -1e-9], [1e-9, -1e-7]] {
            let mut derivatives = [0.0; 2];
            let score = preference.score(&pair(logps, [0.0; 2], [1, 1]), NONE, 1e4, &mut derivatives);
            let numbers = [score.loss, derivatives[0], derivatives[1]];
            assert!(numbers.iter().all(|x| x.is_finite()), "{loss_type:?} {logps:?}: {numbers:?}");
        }
    }
    let dpo = Preference { beta: 1.0, ..Preference::new(LossType::Sigmoid) };
    assert_eq!(loss(&dpo, &pair([-1e4, 0.0], [0.0; 2], [9, 9])), 1e4);
    assert_eq!(loss(&dpo, &pair([0.0, -1e4], [0.0; 2], [9, 9])), 0.0);
    // Far in the tail the loss is e^{−βΔ}, to full relative precision.
    let tail = loss(&dpo, &pair([0.0, -300.0], [0.0; 2], [9, 9]));
    assert!((tail / (-300.0f64).exp() - 1.0).abs() < 1e-12, "{tail:e}");
}

#[test]
fn log1mexp_is_exact_at_both_ends() {
    // ln(1 − e^m) → ln(−m) for small m, → −e^m for large.
    assert!((log1mexp(-1e-12) - (1e-12f64.ln() - 0.5e-12)).abs() < 1e-14);
    assert!((log1mexp(-50.0) / -(-50.0f64).exp() - 1.0).abs() < 1e-15);
    near(log1mexp(-1.0), (1.0 - (-1.0f64).exp()).ln());
}

#[test]
fn a_step_in_parts_is_the_step() {
    let preference = Preference { rpo_alpha: 0.3, ..Preference::new(LossType::Sigmoid) };
    let (a, b) = (pair([-5.0, -8.0], [-7.0, -6.0], [4, 2]), pair([-2.0, -1.0], [-3.0, -1.5], [3, 1]));
    let totals = Totals { examples: 2, chosen_tokens: 7 };
    let mut whole = [0.0; 4];
    let score = preference.score(&[a, b].concat(), totals, 0.0, &mut whole);
    let mut parts = [0.0; 4];
    let mut sum = preference.score(&a, totals, 0.0, &mut parts[..2]);
    sum.add(&preference.score(&b, totals, 0.0, &mut parts[2..]));
    assert_eq!((sum, parts), (score, whole));
    let metrics = score.metrics();
    // ρ = 2, −2 and 1, 0.5.
    near(metrics.rewards_chosen.unwrap_or(0.0), 0.15);
    near(metrics.rewards_rejected.unwrap_or(0.0), -0.075);
    near(metrics.rewards_margins.unwrap_or(0.0), 0.225);
    assert_eq!(metrics.rewards_accuracies, Some(1.0));
    assert_eq!(metrics.logps_chosen, Some(-3.5));
    let json = serde_json::to_value(metrics).unwrap_or_default();
    assert_eq!(json["rewards/accuracies"], 1.0);
}
