//! Estimates from losses: what they estimate, that they leave no trace, and that their log is the run.

use std::sync::Arc;

use mesp::data::{FileRows, ReadOptions, Rows};
use mesp::method::zeroth::points;
use mesp::method::{Blocks, Derivative, Directional, Estimator};
use mesp::optim::ScheduleKind;
use mesp::train::replay;
use mesp::train::{Action, Cancel, Length, Options, Progress, Run, RunConfig, Session, Shapes, plan};
use mesp_device::{Cpu, Distribution, Real};

use crate::support::{
    ARCHS, Case, bits, eval_shapes, gradients, mean_loss, mesp_policy, parameters, randomize_adapters,
    relative, session_for,
};

fn mezo(eps: f64) -> Directional {
    Directional { derivative: Derivative::Difference { eps, one_sided: false }, ..Directional::MEZO }
}

fn options(case: &Case, along: Directional) -> Options {
    Options { estimator: Estimator::Directional(along), ..case.options(mesp_policy()) }
}

/// z of every adapter, and the session's derivative along it.
fn derivative<R: Real>(case: &Case, along: Directional, step: u64) -> (Vec<Vec<f64>>, f64) {
    let mut session = case.session::<R>(options(case, along), 2);
    let direction = along.direction(5, step, 0);
    let Derivative::Difference { eps, one_sided } = along.derivative else { panic!("a difference") };
    let ends = points(eps, one_sided);
    let [plus, minus] = ends.map(|by| session.probe(&case.batch, by, direction).nats);
    let [from, to] = ends;
    let derivative = (plus - minus) / case.batch.targets() as f64 / (from - to);
    session.perturb_in_place(0.0, 1.0, direction);
    (parameters(&session), derivative)
}

fn dot(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| a * b).sum()
}

fn exact(case: &Case) -> Vec<Vec<f64>> {
    let mut session = case.session::<f64>(case.options(mesp_policy()), 2);
    session.accumulate(&case.batch, case.batch.targets());
    gradients(&session)
}

/// The central difference is wrong by O(ε²): a tenth of ε, a hundredth of the error, down to rounding.
#[test]
fn derivatives_are_the_directional_derivative_up_to_eps_squared() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let gradient = exact(&case);
        let errors = [1e-3, 1e-4, 1e-5].map(|eps| {
            let (z, found) = derivative::<f64>(&case, mezo(eps), 1);
            ((found - dot(&gradient, &z)) / dot(&gradient, &z)).abs()
        });
        for pair in errors.windows(2) {
            assert!(pair[1] < pair[0] / 80.0 || pair[1] < 1e-8, "{arch} {errors:?}");
        }
        assert!(errors[2] < 1e-6, "{arch} {errors:?}");
        // One side only: O(ε).
        let one = Directional {
            derivative: Derivative::Difference { eps: 1e-5, one_sided: true },
            ..Directional::MEZO
        };
        let (z, found) = derivative::<f64>(&case, one, 1);
        let error = ((found - dot(&gradient, &z)) / dot(&gradient, &z)).abs();
        assert!(error > errors[2] && error < 1e-2, "{arch} {error}");
    }
}

