//! DoRA against PEFT (`golden/dora.py` made the numbers), differences, merged models and files of GGUF.

use std::path::Path;
use std::sync::Arc;

use mesp::adapter::{AdapterConfig, Matrix, peft};
use mesp::arch::Module;
use mesp::merge::{Options as MergeOptions, merge};
use mesp::method::{Directional, Estimator, Method};
use mesp::quantize::quantize;
use mesp::source::{Base, open_model};
use mesp::train::{Options, Session, plan};
use mesp_device::{Cpu, Mapping, Real};
use mesp_formats::gguf::TensorType;
use mesp_formats::lora::Layout;
use mesp_formats::peft::{MODEL_FILE, parse_tensor_name};
use mesp_formats::safetensors_file;

use crate::support::{
    ARCHS, Case, MemorySource, derivative_of_matrix, eval_shapes, golden, gradient, gradients, mean_loss,
    mesp_policy, parameters, randomize_adapters, relative, session_for, values, weight_name,
};

const GOLDENS: [&str; 4] = ["qwen2", "llama", "gemma3_text", "phi3"];

/// A golden with PEFT's DoRA adapter in place of its LoRA.
fn case(arch: &str) -> Case {
    let adapter = mesp::source::load_adapter_config(&golden("dora").join(arch)).expect("PEFT's settings");
    assert!(adapter.dora);
    Case { adapter, ..Case::load(arch) }
}

fn session<R: Real>(case: &Case, arch: &str, options: Options) -> Session<Cpu<R>> {
    let mut session = session_for(&case.model, options, &case.shapes(), 2);
    let file = golden("dora").join(arch).join(MODEL_FILE);
    case.read_adapter(&mut session, &file).expect("PEFT's tensors");
    session
}

/// Loss and gradients against a golden file.
fn compare<R: Real>(arch: &str, file: &str, tolerance: f64) {
    let case = case(arch);
    let mut session = session::<R>(&case, arch, case.options(mesp_policy()));
    let outcome = session.accumulate(&case.batch, case.batch.targets());
    let path = golden("dora").join(arch).join(file);
    let map = Mapping::open(&path).expect("golden");
    let header = safetensors_file::parse(&path, map.bytes()).expect("golden header");
    let reference: f64 = header.metadata["loss"].parse().expect("loss");
    let loss = outcome.nats / outcome.targets as f64;
    assert!((loss - reference).abs() <= 1e-6 * reference, "{arch}: loss {loss}, PyTorch {reference}");
    for t in &header.tensors {
        let (layer, module, matrix) = parse_tensor_name(&t.name).expect("PEFT's name");
        let p = Module::from_name(&module).expect("a projection");
        let ours = gradient(&session, layer, p, matrix);
        let theirs = safetensors_file::read_f32(&path, map.bytes(), t).expect("values");
        let theirs: Vec<f64> = theirs.into_iter().map(f64::from).collect();
        let error = relative(&ours, &theirs);
        assert!(error <= tolerance, "{arch} {}: {error:e}", t.name);
    }
    assert_eq!(header.tensors.len(), gradients(&session).len(), "every gradient has a golden");
}

#[test]
fn f32_gradients_equal_pefts() {
    // As the goldens of LoRA: both sides round at 6e-8 over a few hundred terms.
    for arch in GOLDENS {
        compare::<f32>(arch, "grads.safetensors", 1e-5);
    }
}

#[test]
fn f64_gradients_equal_pefts() {
    // Angles, sines and cosines are single precision, and so is the golden as stored.
    for arch in GOLDENS {
        compare::<f64>(arch, "grads_f64.safetensors", 2e-6);
    }
}

