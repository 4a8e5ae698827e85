//! What a buffer is for: the classes of the memory ledger.

/// A class of the ledger. Every planned byte belongs to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Base weights converted or copied into memory (norms, biases, or all of them when asked).
    BaseResident,
    /// Weights of the model itself where these are trained.
    Trained,
    /// LoRA matrices.
    Adapter,
    /// Their gradients.
    Gradient,
    /// Optimizer state.
    Optimizer,
    /// What is kept from a block's forward until its backward.
    Checkpoint,
    /// What lives inside one block's forward or backward.
    WithinBlock,
    /// A tile of the head: logits and what surrounds them.
    Head,
    /// Packed panels and attention tiles, per thread.
    Scratch,
    /// Keys and values of generation.
    Cache,
    /// Tokens, labels, offsets.
    Tokens,
    /// Holes between buffers of the arena, and tables of the engine itself.
    Other,
}

impl Class {
    /// The name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BaseResident => "base_resident",
            Self::Trained => "trained",
            Self::Adapter => "adapter",
            Self::Gradient => "gradient",
            Self::Optimizer => "optimizer",
            Self::Checkpoint => "checkpoint",
            Self::WithinBlock => "within_block",
            Self::Head => "head",
            Self::Scratch => "scratch",
            Self::Cache => "cache",
            Self::Tokens => "tokens",
            Self::Other => "other",
        }
    }
}

/// A class and the buffer's own name (a site, a gradient).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// For the ledger.
    pub class: Class,
    /// For the table of named intermediates.
    pub name: &'static str,
}

impl Label {
    /// A label.
    pub const fn new(class: Class, name: &'static str) -> Self {
        Self { class, name }
    }
}
