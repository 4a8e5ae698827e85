//! The named intermediates of a block.

use crate::arch::Module;

/// One intermediate of a transformer block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// x, the block's input `[N, d]`.
    BlockIn,
    /// n1 = norm(x) `[N, d]`.
    AttnNorm,
    /// h = x·Aᵀ of a layer's adapter, x what [`Site::input_of`] names `[N, r]`. Layers of a fused matrix share its h.
    H(Module),
    /// `q_proj`'s output before the norm per head, where there is one `[N, q]`.
    QRaw,
    /// Rotated queries `[N, q]`.
    Q,
    /// `k_proj`'s output before the norm per head, where there is one `[N, k]`.
    KRaw,
    /// Rotated keys `[N, k]`.
    K,
    /// Values `[N, k]`.
    V,
    /// o, attention's output `[N, q]`.
    AttnOut,
    /// ℓ, the log-sum-exp of the scores `[N, heads]`.
    Lse,
    /// P, the probabilities `[heads, Σ length²]`: quadratic, kept only by the published methods.
    Probs,
    /// `o_proj`'s output, where a norm comes between it and the residual stream `[N, d]`.
    AttnProj,
    /// u = x + `o_proj`(o) `[N, d]`.
    Mid,
    /// n2 = norm(u) `[N, d]`.
    MlpNorm,
    /// `[N, i]`.
    Gate,
    /// `[N, i]`.
    Up,
    /// a = silu(gate)∘up `[N, i]`.
    Act,
    /// `down_proj`'s output, where a norm comes between it and the residual stream `[N, d]`.
    MlpOut,
}

impl Site {
    /// All of them, in an order in which each comes after all it is computed from.
    pub const ALL: [Self; 26] = [
        Self::BlockIn,
        Self::AttnNorm,
        Self::H(Module::Qkv),
        Self::H(Module::Q),
        Self::QRaw,
        Self::Q,
        Self::H(Module::K),
        Self::KRaw,
        Self::K,
        Self::H(Module::V),
        Self::V,
        Self::AttnOut,
        Self::Lse,
        Self::Probs,
        Self::H(Module::O),
        Self::AttnProj,
        Self::Mid,
        Self::MlpNorm,
        Self::H(Module::GateUp),
        Self::H(Module::Gate),
        Self::Gate,
        Self::H(Module::Up),
        Self::Up,
        Self::Act,
        Self::H(Module::Down),
        Self::MlpOut,
    ];

    /// Its place in [`Site::ALL`].
    ///
    /// # Panics
    /// For h of a module outside the blocks, which is on no tape.
    pub const fn index(self) -> usize {
        // By the order of modules in a block.
        const H: [usize; Module::INSIDE.len()] = [3, 6, 9, 14, 19, 21, 24, 2, 18];
        match self {
            Self::BlockIn => 0,
            Self::AttnNorm => 1,
            Self::H(module) => H[module as usize],
            Self::QRaw => 4,
            Self::Q => 5,
            Self::KRaw => 7,
            Self::K => 8,
            Self::V => 10,
            Self::AttnOut => 11,
            Self::Lse => 12,
            Self::Probs => 13,
            Self::AttnProj => 15,
            Self::Mid => 16,
            Self::MlpNorm => 17,
            Self::Gate => 20,
            Self::Up => 22,
            Self::Act => 23,
            Self::MlpOut => 25,
        }
    }

    /// What a layer of a block multiplies.
    ///
    /// # Panics
    /// For a module outside the blocks.
    pub const fn input_of(module: Module) -> Self {
        match module {
            Module::Q | Module::K | Module::V | Module::Qkv => Self::AttnNorm,
            Module::O => Self::AttnOut,
            Module::Gate | Module::Up | Module::GateUp => Self::MlpNorm,
            Module::Down => Self::Act,
            Module::Head | Module::Embed => panic!("a module outside the blocks"),
        }
    }

    /// The name in plans and JSON.
    pub const fn name(self) -> &'static str {
        const H: [&str; Module::INSIDE.len()] = [
            "lora_h.q_proj",
            "lora_h.k_proj",
            "lora_h.v_proj",
            "lora_h.o_proj",
            "lora_h.gate_proj",
            "lora_h.up_proj",
            "lora_h.down_proj",
            "lora_h.qkv_proj",
            "lora_h.gate_up_proj",
        ];
        match self {
            Self::BlockIn => "block_in",
            Self::AttnNorm => "attn_norm",
            Self::H(module) => H[module as usize],
            Self::QRaw => "q_raw",
            Self::Q => "q",
            Self::KRaw => "k_raw",
            Self::K => "k",
            Self::V => "v",
            Self::AttnOut => "attn_out",
            Self::Lse => "lse",
            Self::Probs => "probs",
            Self::AttnProj => "attn_proj",
            Self::Mid => "mid",
            Self::MlpNorm => "mlp_norm",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Act => "act",
            Self::MlpOut => "mlp_out",
        }
    }
}

/// A set of sites.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SiteSet(u32);

impl SiteSet {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// All.
    pub const ALL: Self = Self((1 << Site::ALL.len()) - 1);
    /// h of every adapter.
    pub const LORA_H: Self = Self::of(&[
        Site::H(Module::Qkv),
        Site::H(Module::Q),
        Site::H(Module::K),
        Site::H(Module::V),
        Site::H(Module::O),
        Site::H(Module::GateUp),
        Site::H(Module::Gate),
        Site::H(Module::Up),
        Site::H(Module::Down),
    ]);
    /// What attention's backward reads, and what the MLP's replay starts from.
    pub const ATTENTION: Self = Self::of(&[
        Site::QRaw,
        Site::Q,
        Site::KRaw,
        Site::K,
        Site::V,
        Site::AttnOut,
        Site::Lse,
        Site::AttnProj,
        Site::Mid,
    ]);
    /// Those that may be stored in bf16: what reads them are factors of products, and gate and up, which the
    /// activation reads value by value.
    pub const HALVED: Self = Self::of(&[Site::AttnNorm, Site::MlpNorm, Site::Gate, Site::Up, Site::Act]);
    /// Those computed row by row from [`Site::Mid`], in tiles.
    pub const MLP: Self = Self::of(&[
        Site::MlpNorm,
        Site::H(Module::GateUp),
        Site::H(Module::Gate),
        Site::Gate,
        Site::H(Module::Up),
        Site::Up,
        Site::Act,
        Site::H(Module::Down),
        Site::MlpOut,
    ]);

    /// These.
    pub const fn of(sites: &[Site]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < sites.len() {
            bits |= 1 << sites[i].index();
            i += 1;
        }
        Self(bits)
    }

    /// From bits in the order of [`Site::ALL`]; others are dropped.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// Whether it holds `site`.
    pub const fn has(self, site: Site) -> bool {
        self.0 & (1 << site.index()) != 0
    }

    /// Those in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, site: Site) -> Self {
        Self(self.0 | (1 << site.index()))
    }

    /// Without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Site> {
        Site::ALL.into_iter().filter(move |s| self.has(*s))
    }
}

impl std::fmt::Debug for SiteSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(Site::name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_are_where_their_indices_say() {
        for (at, site) in Site::ALL.into_iter().enumerate() {
            assert_eq!(site.index(), at, "{}", site.name());
            if let Site::H(module) = site {
                assert_eq!(site.name(), format!("lora_h.{}", module.name()));
                assert!(Site::input_of(module).index() < at, "{}", site.name());
            }
        }
    }
}
