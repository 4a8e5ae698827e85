//! After the first step nothing touches the heap. Alone in its program: every allocation is counted, of
//! every thread.

use std::sync::{Arc, Mutex};

use mesp::adapter::AdapterConfig;
use mesp::arch::{Module, Selection};
use mesp::method::{Derivative, Directional, Estimator, Subset};
use mesp::model::Batch;
use mesp::optim::OptimizerKind;
use mesp::preference::{LossType, Preference, PreferenceLabel, Side};
use mesp::tape::{Policy, Tiles};
use mesp::train::{ObjectiveKind, Options, Session, Update, plan};
use mesp_device::{CountingAllocator, Cpu, Elem, Threads};

use support::{ADAMW, ARCHS, Case, SGD, mesp_policy, random_batch, randomize_adapters, shapes};

#[path = "it/support.rs"]
#[allow(dead_code, reason = "shared with the other program")]
mod support;

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator::new();

/// Allocations of the whole process are counted: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn allocations() -> usize {
    HEAP.calls()
}

/// One step and one evaluation.
fn step(session: &mut Session<Cpu<f32>>, batch: &Batch, update: Update) {
    match update {
        Update::Accumulate => {
            let total = 2 * batch.targets();
            session.accumulate(batch, total);
            session.accumulate(batch, total);
            let norm = session.grad_norm();
            assert!(norm > 0.0);
            // Half the norm: clipping scales at every step.
            session.apply(1e-3, 0.5);
        }
        Update::PerBlock | Update::PerMatrix => {
            let (_, norm) = session.step_fused(batch, 1e-3, None);
            assert!(norm > 0.0);
        }
    }
    assert!(session.evaluate(batch).iter().all(|l| l.nats().is_finite()));
}

/// One step by derivatives, or of a surrogate, and one evaluation.
fn estimated(session: &mut Session<Cpu<f32>>, batch: &Batch) {
    let step = session.steps() + 1;
    if let Estimator::Directional(along) = session.options().estimator {
        let direction = along.direction(1, step, 0);
        let nats = match along.derivative {
            Derivative::Difference { eps, .. } => session.probe(batch, eps, direction).nats,
            Derivative::Tangent => session.derivative(batch, batch.targets(), direction).0.nats,
        };
        assert!(nats.is_finite());
        session.advance();
        session.perturb_in_place(1.0, 1e-3, direction);
    } else {
        session.accumulate(batch, batch.targets());
        session.apply(1e-3, 1.0);
    }
    assert!(session.evaluate(batch).iter().all(|l| l.nats().is_finite()));
}

/// A batch's content, to be filled into another.
struct Rows {
    tokens: Vec<u32>,
    targets: Vec<i32>,
    offsets: Vec<usize>,
}

fn rows(batch: &Batch) -> Rows {
    let mut targets = vec![-100; batch.rows()];
    for (row, label) in batch.target_rows.iter().zip(&batch.target_labels) {
        targets[*row as usize] = *label as i32;
    }
    Rows { tokens: batch.tokens.clone(), targets, offsets: batch.offsets.clone() }
}

/// All weights where these are held.
fn all(held: Option<Elem>) -> Selection {
    held.map(|_| Selection::full()).unwrap_or_default()
}

