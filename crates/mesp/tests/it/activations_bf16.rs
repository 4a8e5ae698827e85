//! Intermediates of a block stored in bf16: less memory, the same bits under every policy, errors of the size that
//! computing in bf16 has anyway.

use std::sync::Arc;

use mesp::arch::Module;
use mesp::method::Method;
use mesp::model::Batch;
use mesp::tape::{Policy, SavedAs, Tiles};
use mesp::train::{Session, plan};
use mesp_device::{Compute, Cpu, Threads};

use crate::support::{
    ARCHS, Answer, Case, answer, gradients, mesp_policy, random_batch, randomize_adapters, relative,
    session_for, shapes,
};

fn halved(policy: Policy) -> Policy {
    policy.with_activations(SavedAs::Bf16)
}

fn run(case: &Case, policy: Policy, batch: &Batch, threads: usize) -> Answer {
    let mut options = case.options(policy);
    options.adapter.targets = Module::ALL.to_vec();
    let mut session = session_for::<f32>(&case.model, options, &shapes(batch), threads);
    randomize_adapters(&mut session);
    let answer = answer(&mut session, batch);
    let (reached, planned) = (session.backend().reached_bytes(), session.backend().plan().bytes());
    assert_eq!(reached, planned, "{}", case.model.config.arch);
    answer
}

#[test]
fn policies_and_threads_agree() {
    let small = Tiles { mlp_rows: 7, head_rows: 5, ..Tiles::UNTILED };
    for arch in ARCHS {
        let case = Case::load(arch);
        let batch = random_batch(&[70, 1, 33], case.model.config.vocab_size, 6);
        let reference = run(&case, halved(mesp_policy()), &batch, 1);
        assert!(run(&case, mesp_policy(), &batch, 1) != reference, "{arch}: something is rounded");
        for method in Method::ALL {
            for tiles in [method.policy().tiles, small] {
                let policy = Policy { tiles, ..halved(method.policy()) };
                assert!(run(&case, policy, &batch, 3) == reference, "{arch} {} {tiles:?}", method.name());
            }
        }
    }
}

#[test]
fn they_need_less() {
    let case = Case::load("qwen2");
    let batch = random_batch(&[300], case.model.config.vocab_size, 1);
    let step = |policy: Policy| {
        plan(&case.model, &case.options(policy), &shapes(&batch), 4, 1).expect("a plan").programs[0].live_peak
    };
    for method in Method::ALL {
        let (full, half) = (step(method.policy()), step(halved(method.policy())));
        assert!(half < full, "{}: {half} against {full} bytes", method.name());
    }
    // Everything of every block is kept: five sites of nine and the small ones, at two bytes in place of four.
    let c = &case.model.config;
    let values = batch.rows() * (2 * c.hidden_size + 3 * c.intermediate_size) * c.layers;
    let saved = step(Method::StoreAll.policy()) - step(halved(Method::StoreAll.policy()));
    // Less what a gradient's own buffer takes in the last block.
    let own = 4 * batch.rows() * c.intermediate_size;
    assert!((2 * values - own..=2 * values).contains(&saved), "{saved} of {}", 2 * values);
}

/// All gradients as one vector, computing in bf16 or not, with activations stored in a type.
fn all_gradients<R: mesp_device::Real>(
    case: &Case,
    batch: &Batch,
    (compute, activations): (Compute, SavedAs),
) -> Vec<f64> {
    let mut options = case.options(mesp_policy().with_activations(activations));
    options.adapter.targets = Module::ALL.to_vec();
    let plan = plan(&case.model, &options, &shapes(batch), size_of::<R>(), 1).expect("a plan");
    let pool = Threads::new(1).expect("threads");
    let cpu = Cpu::<R>::new(plan, Arc::new(pool)).with_compute(compute);
    let mut session = Session::new(cpu, Arc::clone(&case.model), options, batch.targets());
    randomize_adapters(&mut session);
    session.accumulate(batch, batch.targets());
    gradients(&session).concat()
}

/// Against double precision, in which nothing is rounded to bf16.
#[test]
#[expect(clippy::print_stderr, reason = "the figures are what is published")]
fn errors_are_those_of_computing_in_bf16() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let batch = random_batch(&[70, 1, 33], case.model.config.vocab_size, 6);
        let exact = all_gradients::<f64>(&case, &batch, (Compute::Full, SavedAs::Full));
        let same = all_gradients::<f64>(&case, &batch, (Compute::Full, SavedAs::Bf16));
        assert!(relative(&same, &exact) < 1e-12, "{arch}: the reference rounds nothing");
        let error = |how| relative(&all_gradients::<f32>(&case, &batch, how), &exact);
        let [bf16, halved] = [SavedAs::Full, SavedAs::Bf16].map(|form| error((Compute::Bf16, form)));
        let alone = error((Compute::Full, SavedAs::Bf16));
        eprintln!("{arch}: bf16 products {bf16:.2e}, activations too {halved:.2e}, alone {alone:.2e}");
        // Alone it rounds fewer numbers than the products do, so its error is of the same size at most; two errors of
        // one size make √2 of it where they are independent, and 2 where they are not.
        assert!(halved < 2.0 * bf16, "{arch}: {halved:e} against {bf16:e}");
        assert!(alone < 1.5 * bf16, "{arch}: {alone:e} against {bf16:e}");
    }
}
