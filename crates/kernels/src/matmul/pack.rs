//! Copies a `depth × width` piece of the right factor into the order in which the microkernel reads it: row
//! after row, each padded with zeros to whole vectors.

use super::Rhs;
use crate::Real;
use crate::isa::vectorized;

/// Rows packed at a time when the source runs along them: this much of the panel stays in the first-level
/// cache while its columns are filled one after another.
const STRIP: usize = 64;

vectorized! {
/// `packed[p·padded + j] = alpha · b[k0+p, n0+j]`.
pub(super) fn plain<R: Real>(
    packed: &mut [R],
    b: Rhs<'_, R>,
    k0: usize,
    depth: usize,
    n0: usize,
    width: usize,
    padded: usize,
    alpha: R,
) {
    let packed = &mut packed[..depth * padded];
    if width < padded {
        packed.fill(R::ZERO);
    }
    match b {
        Rhs::Dense { data, row_stride, col_stride: 1 } => {
            for (p, row) in packed.chunks_exact_mut(padded).enumerate() {
                let from = (k0 + p) * row_stride + n0;
                for (d, s) in row[..width].iter_mut().zip(&data[from..from + width]) {
                    *d = *s * alpha;
                }
            }
        }
        Rhs::Dense { data, row_stride, col_stride } => {
            for (s, strip) in packed.chunks_mut(STRIP * padded).enumerate() {
                for j in 0..width {
                    let from = (k0 + s * STRIP) * row_stride + (n0 + j) * col_stride;
                    for (p, row) in strip.chunks_exact_mut(padded).enumerate() {
                        row[j] = data[from + p * row_stride] * alpha;
                    }
                }
            }
        }
        Rhs::Weight(w) => {
            for (p, row) in packed.chunks_exact_mut(padded).enumerate() {
                let row = &mut row[..width];
                w.for_row(k0 + p, n0, width, |j, v| row[j] = R::from_f32(v) * alpha);
            }
        }
        Rhs::WeightTransposed(w) => {
            for (s, strip) in packed.chunks_mut(STRIP * padded).enumerate() {
                let rows = strip.len() / padded;
                for j in 0..width {
                    w.for_row(n0 + j, k0 + s * STRIP, rows, |p, v| strip[p * padded + j] = R::from_f32(v) * alpha);
                }
            }
        }
    }
}
}
