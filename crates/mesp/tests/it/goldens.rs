//! Against PyTorch and PEFT: `golden/generate.py` made the numbers.

use std::collections::BTreeMap;

use mesp::arch::Module;
use mesp_device::{Mapping, Real};
use mesp_formats::peft::parse_tensor_name;
use mesp_formats::safetensors_file;

use crate::support::{ARCHS, Case, gradient, mesp_policy, relative};

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
        let p = Module::from_name(&module).expect("projection");
        let ours = gradient(&session, layer, p, matrix);
        let golden: Vec<f64> = safetensors_file::read_f32(&path, map.bytes(), t)
            .expect("values")
            .into_iter()
            .map(f64::from)
            .collect();
        (t.name.clone(), relative(&ours, &golden))
    });
    let errors: BTreeMap<String, f64> = errors.collect();
    assert_eq!(errors.len(), session.grads().iter().count(), "every gradient has a golden");
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
            // The reference is double precision throughout. The engine's angles, sines and cosines are single
            // precision, 6e-8 each, and the golden is stored in it. (With exact angles ten steps of training
            // agree to 1e-14.)
            assert!(error <= 2e-6, "{arch} {name}: {error:e}");
        }
    }
}
