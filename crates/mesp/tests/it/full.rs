//! All weights trained from losses: that a point beside them is the model moved, what its derivatives are, and that the
//! log is the model.

use std::sync::Arc;

use mesp::adapter::AdapterConfig;
use mesp::arch::{Module, Selection};
use mesp::data::{FileRows, ReadOptions, Rows};
use mesp::method::{Derivative, Directional, Estimator};
use mesp::train::{
    Cancel, Options, Progress, Run, RunConfig, Session, Shapes, checkpoint, full, plan, replay,
};
use mesp_device::{Backend, Cpu, Distribution, Dtype, Elem, Real};

use crate::support::{
    ARCHS, Case, MemorySource, bits, eval_shapes, gradients, load_model, mean_loss, mesp_policy,
    random_batch, session_for, view_values, weight_name,
};
use crate::zeroth;

fn mezo(eps: f64) -> Directional {
    Directional { derivative: Derivative::Difference { eps, one_sided: false }, ..Directional::MEZO }
}

fn options(case: &Case, along: Directional, elem: Elem) -> Options {
    let plain = Options { adapter: AdapterConfig::none(), ..case.options(mesp_policy()) };
    Options { estimator: Estimator::Directional(along), held: Some(elem), base: Selection::full(), ..plain }
}

fn session<R: Real>(case: &Case, along: Directional, elem: Elem, threads: usize) -> Session<Cpu<R>> {
    session_for(&case.model, options(case, along, elem), &case.shapes(), threads)
}

/// All weights, one vector a tensor.
fn weights<B: Backend>(session: &Session<B>) -> Vec<Vec<f64>> {
    session.tensors().map(|view| view_values(session.backend(), view)).collect()
}

/// The loss at θ + by·z, taken beside θ, is that of a model whose weights are θ + by·z, to the bit where these can be
/// stored; θ stays, and threads change nothing.
fn a_point<R: Real>(arch: &str) {
    let case = Case::load(arch);
    let along = Directional { distribution: Distribution::Gaussian, ..Directional::MEZO };
    let direction = along.direction(3, 9, 1);
    let mut losses = Vec::new();
    for threads in [1, 3] {
        let mut session = session::<R>(&case, along, Elem::Full, threads);
        let before = bits(&weights(&session));
        let n = case.batch.targets() as f64;
        let rest = mean_loss(&mut session, &case.batch);
        assert_eq!(session.probe(&case.batch, 0.0, direction).nats / n, rest, "{arch}");
        let beside = session.probe(&case.batch, 0.01, direction).nats / n;
        assert_ne!(beside, rest);
        assert_eq!(bits(&weights(&session)), before, "{arch}");
        assert_eq!(mean_loss(&mut session, &case.batch), rest, "{arch}");
        session.perturb_in_place(1.0, 0.01, direction);
        assert_eq!(mean_loss(&mut session, &case.batch), beside, "{arch} {threads}");
        let after = weights(&session);
        assert!(bits(&after).iter().zip(&before).all(|(a, b)| a.iter().zip(b).any(|(a, b)| a != b)));
        losses.push((rest.to_bits(), beside.to_bits(), bits(&after)));
    }
    assert_eq!(losses[0], losses[1], "{arch}");
    // At rest the model is the one that was given.
    let plain = Options { adapter: AdapterConfig::none(), ..case.options(mesp_policy()) };
    let mut plain = session_for::<R>(&case.model, plain, &case.shapes(), 2);
    assert_eq!(mean_loss(&mut plain, &case.batch).to_bits(), losses[0].0, "{arch}");
}

#[test]
fn a_point_beside_the_weights_is_the_model_moved() {
    for arch in ARCHS {
        a_point::<f32>(arch);
        a_point::<f64>(arch);
    }
}

