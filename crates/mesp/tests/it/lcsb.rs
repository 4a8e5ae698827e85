//! Surrogate gradients: of what they are the gradient, and that leaving blocks out changes nothing else.

use std::sync::Arc;

use mesp::adapter::{BlockPairs, matrices_mut, peft, persistent_pairs};
use mesp::method::{Blocks, Estimator, Subset};
use mesp::model::{self, BlockRun, Objective as _};
use mesp::rng;
use mesp::tape::{Saved, SavedAs, Site, SiteSet, Tape};
use mesp::train::{Options, Update};
use mesp_device::{Backend, Class, Cpu, Dry, Elem, Label, Program, RowStat, Threads};

use crate::support::{
    ADAMW, ARCHS, Case, answer, bits, gradients, mesp_policy, parameters, random_batch, randomize_adapters,
    session_for, shapes, values,
};
use crate::zeroth::train;

fn options(case: &Case, subset: Subset) -> Options {
    Options { estimator: Estimator::Subset(subset), ..case.options(mesp_policy()) }
}

const fn only(block: usize) -> Subset {
    Subset::Fixed(Blocks { first: block, last: block })
}

#[test]
fn all_blocks_are_the_exact_method() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let exact = answer(&mut case.session::<f32>(case.options(mesp_policy()), 2), &case.batch);
        for subset in [Subset::Share(1.0), Subset::Fixed(Blocks::ALL)] {
            let found = answer(&mut case.session::<f32>(options(&case, subset), 2), &case.batch);
            assert!(found == exact, "{arch} {subset}");
        }
    }
}

/// The mean loss where the blocks left out add constants to their inputs: what they add now where `constants` is
/// empty, which then is filled, and else `constants`.
fn surrogate<B: Backend>(
    be: &mut B,
    case: &Case,
    params: &[BlockPairs],
    through: usize,
    constants: &mut Vec<Vec<f64>>,
) -> f64 {
    let (model, batch, tiles) = (&case.model, &case.batch, mesp_policy().tiles);
    let first = constants.is_empty();
    be.begin(Program(0));
    let mut x = model::embed(be, model, None, batch, Class::WithinBlock);
    for (l, pairs) in params.iter().enumerate().take(model.blocks.len()) {
        let before = values(be, &x);
        let mut tape = Tape::default();
        tape.keep_across(SiteSet::EMPTY);
        tape.put(Site::BlockIn, x);
        let run = BlockRun {
            config: &model.config,
            block: &model.blocks[l],
            pairs,
            batch,
            saved: Saved::FULL,
            tiles,
            dropout: None,
        };
        x = model::forward_block(be, &run, &mut tape, SiteSet::EMPTY);
        if first {
            constants
                .push(values(be, &x).iter().zip(&before).map(|(after, before)| after - before).collect());
        } else if l != through {
            be.load(x.view_mut(), &mut |i| before[i] + constants[l][i]);
        }
    }
    let mut stats = vec![RowStat::EMPTY; batch.targets()];
    let top = model::Top { model, head: model::HeadAdapter::default(), batch, tiles, later: false };
    model::NextToken { scale: 1.0, stats: &mut stats }.losses(be, top, &mut x);
    be.free(x);
    stats.iter().map(RowStat::nats).sum::<f64>() / batch.targets() as f64
}

/// Adapters on a backend, as in the case's session.
fn adapters<B: Backend>(be: &mut B, case: &Case) -> Vec<BlockPairs> {
    persistent_pairs(
        be,
        &case.model.config,
        &case.adapter,
        Elem::Full,
        |_| true,
        Label::new(Class::Adapter, "lora"),
    )
}