/// What holding the norms constant leaves out of the gradient along `d`: `Σ_j (∂L/∂n_j)·∂n_j`.
fn left_out(
    session: &Session<Cpu<f64>>,
    source: &mut MemorySource,
    (layer, p, matrix): (usize, Module, Matrix),
    d: &[f64],
) -> f64 {
    let be = session.backend();
    let of = |blocks: &[mesp::adapter::BlockPairs], m: Matrix| {
        let pair = blocks[layer][p as usize].as_ref().expect("an adapter");
        let act = pair.matrices().find(|(matrix, _)| *matrix == m).expect("a matrix").1;
        values(be, act)
    };
    let [a, b, m] = [Matrix::A, Matrix::B, Matrix::M].map(|matrix| of(session.params(), matrix));
    let dm = gradient(session, layer, p, Matrix::M);
    let pair = session.params()[layer][p as usize].as_ref().expect("an adapter");
    let (r, input, s) = (pair.a.rows(), pair.a.cols(), pair.scale);
    let w = source.values_mut(&weight_name(layer, p));
    let row = |b: &[f64], a: &[f64], j: usize| -> Vec<f64> {
        (0..input).map(|i| (0..r).map(|k| b[j * r + k] * a[k * input + i]).sum::<f64>()).collect()
    };
    let term = |j: usize| {
        let v: Vec<f64> =
            row(&b, &a, j).iter().zip(&w[j * input..]).map(|(ba, w)| f64::from(*w) + s * ba).collect();
        let n = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let change = match matrix {
            Matrix::A => row(&b, d, j),
            Matrix::B => row(d, &a, j),
            Matrix::M => return 0.0,
        };
        let dn = s * v.iter().zip(&change).map(|(v, c)| v * c).sum::<f64>() / n;
        -(m[j] / n) * dm[j] * dn
    };
    (0..m.len()).map(term).sum()
}

/// The gradients and what they leave out are the loss's differences.
#[test]
fn gradients_and_what_they_leave_out_equal_differences() {
    const STEP: f64 = 2.5e-4;
    for arch in ARCHS {
        let case = Case::load(arch);
        let adapter = AdapterConfig { dora: true, ..case.adapter.clone() };
        let options = Options { adapter, ..case.options(mesp_policy()) };
        let mut session = session_for::<f64>(&case.model, options, &case.shapes(), 1);
        randomize_adapters(&mut session);
        session.accumulate(&case.batch, case.batch.targets());
        let mut source = MemorySource::read(&case.dir.join("model"));
        let places: Vec<(usize, Module, Matrix)> = session
            .params()
            .iter()
            .enumerate()
            .flat_map(|(l, block)| Module::MODULES.into_iter().zip(block).map(move |(p, pair)| (l, p, pair)))
            .filter_map(|(l, p, pair)| Some((l, p, pair.as_ref()?)))
            .flat_map(|(l, p, pair)| pair.matrices().map(move |(m, _)| (l, p, m)).collect::<Vec<_>>())
            .collect();
        let (exact, start) = (gradients(&session), parameters(&session));
        assert_eq!(places.len(), exact.len());
        let (mut ours, mut numeric, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for (m, gradient) in exact.iter().enumerate() {
            let sign = |i: usize| if (i * 7 + m).is_multiple_of(3) { 1.0 } else { -1.0 };
            let d: Vec<f64> = (0..gradient.len()).map(|i| sign(i) / (gradient.len() as f64).sqrt()).collect();
            let along: f64 = gradient.iter().zip(&d).map(|(g, d)| g * d).sum();
            held.push(along);
            ours.push(along + left_out(&session, &mut source, places[m], &d));
            let loss = |session: &mut Session<Cpu<f64>>| mean_loss(session, &case.batch);
            numeric.push(derivative_of_matrix(&mut session, (m, &start[m], &d), STEP, loss));
        }
        let error = relative(&ours, &numeric);
        // As for LoRA: the stencil, and the loss's rounding over the distance.
        assert!(error <= 1e-8, "{arch}: {error:e}");
        assert!(relative(&held, &numeric) > 1e-3, "{arch}: something is left out");
    }
}

/// A new adapter is the base, whatever the rows' norms.
#[test]
fn a_new_adapter_changes_nothing() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let losses = [false, true].map(|dora| {
            let adapter = AdapterConfig { dora, ..case.adapter.clone() };
            let options = Options { adapter, ..case.options(mesp_policy()) };
            let mut session = session_for::<f64>(&case.model, options, &case.shapes(), 1);
            session.init_adapters(3);
            mean_loss(&mut session, &case.batch)
        });
        assert!((losses[0] - losses[1]).abs() <= 1e-13 * losses[0], "{arch}: {losses:?}");
    }
}

