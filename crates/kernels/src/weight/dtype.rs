//! How frozen weights are stored.

/// How the values of a weight are stored.
///
/// The quantized types are those of GGUF (`ggml-common.h`). A block begins with its scale d, and some have a
/// minimum m beside it, both `f16`. In blocks of 32, byte i holds value i in its low half and value i + 16 in its
/// high half. Blocks of 256 are groups of 32 or 16 with scales of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[allow(non_camel_case_types, reason = "the names are GGUF's")]
pub enum Dtype {
    /// 32-bit IEEE floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// The upper half of an `f32`.
    Bf16,
    /// Blocks of 32: d and 32 signed bytes; x = d·q.
    Q8_0,
    /// Blocks of 32: d and 4 bits each; x = d·(q − 8).
    Q4_0,
    /// Blocks of 32: d, m and 4 bits each; x = d·q + m.
    Q4_1,
    /// Blocks of 32: d, fifth bits, 4 bits each; x = d·(q − 16).
    Q5_0,
    /// Blocks of 32: d, m, fifth bits, 4 bits each; x = d·q + m.
    Q5_1,
    /// Blocks of 256: d, m, 8 scales s and minima t of 6 bits, 4 bits each; x = d·s·q − m·t.
    Q4_K,
    /// Blocks of 256: as `Q4_K`, with fifth bits.
    Q5_K,
    /// Blocks of 256: 6 bits each, 16 scales s of 8 bits, d; x = d·s·(q − 32).
    Q6_K,
}

impl Dtype {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Values and bytes of a block.
    const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (32, 34),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
        }
    }

    /// Bytes of one row of `cols` values; quantized rows are whole blocks.
    pub const fn row_bytes(self, cols: usize) -> usize {
        let (values, bytes) = self.block();
        cols / values * bytes
    }

    /// A row must be a multiple of this long.
    pub const fn block_len(self) -> usize {
        self.block().0
    }

    /// Whether values share scales.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// The name used in plans and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q4_K => "q4_k",
            Self::Q5_K => "q5_k",
            Self::Q6_K => "q6_k",
        }
    }
}