/// Every matrix of the one block that is gone back through, along a random direction.
#[test]
fn gradients_are_differences_of_the_surrogate() {
    let mut apart = 0;
    for arch in ARCHS {
        let case = Case::load(arch);
        let mut dry = Dry::new(8, 1);
        let shapes = adapters(&mut dry, &case);
        surrogate(&mut dry, &case, &shapes, 0, &mut Vec::new());
        let pool = Threads::new(1).expect("threads");
        let mut be = Cpu::<f64>::new(dry.finish(), Arc::new(pool));
        let mut params = adapters(&mut be, &case);
        peft::read_tensors(&mut be, &case.adapter_file(), &mut params, &case.model.config).expect("adapters");
        let mut exact = case.session::<f64>(case.options(mesp_policy()), 1);
        exact.accumulate(&case.batch, case.batch.targets());
        let exact = gradients(&exact);
        for through in 0..case.model.blocks.len() {
            let mut session = case.session::<f64>(options(&case, only(through)), 1);
            session.accumulate(&case.batch, case.batch.targets());
            let found = gradients(&session);
            let each = found.len() / case.model.blocks.len();
            let mut constants = Vec::new();
            surrogate(&mut be, &case, &params, through, &mut constants);
            for (m, gradient) in found.iter().enumerate() {
                if m / each != through {
                    assert!(gradient.iter().all(|g| *g == 0.0), "{arch} {m}");
                    continue;
                }
                let direction: Vec<f64> =
                    (0..gradient.len()).map(|i| rng::normal(3, m as u64, i as u64)).collect();
                let matrix = |params: &mut [BlockPairs], be: &mut Cpu<f64>, by: f64| {
                    let matrix = matrices_mut(params).nth(m).expect("a matrix");
                    let now = values(be, matrix);
                    be.load(matrix.view_mut(), &mut |i| now[i] + by * direction[i]);
                };
                let h = 1e-5;
                let [up, down] = [h, -2.0 * h].map(|by| {
                    matrix(&mut params, &mut be, by);
                    surrogate(&mut be, &case, &params, through, &mut constants)
                });
                matrix(&mut params, &mut be, h);
                let numeric = (up - down) / (2.0 * h);
                let dot = |g: &[f64]| g.iter().zip(&direction).map(|(g, d)| g * d).sum::<f64>();
                let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
                assert!(
                    (dot(gradient) - numeric).abs() < 1e-6 * size,
                    "{arch} {m}: {numeric} {}",
                    dot(gradient)
                );
                apart += usize::from((dot(&exact[m]) - numeric).abs() > 1e-3 * size);
            }
        }
    }
    assert!(apart > 10, "a surrogate is not the gradient below a block that was left out: {apart}");
}

/// In any residency and update: what is planned is used, threads agree, and blocks that were left out stay.
#[test]
fn blocks_left_out_stay_and_the_plan_holds() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let batch = random_batch(&[60, 1, 130], case.model.config.vocab_size, 1);
        for (form, update) in [
            (SavedAs::Full, Update::Accumulate),
            (SavedAs::Full, Update::PerBlock),
            (SavedAs::Bf16, Update::Accumulate),
        ] {
            let results = [1, 3].map(|threads| {
                let policy = mesp_policy().with_inputs(form);
                let opts = Options { update, policy, optimizer: ADAMW, ..options(&case, Subset::Share(0.5)) };
                let layers = case.model.blocks.len();
                let mut session = session_for::<f32>(&case.model, opts, &shapes(&batch), threads);
                randomize_adapters(&mut session);
                for step in 1..=4 {
                    let before = bits(&parameters(&session));
                    let nats = if update == Update::PerBlock {
                        session.step_fused(&batch, 1e-2, None).0.nats
                    } else {
                        let nats = session.accumulate(&batch, batch.targets()).nats;
                        session.apply(1e-2, 1.0);
                        nats
                    };
                    assert!(nats.is_finite());
                    let after = bits(&parameters(&session));
                    let each = after.len() / layers;
                    for (m, (before, after)) in before.iter().zip(&after).enumerate() {
                        let chosen = Subset::Share(0.5).has(m / each, layers, 0, step);
                        assert_eq!(before != after, chosen, "{arch} {update:?} step {step}, matrix {m}");
                    }
                }
                session.evaluate(&batch);
                let (reached, planned) =
                    (session.backend().reached_bytes(), session.backend().plan().bytes());
                assert_eq!(reached, planned, "{arch} {update:?}");
                bits(&parameters(&session))
            });
            assert!(results[0] == results[1], "{arch} {update:?}");
        }
    }
}

/// All choices of each size come up.
#[test]
fn choices_are_of_the_asked_size_and_fair() {
    for (share, size) in [(0.01, 1), (0.5, 4), (0.7, 6), (1.0, 8)] {
        let subset = Subset::Share(share);
        let mut counts = [0; 8];
        for step in 0..2000 {
            let chosen: Vec<_> = (0..8).filter(|l| subset.has(*l, 8, 7, step)).collect();
            assert_eq!(chosen.len(), size);
            for l in chosen {
                counts[l] += 1;
            }
        }
        let (mean, p) = (2000.0 * size as f64 / 8.0, size as f64 / 8.0);
        let error = 4.5 * (2000.0 * p * (1.0 - p)).sqrt();
        assert!(counts.iter().all(|c| (f64::from(*c) - mean).abs() <= error), "{share} {counts:?}");
    }
}

#[test]
fn a_resumed_run_is_the_run() {
    let case = Case::load("qwen2");
    let dir = tempfile::tempdir().expect("a folder");
    let run = |resume| {
        let opts = Options { optimizer: ADAMW, ..options(&case, Subset::Share(0.5)) };
        bits(&parameters(&train(&case, opts, dir.path(), resume)))
    };
    assert!(run(false) == run(true));
}
