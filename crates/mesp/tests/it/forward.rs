//! Derivatives from tangents: exact, on every family, for parts of a model, within their plan.

use mesp::method::{Blocks, Directional, Estimator};
use mesp::train::{Options, Shapes, plan};
use mesp_device::{Distribution, Elem, Real};

use crate::support::{
    ARCHS, Case, gradients, mesp_policy, parameters, random_batch, randomize_adapters, session_for, shapes,
};

fn options(case: &Case, along: Directional) -> Options {
    Options { estimator: Estimator::Directional(along), ..case.options(mesp_policy()) }
}

/// z of the adapters that move, 0 for the others, and the derivative along it.
fn derivative<R: Real>(case: &Case, along: Directional, step: u64) -> (Vec<Vec<f64>>, f64) {
    let mut session = case.session::<R>(options(case, along), 2);
    let targets = case.batch.targets();
    // Row by row: derivatives of micro-batches add up.
    let derivative =
        case.rows.iter().map(|row| session.derivative(row, targets, along.direction(5, step, 0)).1).sum();
    let all = Directional { blocks: Blocks::ALL, ..along };
    session.perturb_in_place(0.0, 1.0, all.direction(5, step, 0));
    let mut z = parameters(&session);
    let per_block = z.len() / case.model.blocks.len();
    for (i, z) in z.iter_mut().enumerate() {
        if !along.blocks.has(i / per_block) {
            z.fill(0.0);
        }
    }
    (z, derivative)
}

fn exact(case: &Case) -> Vec<Vec<f64>> {
    let mut session = case.session::<f64>(case.options(mesp_policy()), 2);
    session.accumulate(&case.batch, case.batch.targets());
    gradients(&session)
}

fn dot(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| a * b).sum()
}

const PARTS: [Blocks; 3] = [Blocks::ALL, Blocks { first: 0, last: 0 }, Blocks { first: 1, last: 1 }];

/// ⟨∇L, z⟩, which is distributed as ‖∇L‖ times a standard normal: errors are relative to ‖∇L‖.
#[test]
fn derivatives_are_the_exact_directional_derivative() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let gradient = exact(&case);
        let norm = dot(&gradient, &gradient).sqrt();
        for (step, blocks) in (1..).zip(PARTS) {
            let along = Directional { blocks, ..Directional::FORWARD };
            let (z, found) = derivative::<f64>(&case, along, step);
            let expected = dot(&gradient, &z);
            assert!((found - expected).abs() < 1e-10 * norm, "{arch} {blocks}: {found} {expected}");
            let (z, found) = derivative::<f32>(&case, along, step);
            let expected = dot(&gradient, &z);
            assert!((found - expected).abs() < 1e-5 * norm, "{arch} {blocks}: {found} {expected}");
        }
    }
}

/// Adapters in bf16 move along z in full; the derivative is that at the stored values.
#[test]
fn adapters_in_bf16_have_slopes_too() {
    let case = Case::load("qwen3");
    let options = |o: Options| Options { adapter_type: Elem::Bf16, gradients: true, ..o };
    let mut session = case.session::<f32>(options(options_of(&case)), 2);
    let targets = case.batch.targets();
    let direction = Directional::FORWARD.direction(5, 1, 0);
    let found = session.derivative(&case.batch, targets, direction).1;
    let mut exact = case.session::<f32>(options(case.options(mesp_policy())), 2);
    exact.accumulate(&case.batch, targets);
    let gradient = gradients(&exact);
    let mut wide = case.session::<f64>(options_of(&case), 2);
    wide.perturb_in_place(0.0, 1.0, direction);
    let expected = dot(&gradient, &parameters(&wide));
    let norm = dot(&gradient, &gradient).sqrt();
    assert!((found - expected).abs() < 1e-5 * norm, "{found} {expected}");
}

fn options_of(case: &Case) -> Options {
    options(case, Directional::FORWARD)
}

