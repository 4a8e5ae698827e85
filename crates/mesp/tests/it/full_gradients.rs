//! Exact gradients of all weights: against PyTorch, against differences of the loss, and under every policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesp::adapter::{AdapterConfig, peft};
use mesp::arch::{Module, Param, Selection, base_params};
use mesp::method::Method;
use mesp::model::{Batch, ModelWeights};
use mesp::tape::{Policy, SavedAs, Tiles};
use mesp::train::{Options, Session};
use mesp_device::{Cpu, Dtype, Mapping, Real};
use mesp_formats::safetensors_file;

use crate::support::{
    ARCHS, Case, MemorySource, derivative, eval_shapes, golden, load_config, mean_loss, mesp_policy,
    random_batch, relative, session_for, shapes, view_values,
};

fn options(case: &Case, policy: Policy) -> Options {
    let adapter = AdapterConfig::none();
    Options { adapter, base: Selection::full(), gradients: true, ..case.options(policy) }
}

fn session<R: Real>(case: &Case, batch: &Batch, policy: Policy, threads: usize) -> Session<Cpu<R>> {
    session_for(&case.model, options(case, policy), &shapes(batch), threads)
}

/// Gradients by name.
fn gradients<R: Real>(session: &Session<Cpu<R>>) -> BTreeMap<String, Vec<f64>> {
    let all = session.grads().iter();
    all.map(|(param, view)| (param.name(), view_values(session.backend(), view))).collect()
}

#[test]
fn f32_gradients_equal_pytorch() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let mut session = session::<f32>(&case, &case.batch, mesp_policy(), 2);
        let outcome = session.accumulate(&case.batch, case.batch.targets());
        let ours = gradients(&session);
        let path = golden("full").join(format!("{arch}.safetensors"));
        let map = Mapping::open(&path).expect("golden");
        let header = safetensors_file::parse(&path, map.bytes()).expect("golden header");
        let reference: f64 = header.metadata["loss"].parse().expect("loss");
        let loss = outcome.nats / outcome.targets as f64;
        assert!((loss - reference).abs() <= 1e-6 * reference, "{arch}: loss {loss}, PyTorch {reference}");
        for t in &header.tensors {
            let theirs = safetensors_file::read_f32(&path, map.bytes(), t).expect("values");
            let theirs: Vec<f64> = theirs.into_iter().map(f64::from).collect();
            let error = relative(&ours[&t.name], &theirs);
            // Both sides round at 6e-8 over a few hundred terms.
            assert!(error <= 1e-5, "{arch} {}: {error:e}", t.name);
        }
        let names: Vec<_> = header.tensors.iter().map(|t| &t.name).collect();
        assert_eq!(names, ours.keys().collect::<Vec<_>>(), "{arch}: every tensor and no other");
    }
}

/// Every tensor is one of the checkpoint's, with its name and shape, and all of them are there.
#[test]
fn parameters_are_the_checkpoints() {
    for arch in ARCHS {
        let dir = golden(arch).join("model");
        let stored = MemorySource::read(&dir).tensors;
        let list = base_params(&load_config(&dir));
        let ours: BTreeMap<String, Vec<usize>> =
            list.iter().map(|param| (param.name(), param.file_shape())).collect();
        let theirs: BTreeMap<String, Vec<usize>> =
            stored.into_iter().map(|(name, (shape, _))| (name, shape)).collect();
        assert_eq!(ours, theirs, "{arch}");
        assert!(list.is_sorted_by_key(|param| (param.place, param.index)), "{arch}: in the order of places");
    }
}

/// The case's model with other weights.
fn loaded(case: &Case, source: &MemorySource) -> Arc<ModelWeights> {
    Arc::new(ModelWeights::load(load_config(&case.dir.join("model")), source).expect("a model"))
}

/// The loss with one tensor moved along a direction, the values of it that are stored.
fn moved_loss(
    case: &Case,
    source: &mut MemorySource,
    param: &Param,
    start: &[f32],
    d: &[f64],
    t: f64,
) -> f64 {
    let values = source.values_mut(&param.name());
    values.iter_mut().zip(start).zip(d).for_each(|((v, s), d)| *v = s + (t * d) as f32);
    let model = loaded(case, source);
    let options = Options {
        base: Selection::default(),
        gradients: false,
        training: false,
        ..options(case, mesp_policy())
    };
    let mut session = session_for::<f64>(&model, options, &eval_shapes(&case.batch), 1);
    mean_loss(&mut session, &case.batch)
}

/// Weights are stored in single precision. They are rounded to a grid on which sums with the steps are exact, so that
/// what is stored is what was asked for.
#[test]
fn f64_gradients_equal_differences() {
    const STEP: f64 = 1.0 / 1024.0;
    const GRID: f32 = 8192.0;
    for arch in ARCHS {
        let mut case = Case::load(arch);
        let mut source = MemorySource::read(&case.dir.join("model"));
        source.tensors.values_mut().flat_map(|(_, v)| v).for_each(|x| *x = (*x * GRID).round() / GRID);
        case.model = loaded(&case, &source);
        let mut session = session::<f64>(&case, &case.batch, mesp_policy(), 1);
        session.accumulate(&case.batch, case.batch.targets());
        let exact = gradients(&session);
        let (mut ours, mut numeric) = (Vec::new(), Vec::new());
        for (i, param) in base_params(&case.model.config).iter().enumerate() {
            let start = source.values_mut(&param.name()).clone();
            let sign = |j: usize| if (j * 7 + i).is_multiple_of(3) { 1.0 } else { -1.0 };
            // All values of a short vector, and 64 of others.
            let stride = start.len().div_ceil(64);
            let d: Vec<f64> =
                (0..start.len()).map(|j| if j % stride == i % stride { sign(j) } else { 0.0 }).collect();
            numeric.push(derivative(STEP, |t| moved_loss(&case, &mut source, param, &start, &d, t)));
            ours.push(exact[&param.name()].iter().zip(&d).map(|(g, d)| g * d).sum::<f64>());
        }
        let error = relative(&ours, &numeric);
        // The stencil's error is STEP⁴·f⁗′/30: 3e-14 times a fifth derivative along 64 values.
        assert!(error <= 1e-6, "{arch}: {error:e}, {ours:?} against {numeric:?}");
    }
}

