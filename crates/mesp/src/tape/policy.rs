//! What a method keeps.

use mesp_device::Elem;

use super::SiteSet;

/// A method of exact backpropagation, as a value: which intermediates are kept, when, and in what tiles.
/// Choices differ in memory and work; all that store alike ([`Policy::residency`], [`Policy::activations`]) give the
/// same gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Kept from a block's forward until its backward. [`super::Site::BlockIn`] always is.
    pub across: SiteSet,
    /// Kept between a block's replay and its backward.
    pub within: SiteSet,
    /// How the blocks' inputs are kept.
    pub residency: Residency,
    /// How the sites of [`SiteSet::HALVED`] are stored while they are alive, and with gate and up their gradients.
    /// In bf16 each is rounded as it is made, in any policy; sums and all other sites stay as they are.
    pub activations: Elem,
    /// Whether the last block, whose backward follows at once, keeps `within` from its forward, so that it
    /// is not replayed.
    pub keep_last: bool,
    /// How work over rows is cut.
    pub tiles: Tiles,
}

/// Where a block's input waits for its backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// In memory, as it is.
    Full,
    /// In memory, rounded to bf16. The forward goes on from the rounded values, so that the replay is the
    /// forward to the bit; the gradient takes the rounding for the identity.
    Bf16,
    /// In a file, as it is.
    File,
}

impl Residency {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "f32",
            Self::Bf16 => "bf16",
            Self::File => "file",
        }
    }

    /// From the command line's name.
    ///
    /// # Errors
    /// When there is none by that name.
    pub fn parse(name: &str) -> crate::Result<Self> {
        let unknown =
            || crate::Error::usage(format!("checkpoints {name:?} is unknown, expected f32, bf16 or file"));
        [Self::Full, Self::Bf16, Self::File].into_iter().find(|r| r.name() == name).ok_or_else(unknown)
    }
}

/// Sizes of tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// Rows of the MLP at once.
    pub mlp_rows: usize,
    /// Rows of the head at once.
    pub head_rows: usize,
    /// Words of the vocabulary at once: their logits for those rows exist together. A multiple of
    /// [`mesp_device::VOCAB_STEP`], or all.
    pub head_vocab: usize,
    /// Keys of attention at once.
    pub keys: usize,
}

impl Tiles {
    /// All rows at once.
    pub const WHOLE: Self =
        Self { mlp_rows: usize::MAX, head_rows: usize::MAX, head_vocab: usize::MAX, keys: 64 };

    /// Each tile of rows reads the weights again, so tiles are no smaller than memory asks.
    pub const DEFAULT: Self = Self { mlp_rows: 256, head_rows: 256, head_vocab: 2048, keys: 64 };
}