/// Where weights are stored in bf16, the points beside them are not: the loss is that of the weights' values moved in
/// single precision. An update rounds at random to one of two neighbours.
#[test]
fn weights_in_bf16_are_moved_in_single_precision() {
    let case = Case::load("qwen2");
    let along = Directional::MEZO;
    let direction = along.direction(3, 9, 1);
    let mut half = session::<f32>(&case, along, Elem::Bf16, 2);
    // The same values, held in full.
    let mut source = MemorySource::read(&case.dir.join("model"));
    source.dtype = Dtype::F32;
    for (shape, values) in source.tensors.values_mut().filter(|(shape, _)| shape.len() == 2) {
        assert!(!shape.is_empty());
        for v in values {
            *v = half::bf16::from_f32(*v).to_f32();
        }
    }
    let model =
        Arc::new(mesp::model::ModelWeights::load(case.model.config.clone(), &source).expect("a model"));
    let full = options(&case, along, Elem::Full);
    let mut full = session_for::<f32>(&model, full, &case.shapes(), 2);
    assert_eq!(bits(&weights(&half)), bits(&weights(&full)));
    let [a, b] = [&mut half, &mut full].map(|s| s.probe(&case.batch, 1e-3, direction).nats);
    assert_eq!(a.to_bits(), b.to_bits());
    half.perturb_in_place(1.0, 1e-5, direction);
    full.perturb_in_place(1.0, 1e-5, direction);
    let (half, full) = (weights(&half), weights(&full));
    let mut moved = 0;
    for (half, full) in half.iter().flatten().zip(full.iter().flatten()) {
        moved += usize::from(half != full);
        assert!((half - full).abs() <= full.abs() / 128.0, "{half} {full}");
    }
    assert!(moved > 0);
}

/// What is written is what was trained: every tensor under its name, parts of fused ones together, norms less what is
/// added to them.
#[test]
fn a_written_model_is_the_trained_one() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let mut session = session::<f32>(&case, Directional::MEZO, Elem::Full, 2);
        session.perturb_in_place(1.0, 0.01, Directional::MEZO.direction(1, 1, 0));
        let dir = tempfile::tempdir().expect("a folder");
        let to = dir.path().join("model");
        full::save(&session, &case.dir.join("model"), &to).expect("a model");
        let names = |dir: &std::path::Path| {
            let shapes = MemorySource::read(dir).tensors.into_iter().map(|(name, (shape, _))| (name, shape));
            shapes.collect::<Vec<_>>()
        };
        assert_eq!(names(&to), names(&case.dir.join("model")), "{arch}");
        let read = load_model(&to);
        let plain = Options { adapter: AdapterConfig::none(), ..case.options(mesp_policy()) };
        let mut read = session_for::<f32>(&read, plain, &case.shapes(), 2);
        let (found, expected) = (mean_loss(&mut read, &case.batch), mean_loss(&mut session, &case.batch));
        if case.model.config.norm_offset == 0.0 {
            assert_eq!(found, expected, "{arch}");
        }
        assert!((found - expected).abs() < 1e-6 * expected, "{arch}: {found} {expected}");
    }
}

/// The derivative of the loss along a direction of all weights, from losses of models whose weights were moved, in
/// double precision. The difference of fourth order; norms are single precision, which is its floor.
fn derivative(case: &Case, step: u64) -> f64 {
    let along = Directional::MEZO;
    let loss = |by: f64| {
        let mut session = session::<f64>(case, along, Elem::Full, 2);
        session.perturb_in_place(1.0, by, along.direction(5, step, 0));
        mean_loss(&mut session, &case.batch)
    };
    let h = 5e-4;
    (8.0 * (loss(h) - loss(-h)) - (loss(2.0 * h) - loss(-2.0 * h))) / (12.0 * h)
}

#[test]
fn derivatives_are_the_directional_derivative_up_to_eps_squared() {
    for arch in ARCHS {
        let case = Case::load(arch);
        for step in [1, 2] {
            let exact = derivative(&case, step);
            let errors = [1e-3, 3e-4, 1e-4].map(|eps| {
                let mut session = session::<f64>(&case, mezo(eps), Elem::Full, 2);
                let targets = case.batch.targets();
                let probed =
                    session.derivatives(&mezo(eps), (5, step), targets, &mut |each| each(&case.batch));
                (f64::from(probed.derivatives[0]) - exact).abs() / exact.abs().max(1.0)
            });
            assert!(errors[2] < 3e-4, "{arch} {exact} {errors:?}");
            assert!(errors[1] < errors[0] / 5.0 || errors[1] < 2e-4, "{arch} {exact} {errors:?}");
        }
    }
}

/// Exact gradients of the projections: with A the identity, B zero and a scale of 1, ∂L/∂B = ∂L/∂W.
fn exact(case: &Case) -> Vec<(String, Vec<f64>)> {
    let c = &case.model.config;
    let mut all = Vec::new();
    for p in Module::ALL {
        let rank = p.shape(c).1;
        let adapter = AdapterConfig::new(rank, rank as f64, false, vec![p]);
        let options = Options { adapter, ..case.options(mesp_policy()) };
        let mut session = session_for::<f64>(&case.model, options, &case.shapes(), 2);
        let (be, params, _) = session.state_mut();
        for pair in params.iter_mut().flatten().flatten() {
            be.load(pair.a.view_mut(), &mut |i| f64::from(u8::from(i / rank == i % rank)));
            be.zero(pair.b.view_mut());
        }
        session.accumulate(&case.batch, case.batch.targets());
        let b = gradients(&session).into_iter().skip(1).step_by(2);
        all.extend(b.enumerate().map(|(l, g)| (weight_name(l, p), g)));
    }
    all
}

