//! How numbers are stored: one by one, or in blocks that share a scale.

/// A number type of tensors. The others that ggml has are refused by name when a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names that llama.cpp and its users have for them")]
pub enum TensorType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision number.
    BF16,
    /// 32 numbers: a scale (f16), 32 signed bytes.
    Q8_0,
    /// 32 numbers: a scale (f16), 4 bits each, offset 8.
    Q4_0,
    /// 32 numbers: a scale and a minimum (f16), 4 bits each.
    Q4_1,
    /// 32 numbers: a scale (f16), 5 bits each, offset 16.
    Q5_0,
    /// 32 numbers: a scale and a minimum (f16), 5 bits each.
    Q5_1,
    /// 256 numbers in 8 groups: 6-bit scales and minima under two f16, 4 bits each.
    Q4_K,
    /// 256 numbers in 8 groups: 6-bit scales and minima under two f16, 5 bits each.
    Q5_K,
    /// 256 numbers in 16 groups: 8-bit scales under one f16, 6 bits each, offset 32.
    Q6_K,
}

/// ggml's number, name, numbers in a block and bytes of a block (`ggml.h`, `ggml-common.h`).
const TYPES: [(TensorType, u32, &str, usize, usize); 11] = [
    (TensorType::F32, 0, "F32", 1, 4),
    (TensorType::F16, 1, "F16", 1, 2),
    (TensorType::BF16, 30, "BF16", 1, 2),
    (TensorType::Q8_0, 8, "Q8_0", 32, 34),
    (TensorType::Q4_0, 2, "Q4_0", 32, 18),
    (TensorType::Q4_1, 3, "Q4_1", 32, 20),
    (TensorType::Q5_0, 6, "Q5_0", 32, 22),
    (TensorType::Q5_1, 7, "Q5_1", 32, 24),
    (TensorType::Q4_K, 12, "Q4_K", 256, 144),
    (TensorType::Q5_K, 13, "Q5_K", 256, 176),
    (TensorType::Q6_K, 14, "Q6_K", 256, 210),
];

impl TensorType {
    /// Every type.
    pub const ALL: [Self; 11] = {
        let mut all = [Self::F32; 11];
        let mut i = 0;
        while i < all.len() {
            all[i] = TYPES[i].0;
            i += 1;
        }
        all
    };

    // The table stands in the order of the variants.
    const fn entry(self) -> &'static (Self, u32, &'static str, usize, usize) {
        &TYPES[self as usize]
    }

    /// ggml's number.
    pub const fn id(self) -> u32 {
        self.entry().1
    }

    /// ggml's name, such as `Q4_0`.
    pub const fn name(self) -> &'static str {
        self.entry().2
    }

    /// Numbers in a block; a row must be whole blocks.
    pub const fn block_len(self) -> usize {
        self.entry().3
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.entry().4
    }

    /// The type of a number.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.id() == id)
    }

    /// The type of a [`name`](Self::name), in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a row; none where `cols` is not whole blocks or the bytes overflow.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Bytes of a tensor, sizes outermost first; none where the rows are not whole blocks or the bytes overflow.
    pub fn tensor_bytes(self, shape: &[usize]) -> Option<usize> {
        let (cols, outer) = shape.split_last().map_or((1, shape), |(&cols, outer)| (cols, outer));
        outer.iter().try_fold(self.row_bytes(cols)?, |n, &d| n.checked_mul(d))
    }
}

/// ggml's name of a type that is not read here, for messages.
pub(super) fn foreign_name(id: u32) -> &'static str {
    match id {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => "unknown",
    }
}