fn base_losses(case: &Case, path: &Path) -> Vec<f64> {
    let model = Arc::new(open_model(path, Base::Mapped).expect("a model").load().expect("weights"));
    let options = Options { adapter: AdapterConfig::none(), training: false, ..case.options(mesp_policy()) };
    let mut session = session_for::<f64>(&model, options, &eval_shapes(&case.batch), 1);
    session.evaluate(&case.batch).iter().map(mesp_device::RowStat::nats).collect()
}

/// Merged into a directory and into a file, and beside a base in a file: the same losses.
#[test]
fn merged_models_and_files_say_the_same() {
    for arch in GOLDENS {
        let case = case(arch);
        let dir = tempfile::tempdir().expect("a folder");
        let mut adapted = session::<f64>(&case, arch, case.options(mesp_policy()));
        let theirs: Vec<f64> = adapted.evaluate(&case.batch).iter().map(mesp_device::RowStat::nats).collect();
        let (model, adapter) = (case.dir.join("model"), golden("dora").join(arch));
        for output in [dir.path().join("merged"), dir.path().join("merged.gguf")] {
            let options = MergeOptions { ty: Some(TensorType::F32), max_shard: u64::MAX };
            merge(&model, &adapter, &output, options, &mut |_, _| {}).expect("merged");
            // Rounded to single precision.
            let error = relative(&base_losses(&case, &output), &theirs);
            assert!(error <= 1e-6, "{arch} {}: {error:e}", output.display());
        }
        // The rows of q and k are interleaved in a llama file, and so are their magnitudes.
        let file = dir.path().join("base.gguf");
        quantize(&model, &file, TensorType::F32, &mut |_, _| {}).expect("written");
        let model = Arc::new(open_model(&file, Base::Mapped).expect("a model").load().expect("weights"));
        let on_file = Case { model, ..case };
        let mut here = session::<f64>(&on_file, arch, on_file.options(mesp_policy()));
        let ours: Vec<f64> = here.evaluate(&on_file.batch).iter().map(mesp_device::RowStat::nats).collect();
        assert!(relative(&ours, &theirs) <= 1e-12, "{arch}: {:e}", relative(&ours, &theirs));
        // What is written there is what was read.
        let again = dir.path().join("again");
        peft::save(here.backend(), &again, &on_file.adapter, None, here.params()).expect("written");
        let mut read =
            session_for::<f64>(&on_file.model, on_file.options(mesp_policy()), &on_file.shapes(), 1);
        on_file.read_adapter(&mut read, &again.join(MODEL_FILE)).expect("the same adapter");
        assert_eq!(parameters(&read), parameters(&here), "{arch}");
        assert_eq!(mesp::source::load_adapter_config(&again).expect("settings"), on_file.adapter);
    }
}

#[test]
fn what_cannot_hold_it_is_refused() {
    let case = case("qwen2");
    let dir = tempfile::tempdir().expect("a folder");
    let adapter = golden("dora").join("qwen2");
    for to in [Layout::Gguf, Layout::Mlx, Layout::Peft] {
        let model = case.dir.join("model");
        let text = mesp::export::export(&adapter, to, Some(&model), &dir.path().join("to"))
            .expect_err("no place for magnitudes")
            .to_string();
        assert!(text.contains("found DoRA"), "{text}");
    }
    for along in [Directional::MEZO, Directional::FORWARD] {
        let estimator = Estimator::Directional(along);
        let options = Options { estimator, ..case.options(Method::Mesp.policy()) };
        let text = plan(&case.model, &options, &case.shapes(), 4, 1).expect_err("no norms").to_string();
        assert!(text.contains("DoRA cannot be combined with an estimate"), "{text}");
    }
    // An adapter's tensors without its magnitudes.
    let lora = AdapterConfig { dora: false, ..case.adapter.clone() };
    let options = Options { adapter: lora, ..case.options(mesp_policy()) };
    let mut session = session_for::<f32>(&case.model, options, &case.shapes(), 1);
    let text =
        case.read_adapter(&mut session, &adapter.join(MODEL_FILE)).expect_err("magnitudes").to_string();
    assert!(text.contains("is not of this adapter"), "{text}");
}
