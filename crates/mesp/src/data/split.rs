//! Rows held out of the data that is trained.

use super::shuffle::mix;
use super::{Examples, RowSize, Subset};
use crate::{Error, ErrorKind, Result};

/// Chooses a share of the rows to be held out.
///
/// Which rows these are follows from `seed` and from what the rows are, not from where they stand: equal rows stay
/// on one side, and so do the pieces of a row that was split. Of a plain text (`document`) the end is taken, since
/// neighbouring windows tell of each other.
///
/// Every row has a key, a hash of its tokens, and those with the smallest keys are held out. The largest of these keys
/// is found 16 bits at a time in passes over the rows, so that no list of keys is in memory.
///
/// # Errors
/// When `share` is not between 0 and 1, leaves one side without anything to train, or a row cannot be read.
pub fn split(rows: &dyn Examples, document: bool, share: f64, seed: u64) -> Result<Subset> {
    if !(share > 0.0 && share < 1.0) {
        return Err(Error::usage(ErrorKind::OutOfRange, "‘eval_split’")
            .is(share)
            .expected("a share of the rows: more than 0 and less than 1")
            .hint("give ‘eval_split’ 0.05 to hold out one row of twenty"));
    }
    let count = rows.count();
    let wanted = ((share * count as f64).round() as usize).max(1).min(count);
    let mut held = Subset::none_of(count);
    if document {
        (count - wanted..count).for_each(|row| held.choose(row));
    } else {
        let largest = smallest_keys(rows, seed, wanted)?;
        each_key(rows, seed, &mut |row, key| {
            if key <= largest {
                held.choose(row);
            }
        })?;
    }
    held.finish();
    let mut targets = [0; 2];
    rows.each_size(&mut |row, size: RowSize| targets[usize::from(held.has(row))] += size.targets)?;
    for (side, name) in targets.into_iter().zip(["to train on", "to evaluate"]) {
        if side == 0 {
            return Err(Error::usage(
                ErrorKind::Empty,
                format!("holding out {share} of the rows leaves nothing {name}"),
            )
            .hint("give another share, or ‘eval_data’ FILE"));
        }
    }
    Ok(held)
}

/// Bits of a key that a pass finds.
const DIGIT: u32 = 16;

/// The largest of the `wanted` smallest keys: its digits from the highest to the lowest, each the first at which enough
/// keys with the same higher digits are counted.
fn smallest_keys(rows: &dyn Examples, seed: u64, mut wanted: usize) -> Result<u64> {
    let mut found = 0_u64;
    let mut counts = vec![0; 1 << DIGIT];
    for shift in (0..u64::BITS).step_by(DIGIT as usize).rev() {
        counts.fill(0);
        let higher = |key: u64| key.checked_shr(shift + DIGIT).unwrap_or(0);
        each_key(rows, seed, &mut |_, key| {
            if higher(key) == higher(found) {
                counts[(key >> shift) as usize % (1 << DIGIT)] += 1;
            }
        })?;
        let mut digit = 0;
        while counts[digit] < wanted && digit + 1 < counts.len() {
            wanted -= counts[digit];
            digit += 1;
        }
        found |= (digit as u64) << shift;
    }
    Ok(found)
}

/// The key of each row. Pieces of one row stand next to each other, share its line, and have the key of the first.
fn each_key(rows: &dyn Examples, seed: u64, visit: &mut dyn FnMut(usize, u64)) -> Result<()> {
    let mut before = None;
    for row in 0..rows.count() {
        let example = rows.read(row)?;
        let key = match &before {
            Some((origin, key)) if example.origin.same(origin) => *key,
            _ => hash(&example.tokens, seed),
        };
        visit(row, key);
        before = Some((example.origin, key));
    }
    Ok(())
}

fn hash(tokens: &[u32], seed: u64) -> u64 {
    tokens.iter().fold(mix(seed ^ 0x7E57), |hash, token| mix(hash ^ u64::from(*token)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::{Example, Origin};
    use super::*;

    fn data(rows: &[Vec<u32>]) -> Vec<Example> {
        let path: Arc<Path> = Arc::from(Path::new("rows.jsonl"));
        let example = |(line, tokens): (usize, &Vec<u32>)| Example {
            tokens: tokens.clone(),
            labels: tokens.iter().map(|t| t.cast_signed()).collect(),
            origin: Origin { path: Arc::clone(&path), line: line + 1 },
        };
        rows.iter().enumerate().map(example).collect()
    }

    /// The rows that are held out, and the others.
    fn sides(rows: &[Vec<u32>], held: &Subset) -> [Vec<Vec<u32>>; 2] {
        let side = |out: bool| {
            rows.iter().enumerate().filter(|(i, _)| held.has(*i) == out).map(|(_, row)| row.clone()).collect()
        };
        [side(true), side(false)]
    }

    #[test]
    fn a_text_loses_its_end() {
        let windows: Vec<Vec<u32>> = (0..10).map(|i| vec![i, i + 1]).collect();
        let held = split(&data(&windows), true, 0.2, 3).unwrap();
        assert_eq!(sides(&windows, &held), [windows[8..].to_vec(), windows[..8].to_vec()]);
    }

    #[test]
    fn a_split_leaves_something_on_both_sides() {
        for share in [0.0, 1.0, -1.0, f64::NAN] {
            assert!(split(&data(&[vec![1, 2], vec![3, 4]]), false, share, 0).is_err());
        }
        let error = split(&data(&[vec![1, 2]]), false, 0.5, 0).unwrap_err().to_string();
        assert!(error.contains("leaves nothing to train on"), "{error}");
        // All rows are the same one.
        assert!(split(&data(&[vec![1, 2], vec![1, 2]]), false, 0.5, 0).is_err());
    }

    #[test]
    fn the_seed_chooses() {
        let all: Vec<Vec<u32>> = (0..100).map(|i| vec![i, i]).collect();
        let held = |seed| split(&data(&all), false, 0.1, seed).unwrap();
        assert_eq!(held(1).count(), 10);
        assert_eq!(held(1), held(1));
        assert_ne!(held(1), held(2));
    }

    proptest! {
        /// The rule with all keys in a sorted list.
        #[test]
        fn the_smallest_keys_are_held_out(
            all in prop::collection::vec(prop::collection::vec(0u32..3, 2..4), 2..30),
            share in 0.01f64..0.99,
            seed: u64,
        ) {
            if let Ok(held) = split(&data(&all), false, share, seed) {
                let mut keys: Vec<u64> = all.iter().map(|row| hash(row, seed)).collect();
                keys.sort_unstable();
                let last = keys[((share * keys.len() as f64).round() as usize).max(1) - 1];
                for (i, row) in all.iter().enumerate() {
                    prop_assert_eq!(held.has(i), hash(row, seed) <= last);
                }
            }
        }

        #[test]
        fn every_row_is_on_one_side(
            all in prop::collection::vec(prop::collection::vec(0u32..3, 2..4), 2..30),
            share in 0.01f64..0.99,
            seed: u64,
        ) {
            if let Ok(held) = split(&data(&all), false, share, seed) {
                let [out, left] = sides(&all, &held);
                prop_assert_eq!(out.len(), held.count());
                for row in &out {
                    prop_assert!(!left.contains(row), "equal rows stay together");
                }
                // The order of the file does not matter.
                let mut turned = all.clone();
                turned.reverse();
                let held = split(&data(&turned), false, share, seed).unwrap();
                let [mut other, _] = sides(&turned, &held);
                other.reverse();
                prop_assert_eq!(other, out);
            }
        }
    }
}
