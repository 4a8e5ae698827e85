//! Against PyTorch and PEFT: `golden/generate.py` made the numbers.

use std::collections::BTreeMap;

use mesp::adapter::Projection;
use mesp_device::{Backend, Mapping, Real};
use mesp_formats::peft::parse_tensor_name;
use mesp_formats::safetensors_file;

use crate::support::{Case, mesp_policy, relative};

const ARCHS: [&str; 3] = ["qwen2", "qwen3", "llama"];

/// Loss and relative errors per tensor against a golden file.
fn compare<R: Real>(arch: &str, file: &str) -> (f64, f64, BTreeMap<String, f64>) {
    let case = Case::load(arch);
    let mut session = case.session::<R>(case.options(mesp_policy()), 2);
    let outcome = session.accumulate(&case.batch, case.batch.targets());
    let path = case.dir.join(file);
    let map = Mapping::open(&path).expect("golden");
    let header = safetensors_file::parse(&path, map.bytes()).expect("golden header");
    let reference: f64 = header.metadata["loss"].parse().expect("loss");
    assert_eq!(header.metadata["target_tokens"], outcome.targets.to_string());
    let errors = header.tensors.iter().map(|t| {
        let (layer, module, matrix) = parse_tensor_name(&t.name).expect("PEFT name");
        let p = Projection::from_name(&module).expect("projection");
        let pair = session.grads()[layer][p as usize].as_ref().expect("adapter");
        let act = if matrix == mesp_formats::peft::Matrix::A { &pair.a } else { &pair.b };
        let mut ours = vec![0.0; act.rows() * act.cols()];
        session.backend().store(act.view(), &mut |i, x| ours[i] = x);
        let golden: Vec<f64> =
            safetensors_file::read_f32(&path, map.bytes(), t).expect("values").into_iter().map(f64::from).collect();
        (t.name.clone(), relative(&ours, &golden))
    });
    let errors: BTreeMap<String, f64> = errors.collect();
    assert_eq!(errors.len(), mesp::adapter::matrices(session.grads()).count(), "every gradient has a golden");
    (outcome.nats / outcome.targets as f64, reference, errors)
}

#[test]
fn f32_gradients_equal_pytorch() {
    for arch in ARCHS {
        let (loss, reference, errors) = compare::<f32>(arch, "grads.safetensors");
        assert!((loss - reference).abs() <= 1e-6 * reference, "{arch}: loss {loss}, PyTorch {reference}");
        for (name, error) in errors {
            // The bound; both sides round at 6e-8 over a few hundred terms.
            assert!(error <= 1e-5, "{arch} {name}: {error:e}");
        }
    }
}

#[test]
fn f64_gradients_equal_pytorch_f64() {
    for arch in ARCHS {
        let (loss, reference, errors) = compare::<f64>(arch, "grads_f64.safetensors");
        assert!((loss - reference).abs() <= 1e-6 * reference, "{arch}: loss {loss}, PyTorch {reference}");
        for (name, error) in errors {
            // The reference normalizes and rotates in single precision even in its f64 run, and the golden is
            // stored in it: a few times 6e-8 per norm. The f64 run itself is held against differences.
            assert!(error <= 2e-6, "{arch} {name}: {error:e}");
        }
    }
}
