//! A base whose weights are W + s·B·A is the adapted model.

use std::sync::Arc;

use mesp::adapter::AdapterConfig;
use mesp::arch::Module;
use mesp::model::ModelWeights;
use mesp_device::Real;

use crate::support::{
    ARCHS, Case, MemorySource, eval_shapes, mean_loss, mesp_policy, session_for, values, weight_name,
};

/// The golden model with its adapter added to the weights, and no adapter.
fn merged(case: &Case) -> ModelWeights {
    let session = case.session::<f64>(case.options(mesp_policy()), 1);
    let mut source = MemorySource::read(&case.dir.join("model"));
    let config = &case.model.config;
    for (l, block) in session.params().iter().enumerate().take(config.layers) {
        for p in Module::INSIDE.into_iter().filter(|p| p.exists(config)) {
            let pair = block[p as usize].as_ref().expect("an adapter on every matrix");
            let (out, input, r) = (pair.b.rows(), pair.a.cols(), case.adapter.rank);
            let scale = pair.scale;
            assert!((scale - 1.0).abs() > 0.1, "a scale of 1 would hide a missing one");
            let [a, b] = [&pair.a, &pair.b].map(|act| values(session.backend(), act));
            let w = source.values_mut(&weight_name(l, p));
            for o in 0..out {
                for i in 0..input {
                    let product: f64 = (0..r).map(|k| b[o * r + k] * a[k * input + i]).sum();
                    w[o * input + i] = (f64::from(w[o * input + i]) + scale * product) as f32;
                }
            }
        }
    }
    ModelWeights::load(case.model.config.clone(), &source).expect("a model")
}

fn check<R: Real>(tolerance: f64) {
    for arch in ARCHS {
        let case = Case::load(arch);
        let adapted = mean_loss(&mut case.session::<R>(case.options(mesp_policy()), 1), &case.batch);
        let mut options = case.options(mesp_policy());
        options.adapter = AdapterConfig::none();
        options.training = false;
        let shapes = eval_shapes(&case.batch);
        let base = mean_loss(&mut session_for::<R>(&case.model, options.clone(), &shapes, 1), &case.batch);
        let model = Arc::new(merged(&case));
        let ours = mean_loss(&mut session_for::<R>(&model, options, &shapes, 1), &case.batch);
        assert!((base - adapted).abs() > 1e-3, "{arch}: the adapter changes the loss");
        let error = (ours - adapted).abs() / adapted;
        assert!(error <= tolerance, "{arch}: {ours} merged, {adapted} adapted, {error:e}");
    }
}

/// Merged weights are stored in single precision whatever the model computes in: each is off by up to 6e-8
/// of itself, at random, so that most of it cancels; 5e-9 of the loss remained when this was written.
#[test]
fn merged_equals_adapted_f64() {
    check::<f64>(1e-7);
}

/// Besides the stored weights, every product is rounded differently: 6e-8 for each of a dozen in a row.
#[test]
fn merged_equals_adapted_f32() {
    check::<f32>(1e-6);
}