/// In single precision the difference of two losses drowns in rounding when ε is small: the error falls with
/// ε, then rises again.
#[test]
fn single_precision_has_a_best_eps() {
    let case = Case::load("qwen2");
    let gradient = exact(&case);
    let error = |eps: f64| {
        let errors: Vec<f64> = (1..=8)
            .map(|step| {
                let (z, found) = derivative::<f32>(&case, mezo(eps), step);
                found - dot(&gradient, &z)
            })
            .collect();
        (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt()
    };
    let [large, middle, small] = [1e-1, 3e-4, 1e-6].map(error);
    assert!(middle < large / 5.0 && middle < small / 5.0, "{large} {middle} {small}");
}

/// E[ĝ] is the gradient: its component along the gradient, averaged over steps, is 1 within its standard
/// error √(2/n) for gaussian directions (variance of χ²) and less for signs; E‖ĝ‖² = (d + n + 1)/n·‖∇L‖².
#[test]
fn estimates_are_unbiased_with_the_known_variance() {
    let case = Case::load("llama");
    let gradient = exact(&case);
    let square = dot(&gradient, &gradient);
    let d = gradient.iter().map(Vec::len).sum::<usize>() as f64;
    for distribution in [Distribution::Gaussian, Distribution::Rademacher] {
        let n = 300;
        let (mut along, mut length) = (0.0, 0.0);
        for step in 1..=n {
            let (z, g) = derivative::<f64>(&case, Directional { distribution, ..mezo(1e-4) }, step);
            along += g * dot(&gradient, &z) / square / n as f64;
            length += g * g * dot(&z, &z) / square / n as f64;
        }
        let error = 4.0 * (2.0 / n as f64).sqrt();
        assert!((along - 1.0).abs() < error, "{distribution:?}: {along}");
        let expected = d + if distribution == Distribution::Gaussian { 2.0 } else { 0.0 };
        assert!((length / expected - 1.0).abs() < error, "{distribution:?}: {length} of {expected}");
    }
}

#[test]
fn probes_leave_no_trace_and_agree_for_any_threads() {
    let case = Case::load("qwen3");
    let along = Directional::MEZO;
    let answers = [1, 3].map(|threads| {
        let mut session = case.session::<f32>(options(&case, along), threads);
        let before = bits(&parameters(&session));
        let at_rest = session.probe(&case.batch, 0.0, along.direction(1, 1, 0)).nats;
        assert_eq!(at_rest / case.batch.targets() as f64, mean_loss(&mut session, &case.batch));
        let nats = session.probe(&case.batch, 0.3, along.direction(1, 1, 0)).nats;
        assert_ne!(nats, at_rest);
        assert_eq!(bits(&parameters(&session)), before);
        nats.to_bits()
    });
    assert_eq!(answers[0], answers[1]);
}

/// The estimate as a gradient: Σ derivative·z/n beside untouched adapters, in the layout of exact gradients, which the
/// same call makes where the estimator is exact.
#[test]
fn a_gradient_is_the_estimators() {
    let case = Case::load("qwen2");
    let along = Directional { directions: 3, ..Directional::MEZO };
    let targets = case.batch.targets();
    let mut session = case.session::<f64>(Options { gradients: true, ..options(&case, along) }, 2);
    let before = bits(&parameters(&session));
    // Twice: nothing of the first is left in the second.
    let losses = [0, 1].map(|_| {
        let mut rows = |each: &mut dyn FnMut(&mesp::model::Batch)| case.rows.iter().for_each(each);
        session.gradient((5, 1), targets, &mut rows).nats
    });
    assert_eq!(losses[0], losses[1]);
    assert_eq!(bits(&parameters(&session)), before);
    let found = gradients(&session);
    let probed = session.derivatives(&along, (5, 1), targets, &mut |each| each(&case.batch));
    assert!((probed.nats - losses[0]).abs() < 1e-9 * losses[0]);
    for (number, derivative) in probed.derivatives.iter().enumerate() {
        let keep = if number == 0 { 0.0 } else { 1.0 };
        session.perturb_in_place(keep, f64::from(*derivative) / 3.0, along.direction(5, 1, number));
    }
    for (found, expected) in found.iter().zip(&parameters(&session)) {
        // Derivatives are single precision, and rows by themselves sum in another order.
        assert!(relative(found, expected) < 1e-5);
    }
    let mut session = case.session::<f64>(case.options(mesp_policy()), 2);
    session.gradient((5, 1), targets, &mut |each| each(&case.batch));
    assert_eq!(bits(&gradients(&session)), bits(&exact(&case)));
}

/// At most what evaluation needs and one block's adapters.
#[test]
fn memory_is_inference_and_a_blocks_adapters() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let shapes = case.shapes();
        let bytes = |o: &Options, s: &Shapes| plan(&case.model, o, s, 4, 2).expect("a plan").bytes() as u64;
        let probing = bytes(&options(&case, Directional::MEZO), &Shapes { eval: None, ..shapes });
        let inference =
            bytes(&Options { training: false, ..case.options(mesp_policy()) }, &eval_shapes(&case.batch));
        let c = &case.model.config;
        let block = 4 * case.adapter.parameters(c) / c.layers as u64;
        // Each of the 14 matrices of a block begins at a cache line.
        assert!(probing <= inference + block + 14 * 64, "{arch}: {probing}, {inference} + {block}");
    }
}

pub(crate) fn config(dir: &std::path::Path, steps: usize) -> RunConfig {
    RunConfig {
        learning_rate: 1e-4,
        lr_schedule: ScheduleKind::parse("linear").expect("a schedule"),
        warmup_ratio: 0.1,
        batch_size: 1,
        batch_tokens: None,
        grad_accum: 2,
        length: Length::Steps(steps),
        max_grad_norm: None,
        seed: 11,
        eval_every: None,
        save_every: Some(7),
        save_total_limit: None,
        early_stopping_patience: None,
        early_stopping_min_delta: 0.0,
        load_best_at_end: false,
        on_nonfinite: Action::Stop,
        on_spike: Action::Report,
        spike_factor: 0.0,
        adapter_at_eval: false,
        settings: String::new(),
        identity: std::collections::BTreeMap::new(),
        made_with: mesp::train::MadeWith::default(),
        output: Some(dir.to_owned()),
        base_model: None,
    }
}