/// Sequences longer than tiles of queries and of the MLP.
fn long_batch(case: &Case) -> Batch {
    random_batch(&[70, 1, 90, 3], case.model.config.vocab_size, 3)
}

#[test]
fn policies_tiles_and_threads_change_no_bit() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let batch = long_batch(&case);
        let run = |policy: Policy, threads: usize| {
            let mut session = session::<f32>(&case, &batch, policy, threads);
            let outcome = session.accumulate(&batch, batch.targets());
            let bits = |(name, values): (String, Vec<f64>)| {
                (name, values.into_iter().map(f64::to_bits).collect::<Vec<_>>())
            };
            (outcome.nats.to_bits(), gradients(&session).into_iter().map(bits).collect::<Vec<_>>())
        };
        let reference = run(mesp_policy(), 1);
        assert!(run(mesp_policy(), 2) == reference, "{arch}: two threads");
        for method in Method::ALL {
            let small = Tiles { mlp_rows: 7, head_rows: 5, ..Tiles::UNTILED };
            for tiles in [method.policy().tiles, small] {
                let policy = Policy { tiles, ..method.policy() };
                assert!(run(policy, 2) == reference, "{arch} {} {tiles:?}", method.name());
            }
        }
        // In bf16 what is stored rounds, alike under every policy.
        let halves = |method: Method| method.policy().with_activations(SavedAs::Bf16);
        let reference = run(halves(Method::Mesp), 1);
        for method in Method::ALL {
            assert!(run(halves(method), 2) == reference, "{arch} {} in bf16", method.name());
        }
    }
}

/// Several micro-batches add up to what all rows give at once.
#[test]
fn micro_batches_add_up() {
    for arch in ["qwen2", "gemma3_text", "phi3"] {
        let case = Case::load(arch);
        let total = case.batch.targets();
        let mut whole = session::<f64>(&case, &case.batch, mesp_policy(), 1);
        whole.accumulate(&case.batch, total);
        let mut parts = session::<f64>(&case, &case.batch, mesp_policy(), 1);
        for row in &case.rows {
            parts.accumulate(row, total);
        }
        let (whole, parts) = (gradients(&whole), gradients(&parts));
        for (name, values) in &whole {
            assert!(relative(&parts[name], values) <= 1e-12, "{arch} {name}");
        }
    }
}

/// Weights of any type that is held in memory: the same values give the same gradients, and the plan is kept to the
/// byte.
#[test]
fn stored_types_and_their_plans() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let mut source = MemorySource::read(&case.dir.join("model"));
        // Values that all types hold.
        source.tensors.values_mut().flat_map(|(_, v)| v).for_each(|x| *x = (*x * 64.0).round() / 64.0);
        let mut reference = None;
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            source.dtype = dtype;
            let case = Case { model: loaded(&case, &source), ..Case::load(arch) };
            for policy in [mesp_policy(), Method::StoreAll.policy()] {
                let mut session = session::<f32>(&case, &case.batch, policy, 2);
                session.accumulate(&case.batch, case.batch.targets());
                let (reached, planned) =
                    (session.backend().reached_bytes(), session.backend().plan().bytes());
                assert_eq!(reached, planned, "{arch} {dtype:?}");
                let ours = gradients(&session);
                assert!(*reference.get_or_insert_with(|| ours.clone()) == ours, "{arch} {dtype:?}");
            }
        }
    }
}

/// Files have the checkpoint's names and shapes; what stands there before stays when writing fails.
#[test]
fn files_have_the_checkpoints_names() {
    let case = Case::load("phi3");
    let mut session = session::<f32>(&case, &case.batch, mesp_policy(), 1);
    session.accumulate(&case.batch, case.batch.targets());
    let to = tempfile::tempdir().expect("a folder");
    let path = to.path().join("grads.safetensors");
    let all: Vec<_> = session.grads().iter().collect();
    peft::write_params(session.backend(), &path, &all, &BTreeMap::new()).expect("a file");
    let map = Mapping::open(&path).expect("a file");
    let header = safetensors_file::parse(&path, map.bytes()).expect("a header");
    let ours = gradients(&session);
    assert_eq!(header.tensors.len(), ours.len());
    for t in &header.tensors {
        let values = safetensors_file::read_f32(&path, map.bytes(), t).expect("values");
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        assert_eq!(values, ours[&t.name], "{}", t.name);
    }
    let fused = Module::Qkv.shape(&case.model.config);
    let of = |name: &str| header.tensors.iter().find(|t| t.name == name).map(|t| t.shape.clone());
    assert_eq!(of("model.layers.0.self_attn.qkv_proj.weight"), Some(vec![fused.0, fused.1]));
    assert_eq!(of("model.norm.weight"), Some(vec![case.model.config.hidden_size]));
}
