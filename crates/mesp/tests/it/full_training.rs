//! Exact training of all weights: that fused updates are those of an optimizer after the sweep, what is planned, what is
//! written.

use std::collections::{BTreeMap, BTreeSet};

use mesp::adapter::AdapterConfig;
use mesp::arch::{Param, Selection};
use mesp::model::Batch;
use mesp::optim::{FoamUpdate, OptimizerKind};
use mesp::tape::{Policy, Tiles};
use mesp::train::{Options, Session, Update};
use mesp_device::{Act, Backend, Cpu, Elem, Mapping, Real};
use mesp_formats::safetensors_file;

use crate::support::{
    ARCHS, Case, bits, golden, load_model, mean_loss, mesp_policy, random_batch, relative, session_for,
    shapes, view_values,
};

const RATE: f64 = 1e-3;

fn optimizer(name: &str) -> OptimizerKind {
    OptimizerKind::parse(name, 0.0).expect("an optimizer")
}

/// All weights, held as `elem`, with all rows of the MLP at once and matrices' gradients in parts of so many rows.
fn options(case: &Case, name: &str, update: Update, elem: Elem, weight_rows: usize) -> Options {
    let tiles = Tiles { mlp_rows: usize::MAX, weight_rows, ..mesp_policy().tiles };
    Options {
        adapter: AdapterConfig::none(),
        base: Selection::full(),
        held: Some(elem),
        optimizer: optimizer(name),
        update,
        weight_decay: 0.01,
        ..case.options(Policy { tiles, ..mesp_policy() })
    }
}

fn session<R: Real>(case: &Case, options: Options, batch: &Batch, threads: usize) -> Session<Cpu<R>> {
    session_for(&case.model, options, &shapes(batch), threads)
}

/// All weights, one vector a part.
fn weights<B: Backend>(session: &Session<B>) -> Vec<Vec<f64>> {
    session.tensors().map(|view| view_values(session.backend(), view)).collect()
}

/// A step, its loss and the norm of its gradients.
fn step<B: Backend>(session: &mut Session<B>, batch: &Batch, max_norm: Option<f64>) -> (f64, f64) {
    clipped_step(session, batch, RATE, max_norm)
}

/// A step at another rate.
fn step_at<B: Backend>(session: &mut Session<B>, batch: &Batch, rate: f64) {
    clipped_step(session, batch, rate, None);
}

fn clipped_step<B: Backend>(
    session: &mut Session<B>,
    batch: &Batch,
    rate: f64,
    max_norm: Option<f64>,
) -> (f64, f64) {
    if session.options().update != Update::Accumulate {
        let (outcome, norm) = session.step_fused(batch, rate, max_norm);
        return (outcome.nats, norm);
    }
    let outcome = session.accumulate(batch, batch.targets());
    let norm = session.grad_norm();
    session.apply(rate, max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0)));
    (outcome.nats, norm)
}

/// The largest difference of two models, relative to what the second one moved from a start.
fn apart(found: &[Vec<f64>], expected: &[Vec<f64>], start: &[Vec<f64>]) -> f64 {
    let mut worst = 0.0f64;
    for ((found, expected), start) in found.iter().zip(expected).zip(start) {
        let norm = |of: &mut dyn Iterator<Item = f64>| of.map(|x| x * x).sum::<f64>().sqrt();
        let error = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
        let change = norm(&mut expected.iter().zip(start).map(|(a, b)| a - b));
        assert!(change > 0.0, "every tensor moves");
        worst = worst.max(error / change);
    }
    worst
}