/// Runs `steps` steps of a run of 20, from a checkpoint after the first.
pub(crate) fn train(
    case: &Case,
    mut opts: Options,
    dir: &std::path::Path,
    resume: bool,
) -> Session<Cpu<f32>> {
    opts.weight_decay = 0.01;
    let mut session = case.session::<f32>(opts, 2);
    let config = config(dir, 20);
    let read = ReadOptions::new(case.model.config.vocab_size);
    let rows = FileRows::read(&case.dir.join("rows.jsonl"), None, &read).expect("rows").examples;
    let from = if resume {
        mesp::train::checkpoint::load(&mut session, &dir.join("checkpoints/step-7"), &config)
            .expect("a checkpoint")
    } else {
        Progress::default()
    };
    let rows = Rows::of(Arc::new(rows));
    let mut run = Run::new(session, &rows, config, from, Cancel::new()).expect("a run");
    run.run(&mut |_| {}).expect("a run");
    run.into_session()
}

/// Variants of the method.
fn variants() -> [Directional; 7] {
    [
        Directional::MEZO,
        Directional {
            derivative: Derivative::Difference { eps: 1e-2, one_sided: true },
            directions: 3,
            ..Directional::MEZO
        },
        Directional::FORWARD,
        Directional { sparsity: 0.7, ..Directional::MEZO },
        Directional { sparsity: 0.4, blocks: Blocks { first: 0, last: 0 }, ..Directional::FORWARD },
        Directional { directions: 2, blocks: Blocks { first: 1, last: 1 }, ..Directional::FORWARD },
        Directional { momentum: 0.6, distribution: Distribution::Rademacher, ..Directional::MEZO },
    ]
}

#[test]
fn a_replayed_and_a_resumed_run_are_the_run() {
    let case = Case::load("qwen2");
    for along in variants() {
        let dir = tempfile::tempdir().expect("a folder");
        let trained = bits(&parameters(&train(&case, options(&case, along), dir.path(), false)));

        let log = replay::read(&dir.path().join(replay::FILE)).expect("a log");
        assert_eq!(log.derivatives.len(), 20);
        let mut again = case.session::<f32>(options(&case, along), 3);
        log.header.apply(&mut again, &log.derivatives).expect("a replay");
        assert_eq!(bits(&parameters(&again)), trained, "{along:?}");
        // From any other start it is refused.
        let refused = log.header.apply(&mut again, &log.derivatives).expect_err("another start");
        assert!(refused.to_string().contains("digest"), "{refused}");

        let resumed = train(&case, options(&case, along), dir.path(), true);
        assert_eq!(bits(&parameters(&resumed)), trained, "{along:?}");
        let after = replay::read(&dir.path().join(replay::FILE)).expect("a log");
        assert_eq!(after.derivatives, log.derivatives);
    }
}

/// Values above their matrix's bound at the start stay for the whole run, others move; a matrix of zeros moves as a
/// whole; the derivative is that along the masked direction, and so is the estimate.
#[test]
fn sparse_directions_leave_large_values_alone() {
    let case = Case::load("llama");
    let along = Directional { sparsity: 0.75, ..Directional::FORWARD };
    let mut session = case.session::<f64>(Options { gradients: true, ..options(&case, along) }, 2);
    // B of the first adapter as in a new one.
    let zero_b = |session: &mut Session<Cpu<f64>>| {
        let (be, params, _) = session.state_mut();
        let b = mesp::adapter::matrices_mut(params).nth(1).expect("B");
        mesp_device::Backend::zero(be, b.view_mut());
    };
    zero_b(&mut session);
    let before = parameters(&session);
    session.bound(along.sparsity);
    let bounds = session.bounds().values().to_vec();
    assert_eq!(bounds.len(), before.len());
    assert_eq!(bounds[1], f32::MAX);
    let large = |m: usize, x: f64| x.abs() as f32 > bounds[m];
    for (m, values) in before.iter().enumerate().filter(|(m, _)| *m != 1) {
        let share = values.iter().filter(|x| large(m, **x)).count() as f64 / values.len() as f64;
        assert!((share - 0.75).abs() < 0.05, "{m}: {share}");
    }
    let targets = case.batch.targets();
    session.gradient((5, 1), targets, &mut |each| each(&case.batch));
    let estimate = gradients(&session);
    let derivative = session.derivative(&case.batch, targets, along.direction(5, 1, 0)).1;
    // z∘mask is the estimate over the derivative.
    let z: Vec<Vec<f64>> =
        estimate.iter().map(|e| e.iter().map(|e| e / f64::from(derivative as f32)).collect()).collect();
    for (m, (z, values)) in z.iter().zip(&before).enumerate() {
        assert!(z.iter().zip(values).all(|(z, x)| (*z == 0.0) == large(m, *x)), "{m}");
    }
    let mut exact = case.session::<f64>(case.options(mesp_policy()), 2);
    zero_b(&mut exact);
    exact.accumulate(&case.batch, targets);
    let gradient = gradients(&exact);
    let norm = dot(&gradient, &gradient).sqrt();
    assert!((dot(&gradient, &z) - derivative).abs() < 1e-6 * norm, "{derivative}");
    // A difference sees the same mask on both sides.
    let mut mezo = case.session::<f64>(options(&case, Directional::MEZO), 2);
    zero_b(&mut mezo);
    mezo.set_bounds(session.bounds().clone());
    let [plus, minus] = [1e-5, -1e-5].map(|by| mezo.probe(&case.batch, by, along.direction(5, 1, 0)).nats);
    assert!(((plus - minus) / 2e-5 / targets as f64 - derivative).abs() < 1e-5 * norm);
    for step in 2..6 {
        session.perturb_in_place(1.0, 0.01, along.direction(5, step, 0));
    }
    for (m, (now, values)) in parameters(&session).iter().zip(&before).enumerate() {
        assert!(now.iter().zip(values).all(|(now, x)| (now == x) == large(m, *x)), "{m}");
    }
}

