use proptest::prelude::*;

use super::*;

const WARM: Sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };

/// Probabilities 0.4, 0.3, 0.2, 0.1, not in this order.
fn logits() -> [f32; 4] {
    [0.1f32, 0.4, 0.2, 0.3].map(f32::ln)
}

fn tokens(sampling: Sampling) -> Vec<u32> {
    distribution(sampling, &logits()).into_iter().map(|(token, _)| token).collect()
}

fn near(found: &[(u32, f64)], expected: &[(u32, f64)]) {
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((token, p), (expected_token, q)) in found.iter().zip(expected) {
        // Logits are stored in single precision.
        assert!(token == expected_token && (p - q).abs() < 1e-6, "{found:?}, expected {expected:?}");
    }
}

#[test]
fn filters_by_hand() {
    near(&distribution(WARM, &logits()), &[(1, 0.4), (3, 0.3), (2, 0.2), (0, 0.1)]);
    // Halving the temperature squares the probabilities: 16, 9, 4, 1 of 30.
    let cold = Sampling { temperature: 0.5, ..WARM };
    near(
        &distribution(cold, &logits()),
        &[(1, 16.0 / 30.0), (3, 9.0 / 30.0), (2, 4.0 / 30.0), (0, 1.0 / 30.0)],
    );
    near(&distribution(Sampling { top_k: 2, ..WARM }, &logits()), &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)]);
    // The token that reaches the share belongs to it.
    assert_eq!(tokens(Sampling { top_p: 0.39, ..WARM }), [1]);
    assert_eq!(tokens(Sampling { top_p: 0.41, ..WARM }), [1, 3]);
    assert_eq!(tokens(Sampling { top_p: 0.71, ..WARM }), [1, 3, 2]);
    // Of the likeliest's 0.4: 0.3 is 0.75 of it, 0.2 a half, 0.1 a quarter.
    assert_eq!(tokens(Sampling { min_p: 0.49, ..WARM }), [1, 3, 2]);
    assert_eq!(tokens(Sampling { min_p: 0.51, ..WARM }), [1, 3]);
    assert_eq!(tokens(Sampling { min_p: 1.0, ..WARM }), [1]);
}

#[test]
fn the_order_of_filters_by_hand() {
    // Top-p is of what top-k left: of 4/7 and 3/7 the first is above 0.5, while of all it is 0.4.
    assert_eq!(tokens(Sampling { top_k: 2, top_p: 0.5, ..WARM }), [1]);
    assert_eq!(tokens(Sampling { top_p: 0.5, ..WARM }), [1, 3]);
    // The temperature comes before top-p: at 0.5 the likeliest has 16/30.
    assert_eq!(tokens(Sampling { temperature: 0.5, top_p: 0.5, ..WARM }), [1]);
    // And before min-p: at 0.5 the second has 9/16 = 0.5625 of the likeliest's.
    assert_eq!(tokens(Sampling { temperature: 0.5, min_p: 0.6, ..WARM }), [1]);
    assert_eq!(tokens(Sampling { temperature: 0.5, min_p: 0.56, ..WARM }), [1, 3]);
}

#[test]
fn penalties_by_hand() {
    let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
    let mut sampler = Sampler::new(sampling);
    sampler.restart(&[0, 2, 2]);
    let mut z = [3.0f32, 1.0, -0.5, 1.25];
    // Token 0 falls to 1.5, token 2, once although it occurred twice, to -1.
    assert_eq!(sampler.choose(&mut z), Some(0));
    assert_eq!(z, [1.5, 1.0, -1.0, 1.25]);
    // With a window of 2, the token 0 that was just chosen and one token 2 count.
    let mut sampler = Sampler::new(Sampling { repetition_window: 2, ..sampling });
    sampler.restart(&[0, 3, 2]);
    let mut z = [2.0f32, 1.0, 3.0, 1.5];
    assert_eq!(sampler.choose(&mut z), Some(0));
    assert_eq!(z, [2.0, 1.0, 1.5, 0.75], "0 is out of the window");
    let mut z = [2.0f32, 1.0, 3.0, 1.75];
    assert_eq!(sampler.choose(&mut z), Some(3));
    assert_eq!(z, [1.0, 1.0, 1.5, 1.75], "3 is out of the window now");
    // 1 changes nothing, and nothing is remembered for it.
    let mut sampler = Sampler::new(Sampling::GREEDY);
    sampler.restart(&[1]);
    let mut z = [0.0f32, 1.0];
    assert_eq!((sampler.choose(&mut z), z), (Some(1), [0.0, 1.0]));
}