/// In double precision, where the order of two sums is the only difference, the three ways agree to the last bits; by
/// block and by matrix, in whatever tiles, to the bit.
#[test]
fn when_a_parameter_is_stepped_makes_no_difference() {
    for arch in ARCHS {
        let case = Case::load(arch);
        for name in OptimizerKind::NAMES {
            let run = |update, weight_rows, max_norm| {
                let options = options(&case, name, update, Elem::Full, weight_rows);
                let mut session = session::<f64>(&case, options, &case.batch, 2);
                let start = weights(&session);
                let steps: Vec<_> = (0..3).map(|_| step(&mut session, &case.batch, max_norm)).collect();
                (start, weights(&session), steps)
            };
            for max_norm in [None, Some(0.1)] {
                let (start, expected, told) = run(Update::Accumulate, usize::MAX, max_norm);
                let (_, block, of_block) = run(Update::PerBlock, usize::MAX, max_norm);
                // Rounding to 8 bits turns a difference in the last place into one of a code.
                let bound = if name == "adamw-8bit" { 1e-2 } else { 1e-9 };
                let error = apart(&block, &expected, &start);
                assert!(error <= bound, "{arch} {name} {max_norm:?}: {error:e}");
                for ((loss, norm), (expected_loss, expected_norm)) in of_block.iter().zip(&told) {
                    assert!((loss - expected_loss).abs() <= 1e-6 * expected_loss, "{arch} {name}");
                    assert!((norm - expected_norm).abs() <= 1e-6 * expected_norm, "{arch} {name}");
                }
                for weight_rows in [usize::MAX, 64] {
                    let (_, matrix, _) = run(Update::PerMatrix, weight_rows, max_norm);
                    // The norm is a sum in another order.
                    if max_norm.is_none() {
                        assert!(bits(&matrix) == bits(&block), "{arch} {name} {weight_rows}");
                    }
                    let error = apart(&matrix, &block, &start);
                    assert!(error <= bound, "{arch} {name} {weight_rows} {max_norm:?}: {error:e}");
                }
            }
        }
    }
}

/// Any number of threads, and any tiles of the vocabulary, give the same bits; what was planned is what is used.
#[test]
fn threads_change_no_bit_and_the_plan_is_kept() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let batch = random_batch(&[70, 1, 90, 3], case.model.config.vocab_size, 3);
        for name in OptimizerKind::NAMES {
            for (update, elem) in [
                (Update::PerMatrix, Elem::Full),
                (Update::PerMatrix, Elem::Bf16),
                (Update::Accumulate, Elem::Bf16),
            ] {
                let run = |threads| {
                    let options = options(&case, name, update, elem, usize::MAX);
                    let mut session = session::<f32>(&case, options, &batch, threads);
                    let start = mean_loss(&mut session, &batch);
                    for _ in 0..2 {
                        step(&mut session, &batch, None);
                    }
                    let be = session.backend();
                    assert_eq!(be.reached_bytes(), be.plan().bytes(), "{arch} {name} {update:?}");
                    let end = mean_loss(&mut session, &batch);
                    assert!(end.is_finite() && end != start, "{arch} {name}: {start} {end}");
                    bits(&weights(&session))
                };
                assert!(run(1) == run(3), "{arch} {name} {update:?} {elem:?}");
            }
        }
    }
}

/// The model that is written is the one that was trained, and a model in bf16 stays in bf16.
#[test]
fn the_written_model_is_the_trained_one() {
    for arch in ARCHS {
        let case = Case::load(arch);
        for elem in [Elem::Full, Elem::Bf16] {
            let options = options(&case, "adalomo", Update::PerMatrix, elem, usize::MAX);
            let mut session = session::<f32>(&case, options, &case.batch, 2);
            step(&mut session, &case.batch, None);
            let dir = tempfile::tempdir().expect("a folder");
            let to = dir.path().join("model");
            mesp::train::full::save(&session, &case.dir.join("model"), &to).expect("a model");
            let read = load_model(&to);
            let plain = Options { adapter: AdapterConfig::none(), ..case.options(mesp_policy()) };
            let mut read = session_for::<f32>(&read, plain, &case.shapes(), 2);
            let (found, expected) = (mean_loss(&mut read, &case.batch), mean_loss(&mut session, &case.batch));
            assert_eq!(found, expected, "{arch} {elem:?}");
        }
    }
}

/// Small updates of weights in bf16 add up: rounded at random, or to the nearest with the rest kept.
#[test]
fn small_updates_of_bf16_weights_add_up() {
    let case = Case::load("qwen2");
    let run = |elem, compensated| {
        let options = Options { compensated, ..options(&case, "lomo", Update::PerMatrix, elem, usize::MAX) };
        let mut session = session::<f32>(&case, options, &case.batch, 2);
        let start = weights(&session);
        for _ in 0..200 {
            session.step_fused(&case.batch, 2e-4, None);
        }
        let moved = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>();
        weights(&session).iter().zip(&start).flat_map(moved).collect::<Vec<f64>>()
    };
    let (full, kahan, random) = (run(Elem::Full, false), run(Elem::Bf16, true), run(Elem::Bf16, false));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for (found, least) in [(&kahan, 0.95), (&random, 0.5)] {
        // The share of the right movement that is found, and how much of it points the right way.
        let share = dot(found, &full) / dot(&full, &full);
        let cosine = dot(found, &full) / (dot(found, found) * dot(&full, &full)).sqrt();
        assert!((share - 1.0).abs() < 0.1 && cosine > least, "{share} {cosine}");
    }
}