/// An adapter on some of the layers: bounds are counted by what each block has.
#[test]
fn bounds_follow_adapters_on_some_layers() {
    let case = Case::load("qwen2");
    let along = Directional { sparsity: 0.5, ..Directional::MEZO };
    let adapter = mesp::adapter::AdapterConfig { layers: Some(vec![1]), ..case.adapter.clone() };
    let opts = Options { adapter, ..options(&case, along) };
    let mut session = session_for::<f32>(&case.model, opts, &case.shapes(), 2);
    randomize_adapters(&mut session);
    let before = parameters(&session);
    session.bound(along.sparsity);
    let bounds = session.bounds().values().to_vec();
    assert_eq!(bounds.len(), before.len());
    session.perturb_in_place(1.0, 0.1, along.direction(1, 1, 0));
    for ((now, values), bound) in parameters(&session).iter().zip(&before).zip(&bounds) {
        assert!(now.iter().zip(values).all(|(now, x)| (now == x) == (x.abs() as f32 > *bound)));
    }
}

/// A thousand steps, and the log alone.
#[test]
fn a_thousand_steps_replay_to_the_bit() {
    let case = Case::load("llama");
    let along = Directional { momentum: 0.5, ..Directional::MEZO };
    let derivatives: Vec<Vec<f32>> = (0..1000).map(|i| vec![(i as f32).sin()]).collect();
    let dir = tempfile::tempdir().expect("a folder");
    let session = case.session::<f32>(options(&case, along), 1);
    let schedule = mesp::optim::Schedule {
        peak: 1e-5,
        warmup: 3,
        total: 1000,
        kind: ScheduleKind::parse("cosine").expect("a schedule"),
    };
    let header = replay::Replay::new(&session, along.directions, schedule, &config(dir.path(), 1000));
    let mut log = replay::Log::open(&dir.path().join("log"), &header, 0).expect("a log").log;
    for derivative in &derivatives {
        log.append(derivative).expect("a record");
    }
    let results = [1, 2].map(|threads| {
        let mut session = case.session::<f32>(options(&case, along), threads);
        let read = replay::read(&dir.path().join("log")).expect("a log");
        assert_eq!(read.derivatives, derivatives);
        read.header.apply(&mut session, &read.derivatives).expect("a replay");
        bits(&parameters(&session))
    });
    assert!(results[0] == results[1]);
}

#[test]
fn damaged_logs_are_refused_and_torn_ends_are_cut() {
    let case = Case::load("qwen2");
    let dir = tempfile::tempdir().expect("a folder");
    train(&case, options(&case, Directional::MEZO), dir.path(), false);
    let path = dir.path().join(replay::FILE);
    let whole = std::fs::read(&path).expect("the log");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("a file");
        replay::read(&path).map(|c| c.derivatives.len()).map_err(|e| e.to_string())
    };
    assert_eq!(read(&whole[..whole.len() - 3]), Ok(19));
    assert_eq!(read(&whole[..whole.len() - 8]), Ok(19));
    let mut changed = whole.clone();
    let place = whole.len() - 5 * 8;
    changed[place] ^= 1;
    assert!(read(&changed).expect_err("a damaged record").contains("record of step 16"));
    assert!(read(&whole[..40]).expect_err("half a header").contains("header"));
    assert!(read(b"MESPRPL2\xff\xff\xff\xff").expect_err("a huge header").contains("4294967295"));
    assert!(read(b"MESPRPL1\x02\0\0\0{}").expect_err("an earlier log").contains("an earlier version"));
    assert!(read(b"GGUF").expect_err("another file").contains("too short"));
}
