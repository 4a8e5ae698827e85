//! The named methods.

use crate::tape::{Policy, Saved, Site, SiteSet, Tiles};
use crate::{Error, ErrorKind, Result};

/// A method of exact backpropagation by its published name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Everything kept, nothing rebuilt.
    StoreAll,
    /// Block checkpoints; a replayed block keeps what automatic differentiation of it would, all rows at
    /// once, full logits (Song & Tang 2025, arXiv 2510.03425). Lower than the original in two respects: the
    /// logits' exponentials take their place, and silu(gate) is not kept.
    Mebp,
    /// Block checkpoints; a replayed block keeps x, n1, P, o, u, n2, gate, up; h is rebuilt (Park et al.
    /// 2026, arXiv 2602.13069, section 5). Full logits, as published.
    MespPaper,
    /// Its ablation (Table 5): h of every adapter kept as well.
    MespPaperStoreH,
    /// Ours, the default: nothing quadratic, the MLP and the head in tiles, the shortest lifetimes. The last
    /// block's attention is not rebuilt: it waits only for the head, whose tiles are smaller than the MLP's.
    Mesp,
}

impl Method {
    /// All of them, from the most memory to the least.
    pub const ALL: [Self; 5] =
        [Self::StoreAll, Self::Mebp, Self::MespPaperStoreH, Self::MespPaper, Self::Mesp];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StoreAll => "store-all",
            Self::Mebp => "mebp",
            Self::MespPaper => "mesp-paper",
            Self::MespPaperStoreH => "mesp-paper-store-h",
            Self::Mesp => "mesp",
        }
    }

    /// The method of a name; `auto` is the default one.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self> {
        if name == "auto" {
            return Ok(Self::Mesp);
        }
        Self::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::usage(ErrorKind::Unknown, "‘method’")
                .is(format!("{name:?}"))
                .expected(format!("{known} or auto"))
        })
    }

    /// What it keeps.
    pub const fn policy(self) -> Policy {
        const X: SiteSet = SiteSet::of(&[Site::BlockIn]);
        const PAPER: SiteSet = SiteSet::of(&[
            Site::BlockIn,
            Site::AttnNorm,
            Site::Probs,
            Site::AttnOut,
            Site::Mid,
            Site::MlpNorm,
            Site::Gate,
            Site::Up,
        ]);
        match self {
            Self::StoreAll => Policy {
                across: SiteSet::ALL,
                within: SiteSet::ALL,
                saved: Saved::FULL,
                keep_last: true,
                tiles: Tiles::UNTILED,
            },
            Self::Mebp => Policy {
                across: X,
                within: SiteSet::ALL,
                saved: Saved::FULL,
                keep_last: false,
                tiles: Tiles::UNTILED,
            },
            Self::MespPaper => Policy {
                across: X,
                within: PAPER,
                saved: Saved::FULL,
                keep_last: false,
                tiles: Tiles::UNTILED,
            },
            Self::MespPaperStoreH => Policy {
                across: X,
                within: PAPER.union(SiteSet::LORA_H),
                saved: Saved::FULL,
                keep_last: false,
                tiles: Tiles::UNTILED,
            },
            Self::Mesp => Policy {
                across: X,
                within: SiteSet::ATTENTION,
                saved: Saved::FULL,
                keep_last: true,
                tiles: Tiles::DEFAULT,
            },
        }
    }
}
