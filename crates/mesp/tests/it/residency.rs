//! Where the blocks' inputs wait: a file changes nothing; bf16 rounds them, alike for every policy.

use mesp::arch::Module;
use mesp::method::Method;
use mesp::tape::{Policy, SavedAs};
use mesp::train::{Session, plan};
use mesp_device::{Backend, Cpu, Spill, Threads};

use crate::support::{
    Answer, Case, answer, gradients, mesp_policy, random_batch, randomize_adapters, relative, shapes,
};

fn session(
    case: &Case,
    policy: Policy,
    batch: &mesp::model::Batch,
    spill: Option<Spill>,
) -> Session<Cpu<f32>> {
    let mut options = case.options(policy);
    options.adapter.targets = Module::ALL.to_vec();
    let plan = plan(&case.model, &options, &shapes(batch), 4, 2).expect("a plan");
    let pool = Threads::new(2).expect("threads");
    let mut cpu = Cpu::<f32>::new(plan, std::sync::Arc::new(pool));
    if let Some(spill) = spill {
        cpu = cpu.with_spill(spill);
    }
    let mut session = Session::new(cpu, std::sync::Arc::clone(&case.model), options, batch.targets());
    randomize_adapters(&mut session);
    session
}

fn spill(case: &Case, rows: usize) -> Spill {
    let dir = tempfile::tempdir().expect("a folder");
    let c = &case.model.config;
    Spill::create(dir.path(), c.layers, rows * c.hidden_size * 4).expect("a file")
}

#[test]
fn a_file_changes_no_bit_and_memory_by_the_checkpoints() {
    for arch in crate::support::ARCHS {
        let case = Case::load(arch);
        let batch = random_batch(&[70, 1, 33], case.model.config.vocab_size, 6);
        for method in Method::ALL {
            let run = |form| -> Answer {
                let policy = method.policy().with_inputs(form);
                let file = (form == SavedAs::File).then(|| spill(&case, batch.rows()));
                let mut session = session(&case, policy, &batch, file);
                let answer = answer(&mut session, &batch);
                assert!(!session.backend().faulty());
                answer
            };
            assert!(run(SavedAs::File) == run(SavedAs::Full), "{arch} {}", method.name());
        }
    }
}

#[test]
fn bf16_inputs_are_the_same_for_every_policy_and_near_the_exact_ones() {
    let case = Case::load("qwen2");
    let batch = random_batch(&[70, 1, 33], case.model.config.vocab_size, 6);
    let rounded = |method: Method| {
        let policy = Policy { tiles: mesp_policy().tiles, ..method.policy() }.with_inputs(SavedAs::Bf16);
        let mut session = session(&case, policy, &batch, None);
        let answer = answer(&mut session, &batch);
        (answer, gradients(&session))
    };
    let (reference, ours) = rounded(Method::Mesp);
    for method in Method::ALL {
        assert!(rounded(method).0 == reference, "{}", method.name());
    }
    let mut exact = session(&case, mesp_policy(), &batch, None);
    exact.accumulate(&batch, batch.targets());
    for (a, b) in ours.iter().zip(gradients(&exact)) {
        // bf16 rounds at 2⁻⁹ = 0.002; three blocks and the curvature of the loss between input and gradient.
        let error = relative(a, &b);
        assert!(error > 0.0 && error < 0.05, "{error}");
    }
}

#[test]
fn a_file_that_fails_is_reported_and_not_used() {
    let case = Case::load("qwen2");
    let batch = random_batch(&[9], case.model.config.vocab_size, 6);
    let policy = mesp_policy().with_inputs(SavedAs::File);
    // No file was given: every write fails.
    let mut session = session(&case, policy, &batch, None);
    session.accumulate(&batch, batch.targets());
    assert!(session.take_fault().is_some());
    assert!(session.take_fault().is_none(), "told once");
}
