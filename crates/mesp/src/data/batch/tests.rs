use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::{Example, Origin, UNTRAINED};
use super::*;

fn example(tokens: &[u32], labels: &[i32]) -> Example {
    let origin = Origin { path: Arc::from(Path::new("rows.jsonl")), line: 1 };
    Example { tokens: tokens.to_vec(), labels: labels.to_vec(), origin }
}

/// Rows of lengths 2, 3, ...; the row numbered `i` has tokens `i`.
fn rows(count: usize) -> Vec<Example> {
    (0..count).map(|i| example(&vec![i as u32; i + 2], &vec![1; i + 2])).collect()
}

fn epoch(batches: &mut Batches<impl Examples>, epoch: usize) -> Vec<usize> {
    let all = batches.in_epoch(epoch).unwrap();
    (0..all).flat_map(|i| of_batch(batches, epoch, i)).collect()
}

fn of_batch(batches: &mut Batches<impl Examples>, epoch: usize, index: usize) -> Vec<usize> {
    batches.places(epoch, index).unwrap().map(|place| batches.row(place)).collect()
}

fn ends(size: BatchSize, lengths: &[usize]) -> Vec<usize> {
    let mut ends = Vec::new();
    while ends.last().copied().unwrap_or(0) < lengths.len() {
        let start = ends.last().copied().unwrap_or(0);
        ends.push(size.end(start, lengths.len(), |row| Ok(lengths[row])).unwrap());
    }
    ends
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
    let (most_rows, most_tokens) = batches.largest().unwrap();
    assert_eq!((most_rows, most_tokens), (4, 10 + 9 + 8 + 7));
    let mut batch = RaggedBatch::with_capacity(most_rows, most_tokens);
    let before =
        (batch.tokens.as_ptr(), batch.labels.as_ptr(), batch.offsets.as_ptr(), batch.origins.as_ptr());
    for step in 0..30 {
        batches.fill(step, &mut batch).unwrap();
        let fresh: Vec<&Example> =
            of_batch(&mut batches, step / 3, step % 3).into_iter().map(|i| &rows[i]).collect();
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
    assert_eq!(epoch(&mut Batches::new(&rows[..8].to_vec(), 3, 0).unwrap(), 0), ORDER_SEED_0);
}

/// Computed apart from this program, in Python.
const ORDER_SEED_0: [usize; 8] = [1, 2, 6, 5, 4, 0, 3, 7];

#[test]
fn rows_without_targets_are_passed_over() {
    let mut rows = rows(5);
    rows[2].labels.fill(UNTRAINED);
    rows[4] = example(&[9], &[9]);
    let mut batches = Batches::new(&rows, 2, 0).unwrap();
    assert_eq!((batches.rows(), batches.per_epoch().unwrap()), (3, 2));
    let mut seen = epoch(&mut batches, 0);
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 3]);
    assert_eq!(batches.places(0, 1).unwrap().len(), 1);
}

#[test]
fn nothing_to_train_is_an_error() {
    let masked = vec![example(&[1, 2], &[1, UNTRAINED])];
    assert!(Batches::new(&masked, 1, 0).unwrap_err().to_string().contains("none of 1 rows"));
    assert!(Batches::new(&Vec::new(), 1, 0).is_err());
    assert!(Batches::new(&rows(1), 0, 0).unwrap_err().to_string().contains("‘batch_size’"));
}

#[test]
fn rows_are_packed_by_tokens() {
    // Lengths 2 to 9, in the order that the seed gives: 3 4 8 7 6 2 5 9.
    let rows = rows(8);
    let mut batches = Batches::new(&rows, BatchSize::tokens(10), 0).unwrap();
    let lengths: Vec<Vec<usize>> = (0..batches.per_epoch().unwrap())
        .map(|i| of_batch(&mut batches, 0, i).iter().map(|&r| rows[r].tokens.len()).collect())
        .collect();
    assert_eq!(lengths, [vec![3, 4], vec![8], vec![7], vec![6, 2], vec![5], vec![9]]);
    assert_eq!(batches.largest().unwrap(), (3, 10));
    // A row that is longer than a batch is one by itself; both limits hold.
    assert_eq!(ends(BatchSize::tokens(4), &[9, 1, 3, 1]), [1, 3, 4]);
    assert_eq!(ends(BatchSize { rows: 2, tokens: 100 }, &[1; 5]), [2, 4, 5]);
    assert_eq!(ends(BatchSize::rows(2), &[]), [0; 0]);
    let error = Batches::new(&rows, BatchSize::tokens(0), 0).unwrap_err().to_string();
    assert!(error.contains("‘batch_tokens’"), "{error}");
    assert_eq!(Batches::new(&rows, BatchSize::tokens(4), 0).unwrap().largest().unwrap(), (1, 9));
}

proptest! {
    /// Every batch keeps the limits, no row is lost, and a place is found again from any other.
    #[test]
    fn packing_loses_nothing(count in 1usize..40, tokens in 1usize..60, most in 1usize..9, seed: u64) {
        let rows = rows(count);
        let size = BatchSize { rows: most, tokens };
        let mut batches = Batches::new(&rows, size, seed).unwrap();
        let (largest_rows, largest_tokens) = batches.largest().unwrap();
        let total = batches.in_epochs(3.0).unwrap();
        prop_assert_eq!(total, (0..3).map(|e| batches.in_epoch(e).unwrap()).sum::<usize>());
        let mut batch = RaggedBatch::default();
        let mut seen = vec![0; count];
        let mut filled = Vec::new();
        for step in 0..total {
            batches.fill(step, &mut batch).unwrap();
            prop_assert!(batch.rows() <= largest_rows && batch.tokens.len() <= largest_tokens);
            prop_assert!(batch.rows() == 1 || batch.tokens.len() <= tokens);
            batch.offsets.windows(2).for_each(|w| seen[w[1] - w[0] - 2] += 1);
            filled.push(batch.clone());
        }
        prop_assert_eq!(seen, vec![3; count]);
        prop_assert!((batches.epochs(total).unwrap() - 3.0).abs() < 1e-12);
        let mut resumed = Batches::new(&rows, size, seed).unwrap();
        resumed.fill(total - 1, &mut batch).unwrap();
        prop_assert_eq!(&batch, &filled[total - 1]);
        resumed.fill(0, &mut batch).unwrap();
        prop_assert_eq!(&batch, &filled[0]);
    }

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
