//! Adapters with ranks and scales of their own, on some of the layers, with magnitudes, or with a frozen A: exact,
//! planned, and the same under every policy.

use mesp::adapter::{AdapterConfig, peft};
use mesp::arch::Module;
use mesp::method::Method;
use mesp::optim::{OptimizerKind, Trained};
use mesp::tape::{Policy, Tiles};
use mesp::train::{Options, Session, Update, plan};
use mesp_device::{Class, Cpu, Elem};
use mesp_formats::peft::{MODEL_FILE, Pattern};

use crate::support::{
    ADAMW, ARCHS, Case, SGD, answer, bits, derivative_of_matrix, gradients, mean_loss, mesp_policy,
    parameters, random_batch, randomize_adapters, relative, session_for, shapes,
};

/// Kinds of adapters, by name.
const KINDS: [&str; 4] = ["patterns", "rsLoRA with patterns", "DoRA", "head and embeddings"];

fn pattern<T: Copy>(entries: &[(&str, T)]) -> Pattern<T> {
    Pattern::new(entries.iter().map(|(name, x)| ((*name).to_owned(), *x)).collect()).expect("a pattern")
}

/// Another rank on the attention's input, on one layer's output and on what follows, another alpha, and no adapter
/// in the first layer; of one kind on the head and on embeddings, too.
fn kind(case: &Case, name: &str) -> AdapterConfig {
    let mut targets = Module::ALL.to_vec();
    if name == "head and embeddings" {
        targets.extend(Module::OUTSIDE_BLOCKS);
    }
    let plain = AdapterConfig::new(4, 6.0, name.starts_with("rsLoRA"), targets);
    AdapterConfig {
        dora: name == "DoRA",
        ranks: pattern(&[
            ("(q|qkv)_proj", 7),
            ("layers.1.self_attn.o_proj", 1),
            ("mlp.down_proj", 2),
            ("lm_head", 5),
        ]),
        alphas: pattern(&[("o_proj", 3.0), ("(gate|gate_up)_proj", 11.5), ("embed_tokens", 2.0)]),
        layers: Some((1..case.model.config.layers).collect()),
        ..plain
    }
}

fn options(case: &Case, adapter: &AdapterConfig, policy: Policy) -> Options {
    Options { adapter: adapter.clone(), ..case.options(policy) }
}

#[test]
fn modules_have_their_own() {
    let case = Case::load("qwen2");
    let c = &case.model.config;
    let slot = |name: &str, layer, p| kind(&case, name).slot(layer, p, c).map(|slot| (slot.rank, slot.scale));
    assert_eq!(slot("patterns", 0, Module::Q), None);
    assert_eq!(slot("patterns", 1, Module::Q), Some((7, 6.0 / 7.0)));
    assert_eq!(slot("patterns", 1, Module::O), Some((1, 3.0)));
    assert_eq!(slot("patterns", 2, Module::O), Some((4, 0.75)));
    assert_eq!(slot("rsLoRA with patterns", 2, Module::Gate), Some((4, 5.75)));
    assert_eq!(slot("rsLoRA with patterns", 2, Module::Down), Some((2, 6.0 / 2f64.sqrt())));
    assert_eq!(slot("head and embeddings", c.layers, Module::Head), Some((5, 6.0 / 5.0)));
    assert_eq!(slot("head and embeddings", c.layers + 1, Module::Embed), Some((4, 0.5)));
    assert_eq!(slot("head and embeddings", 0, Module::Head), None);
    let adapter = kind(&case, "head and embeddings");
    assert_eq!(adapter.unused(c), None);
    let typo = AdapterConfig { alphas: pattern(&[("qproj", 2.0)]), ..adapter.clone() };
    assert_eq!(typo.unused(c).as_deref(), Some("qproj"));
    let beyond = AdapterConfig { layers: Some(vec![1, 3]), ..adapter };
    let text = beyond.fits(c).expect_err("three layers").to_string();
    assert!(text.contains("has a layer 3, expected 0 to 2"), "{text}");
}

#[test]
fn magnitudes_outside_the_blocks_are_refused_by_name() {
    let case = Case::load("qwen2");
    for name in ["lm_head", "embed_tokens"] {
        let targets = AdapterConfig::parse_targets(&format!("q_proj,{name}")).expect("modules");
        let adapter = AdapterConfig { dora: true, ..AdapterConfig::new(4, 6.0, false, targets) };
        let text = adapter.fits(&case.model.config).expect_err("no place").to_string();
        assert!(text.starts_with(&format!("DoRA cannot be computed with on {name}")), "{text}");
    }
}

