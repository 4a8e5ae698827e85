//! Tensors converted and written some rows at a time, an adapter's product added on the way.

use std::io::{self, Write};

use mesp_formats::Stored;
use mesp_formats::gguf::{TensorType, dequantize_row, quantize_row};
use rayon::prelude::*;

use super::TypeError;
use crate::source::delta::Delta;

/// Values that are converted at once.
const CHUNK: usize = 1 << 20;

/// A tensor to be written.
pub(crate) struct Job {
    /// Checkpoint name of the tensor that it is made from; none for the rotary divisors.
    pub(crate) from: Option<String>,
    /// Checkpoint name of what it becomes: another where a head is untied.
    pub(crate) hf: String,
    /// In the file.
    pub(crate) name: String,
    pub(crate) ty: TensorType,
    pub(crate) shape: Vec<usize>,
    /// Where each row comes from, if not from its own place.
    pub(crate) rows: Option<Vec<usize>>,
    /// What is added to each value.
    pub(crate) add: f32,
}

/// Sums of squares over a tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Squares {
    /// Σ(x′ − x)².
    pub(crate) error: f64,
    /// Σx².
    pub(crate) values: f64,
    /// Σ(s·B·A)².
    pub(crate) change: f64,
}

impl Squares {
    pub(crate) fn add(&mut self, other: Self) {
        self.error += other.error;
        self.values += other.values;
        self.change += other.change;
    }
}

/// Writes a tensor; gives its sums, or the first row with a value that cannot be written. Rows of `delta` are
/// those that are written.
pub(crate) fn convert(
    job: &Job,
    source: Stored,
    stored: &[u8],
    delta: Option<&Delta>,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(usize),
) -> io::Result<Result<Squares, usize>> {
    let cols = job.shape.last().copied().unwrap_or(1);
    // A bias is a column: that of q or k is reordered value by value.
    let (rows, width) = if job.shape.len() == 1 { (cols, 1) } else { (job.shape[0], cols) };
    let row_bytes = source.row_bytes(width).unwrap_or_default();
    let each = (CHUNK / width).max(1);
    let mut sums = Squares::default();
    for first in (0..rows).step_by(each) {
        let part: Vec<(Vec<u8>, Option<Squares>)> = (first..(first + each).min(rows))
            .into_par_iter()
            .map(|row| {
                let from = job.rows.as_ref().map_or(row, |rows| rows[row]);
                let bytes = &stored[from * row_bytes..][..row_bytes];
                row_of(job, source, bytes, width, delta.map(|d| (d, row)))
            })
            .collect();
        for (i, (bytes, squares)) in part.iter().enumerate() {
            let Some(squares) = squares else { return Ok(Err(first + i)) };
            sums.add(*squares);
            out.write_all(bytes)?;
        }
        progress(part.len() * width);
    }
    Ok(Ok(sums))
}

/// A row's bytes and sums; none of these where a value is not finite before or after.
fn row_of(
    job: &Job,
    source: Stored,
    stored: &[u8],
    cols: usize,
    delta: Option<(&Delta, usize)>,
) -> (Vec<u8>, Option<Squares>) {
    let (mut x, mut back, mut bytes) = (vec![0.0; cols], vec![0.0; cols], Vec::new());
    if source.read(stored, &mut x).is_none() {
        return (bytes, None);
    }
    for x in &mut x {
        *x += job.add;
    }
    let mut change = 0.0;
    if let Some((delta, row)) = delta {
        // `back` is not needed yet.
        change = delta.apply(row, &mut x, &mut back);
    }
    quantize_row(job.ty, &x, &mut bytes);
    dequantize_row(job.ty, &bytes, &mut back);
    let start = Squares { change, ..Squares::default() };
    let squares = x.iter().zip(&back).try_fold(start, |s, (x, b)| {
        let (x, b) = (f64::from(*x), f64::from(*b));
        (x.is_finite() && b.is_finite()).then_some(Squares {
            error: s.error + (b - x).powi(2),
            values: s.values + x.powi(2),
            ..s
        })
    });
    (bytes, squares)
}

/// Counts a matrix among those of its type.
pub(crate) fn count(errors: &mut Vec<TypeError>, ty: TensorType, name: &str, squares: Squares) {
    let relative = |s: Squares| if s.error > 0.0 { (s.error / s.values).sqrt() } else { 0.0 };
    let found = relative(squares);
    if let Some(all) = errors.iter_mut().find(|e| e.ty == ty) {
        all.tensors += 1;
        all.squares.add(squares);
        all.mean = relative(all.squares);
        if found > all.max {
            (all.max, all.worst) = (found, name.to_owned());
        }
    } else {
        errors.push(TypeError { ty, tensors: 1, mean: found, max: found, worst: name.to_owned(), squares });
    }
}
