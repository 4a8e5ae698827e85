//! After the first step nothing touches the heap. Alone in its program: every allocation is counted, of
//! every thread.

use mesp::model::Batch;
use mesp::train::{Options, Session, Update};
use mesp_device::{CountingAllocator, Cpu};

use support::{ADAMW, ARCHS, Case, SGD, mesp_policy, random_batch, randomize_adapters, session_for, shapes};

#[path = "it/support.rs"]
#[allow(dead_code, reason = "shared with the other program")]
mod support;

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator::new();

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
        Update::PerBlock => {
            let (_, norm) = session.step_per_block(batch, 1e-3);
            assert!(norm > 0.0);
        }
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

#[test]
fn no_heap_after_step_one() {
    let before = allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(allocations(), before + 1, "allocations are counted");

    for arch in ARCHS {
        let case = Case::load(arch);
        let vocab = case.model.config.vocab_size;
        let large = random_batch(&[70, 1, 150], vocab, 1);
        let smaller = [&[150, 1, 70][..], &[3], &[80, 60], &[70, 150], &[10; 3]];
        let smaller: Vec<Rows> =
            smaller.iter().map(|lengths| rows(&random_batch(lengths, vocab, 2))).collect();
        for (update, optimizer) in [(Update::Accumulate, ADAMW), (Update::PerBlock, SGD)] {
            for threads in [1, 2, 3] {
                let options = Options { update, optimizer, ..case.options(mesp_policy()) };
                let mut session = session_for::<f32>(&case.model, options, &shapes(&large), threads);
                randomize_adapters(&mut session);
                let mut batch = large.clone();
                let pool = session.backend().pool();
                let counts = pool.install(|| {
                    step(&mut session, &batch, update);
                    let after_first = allocations();
                    step(&mut session, &batch, update);
                    let same = allocations() - after_first;
                    for rows in &smaller {
                        batch.fill(&rows.tokens, &rows.targets, &rows.offsets);
                        step(&mut session, &batch, update);
                    }
                    (same, allocations() - after_first)
                });
                assert_eq!(
                    counts,
                    (0, 0),
                    "{arch} {update:?} {threads} threads: allocations of a further step, of all"
                );
            }
        }
    }
}
