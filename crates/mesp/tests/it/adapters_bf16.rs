//! Adapters stored in bf16: half the bytes, steps that are right on average, the same bits however it is run.

use mesp::adapter::peft;
use mesp::optim::OptimizerKind;
use mesp::train::{Options, Update, plan};
use mesp_device::{Class, Elem};

use crate::support::{
    ADAMW, Case, SGD, bits, mean_loss, mesp_policy, parameters, random_batch, session_for, shapes,
};

fn options(case: &Case, adapter_type: Elem, update: Update, optimizer: OptimizerKind) -> Options {
    Options { adapter_type, update, optimizer, seed: 3, ..case.options(mesp_policy()) }
}

#[test]
fn half_the_bytes() {
    let case = Case::load("qwen2");
    let batch = random_batch(&[40], case.model.config.vocab_size, 1);
    let [full, half] = [Elem::Full, Elem::Bf16].map(|elem| {
        let options = options(&case, elem, Update::Accumulate, ADAMW);
        plan(&case.model, &options, &shapes(&batch), 4, 1).expect("a plan").ledger()
    });
    let values = case.adapter.parameters(&case.model.config) as usize;
    // Each matrix begins on a cache line.
    let lines = 64 * 2 * case.adapter.targets.len() * case.model.config.layers;
    assert!((4 * values..=4 * values + lines).contains(&full[&Class::Adapter]));
    assert!((2 * values..=2 * values + lines).contains(&half[&Class::Adapter]));
    for class in [Class::Gradient, Class::Optimizer] {
        assert_eq!(full[&class], half[&class], "{class:?} stays");
    }
}

#[test]
fn steps_are_the_same_in_any_number_of_threads_and_block_by_block() {
    let case = Case::load("llama");
    for optimizer in [SGD, OptimizerKind::sgd(0.9), ADAMW] {
        let run = |threads: usize, update: Update, seed: u64| {
            let options = Options { seed, ..options(&case, Elem::Bf16, update, optimizer) };
            let mut session = case.session::<f32>(options, threads);
            for _ in 0..3 {
                match update {
                    Update::Accumulate => {
                        session.accumulate(&case.batch, case.batch.targets());
                        session.apply(0.01, 1.0);
                    }
                    Update::PerBlock | Update::PerMatrix => drop(session.step_fused(&case.batch, 0.01, None)),
                }
            }
            bits(&parameters(&session))
        };
        let reference = run(1, Update::Accumulate, 3);
        assert!(run(3, Update::Accumulate, 3) == reference, "{optimizer:?}");
        assert!(run(2, Update::PerBlock, 3) == reference, "{optimizer:?}");
        assert!(run(1, Update::Accumulate, 4) != reference, "{optimizer:?}: the seed names the rounding");
    }
}

#[test]
fn training_goes_where_it_goes_in_f32() {
    let case = Case::load("qwen2");
    let run = |elem: Elem| {
        let mut session = case.session::<f32>(options(&case, elem, Update::Accumulate, ADAMW), 2);
        let before = mean_loss(&mut session, &case.batch);
        for _ in 0..40 {
            session.accumulate(&case.batch, case.batch.targets());
            session.apply(2e-3, 1.0);
        }
        (before, mean_loss(&mut session, &case.batch))
    };
    let ((before, full), (_, half)) = (run(Elem::Full), run(Elem::Bf16));
    assert!(full < before - 0.1, "the run learns: {before} to {full}");
    // Rounding adds noise of 2⁻⁹ of a parameter a step; a hundredth of what was learned is far above its effect.
    assert!((half - full).abs() < 0.01 * (before - full), "{before}: {full} in f32, {half} in bf16");
}

#[test]
fn files_hold_the_bits() {
    let case = Case::load("qwen3");
    let dir = tempfile::tempdir().expect("a folder");
    let options = options(&case, Elem::Bf16, Update::Accumulate, SGD);
    let mut session = session_for::<f32>(&case.model, options.clone(), &case.shapes(), 1);
    session.init_adapters(5);
    session.accumulate(&case.batch, case.batch.targets());
    session.apply(0.1, 1.0);
    peft::save(session.backend(), dir.path(), &case.adapter, None, session.params()).expect("saved");
    let file = dir.path().join("adapter_model.safetensors");
    let bytes = std::fs::metadata(&file).expect("a file").len();
    let values = case.adapter.parameters(&case.model.config);
    assert!(bytes > 2 * values && bytes < 3 * values, "{bytes} bytes for {values} values");
    // Into one that stores bf16, and into one that stores f32.
    for elem in [Elem::Bf16, Elem::Full] {
        let options = Options { adapter_type: elem, ..options.clone() };
        let mut other = session_for::<f32>(&case.model, options, &case.shapes(), 1);
        let config = other.model().config.clone();
        let (be, params, _) = other.state_mut();
        peft::read_tensors(be, &file, params, &config).expect("read");
        assert_eq!(bits(&parameters(&other)), bits(&parameters(&session)), "{elem:?}");
    }
}