/// E[g·z] is the gradient: its part in the projections against the one that the backward pass gives, along itself.
#[test]
fn estimates_are_unbiased() {
    let case = Case::load("llama");
    let exact = exact(&case);
    let square: f64 = exact.iter().flat_map(|(_, g)| g).map(|g| g * g).sum();
    let mut names = Vec::new();
    case.model.parts(&mut |piece, _| names.push(piece.name()));
    let n = 400;
    let mut samples = Vec::new();
    for step in 1..=n {
        let along = mezo(1e-4);
        let mut session = session::<f64>(&case, along, Elem::Full, 2);
        let targets = case.batch.targets();
        let derivative =
            session.derivatives(&along, (5, step), targets, &mut |each| each(&case.batch)).derivatives[0];
        session.perturb_in_place(0.0, 1.0, along.direction(5, step, 0));
        let z = weights(&session);
        let dot: f64 = exact
            .iter()
            .map(|(name, g)| {
                let at = names.iter().position(|n| n == name).expect("a tensor");
                g.iter().zip(&z[at]).map(|(g, z)| g * z).sum::<f64>()
            })
            .sum();
        samples.push(f64::from(derivative) * dot / square);
    }
    let mean = samples.iter().sum::<f64>() / n as f64;
    let variance = samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    let error = (variance / n as f64).sqrt();
    assert!((mean - 1.0).abs() < 4.0 * error && error < 0.2, "{mean} ± {error}");
}

/// The weights, what inference needs, and a tile.
#[test]
fn memory_is_weights_and_inference() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let large = random_batch(&[60, 1, 130], case.model.config.vocab_size, 1);
        let shapes = Shapes { eval: None, ..crate::support::shapes(&large) };
        for (elem, bytes) in [(Elem::Full, 4), (Elem::Bf16, 2)] {
            let training = plan(&case.model, &options(&case, Directional::MEZO, elem), &shapes, 4, 2);
            let training = training.expect("a plan").bytes() as u64;
            let plain =
                Options { adapter: AdapterConfig::none(), training: false, ..case.options(mesp_policy()) };
            let inference =
                plan(&case.model, &plain, &eval_shapes(&large), 4, 2).expect("a plan").bytes() as u64;
            let weights = bytes * case.model.config.parameters();
            let (mut tensors, mut vectors) = (0, 0);
            case.model.parts(&mut |_, part| {
                tensors += 1;
                if let mesp::model::Part::Vector(v) = part {
                    vectors += v.len() as u64;
                }
            });
            let tile = (1 << 20) + 4 * 64;
            let limit = inference + weights + 4 * vectors + tile + 64 * tensors;
            assert!(training <= limit, "{arch}: {training}, {inference} + {weights}");
            assert!(training >= weights);
        }
        // And what is planned is reached.
        let mut session =
            session_for::<f32>(&case.model, options(&case, Directional::MEZO, Elem::Bf16), &shapes, 2);
        session.derivatives(&Directional::MEZO, (1, 1), large.targets(), &mut |each| each(&large));
        assert_eq!(session.backend().reached_bytes(), session.backend().plan().bytes(), "{arch}");
    }
}

/// Runs `steps` steps of a run, from a checkpoint where one is named.
fn train(
    case: &Case,
    opts: Options,
    config: &RunConfig,
    resume: Option<&std::path::Path>,
) -> (Session<Cpu<f32>>, Vec<f64>) {
    let mut session = session_for::<f32>(&case.model, opts, &case.shapes(), 2);
    let read = ReadOptions::new(case.model.config.vocab_size);
    let rows = FileRows::read(&case.dir.join("rows.jsonl"), None, &read).expect("rows").examples;
    let from = resume.map_or_else(Progress::default, |path| {
        checkpoint::load(&mut session, path, config).expect("a checkpoint")
    });
    let mut losses = Vec::new();
    let rows = Rows::of(Arc::new(rows));
    let mut run = Run::new(session, &rows, config.clone(), from, Cancel::new()).expect("a run");
    run.run(&mut |event| {
        if let mesp::train::Event::Train { loss, .. } = event {
            losses.push(*loss);
        }
    })
    .expect("a run");
    (run.into_session(), losses)
}

