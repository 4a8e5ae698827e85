//! Frozen weights as they lie in a file.

/// How the values of a weight are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dtype {
    /// 32-bit IEEE floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// The upper half of an `f32`.
    Bf16,
    /// GGUF `Q8_0`: blocks of 32, an `f16` scale d and 32 signed bytes; x = d·q.
    Q8_0,
    /// GGUF `Q4_0`: blocks of 32, an `f16` scale d and 16 bytes, value i in the low half of byte i and value
    /// i + 16 in the high half; x = d·(q − 8).
    Q4_0,
}

/// Values of a quantized block.
const BLOCK: usize = 32;

impl Dtype {
    /// Bytes of one row of `cols` values; quantized rows are whole blocks of 32.
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            Self::F32 => 4 * cols,
            Self::F16 | Self::Bf16 => 2 * cols,
            Self::Q8_0 => cols / BLOCK * 34,
            Self::Q4_0 => cols / BLOCK * 18,
        }
    }

    /// A row must be a multiple of this long.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q8_0 | Self::Q4_0 => BLOCK,
        }
    }

    /// The name used in plans and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }
}

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

impl WeightView<'_> {
    /// Calls `put(i, value)` for the values `[row, from + i]`, `i < n`, in order.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
    pub(crate) fn for_row(&self, row: usize, from: usize, n: usize, mut put: impl FnMut(usize, f32)) {
        let row = &self.data[row * self.dtype.row_bytes(self.cols)..][..self.dtype.row_bytes(self.cols)];
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
            Dtype::Q8_0 => blocks::<34>(row, from, n, |block, i| f32::from(block[2 + i] as i8), put),
            Dtype::Q4_0 => {
                let value = |block: &[u8; 18], i: usize| {
                    let byte = block[2 + i % 16];
                    f32::from(i16::from(if i < 16 { byte & 15 } else { byte >> 4 }) - 8)
                };
                blocks::<18>(row, from, n, value, put);
            }
        }
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

/// Values `from..from + n` of a row of blocks that begin with an `f16` scale.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
fn blocks<const BYTES: usize>(
    row: &[u8],
    from: usize,
    n: usize,
    value: impl Fn(&[u8; BYTES], usize) -> f32,
    mut put: impl FnMut(usize, f32),
) {
    let all = row.as_chunks::<BYTES>().0;
    let mut at = from;
    while at < from + n {
        let (block, inside) = (&all[at / BLOCK], at % BLOCK);
        let scale = f16_to_f32([block[0], block[1]]);
        if inside == 0 && at + BLOCK <= from + n {
            // A fixed count unrolls and vectorizes.
            for i in 0..BLOCK {
                put(at - from + i, scale * value(block, i));
            }
            at += BLOCK;
        } else {
            put(at - from, scale * value(block, inside));
            at += 1;
        }
    }
}

/// Exact: every `f16` is an `f32`. Shifts the exponent by a multiplication, which also brings out subnormals.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    let half = u32::from(u16::from_le_bytes(bytes));
    let (sign, rest) = ((half & 0x8000) << 16, (half & 0x7fff) << 13);
    // 2¹¹² moves the exponent's bias from 15 to 127; infinities and NaN get the largest exponent by hand.
    let scaled = f32::from_bits(rest) * f32::from_bits(0x7780_0000);
    let special = if rest >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | sign | special)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_converts_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, exact) = (f16_to_f32(bits.to_le_bytes()), half::f16::from_bits(bits).to_f32());
            assert!(
                ours == exact || (ours.is_nan() && exact.is_nan()),
                "{bits:#06x}: {ours} against {exact}"
            );
        }
    }

    #[test]
    fn quantized_blocks_by_the_definition_from_any_column() {
        let mut rng = crate::test_util::Rng(20);
        for (dtype, bytes) in [(Dtype::Q8_0, 34), (Dtype::Q4_0, 18)] {
            let mut row: Vec<u8> = (0..3 * bytes).map(|_| rng.next_u64() as u8).collect();
            for block in row.chunks_exact_mut(bytes) {
                block[..2].copy_from_slice(&half::f16::from_f32(rng.value() as f32).to_le_bytes());
            }
            let exact: Vec<f32> = (0..96)
                .map(|i| {
                    let block = &row[i / 32 * bytes..][..bytes];
                    let d = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
                    let q = match dtype {
                        Dtype::Q8_0 => i32::from(block[2 + i % 32] as i8),
                        _ if i % 32 < 16 => i32::from(block[2 + i % 16] & 15) - 8,
                        _ => i32::from(block[2 + i % 16] >> 4) - 8,
                    };
                    d * q as f32
                })
                .collect();
            let view = WeightView { dtype, data: &row, rows: 1, cols: 96 };
            for (from, n) in [(0, 96), (1, 70), (31, 2), (32, 32), (95, 1), (5, 0)] {
                let mut got = vec![f32::NAN; n];
                view.for_row(0, from, n, |i, v| got[i] = v);
                assert_eq!(got, exact[from..from + n]);
            }
        }
    }
}
