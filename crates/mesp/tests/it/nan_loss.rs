//! A NaN in the weights shows in the loss.

use std::sync::Arc;

use mesp::arch::Module;
use mesp::method::Method;
use mesp::model::ModelWeights;

use crate::support::{ARCHS, Case, MemorySource, mesp_policy, randomize_adapters, session_for, weight_name};

/// Where a NaN is put: every kind of tensor that a model has.
fn places(source: &MemorySource) -> Vec<String> {
    let last = |name: &String| !name.contains("layers.1.") && !name.contains("layers.2.");
    source.tensors.keys().filter(|n| last(n)).cloned().collect()
}

#[test]
fn nan_weights_give_a_nan_loss() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let source = MemorySource::read(&case.dir.join("model"));
        let places = places(&source);
        // Fused matrices are two where others are five.
        let kinds = if places.iter().any(|name| name.contains("qkv_proj")) { 9 } else { 11 };
        assert!(places.contains(&weight_name(0, Module::Down)) && places.len() >= kinds, "{places:?}");
        for name in places {
            let mut source = source.clone();
            // Of the table the row of a token that occurs.
            let at = if name.contains("embed") {
                case.batch.tokens[0] as usize * case.model.config.hidden_size
            } else {
                1
            };
            source.values_mut(&name)[at] = f32::NAN;
            let model = Arc::new(ModelWeights::load(case.model.config.clone(), &source).expect("a model"));
            let mut session = session_for::<f32>(&model, case.options(mesp_policy()), &case.shapes(), 2);
            randomize_adapters(&mut session);
            let outcome = session.accumulate(&case.batch, case.batch.targets());
            assert!(outcome.nats.is_nan(), "{arch} {name}: {}", outcome.nats);
            assert!(session.grad_norm().is_nan(), "{arch} {name}");
            let rows = session.evaluate(&case.batch);
            assert!(rows.iter().any(|l| l.nats().is_nan()), "{arch} {name}");
        }
    }
}

/// The same for a NaN in an adapter, under every method.
#[test]
fn a_nan_adapter_gives_a_nan_loss() {
    let case = Case::load("qwen3");
    for method in Method::ALL {
        for p in Module::ALL {
            let mut session = case.session::<f32>(case.options(method.policy()), 2);
            let (be, params, _) = session.state_mut();
            let pair = params[1][p as usize].as_mut().expect("an adapter");
            mesp_device::Backend::load(be, pair.b.view_mut(), &mut |i| if i == 0 { f64::NAN } else { 0.1 });
            let outcome = session.accumulate(&case.batch, case.batch.targets());
            assert!(outcome.nats.is_nan(), "{} {}", method.name(), p.name());
            assert!(session.grad_norm().is_nan(), "{} {}", method.name(), p.name());
        }
    }
}
