//! Frozen weights as they lie in a file.

mod dtype;
#[cfg(test)]
mod tests;
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
#[allow(non_camel_case_types, reason = "the names are GGUF's")]
pub(crate) mod unpack;

use std::ops::Range;

pub use dtype::Dtype;

use crate::Real;
use crate::compact::round;
use crate::par::{Par, rows_per_task};

use unpack::{Blocks, GROUP, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, f16_to_f32, scale};

/// A frozen matrix `[rows, cols]`, row-major, little-endian, at any alignment.
#[derive(Debug, Clone, Copy)]
pub struct WeightView<'a> {
    /// Stored type.
    pub dtype: Dtype,
    /// `rows · dtype.row_bytes(cols)` bytes.
    pub data: &'a [u8],
    /// Output features (or vocabulary entries).
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl<'a> WeightView<'a> {
    /// Rows of `cols` bf16 values in memory. On a machine that stores them the other way round than files do, this
    /// would not be what they are: it does not compile there.
    pub(crate) fn halves(data: &'a [u16], cols: usize) -> Self {
        const { assert!(cfg!(target_endian = "little"), "bf16 in memory is read as bf16 in a file") };
        // SAFETY: any bytes of u16 values are valid u8; the length is theirs.
        let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data)) };
        Self { dtype: Dtype::Bf16, data: bytes, rows: data.len() / cols.max(1), cols }
    }
}

impl WeightView<'_> {
    /// Calls `put(i, value)` for the values `[row, from + i]`, `i < n`, in order.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
    pub(crate) fn for_row(&self, row: usize, from: usize, n: usize, mut put: impl FnMut(usize, f32)) {
        let row = self.row(row);
        match self.dtype {
            Dtype::F32 => {
                for (i, b) in row[4 * from..4 * (from + n)].as_chunks::<4>().0.iter().enumerate() {
                    put(i, f32::from_le_bytes(*b));
                }
            }
            Dtype::Bf16 => {
                for (i, b) in row[2 * from..2 * (from + n)].as_chunks::<2>().0.iter().enumerate() {
                    put(i, f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16));
                }
            }
            Dtype::F16 => {
                for (i, b) in row[2 * from..2 * (from + n)].as_chunks::<2>().0.iter().enumerate() {
                    put(i, f16_to_f32(*b));
                }
            }
            _ => {
                // One copy of `put` for all quantized types: they differ in how a group is read only.
                let mut values = [0.0; GROUP];
                let mut done = 0;
                while done < n {
                    let count = (GROUP - (from + done) % GROUP).min(n - done);
                    quantized(self.dtype, row, from + done, &mut values[..count]);
                    if count == GROUP {
                        // A fixed count unrolls and vectorizes.
                        for (i, v) in values.iter().enumerate() {
                            put(done + i, *v);
                        }
                    } else {
                        for (i, v) in values[..count].iter().enumerate() {
                            put(done + i, *v);
                        }
                    }
                    done += count;
                }
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as its callers")]
    fn row(&self, row: usize) -> &[u8] {
        let bytes = self.dtype.row_bytes(self.cols);
        &self.data[row * bytes..][..bytes]
    }

    /// Some of its rows, in place.
    pub(crate) fn row_range(&self, rows: Range<usize>) -> Self {
        let bytes = self.dtype.row_bytes(self.cols);
        let data = &self.data[rows.start * bytes..rows.end * bytes];
        Self { dtype: self.dtype, data, rows: rows.len(), cols: self.cols }
    }

    /// Checks that the bytes are as many as the shape needs.
    ///
    /// # Panics
    /// When they are not.
    #[track_caller]
    pub(crate) fn check(&self) {
        assert!(self.cols.is_multiple_of(self.dtype.block_len()), "weight columns in whole blocks");
        assert_eq!(
            self.data.len(),
            self.rows * self.dtype.row_bytes(self.cols),
            "weight bytes against its shape"
        );
    }
}

/// All values of a matrix, whatever it is stored in.
///
/// # Panics
/// When they are not as many as `to` has.
#[track_caller]
pub fn converted<R: Real>(to: &mut [R], w: WeightView<'_>, par: Par<'_>) {
    each(to, w, par, R::from_f32);
}

/// As [`converted`], rounded to the nearest bf16.
///
/// # Panics
/// When they are not as many as `to` has.
#[track_caller]
pub fn converted_bf16(to: &mut [u16], w: WeightView<'_>, par: Par<'_>) {
    each(to, w, par, round);
}

#[track_caller]
fn each<T: Send>(to: &mut [T], w: WeightView<'_>, par: Par<'_>, put: impl Fn(f32) -> T + Sync + Send) {
    w.check();
    assert_eq!(to.len(), w.rows * w.cols, "converted: values");
    let (d, rows) = (w.cols, rows_per_task(w.cols));
    par.chunks(to, rows * d, |i, to| {
        for (r, to) in to.chunks_exact_mut(d.max(1)).enumerate() {
            w.for_row(i * rows + r, 0, d, |j, v| to[j] = put(v));
        }
    });
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
fn quantized(dtype: Dtype, row: &[u8], from: usize, out: &mut [f32]) {
    match dtype {
        Dtype::Q8_0 => groups::<34, Q8_0>(row, from, out),
        Dtype::Q4_0 => groups::<18, Q4_0>(row, from, out),
        Dtype::Q4_1 => groups::<20, Q4_1>(row, from, out),
        Dtype::Q5_0 => groups::<22, Q5_0>(row, from, out),
        Dtype::Q5_1 => groups::<24, Q5_1>(row, from, out),
        Dtype::Q4_K => groups::<144, Q4_K>(row, from, out),
        Dtype::Q5_K => groups::<176, Q5_K>(row, from, out),
        Dtype::Q6_K => groups::<210, Q6_K>(row, from, out),
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => unreachable!("read value by value"),
    }
}

/// The values from `from` on; whole groups are unpacked in place.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
fn groups<const BYTES: usize, B: Blocks<BYTES>>(row: &[u8], from: usize, mut out: &mut [f32]) {
    let blocks = row.as_chunks::<BYTES>().0;
    let (mut group, mut inside) = (from / GROUP, from % GROUP);
    while !out.is_empty() {
        let unpacked = B::unpack(&blocks[group / B::GROUPS], group % B::GROUPS);
        let (to, rest) = out.split_at_mut((GROUP - inside).min(out.len()));
        if let Ok(whole) = to.try_into() {
            scale(&unpacked, whole);
        } else {
            let mut values = [0.0; GROUP];
            scale(&unpacked, &mut values);
            to.copy_from_slice(&values[inside..inside + to.len()]);
        }
        out = rest;
        (group, inside) = (group + 1, 0);
    }
}
