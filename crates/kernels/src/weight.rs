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
}

impl Dtype {
    /// Bytes of one row of `cols` values.
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            Self::F32 => 4 * cols,
            Self::F16 | Self::Bf16 => 2 * cols,
        }
    }

    /// The name used in plans and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
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
        let start = row * self.dtype.row_bytes(self.cols) + self.dtype.row_bytes(from);
        let bytes = &self.data[start..start + self.dtype.row_bytes(n)];
        match self.dtype {
            Dtype::F32 => {
                for (i, b) in bytes.as_chunks::<4>().0.iter().enumerate() {
                    put(i, f32::from_le_bytes(*b));
                }
            }
            Dtype::Bf16 => {
                for (i, b) in bytes.as_chunks::<2>().0.iter().enumerate() {
                    put(i, f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16));
                }
            }
            Dtype::F16 => {
                for (i, b) in bytes.as_chunks::<2>().0.iter().enumerate() {
                    put(i, half::f16::from_le_bytes(*b).to_f32());
                }
            }
        }
    }

    /// Checks that the bytes are as many as the shape needs.
    ///
    /// # Panics
    /// When they are not.
    #[track_caller]
    pub(crate) fn check(&self) {
        assert_eq!(self.data.len(), self.rows * self.dtype.row_bytes(self.cols), "weight bytes against its shape");
    }
}