#[test]
fn equals_and_numbers_that_are_none() {
    let greedy = |z: &[f32]| Sampler::new(Sampling::GREEDY).choose(&mut z.to_vec());
    assert_eq!(greedy(&[1.0, 2.0, 2.0]), Some(1), "the lowest of equals");
    assert_eq!(greedy(&[f32::NEG_INFINITY, -1.0]), Some(1));
    assert_eq!(greedy(&[0.0, f32::NAN]), None);
    let warm = |z: &[f32]| Sampler::new(WARM).choose(&mut z.to_vec());
    assert_eq!(warm(&[0.0, f32::NAN]), None);
    assert_eq!(warm(&[0.0, f32::INFINITY]), None);
    assert_eq!(warm(&[f32::NEG_INFINITY; 2]), None);
    assert_eq!(warm(&[f32::NEG_INFINITY, 0.0]), Some(1), "what is impossible is never drawn");
    let equal = distribution(Sampling { top_k: 2, ..WARM }, &[1.0; 5]);
    near(&equal, &[(0, 0.5), (1, 0.5)]);
}

#[test]
fn draws_have_their_shares() {
    let n = 40_000;
    let mut counts = [0; 4];
    let mut sampler = Sampler::new(Sampling { seed: 11, ..WARM });
    for _ in 0..n {
        counts[sampler.choose(&mut logits()).expect("a token") as usize] += 1;
    }
    for (count, p) in counts.into_iter().zip([0.1, 0.4, 0.2, 0.3]) {
        // Five standard errors.
        let most = 5.0 * (p * (1.0 - p) / f64::from(n)).sqrt();
        assert!((f64::from(count) / f64::from(n) - p).abs() < most, "{counts:?}");
    }
    let run = |seed| {
        let mut sampler = Sampler::new(Sampling { seed, ..WARM });
        (0..50).map(|_| sampler.choose(&mut logits())).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn options_that_mean_nothing() {
    let refused = |sampling: Sampling, name: &str| {
        let error = sampling.check().expect_err(name).to_string();
        assert!(error.starts_with(name), "{error}");
    };
    assert!(WARM.check().is_ok() && Sampling::GREEDY.check().is_ok());
    refused(Sampling { temperature: -1.0, ..WARM }, "‘temperature’ is -1, expected 0 or more");
    refused(Sampling { temperature: f64::NAN, ..WARM }, "‘temperature’");
    refused(Sampling { top_p: 0.0, ..WARM }, "‘top_p’");
    refused(Sampling { top_p: 1.1, ..WARM }, "‘top_p’");
    refused(Sampling { min_p: -0.1, ..WARM }, "‘min_p’");
    refused(Sampling { repetition_penalty: 0.0, ..WARM }, "‘repetition_penalty’");
}

/// `golden/sampling.py`: every combination, through the processors that transformers' `generate` builds itself.
#[test]
fn filters_are_those_of_transformers() {
    #[derive(serde::Deserialize)]
    struct Golden {
        logits: Vec<f32>,
        seen: Vec<u32>,
        cases: Vec<Case>,
    }
    #[derive(serde::Deserialize)]
    struct Case {
        temperature: f64,
        top_k: usize,
        top_p: f64,
        min_p: f64,
        repetition_penalty: f64,
        kept: Vec<(u32, f64)>,
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/sampling.json");
    let golden = std::fs::read_to_string(path).expect("the golden");
    let golden: Golden = serde_json::from_str(&golden).expect("a golden");
    assert_eq!(golden.cases.len(), 48);
    for case in golden.cases {
        let Case { temperature, top_k, top_p, min_p, repetition_penalty, kept } = case;
        let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, ..WARM };
        let mut sampler = Sampler::new(sampling);
        sampler.restart(&golden.seen);
        let mut logits = golden.logits.clone();
        sampler.penalize(&mut logits);
        let mut found = distribution(sampling, &logits);
        found.sort_unstable_by_key(|(token, _)| *token);
        // Both round logits to single precision, of size 10, here and there.
        near(&found, &kept);
    }
}

/// The definition, with a sort of everything and no thrift.
fn plainly(s: Sampling, logits: &[f32]) -> Vec<(u32, f64)> {
    let mut all: Vec<(u32, f64)> =
        (0u32..).zip(logits.iter().map(|z| f64::from(*z) / s.temperature)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if s.top_k > 0 {
        all.truncate(s.top_k);
    }
    let normalize = |list: &mut Vec<(u32, f64)>| {
        let total: f64 = list.iter().map(|x| x.1).sum();
        for x in list.iter_mut() {
            x.1 /= total;
        }
    };
    let top = all[0].1;
    for x in &mut all {
        x.1 = (x.1 - top).exp();
    }
    normalize(&mut all);
    if s.top_p < 1.0 {
        let mut before = 0.0;
        all.retain(|x| {
            let keep = before < s.top_p;
            before += x.1;
            keep
        });
    }
    let least = s.min_p * all[0].1;
    all.retain(|x| x.1 >= least);
    normalize(&mut all);
    all
}

fn any_sampling() -> impl Strategy<Value = Sampling> {
    (0.1f64..3.0, 0usize..40, 0.05f64..=1.0, 0.0f64..=1.0).prop_map(|(temperature, top_k, top_p, min_p)| {
        // Each filter is off half of the time.
        let off = |x: f64, at: f64, none: f64| if x > at { none } else { x };
        Sampling {
            temperature,
            top_k: top_k / 2,
            top_p: off(top_p, 0.6, 1.0),
            min_p: off(min_p, 0.5, 0.0),
            ..WARM
        }
    })
}

proptest! {
    #[test]
    fn filters_are_their_definition(sampling in any_sampling(), z in proptest::collection::vec(-6.0f32..6.0, 1..400)) {
        let (found, expected) = (distribution(sampling, &z), plainly(sampling, &z));
        // A sum in another order may move a token that lies on the border; these numbers have none.
        prop_assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(&expected) {
            prop_assert!(f.0 == e.0 && (f.1 - e.1).abs() < 1e-9, "{:?} {:?}", f, e);
        }
    }

    #[test]
    fn probabilities_are_a_distribution_in_order(
        sampling in any_sampling(),
        z in proptest::collection::vec(-30.0f32..30.0, 1..300),
    ) {
        let found = distribution(sampling, &z);
        prop_assert!(!found.is_empty());
        prop_assert!((found.iter().map(|x| x.1).sum::<f64>() - 1.0).abs() < 1e-9);
        prop_assert!(found.windows(2).all(|w| w[0].1 >= w[1].1));
        prop_assert_eq!(Some(found[0].0), likeliest(&z));
        if sampling.top_k > 0 {
            prop_assert!(found.len() <= sampling.top_k);
        }
    }

    #[test]
    fn what_is_drawn_may_be_drawn(
        sampling in any_sampling(),
        z in proptest::collection::vec(-6.0f32..6.0, 1..300),
        seed: u64,
    ) {
        let allowed: Vec<u32> = distribution(sampling, &z).into_iter().map(|x| x.0).collect();
        let mut sampler = Sampler::new(Sampling { seed, ..sampling });
        for _ in 0..8 {
            let token = sampler.choose(&mut z.clone()).expect("a token");
            prop_assert!(allowed.contains(&token));
        }
    }

    #[test]
    fn shifting_all_logits_changes_nothing(
        sampling in any_sampling(),
        z in proptest::collection::vec(-100i16..100, 1..100),
    ) {
        // Quarters, so that both are exact.
        let at = |shift: f32| z.iter().map(|z| f32::from(*z) / 4.0 + shift).collect::<Vec<_>>();
        prop_assert_eq!(distribution(sampling, &at(0.0)), distribution(sampling, &at(64.0)));
    }
}
