//! Stepping each block as its gradients are finished, against stepping all of them at the end.

use mesp::optim::OptimizerKind;
use mesp::train::{Options, Update, plan};
use mesp_device::Class;

use crate::support::{ADAMW, ARCHS, Case, SGD, bits, mesp_policy, parameters, random_batch, shapes};

fn options(case: &Case, update: Update, optimizer: OptimizerKind) -> Options {
    Options { update, optimizer, weight_decay: 0.01, ..case.options(mesp_policy()) }
}

#[test]
fn per_block_equals_accumulate() {
    for arch in ARCHS {
        let case = Case::load(arch);
        for optimizer in [SGD, OptimizerKind::sgd(0.9), ADAMW] {
            let mut all = case.session::<f32>(options(&case, Update::Accumulate, optimizer), 2);
            let mut each = case.session::<f32>(options(&case, Update::PerBlock, optimizer), 2);
            let start = bits(&parameters(&all));
            // A block's backward ends before its step, and no later backward reads it: steps are the same.
            for step in 1..=3 {
                let outcome = all.accumulate(&case.batch, case.batch.targets());
                let norm = all.grad_norm();
                all.apply(0.01, 1.0);
                let (each_outcome, each_norm) = each.step_fused(&case.batch, 0.01, None);
                assert_eq!(
                    outcome.nats.to_bits(),
                    each_outcome.nats.to_bits(),
                    "{arch} {optimizer:?} {step}"
                );
                assert_eq!(outcome.targets, each_outcome.targets);
                assert_eq!(bits(&parameters(&all)), bits(&parameters(&each)), "{arch} {optimizer:?} {step}");
                // The same squares in another order, in double precision.
                assert!((norm - each_norm).abs() <= 1e-13 * norm, "{arch} {optimizer:?}: {norm} {each_norm}");
            }
            assert_ne!(start, bits(&parameters(&all)));
            assert_eq!((all.steps(), each.steps()), (3, 3));
        }
    }
}

#[test]
fn per_block_saves_the_gradients() {
    for arch in ARCHS {
        let case = Case::load(arch);
        // Short rows, so that gradients are a good part of it all.
        let batch = random_batch(&[4], case.model.config.vocab_size, 1);
        let [all, each] = [Update::Accumulate, Update::PerBlock].map(|update| {
            plan(&case.model, &options(&case, update, SGD), &shapes(&batch), 4, 1).expect("a plan")
        });
        let gradients = all.ledger()[&Class::Gradient];
        assert!(gradients >= 4 * case.adapter.parameters(&case.model.config) as usize);
        assert_eq!(all.persistent_bytes() - each.persistent_bytes(), gradients, "{arch}");
        // One block's gradients come back into the step.
        let live = |plan: &mesp_device::Plan| plan.persistent_bytes() + plan.programs[0].live_peak;
        let saved = live(&all) - live(&each);
        assert!(saved >= gradients - gradients / case.model.config.layers, "{arch}: {saved} of {gradients}");
        assert!(saved <= gradients, "{arch}: {saved} of {gradients}");
        // Placed in the arena there may be holes, a few cache lines of them.
        assert!(all.bytes() - each.bytes() >= saved - saved / 20, "{arch}: {saved} of {gradients}");
    }
}
