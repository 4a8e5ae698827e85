//! What a method keeps.

use super::SiteSet;

/// A method of exact backpropagation, as a value: which intermediates are kept, when, and in what tiles.
/// Any choice gives the same gradients; choices differ in memory and work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Kept from a block's forward until its backward. [`super::Site::BlockIn`] always is.
    pub across: SiteSet,
    /// Kept between a block's replay and its backward.
    pub within: SiteSet,
    /// Whether the last block, whose backward follows at once, keeps `within` from its forward, so that it
    /// is not replayed.
    pub keep_last: bool,
    /// How work over rows is cut.
    pub tiles: Tiles,
}

/// Sizes of tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// Rows of the MLP at once.
    pub mlp_rows: usize,
    /// Rows of the head at once: their logits over the whole vocabulary exist together.
    pub head_rows: usize,
    /// Keys of attention at once.
    pub keys: usize,
}

impl Tiles {
    /// All rows at once.
    pub const WHOLE: Self = Self { mlp_rows: usize::MAX, head_rows: usize::MAX, keys: 64 };
}

impl Default for Tiles {
    /// Each tile re-reads the weights, so tiles are no smaller than memory asks.
    fn default() -> Self {
        Self { mlp_rows: 128, head_rows: 32, keys: 64 }
    }
}
