//! Adapters and their gradients as one column each, laid out alike: what federated rounds send and average.

use mesp::adapter::{matrices, params};
use mesp::gradient::starts;
use mesp::optim::Trained;
use mesp::train::Options;
use mesp_device::{Backend, Cpu, Elem};

use crate::support::{
    ARCHS, Case, bits, mesp_policy, parameters, randomize_adapters, session_for, view_values,
};

/// The settings whose values lie together differently: all, B alone, magnitudes beside them.
fn settings(case: &Case) -> Vec<(&'static str, Options)> {
    let plain = case.options(mesp_policy());
    let fixed = Trained { freeze_a: true, ..Trained::ALIKE };
    let mut dora = plain.clone();
    dora.adapter.dora = true;
    vec![
        ("LoRA", plain.clone()),
        ("LoRA-FA", Options { trained: fixed, ..plain }),
        ("DoRA", dora.clone()),
        ("DoRA with a frozen A", Options { trained: fixed, ..dora }),
    ]
}

#[test]
fn values_and_gradients_lie_alike() {
    for arch in ARCHS {
        let case = Case::load(arch);
        for (name, options) in settings(&case) {
            let trained = options.trained;
            let mut session = session_for::<f32>(&case.model, options, &case.shapes(), 1);
            randomize_adapters(&mut session);
            session.accumulate(&case.batch, case.batch.targets());
            let be = session.backend();
            let values = view_values(be, session.flat().expect("one column"));
            let gradients = view_values(be, session.grads().flat().expect("one column"));
            assert_eq!(values.len(), gradients.len(), "{arch} {name}");
            let list = params(session.params());
            let here: Vec<_> =
                list.iter().zip(matrices(session.params())).filter(|(param, _)| trained.has(param)).collect();
            let mut between = gradients.clone();
            for (start, (param, act)) in starts(here.iter().map(|(param, _)| *param)).zip(&here) {
                let range = start..start + act.rows() * act.cols();
                assert_eq!(
                    values[range.clone()],
                    view_values(be, act.view()),
                    "{arch} {name} {}",
                    param.name()
                );
                let gradient = session.grads().get(param.place, param.tensor).expect("a gradient");
                assert_eq!(
                    gradients[range.clone()],
                    view_values(be, gradient),
                    "{arch} {name} {}",
                    param.name()
                );
                between[range].fill(0.0);
            }
            assert!(between.iter().all(|x| *x == 0.0), "{arch} {name}: zeros between the gradients");
        }
    }
}

/// A step of SGD by hand on the columns is the optimizer's, and the mean of two adapters is a mean of columns.
#[test]
fn columns_are_stepped_and_averaged() {
    const RATE: f64 = 0.125;
    for arch in ["qwen2", "phi3"] {
        let case = Case::load(arch);
        for (name, options) in settings(&case) {
            let run = || {
                let mut session = session_for::<f32>(&case.model, options.clone(), &case.shapes(), 1);
                randomize_adapters(&mut session);
                session.accumulate(&case.batch, case.batch.targets());
                session
            };
            let (mut ours, mut by_hand) = (run(), run());
            let before = view_values(ours.backend(), ours.flat().expect("one column"));
            let gradients = view_values(ours.backend(), ours.grads().flat().expect("one column"));
            ours.apply(RATE, 1.0);
            let (be, column) = by_hand.flat_mut();
            // The kernel's own: one rounding for p − η·g.
            let step = |i: usize| (-RATE as f32).mul_add(gradients[i] as f32, before[i] as f32);
            be.load(column.expect("one column"), &mut |i| f64::from(step(i)));
            let close = parameters(&ours)
                .concat()
                .iter()
                .zip(parameters(&by_hand).concat())
                .all(|(x, y)| (x - y).abs() <= f64::from(f32::EPSILON) * x.abs().max(1e-3));
            assert!(close, "{arch} {name}");
            assert!(bits(&parameters(&ours)) != bits(&parameters(&run())), "{arch} {name}: it moved");

            let other = view_values(ours.backend(), ours.flat().expect("one column"));
            let (be, column) = by_hand.flat_mut();
            be.load(column.expect("one column"), &mut |i| f64::midpoint(before[i], other[i]));
            let (mean, [a, b]) =
                (parameters(&by_hand).concat(), [&run(), &ours].map(|s| parameters(s).concat()));
            for ((mean, a), b) in mean.iter().zip(&a).zip(&b) {
                assert_eq!(*mean, f64::from(f64::midpoint(*a, *b) as f32), "{arch} {name}");
            }
        }
    }
}

/// In bf16 matrices are one column; with magnitudes, which are never rounded, there are two.
#[test]
fn magnitudes_lie_apart_from_matrices_in_bf16() {
    let case = Case::load("llama");
    let flat = |dora: bool| {
        let mut options = Options { adapter_type: Elem::Bf16, ..case.options(mesp_policy()) };
        options.adapter.dora = dora;
        let session = session_for::<f32>(&case.model, options, &case.shapes(), 1);
        let rows = |session: &mesp::train::Session<Cpu<f32>>| session.flat().map(|view| view.rows());
        (rows(&session), session.grads().flat().map(|view| view.rows()))
    };
    let (values, gradients) = flat(false);
    assert!(values.is_some() && values == gradients);
    assert!(matches!(flat(true), (None, Some(_))));
}