#[test]
fn a_replayed_and_a_resumed_run_are_the_run() {
    for (arch, elem) in [("qwen2", Elem::Full), ("gemma3_text", Elem::Bf16), ("phi3", Elem::Bf16)] {
        let case = Case::load(arch);
        let along = [
            Directional { directions: 2, ..Directional::MEZO },
            Directional { momentum: 0.6, distribution: Distribution::Rademacher, ..Directional::MEZO },
        ];
        for along in along {
            let dir = tempfile::tempdir().expect("a folder");
            let base = case.dir.join("model").display().to_string();
            let config = RunConfig { base_model: Some(base), ..zeroth::config(dir.path(), 20) };
            let opts = Options { weight_decay: 0.01, seed: 11, ..options(&case, along, elem) };
            let trained = bits(&weights(&train(&case, opts.clone(), &config, None).0));
            let model =
                |dir: &std::path::Path| std::fs::read(dir.join("model.safetensors")).expect("weights");
            let written = model(&dir.path().join("model"));

            let log = replay::read(&dir.path().join(replay::FILE)).expect("a log");
            assert_eq!((log.derivatives.len(), log.header.full().expect("a type")), (20, Some(elem)));
            let mut again =
                session_for::<f32>(&case.model, opts.clone(), &Shapes { train: None, eval: None }, 3);
            log.header.apply(&mut again, &log.derivatives).expect("a replay");
            assert_eq!(bits(&weights(&again)), trained, "{arch} {along:?}");
            let to = dir.path().join("again");
            full::save(&again, &case.dir.join("model"), &to).expect("a model");
            assert!(model(&to) == written, "{arch} {along:?}");
            let refused = log.header.apply(&mut again, &log.derivatives).expect_err("another start");
            assert!(refused.to_string().contains("digest"), "{refused}");

            let seventh = dir.path().join("checkpoints/step-7");
            assert!(!seventh.join("adapter_model.safetensors").exists());
            let resumed = train(&case, opts.clone(), &config, Some(&seventh)).0;
            assert_eq!(bits(&weights(&resumed)), trained, "{arch} {along:?}");
            assert!(model(&dir.path().join("model")) == written);
            let after = replay::read(&dir.path().join(replay::FILE)).expect("a log");
            assert_eq!(after.derivatives, log.derivatives);
            // A checkpoint of a resumed run is one of the run.
            let copied = replay::read(&dir.path().join("checkpoints/step-14/slopes.replay")).expect("a log");
            assert_eq!((copied.header.start, copied.derivatives.len()), (log.header.start, 14));
        }
    }
}

#[test]
fn the_loss_falls() {
    for elem in [Elem::Full, Elem::Bf16] {
        let case = Case::load("llama");
        let config = RunConfig {
            learning_rate: 3e-4,
            warmup_ratio: 0.0,
            output: None,
            save_every: None,
            ..zeroth::config(std::path::Path::new(""), 300)
        };
        let (_, losses) = train(&case, options(&case, mezo(1e-3), elem), &config, None);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (first, last) = (mean(&losses[..20]), mean(&losses[280..]));
        assert!(last < first - 0.05, "{elem:?}: {first} {last}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let case = Case::load("qwen2");
    let good = options(&case, Directional::MEZO, Elem::Full);
    let refused = |options: Options, says: &str| {
        let error = plan(&case.model, &options, &case.shapes(), 4, 2).expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
    };
    plan(&case.model, &good, &case.shapes(), 4, 2).expect("a plan");
    refused(
        Options { estimator: Estimator::Directional(Directional::FORWARD), ..good.clone() },
        "it makes no gradient of the model's weights",
    );
    refused(Options { adapter: case.adapter.clone(), ..good.clone() }, "no adapter");
    let sparse = Directional { sparsity: 0.5, ..Directional::MEZO };
    refused(Options { estimator: Estimator::Directional(sparse), ..good.clone() }, "move together");
    let shapes = mesp::model::ShapeSource(Dtype::Q4_0);
    let quantized = mesp::model::ModelWeights::load(case.model.config.clone(), &shapes).expect("shapes");
    let error = plan(&Arc::new(quantized), &good, &case.shapes(), 4, 2).expect_err("quantized");
    assert!(error.to_string().contains("expected f32, bf16 or f16"), "{error}");
}
