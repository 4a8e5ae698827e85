//! What a method keeps.

use mesp_device::Elem;

use super::{Site, SiteSet};
use crate::ErrorKind;

/// A method of exact backpropagation, as a value: which intermediates are kept, when, and in what tiles.
/// Choices differ in memory and work; all that save alike ([`Policy::saved`]) give the same gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Kept from a block's forward until its backward. [`super::Site::BlockIn`] always is.
    pub across: SiteSet,
    /// Kept between a block's replay and its backward.
    pub within: SiteSet,
    /// In which form each site is saved.
    pub saved: Saved,
    /// Whether the last block, whose backward follows at once, keeps `within` from its forward, so that it
    /// is not replayed.
    pub keep_last: bool,
    /// How work over rows is cut.
    pub tiles: Tiles,
}

impl Policy {
    /// The form in which a block's input waits for its backward.
    pub const fn inputs(&self) -> SavedAs {
        self.saved.of(Site::BlockIn)
    }

    /// The form of the sites of [`SiteSet::HALVED`].
    pub const fn activations(&self) -> SavedAs {
        self.saved.of(Site::Gate)
    }

    /// With another form of the blocks' inputs.
    #[must_use]
    pub const fn with_inputs(self, form: SavedAs) -> Self {
        Self { saved: self.saved.with(SiteSet::of(&[Site::BlockIn]), form), ..self }
    }

    /// With another form of the sites of [`SiteSet::HALVED`], in memory.
    #[must_use]
    pub const fn with_activations(self, form: SavedAs) -> Self {
        Self { saved: self.saved.with(SiteSet::HALVED, form), ..self }
    }
}

/// The form in which the values of a site are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SavedAs {
    /// In memory, as they are.
    Full,
    /// In memory, rounded to bf16. A block's input is rounded when it begins to wait, and the forward goes on from the
    /// rounded values, so that the replay is the forward to the bit; the gradient takes the rounding for the identity.
    /// Any other site is rounded as it is made, in any policy, and with gate and up their gradients.
    Bf16,
    /// In a file, as they are: for the blocks' inputs.
    File,
}

impl SavedAs {
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
        let unknown = || {
            crate::Error::usage(ErrorKind::Unknown, "‘checkpoints’")
                .is(format!("{name:?}"))
                .expected("f32, bf16 or file")
        };
        [Self::Full, Self::Bf16, Self::File].into_iter().find(|form| form.name() == name).ok_or_else(unknown)
    }
}

impl From<Elem> for SavedAs {
    fn from(elem: Elem) -> Self {
        match elem {
            Elem::Bf16 => Self::Bf16,
            // No site is stored in bytes.
            Elem::Full | Elem::Byte => Self::Full,
        }
    }
}

/// A form for each site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved([SavedAs; Site::ALL.len()]);

impl Saved {
    /// All as they are.
    pub const FULL: Self = Self([SavedAs::Full; Site::ALL.len()]);

    /// A site's.
    pub const fn of(&self, site: Site) -> SavedAs {
        self.0[site.index()]
    }

    /// With one form for some sites.
    #[must_use]
    pub const fn with(self, sites: SiteSet, form: SavedAs) -> Self {
        let (mut forms, mut i) = (self.0, 0);
        while i < Site::ALL.len() {
            if sites.has(Site::ALL[i]) {
                forms[i] = form;
            }
            i += 1;
        }
        Self(forms)
    }

    /// How a site's values are stored while it is on a tape. A block's input that waits in another form is put back as
    /// it was first.
    pub fn on_tape(&self, site: Site) -> Elem {
        match self.of(site) {
            SavedAs::Bf16 if SiteSet::HALVED.has(site) => Elem::Bf16,
            _ => Elem::Full,
        }
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
    /// Rows of a matrix of a block whose gradient is in memory at once, where it is stepped as soon as that is known. A
    /// multiple of 64.
    pub weight_rows: usize,
}

impl Tiles {
    /// All rows at once.
    pub const UNTILED: Self = Self {
        mlp_rows: usize::MAX,
        head_rows: usize::MAX,
        head_vocab: usize::MAX,
        keys: 64,
        weight_rows: usize::MAX,
    };

    /// Each tile of rows reads the weights again, so tiles are no smaller than memory asks.
    pub const DEFAULT: Self =
        Self { mlp_rows: 256, head_rows: 256, head_vocab: 2048, keys: 64, weight_rows: usize::MAX };
}
