//! A policy changes memory and work, never a bit of the result; only how it stores may, alike for all.
//!
//! With debug assertions a fresh buffer of the processor is filled with NaN, so a policy that reads what it
//! did not keep or rebuild shows.

use std::sync::LazyLock;

use mesp::arch::Module;
use mesp::method::Method;
use mesp::model::Batch;
use mesp::tape::{Policy, Saved, SavedAs, SiteSet, Tiles};
use proptest::prelude::*;

use crate::support::{
    ARCHS, Answer, Case, answer, mesp_policy, random_batch, randomize_adapters, session_for, shapes,
};

static CASES: LazyLock<[Case; 7]> = LazyLock::new(|| ARCHS.map(Case::load));

fn run(case: &Case, batch: &Batch, targets: &[Module], policy: Policy) -> Answer {
    let mut options = case.options(policy);
    let fused = case.model.config.family.fused;
    options.adapter.targets = targets.iter().map(|p| p.stored_in(fused)).collect();
    let mut session = session_for::<f32>(&case.model, options, &shapes(batch), 2);
    randomize_adapters(&mut session);
    answer(&mut session, batch)
}

/// Several tiles of queries (64 rows) and of keys in one sequence, several tiles of the MLP, and sequences
/// that are shorter than any tile.
fn long_batch(case: &Case) -> Batch {
    random_batch(&[70, 1, 150, 3], case.model.config.vocab_size, 3)
}

/// What the NaNs rely on.
#[cfg(debug_assertions)]
#[test]
fn fresh_buffers_are_nan() {
    use mesp_device::{Backend, Class, Cpu, Dry, Label, Program, Threads};

    let label = Label::new(Class::Other, "fresh");
    let mut dry = Dry::new(4, 1);
    dry.begin(Program(0));
    let act = dry.alloc(2, 3, label);
    dry.free(act);
    let pool = Threads::new(1).expect("threads");
    let mut cpu = Cpu::<f32>::new(dry.finish(), std::sync::Arc::new(pool));
    cpu.begin(Program(0));
    let act = cpu.alloc(2, 3, label);
    assert!(crate::support::values(&cpu, &act).iter().all(|x| x.is_nan()));
    cpu.free(act);
}

#[test]
fn presets_agree() {
    for case in &*CASES {
        for batch in [&case.batch, &long_batch(case)] {
            let reference = run(case, batch, &Module::ALL, mesp_policy());
            let small = Tiles { mlp_rows: 7, head_rows: 5, ..Tiles::UNTILED };
            for method in Method::ALL {
                // Row tiles never change a bit; key tiles are the same in all presets.
                for tiles in [method.policy().tiles, mesp_policy().tiles, small] {
                    let policy = Policy { tiles, ..method.policy() };
                    let ours = run(case, batch, &Module::ALL, policy);
                    assert!(ours == reference, "{} {} {tiles:?}", case.model.config.arch, method.name());
                }
            }
        }
    }
}

/// The key tile is not part of the promise: it changes the order of sums. It is compared here so that it is
/// known to reach the kernels at all, and that the bits above are not equal for a trivial reason.
#[test]
fn key_tiles_change_only_roundings() {
    let case = &CASES[0];
    let batch = long_batch(case);
    let [a, b] = [64, 16].map(|keys| {
        let policy = Policy { tiles: Tiles { keys, ..mesp_policy().tiles }, ..mesp_policy() };
        run(case, &batch, &Module::ALL, policy)
    });
    assert!(a != b);
}

fn policies() -> impl Strategy<Value = Policy> {
    let sets = (any::<u32>(), any::<u32>()).prop_map(|(a, w)| (SiteSet::from_bits(a), SiteSet::from_bits(w)));
    let rows = prop_oneof![1usize..80, Just(usize::MAX)];
    let tiles = (rows.clone(), rows, prop_oneof![Just(64usize), Just(16)]);
    let how = (any::<bool>(), prop_oneof![Just(SavedAs::Full), Just(SavedAs::Bf16)]);
    (sets, how, tiles).prop_map(
        |((across, within), (keep_last, activations), (mlp_rows, head_rows, keys))| Policy {
            across,
            within,
            keep_last,
            saved: Saved::FULL.with(SiteSet::HALVED, activations),
            tiles: Tiles { mlp_rows, head_rows, head_vocab: usize::MAX, keys, ..Tiles::UNTILED },
        },
    )
}

fn targets() -> impl Strategy<Value = Vec<Module>> {
    prop_oneof![Just(Module::ALL.to_vec()), prop::sample::subsequence(Module::ALL.to_vec(), 1..=7),]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_policies_agree(policy in policies(), targets in targets(), long: bool) {
        for case in &*CASES {
            let batch = if long { random_batch(&[33, 1, 70], case.model.config.vocab_size, 4) } else { case.batch.clone() };
            let tiles = Tiles { keys: policy.tiles.keys, ..mesp_policy().tiles };
            let asked = Policy { tiles, saved: policy.saved, ..mesp_policy() };
            let reference = run(case, &batch, &targets, asked);
            let ours = run(case, &batch, &targets, policy);
            prop_assert!(ours == reference, "{}", case.model.config.arch);
        }
    }
}