#[test]
fn no_heap_after_step_one() {
    let _alone = ALONE.lock();
    let before = allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(allocations(), before + 1, "allocations are counted");

    let pools = [1, 2, 3].map(|n| Threads::new(n).expect("threads"));
    let pools = pools.map(Arc::new);
    for (i, arch) in ARCHS.into_iter().enumerate() {
        let mut case = Case::load(arch);
        // Of every other one the head and the embeddings have adapters, too.
        if i % 2 == 0 {
            case.adapter.targets.extend(Module::OUTSIDE_BLOCKS);
        }
        let vocab = case.model.config.vocab_size;
        let large = random_batch(&[70, 1, 150], vocab, 1);
        let smaller = [&[150, 1, 70][..], &[3], &[80, 60], &[70, 150], &[10; 3]];
        let smaller: Vec<Rows> =
            smaller.iter().map(|lengths| rows(&random_batch(lengths, vocab, 2))).collect();
        let (full, half) = (Elem::Full, Elem::Bf16);
        for (update, optimizer, elem) in [
            (Update::Accumulate, ADAMW, full),
            (Update::PerBlock, SGD, full),
            (Update::Accumulate, ADAMW, half),
        ] {
            for pool in &pools {
                let threads = pool.count();
                let policy = mesp_policy().with_activations(elem.into());
                let options = Options { update, optimizer, adapter_type: elem, ..case.options(policy) };
                let shapes = shapes(&large);
                let plan = plan(&case.model, &options, &shapes, size_of::<f32>(), threads).expect("a plan");
                let cpu = Cpu::<f32>::new(plan, Arc::clone(pool));
                let mut session = Session::new(cpu, Arc::clone(&case.model), options, shapes.targets());
                randomize_adapters(&mut session);
                let mut batch = large.clone();
                let counts = {
                    step(&mut session, &batch, update);
                    let after_first = allocations();
                    step(&mut session, &batch, update);
                    let same = allocations() - after_first;
                    for rows in &smaller {
                        batch.fill(&rows.tokens, &rows.targets, &rows.offsets);
                        step(&mut session, &batch, update);
                    }
                    (same, allocations() - after_first)
                };
                assert_eq!(
                    counts,
                    (0, 0),
                    "{arch} {update:?} {threads} threads: allocations of a further step, of all"
                );
            }
        }
        for (estimator, whole) in [
            (Estimator::Directional(Directional::MEZO), None),
            (Estimator::Directional(Directional::MEZO), Some(half)),
            (Estimator::Directional(Directional::FORWARD), None),
            (Estimator::Subset(Subset::Share(0.5)), None),
        ] {
            let pool = &pools[1];
            let adapter = if whole.is_some() { AdapterConfig::none() } else { case.adapter.clone() };
            let options =
                Options { estimator, held: whole, base: all(whole), adapter, ..case.options(mesp_policy()) };
            let shapes = shapes(&large);
            let plan = plan(&case.model, &options, &shapes, size_of::<f32>(), 2).expect("a plan");
            let cpu = Cpu::<f32>::new(plan, Arc::clone(pool));
            let mut session = Session::new(cpu, Arc::clone(&case.model), options, shapes.targets());
            randomize_adapters(&mut session);
            let mut batch = large.clone();
            let further = {
                estimated(&mut session, &batch);
                let after_first = allocations();
                for rows in &smaller {
                    batch.fill(&rows.tokens, &rows.targets, &rows.offsets);
                    estimated(&mut session, &batch);
                }
                allocations() - after_first
            };
            assert_eq!(further, 0, "{arch} {estimator:?}: allocations of further steps");
        }
        for loss_type in [LossType::Sigmoid, LossType::Kto] {
            let objective = ObjectiveKind::Preference(Preference::new(loss_type));
            let options = Options { objective, ..case.options(mesp_policy()) };
            let large = paired(random_batch(&[70, 1, 150, 12], vocab, 1));
            let shapes = shapes(&large);
            let plan = plan(&case.model, &options, &shapes, size_of::<f32>(), 2).expect("a plan");
            let cpu = Cpu::<f32>::new(plan, Arc::clone(&pools[1]));
            let mut session = Session::new(cpu, Arc::clone(&case.model), options, shapes.targets());
            randomize_adapters(&mut session);
            let mut batch = large.clone();
            compared(&mut session, &batch);
            let after_first = allocations();
            let labels = large.preferences.clone();
            let copied = allocations() - after_first;
            for rows in smaller.iter().filter(|rows| rows.offsets.len() % 2 == 1) {
                batch.fill(&rows.tokens, &rows.targets, &rows.offsets);
                batch.set_preferences(&labels[..rows.offsets.len() - 1]);
                compared(&mut session, &batch);
            }
            let further = allocations() - after_first - copied;
            assert_eq!(further, 0, "{arch} {loss_type:?}: allocations of further steps");
        }
    }
}

/// Every second sequence is the rejected completion of the one before.
fn paired(mut batch: Batch) -> Batch {
    let side = |i: usize| if i.is_multiple_of(2) { Side::Chosen } else { Side::Rejected };
    let label = |i: usize| PreferenceLabel { side: side(i), reference: -40.0 };
    let labels: Vec<_> = (0..batch.offsets.len() - 1).map(label).collect();
    batch.set_preferences(&labels);
    batch
}

/// A step with a preference loss, and what is evaluated for the estimate of kto.
fn compared(session: &mut Session<Cpu<f32>>, batch: &Batch) {
    let total = session.options().objective.total(batch);
    assert!(session.accumulate(batch, total).loss().is_finite());
    session.apply(1e-3, 1.0);
    assert!(session.log_probabilities(batch).sum::<f64>().is_finite());
}

/// Exact training of all weights: after the first step of each update neither a smaller batch nor a larger one touches the
/// heap.
#[test]
fn no_heap_where_all_weights_are_trained() {
    let _alone = ALONE.lock();
    let pool = Arc::new(Threads::new(2).expect("threads"));
    for arch in ["qwen2", "phi3", "gemma3_text"] {
        let case = Case::load(arch);
        let vocab = case.model.config.vocab_size;
        let (large, small) = (random_batch(&[70, 1, 150], vocab, 1), random_batch(&[30, 7], vocab, 2));
        for name in OptimizerKind::NAMES {
            for update in [Update::Accumulate, Update::PerBlock, Update::PerMatrix] {
                let tiles = Tiles { mlp_rows: usize::MAX, ..mesp_policy().tiles };
                let options = Options {
                    adapter: AdapterConfig::none(),
                    base: Selection::full(),
                    held: Some(Elem::Bf16),
                    optimizer: OptimizerKind::parse(name, 0.0).expect("an optimizer"),
                    update,
                    ..case.options(Policy { tiles, ..mesp_policy() })
                };
                let shapes = shapes(&large);
                let plan = plan(&case.model, &options, &shapes, size_of::<f32>(), 2).expect("a plan");
                let cpu = Cpu::<f32>::new(plan, Arc::clone(&pool));
                let mut session = Session::new(cpu, Arc::clone(&case.model), options, shapes.targets());
                step(&mut session, &large, update);
                let after_first = allocations();
                for batch in [&large, &small, &large] {
                    step(&mut session, batch, update);
                }
                assert_eq!(allocations(), after_first, "{arch} {name} {update:?}");
            }
        }
    }
}
