//! Linear layers and tables of a model by their names in checkpoints.

use std::ops::Range;

use mesp_formats::peft::path as peft_path;

use super::Config;

/// A linear layer that an adapter may sit on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Module {
    /// `q_proj`
    Q,
    /// `k_proj`
    K,
    /// `v_proj`
    V,
    /// `o_proj`
    O,
    /// `gate_proj`
    Gate,
    /// `up_proj`
    Up,
    /// `down_proj`
    Down,
    /// `qkv_proj`: queries, keys and values from one matrix
    Qkv,
    /// `gate_up_proj`: gate and up from one matrix
    GateUp,
    /// `lm_head`, outside the blocks
    Head,
    /// `embed_tokens`, outside the blocks: its adapter is for the table `[vocabulary, hidden]`
    Embed,
}

impl Module {
    /// The layers of a block, in the order of its forward. Where some are fused, each is a part of the whole.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Everything in a block that an adapter may sit on.
    pub const INSIDE: [Self; 9] =
        [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down, Self::Qkv, Self::GateUp];

    /// Everything outside the blocks that an adapter may sit on.
    pub const OUTSIDE_BLOCKS: [Self; 2] = [Self::Head, Self::Embed];

    /// Everything that an adapter may sit on.
    pub const MODULES: [Self; 11] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::Qkv,
        Self::GateUp,
        Self::Head,
        Self::Embed,
    ];

    /// Whether it is outside the blocks.
    pub const fn is_outside_blocks(self) -> bool {
        matches!(self, Self::Head | Self::Embed)
    }

    /// Which of the lists of pairs it is in, for a layer: first those of the blocks, then the head's, then the
    /// embeddings' ([`list_count`](crate::adapter::list_count)).
    pub const fn list_index(self, layer: usize, c: &Config) -> usize {
        match self {
            Self::Head => c.layers,
            Self::Embed => c.layers + 1,
            _ => layer,
        }
    }

    /// The checkpoint's matrix that a layer is in, and its adapter with it.
    #[must_use]
    pub const fn stored_in(self, fused: bool) -> Self {
        match self {
            Self::Q | Self::K | Self::V if fused => Self::Qkv,
            Self::Gate | Self::Up if fused => Self::GateUp,
            other => other,
        }
    }

    /// Whether a model's checkpoint has a matrix of its own for it.
    pub fn exists(self, c: &Config) -> bool {
        if c.family.fused { self == self.stored_in(true) } else { !matches!(self, Self::Qkv | Self::GateUp) }
    }

    /// A layer's rows of the matrix that it is stored in.
    pub fn rows(self, c: &Config) -> Range<usize> {
        let before = match self {
            _ if self == self.stored_in(c.family.fused) => 0,
            Self::K => c.q_cols(),
            Self::V => c.q_cols() + c.kv_cols(),
            Self::Up => c.intermediate_size,
            _ => 0,
        };
        before..before + self.shape(c).0
    }

    /// The checkpoint name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q => "q_proj",
            Self::K => "k_proj",
            Self::V => "v_proj",
            Self::O => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
            Self::Qkv => "qkv_proj",
            Self::GateUp => "gate_up_proj",
            Self::Head => "lm_head",
            Self::Embed => "embed_tokens",
        }
    }

    /// The checkpoint's path of the module, of one in a block in a layer.
    pub fn path(self, layer: usize) -> String {
        peft_path(layer, self.name())
    }

    /// The projection of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::MODULES.into_iter().find(|p| p.name() == name)
    }

    /// Output and input features.
    pub fn shape(self, c: &Config) -> (usize, usize) {
        let (d, q, k, i) = (c.hidden_size, c.q_cols(), c.kv_cols(), c.intermediate_size);
        match self {
            Self::Q => (q, d),
            Self::K | Self::V => (k, d),
            Self::O => (d, q),
            Self::Gate | Self::Up => (i, d),
            Self::Down => (d, i),
            Self::Qkv => (q + 2 * k, d),
            Self::GateUp => (2 * i, d),
            Self::Head | Self::Embed => (c.vocab_size, d),
        }
    }

    /// Whether the frozen layer has a bias.
    pub fn has_bias(self, c: &Config) -> bool {
        match self {
            Self::Q | Self::K | Self::V | Self::Qkv => c.family.qkv_bias,
            Self::O => c.family.o_bias,
            Self::Gate | Self::Up | Self::Down | Self::GateUp => c.family.mlp_bias,
            Self::Head | Self::Embed => false,
        }
    }
}
