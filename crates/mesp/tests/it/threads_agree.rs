//! The number of threads changes no bit.

use crate::support::{
    ADAMW, ARCHS, Case, answer, bits, mesp_policy, parameters, random_batch, randomize_adapters, session_for,
    shapes,
};

#[test]
fn threads_agree() {
    for arch in ARCHS {
        let case = Case::load(arch);
        // Long enough that attention, products and norms are cut into several tasks.
        let batch = random_batch(&[90, 1, 170, 40], case.model.config.vocab_size, 8);
        let results = [1, 2, 3].map(|threads| {
            let options =
                mesp::train::Options { optimizer: ADAMW, weight_decay: 0.01, ..case.options(mesp_policy()) };
            let mut session = session_for::<f32>(&case.model, options, &shapes(&batch), threads);
            randomize_adapters(&mut session);
            let before = bits(&parameters(&session));
            let answer = answer(&mut session, &batch);
            session.zero_grads();
            for _ in 0..3 {
                session.accumulate(&batch, batch.targets());
                let norm = session.grad_norm();
                session.apply(0.01, 0.5 / norm);
            }
            let after = bits(&parameters(&session));
            assert_ne!(before, after, "steps change parameters");
            (answer, after)
        });
        assert!(results[0] == results[1] && results[0] == results[2], "{arch}");
    }
}
