//! The named intermediates of a block.

/// One intermediate of a transformer block, in an order in which each comes after all it is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Site {
    /// x, the block's input `[N, d]`.
    BlockIn,
    /// n1 = norm(x) `[N, d]`.
    AttnNorm,
    /// h of `qkv_proj`, where queries, keys and values share an adapter `[N, r]`.
    HQkv,
    /// h of `q_proj` = n1·Aᵀ `[N, r]`.
    HQ,
    /// `q_proj`'s output before the norm per head, where there is one `[N, q]`.
    QRaw,
    /// Rotated queries `[N, q]`.
    Q,
    /// h of `k_proj`.
    HK,
    /// `k_proj`'s output before the norm per head, where there is one `[N, k]`.
    KRaw,
    /// Rotated keys `[N, k]`.
    K,
    /// h of `v_proj`.
    HV,
    /// Values `[N, k]`.
    V,
    /// o, attention's output `[N, q]`.
    AttnOut,
    /// ℓ, the log-sum-exp of the scores `[N, heads]`.
    Lse,
    /// P, the probabilities `[heads, Σ length²]`: quadratic, kept only by the published methods.
    Probs,
    /// h of `o_proj`.
    HO,
    /// `o_proj`'s output, where a norm comes between it and the residual stream `[N, d]`.
    AttnProj,
    /// u = x + `o_proj`(o) `[N, d]`.
    Mid,
    /// n2 = norm(u) `[N, d]`.
    MlpNorm,
    /// h of `gate_up_proj`, where both share an adapter.
    HGateUp,
    /// h of `gate_proj`.
    HGate,
    /// `[N, i]`.
    Gate,
    /// h of `up_proj`.
    HUp,
    /// `[N, i]`.
    Up,
    /// a = silu(gate)∘up `[N, i]`.
    Act,
    /// h of `down_proj`.
    HDown,
    /// `down_proj`'s output, where a norm comes between it and the residual stream `[N, d]`.
    MlpOut,
}

impl Site {
    /// All of them, in order.
    pub const ALL: [Self; 26] = [
        Self::BlockIn,
        Self::AttnNorm,
        Self::HQkv,
        Self::HQ,
        Self::QRaw,
        Self::Q,
        Self::HK,
        Self::KRaw,
        Self::K,
        Self::HV,
        Self::V,
        Self::AttnOut,
        Self::Lse,
        Self::Probs,
        Self::HO,
        Self::AttnProj,
        Self::Mid,
        Self::MlpNorm,
        Self::HGateUp,
        Self::HGate,
        Self::Gate,
        Self::HUp,
        Self::Up,
        Self::Act,
        Self::HDown,
        Self::MlpOut,
    ];

    /// The name in plans and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BlockIn => "block_in",
            Self::AttnNorm => "attn_norm",
            Self::HQkv => "lora_h.qkv_proj",
            Self::HQ => "lora_h.q_proj",
            Self::QRaw => "q_raw",
            Self::Q => "q",
            Self::HK => "lora_h.k_proj",
            Self::KRaw => "k_raw",
            Self::K => "k",
            Self::HV => "lora_h.v_proj",
            Self::V => "v",
            Self::AttnOut => "attn_out",
            Self::Lse => "lse",
            Self::Probs => "probs",
            Self::HO => "lora_h.o_proj",
            Self::AttnProj => "attn_proj",
            Self::Mid => "mid",
            Self::MlpNorm => "mlp_norm",
            Self::HGateUp => "lora_h.gate_up_proj",
            Self::HGate => "lora_h.gate_proj",
            Self::Gate => "gate",
            Self::HUp => "lora_h.up_proj",
            Self::Up => "up",
            Self::Act => "act",
            Self::HDown => "lora_h.down_proj",
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
        Site::HQkv,
        Site::HQ,
        Site::HK,
        Site::HV,
        Site::HO,
        Site::HGateUp,
        Site::HGate,
        Site::HUp,
        Site::HDown,
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
        Site::HGateUp,
        Site::HGate,
        Site::Gate,
        Site::HUp,
        Site::Up,
        Site::Act,
        Site::HDown,
        Site::MlpOut,
    ]);

    /// These.
    pub const fn of(sites: &[Site]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < sites.len() {
            bits |= 1 << sites[i] as u32;
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
        self.0 & (1 << site as u32) != 0
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, site: Site) -> Self {
        Self(self.0 | (1 << site as u32))
    }

    /// Without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those in both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
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
