//! Ten steps of training against PyTorch's.

use mesp::optim::OptimizerKind;
use mesp::train::Options;
use mesp_device::Real;
use serde_json::Value;

use crate::support::{ARCHS, Case, mean_loss, mesp_policy};

fn number(v: &Value) -> f64 {
    v.as_f64().expect("a number")
}

/// Largest relative difference of the losses and of the norms from PyTorch's f64 run.
fn run<R: Real>(case: &Case, golden: &Value) -> (f64, f64) {
    let optimizer = match golden["optimizer"].as_str() {
        Some("sgd") => OptimizerKind::sgd(number(&golden["momentum"])),
        Some("adamw") => {
            let [beta1, beta2, eps] = ["beta1", "beta2", "epsilon"].map(|k| number(&golden[k]));
            OptimizerKind::adamw(beta1, beta2, eps)
        }
        other => panic!("optimizer {other:?}"),
    };
    let weight_decay = number(&golden["weight_decay"]);
    let options = Options { optimizer, weight_decay, ..case.options(mesp_policy()) };
    let mut session = case.session::<R>(options, 2);
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    let expected_losses = golden["losses"].as_array().expect("losses");
    let expected_norms = golden["grad_norms"].as_array().expect("norms");
    assert_eq!((expected_losses.len(), expected_norms.len()), (10, 10));
    for _ in 0..10 {
        let outcome = session.accumulate(&case.batch, case.batch.targets());
        losses.push(outcome.nats / outcome.targets as f64);
        let norm = session.grad_norm();
        norms.push(norm);
        let clip = golden["max_grad_norm"].as_f64().map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        session.apply(number(&golden["learning_rate"]), clip);
    }
    losses.push(mean_loss(&mut session, &case.batch));
    assert_eq!(session.steps(), 10);
    let worst = |ours: &[f64], expected: &mut dyn Iterator<Item = &Value>| {
        ours.iter().zip(expected).map(|(x, e)| (x - number(e)).abs() / number(e)).fold(0.0, f64::max)
    };
    (
        worst(&losses, &mut expected_losses.iter().chain([&golden["loss_after"]])),
        worst(&norms, &mut expected_norms.iter()),
    )
}

/// `tolerance` is relative, of the losses of a run.
fn check<R: Real>(tolerance: impl Fn(&Value) -> f64) {
    for arch in ARCHS {
        let case = Case::load(arch);
        let text = std::fs::read_to_string(case.dir.join("losses.json")).expect("losses.json");
        let golden: Value = serde_json::from_str(&text).expect("losses.json");
        for name in ["sgd", "adamw", "sgd_clip"] {
            let golden = &golden["ten_losses"][name];
            let (losses, norms) = run::<R>(&case, golden);
            let allowed = tolerance(golden);
            assert!(losses <= allowed, "{arch} {name}: losses {losses:e}, allowed {allowed:e}");
            // The loss changes by the norm times how far the parameters strayed, the norm by the curvature
            // times it: in these small steep models up to 23 times as much, relative to each, was seen.
            assert!(norms <= 50.0 * allowed, "{arch} {name}: norms {norms:e}, allowed {:e}", 50.0 * allowed);
        }
    }
}

/// The reference is double precision throughout. The engine rotates by angles, sines and cosines in single
/// precision, whatever else it computes in, as the models were trained: 6e-8 each, and ten steep steps of
/// plain SGD make up to 1e-6 of it. (With the exact rotation of `qwen2` all three runs agree to 1e-14.)
#[test]
fn ten_losses_f64() {
    check::<f64>(
        |golden| if golden["optimizer"] == "sgd" && golden["max_grad_norm"].is_null() { 2e-6 } else { 2e-7 },
    );
}

/// Every step multiplies the roundings of those before it, so how far a run in single precision strays is a
/// property of the run. PyTorch's own strays as far as the golden says; ours, with other roundings of the
/// same size, by at most 2.4 times that when this was written.
#[test]
fn ten_losses_f32() {
    check::<f32>(|golden| {
        let smallest =
            golden["losses"].as_array().expect("losses").iter().map(number).fold(f64::MAX, f64::min);
        6.0 * number(&golden["f32_largest_difference"]) / smallest.min(number(&golden["loss_after"]))
    });
}