#[test]
fn policies_agree() {
    for case in ARCHS.map(Case::load) {
        for name in KINDS {
            let adapter = kind(&case, name);
            for batch in [&case.batch, &random_batch(&[70, 1, 90, 3], case.model.config.vocab_size, 3)] {
                let run = |policy: Policy, activations: Elem| {
                    let policy = policy.with_activations(activations.into());
                    let options = options(&case, &adapter, policy);
                    let mut session = session_for::<f32>(&case.model, options, &shapes(batch), 2);
                    randomize_adapters(&mut session);
                    answer(&mut session, batch)
                };
                let stored = [Elem::Full, Elem::Bf16];
                let reference = stored.map(|stored| run(mesp_policy(), stored));
                let small = Tiles { mlp_rows: 7, head_rows: 5, ..Tiles::UNTILED };
                for method in Method::ALL {
                    for tiles in [method.policy().tiles, small] {
                        let ours = stored.map(|stored| run(Policy { tiles, ..method.policy() }, stored));
                        let arch = &case.model.config.arch;
                        assert!(ours == reference, "{arch} {name} {} {tiles:?}", method.name());
                    }
                }
            }
        }
    }
}

/// As `gradients_f64`, one direction in each matrix.
#[test]
fn gradients_equal_differences() {
    // Ranks and scales are larger than the goldens', and so is the fifth derivative.
    const STEP: f64 = 2.5e-4;
    for case in ARCHS.map(Case::load) {
        // DoRA's are another matter: `dora.rs`.
        for name in ["patterns", "rsLoRA with patterns", "head and embeddings"] {
            let options = options(&case, &kind(&case, name), mesp_policy());
            let mut session = session_for::<f64>(&case.model, options, &case.shapes(), 1);
            randomize_adapters(&mut session);
            session.accumulate(&case.batch, case.batch.targets());
            let (exact, start) = (gradients(&session), parameters(&session));
            let mut pairs = Vec::new();
            for (m, gradient) in exact.iter().enumerate() {
                let sign = |i: usize| if (i * 7 + m).is_multiple_of(3) { 1.0 } else { -1.0 };
                let d: Vec<f64> =
                    (0..gradient.len()).map(|i| sign(i) / (gradient.len() as f64).sqrt()).collect();
                let loss = |session: &mut Session<Cpu<f64>>| mean_loss(session, &case.batch);
                let numeric = derivative_of_matrix(&mut session, (m, &start[m], &d), STEP, loss);
                pairs.push((gradient.iter().zip(&d).map(|(g, d)| g * d).sum::<f64>(), numeric));
            }
            let (ours, numeric): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let error = relative(&ours, &numeric);
            // The stencil's error, and the loss's rounding over the distance: as in `gradients_f64`.
            assert!(error <= 1e-8, "{} {name}: {error:e}", case.model.config.arch);
        }
    }
}

#[test]
fn the_peak_is_planned_and_steps_are_the_same() {
    let kinds = KINDS.map(|name| (name, Trained::ALIKE));
    let frozen = Trained { freeze_a: true, b_ratio: 4.0 };
    for case in ARCHS.map(Case::load) {
        for (name, trained) in kinds.into_iter().chain([("patterns", frozen), ("DoRA", frozen)]) {
            let adapter = kind(&case, name);
            let batch = random_batch(&[60, 1, 30], case.model.config.vocab_size, 1);
            let after = [Update::Accumulate, Update::PerBlock].map(|update| {
                let options = Options {
                    update,
                    optimizer: ADAMW,
                    weight_decay: 0.01,
                    trained,
                    ..options(&case, &adapter, mesp_policy())
                };
                let mut session = session_for::<f32>(&case.model, options, &shapes(&batch), 2);
                randomize_adapters(&mut session);
                let start = parameters(&session);
                for _ in 0..3 {
                    if update == Update::Accumulate {
                        session.accumulate(&batch, batch.targets());
                        session.apply(0.01, 1.0);
                    } else {
                        session.step_fused(&batch, 0.01, None);
                    }
                    session.evaluate(&batch);
                }
                let be = session.backend();
                assert_eq!(be.reached_bytes(), be.plan().bytes(), "{name} {update:?}");
                assert_ne!(bits(&start), bits(&parameters(&session)));
                bits(&parameters(&session))
            });
            assert_eq!(after[0], after[1], "{} {name}", case.model.config.arch);
        }
    }
}