/// An optimizer with the settings that a golden states.
fn stated(of: &BTreeMap<String, String>) -> OptimizerKind {
    let number = |name: &str| of[name].parse::<f64>().expect("a number");
    match (optimizer(&of["optimizer"]), of.get("second_moment")) {
        (OptimizerKind::Foam(foam), Some(second)) => OptimizerKind::Foam(FoamUpdate {
            level: of["level"].parse().expect("a level"),
            scale: number("scale"),
            residual: number("residual"),
            square_of_mean: second == "square-of-mean",
            ..foam
        }),
        (kind, _) => kind,
    }
}

/// Three steps of each optimizer over all weights, with updates after the sweep and fused: the change of every tensor is
/// that of PyTorch's, transformers' or the transcribed optimizer, and so is the loss before each step.
fn three_steps<R: Real>(bound: impl Fn(&str) -> f64) {
    let mut seen = BTreeSet::new();
    for arch in ["qwen2", "llama", "gemma3_text", "phi3"] {
        let case = Case::load(arch);
        for entry in std::fs::read_dir(golden("optimizers").join(arch)).expect("goldens").flatten() {
            let map = Mapping::open(&entry.path()).expect("golden");
            let header = safetensors_file::parse(&entry.path(), map.bytes()).expect("golden header");
            let of = &header.metadata;
            let number = |name: &str| of[name].parse::<f64>().expect("a number");
            let kind = stated(of);
            seen.insert(kind.name());
            for update in [Update::Accumulate, Update::PerMatrix] {
                let options = Options {
                    optimizer: kind,
                    weight_decay: number("weight_decay"),
                    ..options(&case, kind.name(), update, Elem::Full, usize::MAX)
                };
                let mut session = session::<R>(&case, options, &case.batch, 2);
                let values = |session: &Session<Cpu<R>>| -> BTreeMap<String, Vec<f64>> {
                    let weights = session.weights().expect("trained weights");
                    let value = |(param, act): (&Param, &Act)| {
                        (param.name(), view_values(session.backend(), act.view()))
                    };
                    weights.iter().map(value).collect()
                };
                let start = values(&session);
                for step in 0..3 {
                    let loss = mean_loss(&mut session, &case.batch);
                    let theirs = number(&format!("loss_{step}"));
                    assert!(
                        (loss - theirs).abs() <= 1e-5 * theirs,
                        "{arch} {} {step}: {loss} {theirs}",
                        kind.name()
                    );
                    step_at(&mut session, &case.batch, number("learning_rate"));
                }
                let end = values(&session);
                for t in &header.tensors {
                    let theirs = safetensors_file::read_f32(&entry.path(), map.bytes(), t).expect("values");
                    let theirs: Vec<f64> = theirs.into_iter().map(f64::from).collect();
                    let ours: Vec<f64> =
                        end[&t.name].iter().zip(&start[&t.name]).map(|(a, b)| a - b).collect();
                    let error = relative(&ours, &theirs);
                    assert!(
                        error <= bound(kind.name()),
                        "{arch} {} {update:?} {}: {error:e}",
                        kind.name(),
                        t.name
                    );
                }
            }
        }
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        ["adafactor", "adalomo", "adamw", "foam", "lion", "muon", "sgd"]
    );
}

#[test]
fn three_steps_are_those_of_pytorch() {
    // Norms are read in single precision in any case, which two rules magnify to 1.03e-5 in a tensor each.
    three_steps::<f64>(|name| if matches!(name, "adamw" | "muon") { 2e-5 } else { 1e-5 });
    // A change of 3e-3 of a norm near 1 is known to 2e-5 of itself; moments of small gradients magnify what products round,
    // and the sign of a small number may be the other one.
    three_steps::<f32>(|name| if name == "lion" { 1e-2 } else { 1e-4 });
}
