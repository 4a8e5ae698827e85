//! Memory: what was planned is what is used.

use mesp::method::Method;
use mesp::train::budget::{Freedom, least, search};
use mesp::train::{Options, Shapes, Update, plan};
use mesp_device::Plan;

use crate::support::{ADAMW, ARCHS, Case, random_batch, randomize_adapters, session_for, shapes};

fn options(case: &Case, method: Method, update: Update) -> Options {
    Options { update, optimizer: ADAMW, ..case.options(method.policy()) }
}

/// A plan for single precision and two threads.
fn planned(case: &Case, method: Method, update: Update, shapes: &Shapes) -> Plan {
    plan(&case.model, &options(case, method, update), shapes, 4, 2).expect("a plan")
}

#[test]
fn peak_equals_plan() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let vocab = case.model.config.vocab_size;
        let large = random_batch(&[60, 1, 130], vocab, 1);
        for method in Method::ALL {
            for update in [Update::Accumulate, Update::PerBlock] {
                let mut session =
                    session_for::<f32>(&case.model, options(&case, method, update), &shapes(&large), 2);
                randomize_adapters(&mut session);
                let mut step = |batch: &mesp::model::Batch| {
                    let outcome = match update {
                        Update::Accumulate => {
                            let outcome = session.accumulate(batch, batch.targets());
                            session.apply(1e-3, 1.0);
                            outcome
                        }
                        Update::PerBlock | Update::PerMatrix => session.step_fused(batch, 1e-3, None).0,
                    };
                    assert!(outcome.nats.is_finite(), "{arch} {}", method.name());
                    let eval: f64 = session.evaluate(batch).iter().map(mesp_device::RowStat::nats).sum();
                    assert!(eval.is_finite());
                    (session.backend().reached_bytes(), session.backend().plan().bytes())
                };
                // Smaller batches first: they fit into the same plan and reach less.
                for lengths in [&[1, 40][..], &[5], &[2, 2, 2, 2, 2, 2], &[60, 1, 129]] {
                    let (reached, planned) = step(&random_batch(lengths, vocab, 2));
                    assert!(reached <= planned, "{arch} {}: {reached} of {planned}", method.name());
                }
                let (reached, planned) = step(&large);
                assert_eq!(reached, planned, "{arch} {} {update:?}", method.name());
            }
        }
    }
}

#[test]
fn the_ledger_names_every_byte() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let batch = random_batch(&[200], case.model.config.vocab_size, 1);
        for method in Method::ALL {
            for update in [Update::Accumulate, Update::PerBlock] {
                for shapes in [
                    shapes(&batch),
                    Shapes { train: Some(batch.clone()), eval: None },
                    Shapes { train: None, eval: Some(batch.clone()) },
                ] {
                    let plan = planned(&case, method, update, &shapes);
                    assert_eq!(
                        plan.ledger().values().sum::<usize>(),
                        plan.bytes(),
                        "{arch} {}",
                        method.name()
                    );
                }
            }
        }
    }
}

#[test]
fn methods_are_ordered_by_memory() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let batch = random_batch(&[200], case.model.config.vocab_size, 1);
        let bytes = |method| planned(&case, method, Update::Accumulate, &shapes(&batch)).bytes();
        let [all, mebp, paper, ours] =
            [Method::StoreAll, Method::Mebp, Method::MespPaper, Method::Mesp].map(bytes);
        assert!(ours < paper && paper < mebp && mebp < all, "{arch}: {ours} {paper} {mebp} {all}");
        let kept_h = bytes(Method::MespPaperStoreH);
        assert!(paper < kept_h && kept_h < mebp, "{arch}: h costs memory: {paper} {kept_h} {mebp}");
    }
}

/// One sequence of twice the length: ours doubles at most, the published methods grow by the square.
#[test]
fn memory_grows_with_the_rows() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let c = &case.model.config;
        // The step alone: neither what is always there nor the scratch, which does not grow at all.
        let step = |method, rows: usize| {
            let plan =
                planned(&case, method, Update::Accumulate, &shapes(&random_batch(&[rows], c.vocab_size, 1)));
            plan.programs[0].bytes
        };
        // Longer than any tile, so that what grows is seen.
        let [short, long] = [512, 1024].map(|rows| step(Method::Mesp, rows));
        // 2, and less for the tiles that stay as they are.
        assert!(long <= 2 * short, "{arch}: {short} {long}");
        assert!(2 * long > 3 * short, "{arch}: the checkpoints do grow: {short} {long}");
        let [short, long] = [256, 512].map(|rows| step(Method::MespPaper, rows));
        // What is linear cancels in long − 2·short; of P, [heads, n²] in single precision, this is left:
        let square = c.heads * (512 * 512 - 2 * 256 * 256) * 4;
        assert!(long >= 2 * short + square, "{arch}: {short} {long}, probabilities {square}");
    }
}

/// The short way to the least policy finds what no candidate of the whole search goes below by a hundredth (by
/// less, one may: holes between buffers are a matter of luck), and a larger limit is never used for more work: what
/// fits a smaller one fits it too.
#[test]
fn the_least_policy_is_the_searchs() {
    for arch in ARCHS {
        let case = Case::load(arch);
        for rows in [&[40][..], &[300, 20]] {
            let batch = random_batch(rows, case.model.config.vocab_size, 1);
            for (file, update) in [(true, Update::PerBlock), (false, Update::Accumulate)] {
                let (options, freedom) = (options(&case, Method::Mesp, update), Freedom { file });
                let search = |limit| {
                    search(&case.model, &options, &shapes(&batch), (4, 2), limit, freedom).expect("plans")
                };
                let short = least(&case.model, &options, &shapes(&batch), (4, 2), freedom).expect("plans");
                let bytes = short.plan.bytes();
                let below = search(bytes - bytes / 100);
                assert!(
                    below.fits.is_none(),
                    "{arch} {rows:?} {update:?}: {:?}",
                    below.fits.map(|c| c.options.policy)
                );
                assert_eq!(below.least.plan.bytes(), bytes);
                let fits = search(bytes).fits.expect("the least fits");
                assert!(fits.plan.bytes() <= bytes);
                let mut cost = fits.cost;
                for step in 1..5 {
                    let limit = bytes * (4 + step) / 4;
                    let found = search(limit).fits.expect("more than the least");
                    assert!(found.plan.bytes() <= limit);
                    assert!(found.cost <= cost, "{arch} {rows:?}: {} after {cost}", found.cost);
                    cost = found.cost;
                }
                assert!(cost < short.cost, "{arch} {rows:?}: twice the memory saves work");
            }
        }
    }
}