#[test]
fn what_is_saved_is_read() {
    for case in ARCHS.map(Case::load) {
        for name in KINDS {
            let adapter = kind(&case, name);
            let make = || {
                session_for::<f32>(&case.model, options(&case, &adapter, mesp_policy()), &case.shapes(), 1)
            };
            let (mut first, mut second) = (make(), make());
            randomize_adapters(&mut first);
            let dir = tempfile::tempdir().expect("a folder");
            peft::save(first.backend(), dir.path(), &adapter, None, first.params()).expect("an adapter");
            let mut read = mesp::source::load_adapter_config(dir.path()).expect("settings");
            // What is written is what the model has.
            assert_eq!(read.paths(&case.model.config), adapter.paths(&case.model.config));
            read.targets.clone_from(&adapter.targets);
            assert_eq!(read, adapter);
            case.read_adapter(&mut second, &dir.path().join(MODEL_FILE)).expect("the same adapter");
            assert_eq!(bits(&parameters(&first)), bits(&parameters(&second)));
        }
    }
}

/// A frozen A costs no gradient, no state and no product; B's gradient is what it would be beside A's.
#[test]
fn a_frozen_a_is_left_out() {
    for case in ARCHS.map(Case::load) {
        let arch = &case.model.config.arch;
        let make = |freeze_a| {
            let trained = Trained { freeze_a, b_ratio: 1.0 };
            Options { trained, optimizer: ADAMW, ..case.options(mesp_policy()) }
        };
        let plans = [true, false].map(|f| plan(&case.model, &make(f), &case.shapes(), 4, 1).expect("a plan"));
        let [frozen, both] = &plans;
        let a: usize = case
            .session::<f32>(make(false), 1)
            .params()
            .iter()
            .flatten()
            .flatten()
            .map(|p| p.a.rows() * p.a.cols())
            .sum();
        for (class, times) in [(Class::Gradient, 1), (Class::Optimizer, 2)] {
            let saved = both.ledger()[&class] - frozen.ledger()[&class];
            // Buffers begin at multiples of a cache line, which can hide a little.
            assert!(saved * 10 >= a * 4 * times * 9, "{arch} {class:?}: {saved} of {}", a * 4 * times);
        }
        // dA = dhᵀ·x, a row of A for each row of x.
        let products = |p: &mesp_device::Plan| p.programs[0].multiply_adds;
        assert_eq!(products(both) - products(frozen), (a * case.batch.rows()) as u64, "{arch}");

        let mut sessions = [true, false].map(|f| case.session::<f32>(make(f), 1));
        let start = parameters(&sessions[0]);
        let grads = sessions.each_mut().map(|session| {
            session.accumulate(&case.batch, case.batch.targets());
            gradients(session)
        });
        for (i, (frozen, both)) in grads[0].iter().zip(&grads[1]).enumerate() {
            if i % 2 == 0 { assert!(frozen.is_empty()) } else { assert_eq!(frozen, both, "{arch}") }
        }
        sessions[0].apply(0.01, 1.0);
        for (i, (now, start)) in parameters(&sessions[0]).iter().zip(&start).enumerate() {
            assert_eq!(now == start, i % 2 == 0, "{arch}: A stays, B moves");
        }
    }
}

/// One SGD step of B is the ratio times as long, of A it is the same.
#[test]
fn lora_plus_steps_b_further() {
    let case = Case::load("qwen2");
    let [one, four] = [1.0, 4.0].map(|b_ratio| {
        let trained = Trained { freeze_a: false, b_ratio };
        let optimizer: OptimizerKind = SGD;
        let mut session =
            case.session::<f64>(Options { trained, optimizer, ..case.options(mesp_policy()) }, 1);
        let start = parameters(&session);
        session.accumulate(&case.batch, case.batch.targets());
        session.apply(0.1, 1.0);
        let moved = |(now, start): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
            now.iter().zip(start).map(|(x, y)| x - y).collect()
        };
        parameters(&session).iter().zip(&start).map(moved).collect::<Vec<_>>()
    });
    for (i, (one, four)) in one.iter().zip(&four).enumerate() {
        let expected: Vec<f64> = one.iter().map(|x| if i % 2 == 0 { *x } else { 4.0 * x }).collect();
        assert!(relative(four, &expected) < 1e-12, "{i}");
    }
}
