//! How numbers lie in a file of either format.

use crate::Dtype;
use crate::gguf::{TensorType, dequantize_row};

/// A type of GGUF files, or one of safetensors files that GGUF lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// A type of GGUF.
    Gguf(TensorType),
    /// Another of safetensors. Those that are not read give no numbers.
    Safetensors(Dtype),
}

impl From<TensorType> for Stored {
    fn from(ty: TensorType) -> Self {
        Self::Gguf(ty)
    }
}

impl From<Dtype> for Stored {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::Gguf(TensorType::F32),
            Dtype::F16 => Self::Gguf(TensorType::F16),
            Dtype::BF16 => Self::Gguf(TensorType::BF16),
            other => Self::Safetensors(other),
        }
    }
}

impl Stored {
    /// Bytes of a row; none where it is no whole blocks or bytes, or they overflow.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        match self {
            Self::Gguf(ty) => ty.row_bytes(cols),
            Self::Safetensors(dtype) => {
                let bits = cols.checked_mul(dtype.bits())?;
                bits.is_multiple_of(8).then_some(bits / 8)
            }
        }
    }

    /// Numbers of one row, or of any whole blocks, as `f32`. None, with `out` as it was, where the type is not read
    /// or the bytes are not as many as the numbers take.
    #[must_use]
    pub fn read(self, bytes: &[u8], out: &mut [f32]) -> Option<()> {
        if self.row_bytes(out.len())? != bytes.len() {
            return None;
        }
        match self {
            Self::Gguf(ty) => {
                dequantize_row(ty, bytes, out);
                Some(())
            }
            Self::Safetensors(dtype) => dtype.read(bytes, out),
        }
    }
}
