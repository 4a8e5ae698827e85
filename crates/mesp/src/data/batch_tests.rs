use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn example(tokens: &[u32], labels: &[i32]) -> Example {
    let origin = Origin { path: Arc::from(Path::new("rows.jsonl")), line: 1 };
    Example { tokens: tokens.to_vec(), labels: labels.to_vec(), origin }
}

/// Rows of lengths 2, 3, ...; the row numbered `i` has tokens `i`.
fn rows(count: usize) -> Vec<Example> {
    (0..count).map(|i| example(&vec![i as u32; i + 2], &vec![1; i + 2])).collect()
}

fn epoch(batches: &mut Batches<'_>, epoch: usize) -> Vec<usize> {
    (0..batches.per_epoch()).flat_map(|i| batches.indices(epoch, i).to_vec()).collect()
}

#[test]
fn labels_move_to_the_position_that_predicts_them() {
    let (a, b, c) = (example(&[1, 2, 3], &[-100, -100, 30]), example(&[4], &[4]), example(&[5, 6], &[5, 60]));
    let batch = RaggedBatch::from_examples(&[&a, &b, &c]);
    assert_eq!(batch.tokens, [1, 2, 3, 4, 5, 6]);
    assert_eq!(batch.labels, [-100, 30, -100, -100, 60, -100]);
    assert_eq!(batch.offsets, [0, 3, 4, 6]);
    assert_eq!((batch.targets, batch.rows()), (2, 3));
    assert_eq!((a.targets(), b.targets(), c.targets()), (1, 0, 1));
}

#[test]
fn refilling_keeps_the_memory() {
    let rows = rows(9);
    let mut batches = Batches::new(&rows, 4, 7).unwrap();
    let (most_rows, most_tokens) = batches.largest();
    assert_eq!((most_rows, most_tokens), (4, 10 + 9 + 8 + 7));
    let mut batch = RaggedBatch::with_capacity(most_rows, most_tokens);
    let before =
        (batch.tokens.as_ptr(), batch.labels.as_ptr(), batch.offsets.as_ptr(), batch.origins.as_ptr());
    for step in 0..30 {
        batches.fill(step, &mut batch);
        let fresh: Vec<&Example> =
            batches.indices(step / 3, step % 3).to_vec().into_iter().map(|i| &rows[i]).collect();
        assert_eq!(batch, RaggedBatch::from_examples(&fresh));
    }
    let after =
        (batch.tokens.as_ptr(), batch.labels.as_ptr(), batch.offsets.as_ptr(), batch.origins.as_ptr());
    assert_eq!(before, after);
}

#[test]
fn the_order_follows_from_seed_and_epoch_alone() {
    let rows = rows(20);
    let mut straight = Batches::new(&rows, 3, 5).unwrap();
    let all: Vec<Vec<usize>> = (0..4).map(|e| epoch(&mut straight, e)).collect();
    let mut resumed = Batches::new(&rows, 3, 5).unwrap();
    assert_eq!(epoch(&mut resumed, 3), all[3]);
    assert_eq!(epoch(&mut resumed, 1), all[1]);
    assert_ne!(all[0], all[1]);
    assert_ne!(all[0], epoch(&mut Batches::new(&rows, 3, 6).unwrap(), 0));
    // Fixed: another order in a later version would make resumed runs differ from uninterrupted ones.
    assert_eq!(epoch(&mut Batches::new(&rows[..8], 3, 0).unwrap(), 0), ORDER_SEED_0);
}

/// Computed apart from this program, in Python.
const ORDER_SEED_0: [usize; 8] = [1, 2, 6, 5, 4, 0, 3, 7];

#[test]
fn rows_without_targets_are_passed_over() {
    let mut rows = rows(5);
    rows[2].labels.fill(UNTRAINED);
    rows[4] = example(&[9], &[9]);
    let mut batches = Batches::new(&rows, 2, 0).unwrap();
    assert_eq!((batches.rows(), batches.per_epoch()), (3, 2));
    let mut seen = epoch(&mut batches, 0);
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 3]);
    assert_eq!(batches.indices(0, 1).len(), 1);
}

#[test]
fn nothing_to_train_is_an_error() {
    let masked = [example(&[1, 2], &[1, UNTRAINED])];
    assert!(Batches::new(&masked, 1, 0).unwrap_err().to_string().contains("none of 1 rows"));
    assert!(Batches::new(&[], 1, 0).is_err());
    assert!(Batches::new(&rows(1), 0, 0).unwrap_err().to_string().contains("--batch-size"));
}

proptest! {
    #[test]
    fn an_epoch_sees_every_row_once(count in 1usize..60, size in 1usize..9, seed: u64, e in 0usize..5) {
        let rows = rows(count);
        let mut batches = Batches::new(&rows, size, seed).unwrap();
        let mut seen = epoch(&mut batches, e);
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..count).collect::<Vec<_>>());
    }

    #[test]
    fn targets_are_the_labels_that_are_left(labels in prop::collection::vec(prop::collection::vec(-100i32..3, 1..9), 1..5)) {
        let labels: Vec<Vec<i32>> =
            labels.into_iter().map(|row| row.into_iter().map(|l| if l < 0 { -100 } else { l }).collect()).collect();
        let rows: Vec<Example> = labels.iter().map(|row| example(&vec![0; row.len()], row)).collect();
        let batch = RaggedBatch::from_examples(&rows.iter().collect::<Vec<_>>());
        prop_assert_eq!(batch.targets, batch.labels.iter().filter(|&&l| l != UNTRAINED).count());
        prop_assert_eq!(batch.targets, rows.iter().map(Example::targets).sum::<usize>());
        prop_assert_eq!(batch.tokens.len(), batch.labels.len());
    }
}