/// E[g·z] is the gradient, and E‖ĝ‖² is (d + n + 1)/n of the gradient's square for n gaussian directions.
#[test]
fn estimates_are_unbiased_with_the_known_variance() {
    let case = Case::load("llama");
    let gradient = exact(&case);
    let square = dot(&gradient, &gradient);
    let d = gradient.iter().map(Vec::len).sum::<usize>() as f64;
    for (n, distribution) in
        [(1, Distribution::Gaussian), (3, Distribution::Gaussian), (1, Distribution::Rademacher)]
    {
        let along = Directional { directions: n, distribution, ..Directional::FORWARD };
        let opts = Options { gradients: true, ..options(&case, along) };
        let mut session = case.session::<f64>(opts, 2);
        let steps = 300;
        let (mut component, mut length) = (0.0, 0.0);
        for step in 1..=steps {
            session.gradient((5, step), case.batch.targets(), &mut |each| each(&case.batch));
            let estimate = gradients(&session);
            component += dot(&gradient, &estimate) / square / steps as f64;
            length += dot(&estimate, &estimate) / square / steps as f64;
        }
        let error = 4.0 * (2.0 / (n as f64 * steps as f64)).sqrt();
        assert!((component - 1.0).abs() < error, "{n} {distribution:?}: {component}");
        let n = n as f64;
        let expected = if distribution == Distribution::Gaussian { (d + n + 1.0) / n } else { d };
        assert!((length / expected - 1.0).abs() < error, "{n} {distribution:?}: {length} of {expected}");
    }
}

/// What is planned is used, and no bit depends on threads.
#[test]
fn the_peak_is_planned_and_threads_agree() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let vocab = case.model.config.vocab_size;
        let large = random_batch(&[60, 1, 130], vocab, 1);
        for blocks in PARTS {
            let along = Directional { blocks, ..Directional::FORWARD };
            let results = [1, 3].map(|threads| {
                let shapes = Shapes { eval: None, ..shapes(&large) };
                let mut session = session_for::<f32>(&case.model, options(&case, along), &shapes, threads);
                randomize_adapters(&mut session);
                let mut step = |lengths: &[usize], seed| {
                    let batch = random_batch(lengths, vocab, seed);
                    let (outcome, derivative) =
                        session.derivative(&batch, batch.targets(), along.direction(1, 2, 3));
                    assert!(outcome.nats.is_finite() && derivative.is_finite(), "{arch} {blocks}");
                    let (reached, planned) =
                        (session.backend().reached_bytes(), session.backend().plan().bytes());
                    assert!(reached <= planned, "{arch} {blocks}: {reached} of {planned}");
                    (reached == planned, outcome.nats.to_bits(), derivative.to_bits())
                };
                step(&[1, 40], 2);
                step(&[2; 6], 2);
                step(&[60, 1, 130], 1)
            });
            assert!(results[0].0 && results[0] == results[1], "{arch} {blocks} {results:?}");
        }
    }
}

/// At most twice what MeZO needs within a pass, and the head's gradient: buffers and their tangents, and a block's z
/// in place of its moved copy. With one block's tangents alone no more than with all.
#[test]
fn memory_is_twice_inference() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let batch = random_batch(&[200], case.model.config.vocab_size, 1);
        let shapes = Shapes { train: Some(batch.clone()), eval: None };
        let bytes = |along| {
            let plan = plan(&case.model, &options(&case, along), &shapes, 4, 2).expect("a plan");
            (plan.persistent_bytes() + plan.scratch_bytes, plan.bytes())
        };
        let (fixed, mezo) = bytes(Directional::MEZO);
        let (same, forward) = bytes(Directional::FORWARD);
        assert_eq!(fixed, same, "nothing is kept between steps");
        // The head's sums of words, and a tangent for each.
        let head = 2 * 4 * batch.targets() * case.model.config.hidden_size;
        assert!(
            forward - fixed <= 2 * (mezo - fixed) + head,
            "{arch}: {forward}, MeZO {mezo}, fixed {fixed}"
        );
        for blocks in PARTS {
            assert!(bytes(Directional { blocks, ..Directional::FORWARD }).1 <= forward, "{arch} {blocks}");
        }
    }
}
