//! The log-probabilities of a reference.

use std::ops::Range;

use mesp_device::Backend;

use super::Session;
use super::staging::Staging;
use crate::Result;
use crate::data::{BatchSize, Examples, Mismatched};

/// The log-probabilities of rows under a session's model with its adapters as they are, two of each row as
/// [`ReferenceFile`](crate::data::ReferenceFile) has them: `visit` gets them in the rows' order, NaN for a row that is not
/// `wanted`. A session without an adapter gives those of the base model, by the forward of training.
///
/// # Errors
/// When a row cannot be read, and those of `visit`.
pub fn log_probabilities<B: Backend>(
    session: &mut Session<B>,
    rows: &dyn Examples,
    wanted: &dyn Fn(usize) -> bool,
    size: BatchSize,
    staging: &mut Staging,
    visit: &mut dyn FnMut([f64; 2]) -> Result<()>,
) -> Result<()> {
    size.each_range(rows, &mut |range: Range<usize>| {
        if !range.clone().any(wanted) {
            return range.clone().try_for_each(|_| visit([f64::NAN; 2]));
        }
        staging.fill(rows, range.clone())?;
        let own: Vec<f64> = session.log_probabilities(&staging.batch).collect();
        if own.len() == 2 * range.len() {
            return own.chunks_exact(2).try_for_each(|pair| visit([pair[0], pair[1]]));
        }
        let other = match Mismatched::of(rows)? {
            None => vec![f64::NAN; own.len()],
            Some(others) => {
                staging.fill(&others, range)?;
                session.log_probabilities(&staging.batch).collect()
            }
        };
        own.into_iter().zip(other).try_for_each(|(own, other)| visit([own, other]))
    })
}
