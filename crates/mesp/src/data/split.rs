//! Rows held out of the data that is trained.

use super::Dataset;
use super::batch::mix;
use crate::{Error, Result};

/// Takes a share of a file's rows away and gives them as a set of their own; both keep the file's order.
///
/// Which rows these are follows from `seed` and from what the rows are, not from where they stand: equal rows stay
/// on one side, and so do the pieces of a row that was split. Of a plain text the end is taken, since neighbouring
/// windows tell of each other.
///
/// # Errors
/// When `share` is not between 0 and 1, or leaves one side without anything to train.
pub fn split(data: &mut Dataset, share: f64, seed: u64) -> Result<Dataset> {
    if !(share > 0.0 && share < 1.0) {
        return Err(Error::usage(format!(
            "--eval-split is {share}, expected a share of the rows: more than 0 and less than 1"
        ))
        .hint("give --eval-split 0.05 to hold out one row of twenty"));
    }
    // Rows by what they begin with: pieces of one row stand next to each other and share its line.
    let mut groups: Vec<(u64, usize)> = Vec::with_capacity(data.examples.len());
    for (i, example) in data.examples.iter().enumerate() {
        let continues = i > 0 && data.examples[i - 1].origin.same(&example.origin) && !data.document;
        let key = match groups.last() {
            Some((key, _)) if continues => *key,
            _ => hash(&example.tokens, seed),
        };
        groups.push((key, i));
    }
    if !data.document {
        groups.sort_unstable();
    }
    let wanted = ((share * groups.len() as f64).round() as usize).max(1);
    let mut cut = if data.document { groups.len() - wanted.min(groups.len()) } else { wanted };
    // Equal keys stay together.
    while !data.document && cut < groups.len() && groups[cut].0 == groups[cut - 1].0 {
        cut += 1;
    }
    let held = if data.document { cut..groups.len() } else { 0..cut };
    let mut out = vec![false; groups.len()];
    for (_, i) in &groups[held] {
        out[*i] = true;
    }
    drop(groups);
    let mut out = out.into_iter();
    let mut held: Vec<_> = data.examples.extract_if(.., |_| out.next().unwrap_or(false)).collect();
    // Rows are planned by their number.
    held.shrink_to_fit();
    data.examples.shrink_to_fit();
    let held =
        Dataset { path: data.path.clone(), examples: held, notes: Vec::new(), document: data.document };
    for (side, name) in [(&*data, "to train on"), (&held, "to evaluate")] {
        if side.targets() == 0 {
            let problem = format!("holding out {share} of the rows leaves nothing {name}");
            return Err(
                Error::data(&data.path, None, problem).hint("give another share, or --eval-data FILE")
            );
        }
    }
    Ok(held)
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

    fn data(rows: &[Vec<u32>], document: bool) -> Dataset {
        let path: Arc<Path> = Arc::from(Path::new("rows.jsonl"));
        let example = |(line, tokens): (usize, &Vec<u32>)| Example {
            tokens: tokens.clone(),
            labels: tokens.iter().map(|t| t.cast_signed()).collect(),
            origin: Origin { path: Arc::clone(&path), line: line + 1 },
        };
        let examples = rows.iter().enumerate().map(example).collect();
        Dataset { path: path.to_path_buf(), examples, notes: Vec::new(), document }
    }

    fn rows(data: &Dataset) -> Vec<Vec<u32>> {
        data.examples.iter().map(|e| e.tokens.clone()).collect()
    }

    #[test]
    fn a_text_loses_its_end() {
        let windows: Vec<Vec<u32>> = (0..10).map(|i| vec![i, i + 1]).collect();
        let mut train = data(&windows, true);
        let held = split(&mut train, 0.2, 3).unwrap();
        assert_eq!(rows(&held), windows[8..]);
        assert_eq!(rows(&train), windows[..8]);
    }

    #[test]
    fn a_split_leaves_something_on_both_sides() {
        for share in [0.0, 1.0, -1.0, f64::NAN] {
            assert!(split(&mut data(&[vec![1, 2], vec![3, 4]], false), share, 0).is_err());
        }
        let error = split(&mut data(&[vec![1, 2]], false), 0.5, 0).unwrap_err().to_string();
        assert!(error.contains("leaves nothing to train on"), "{error}");
        // All rows are the same one.
        assert!(split(&mut data(&[vec![1, 2], vec![1, 2]], false), 0.5, 0).is_err());
    }

    #[test]
    fn the_seed_chooses() {
        let all: Vec<Vec<u32>> = (0..100).map(|i| vec![i, i]).collect();
        let held = |seed| rows(&split(&mut data(&all, false), 0.1, seed).unwrap());
        assert_eq!(held(1).len(), 10);
        assert_eq!(held(1), held(1));
        assert_ne!(held(1), held(2));
    }

    proptest! {
        #[test]
        fn every_row_is_on_one_side(
            all in prop::collection::vec(prop::collection::vec(0u32..3, 2..4), 2..30),
            share in 0.01f64..0.99,
            seed: u64,
        ) {
            let mut train = data(&all, false);
            if let Ok(held) = split(&mut train, share, seed) {
                prop_assert_eq!(train.examples.len() + held.examples.len(), all.len());
                for row in rows(&held) {
                    prop_assert!(!rows(&train).contains(&row), "equal rows stay together");
                }
                // The order of the file does not matter.
                let mut turned = all.clone();
                turned.reverse();
                let mut again = data(&turned, false);
                let mut other = rows(&split(&mut again, share, seed).unwrap());
                other.reverse();
                prop_assert_eq!(other, rows(&held));
            }
        }
    }
}
