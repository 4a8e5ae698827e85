//! Low-rank adapters (LoRA; Hu et al. 2021): where they sit, how they start, how they compute.

pub(crate) mod file;
mod init;
pub mod lora;
pub mod peft;

use std::ops::Range;

use mesp_device::{Act, Backend, Elem, Label, Layout, View};

pub use file::AdapterFile;
pub use init::init;

use crate::model::Config;
use crate::{Error, Result};

/// A linear layer that an adapter may sit on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Projection {
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
}

impl Projection {
    /// The layers of a block, in the order of its forward. Where some are fused, each is a part of the whole.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Everything that an adapter may sit on.
    pub const MODULES: [Self; 9] =
        [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down, Self::Qkv, Self::GateUp];

    /// The checkpoint's matrix that a layer is in, and its adapter with it.
    #[must_use]
    pub const fn carrier(self, fused: bool) -> Self {
        match self {
            Self::Q | Self::K | Self::V if fused => Self::Qkv,
            Self::Gate | Self::Up if fused => Self::GateUp,
            other => other,
        }
    }

    /// A layer's rows of its carrier.
    pub fn rows(self, c: &Config) -> Range<usize> {
        let before = match self {
            _ if self == self.carrier(c.family.fused) => 0,
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
        }
    }

    /// The module it belongs to.
    pub const fn parent(self) -> &'static str {
        match self {
            Self::Q | Self::K | Self::V | Self::O | Self::Qkv => "self_attn",
            Self::Gate | Self::Up | Self::Down | Self::GateUp => "mlp",
        }
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
        }
    }

    /// Whether the frozen layer has a bias.
    pub fn has_bias(self, c: &Config) -> bool {
        match self {
            Self::Q | Self::K | Self::V | Self::Qkv => c.family.qkv_bias,
            Self::O => c.family.o_bias,
            Self::Gate | Self::Up | Self::Down | Self::GateUp => c.family.mlp_bias,
        }
    }
}

/// Rank, scale and placement.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// r.
    pub rank: usize,
    /// `lora_alpha`.
    pub alpha: f64,
    /// Whether the scale is alpha/√r (rsLoRA; Kalajdzievski 2023) in place of alpha/r.
    pub rslora: bool,
    /// Which projections carry an adapter, in order.
    pub targets: Vec<Projection>,
}

impl AdapterConfig {
    /// No adapter: the base model alone.
    pub const fn none() -> Self {
        Self { rank: 1, alpha: 1.0, rslora: false, targets: Vec::new() }
    }

    /// The same with its product multiplied by `by` more; 0 is the base model.
    #[must_use]
    pub fn scaled(self, by: f64) -> Self {
        if by == 0.0 { Self::none() } else { Self { alpha: self.alpha * by, ..self } }
    }

    /// s, by which the adapter's product is multiplied.
    pub fn scale(&self) -> f64 {
        let r = self.rank as f64;
        self.alpha / if self.rslora { r.sqrt() } else { r }
    }

    /// Whether a matrix of a model's checkpoint carries an adapter.
    pub fn has(&self, p: Projection, c: &Config) -> bool {
        self.targets.iter().any(|target| target.carrier(c.family.fused) == p)
    }

    /// Whether a model has what the targets name. The seven layers together stand for all there is.
    ///
    /// # Errors
    /// When they name a part of a fused matrix, or a fused matrix that the model does not have.
    pub fn fits(&self, c: &Config) -> Result<()> {
        let wrong = |p: &&Projection| {
            if c.family.fused {
                **p != p.carrier(true) && self.targets != Projection::ALL
            } else {
                matches!(p, Projection::Qkv | Projection::GateUp)
            }
        };
        let Some(p) = self.targets.iter().find(wrong) else { return Ok(()) };
        let known: Vec<_> = if c.family.fused {
            Projection::MODULES.into_iter().filter(|p| *p == p.carrier(true)).map(Projection::name).collect()
        } else {
            Projection::ALL.map(Projection::name).to_vec()
        };
        let (name, arch, known) = (p.name(), &c.arch, known.join(", "));
        Err(Error::usage(format!("a {arch} model has no module {name}, expected {known}, or all-linear")))
    }

    /// Trainable parameters on a model.
    pub fn parameters(&self, c: &Config) -> u64 {
        let each = |p: &Projection| (p.shape(c).0 + p.shape(c).1) as u64 * self.rank as u64;
        Projection::MODULES.iter().filter(|p| self.has(**p, c)).map(each).sum::<u64>() * c.layers as u64
    }

    /// The targets named by a list such as `q_proj,v_proj`, or all for `all-linear`.
    ///
    /// # Errors
    /// When a name is not that of a module, or there is none.
    pub fn parse_targets(list: &str) -> Result<Vec<Projection>> {
        let mut targets = Vec::new();
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            match (name, Projection::from_name(name)) {
                ("all-linear", _) => targets.extend(Projection::ALL),
                (_, Some(p)) => targets.push(p),
                _ => {
                    let known = Projection::MODULES.map(Projection::name).join(", ");
                    return Err(Error::usage(format!(
                        "target module {name:?} is unknown, expected {known}, or all-linear"
                    )));
                }
            }
        }
        targets.sort_unstable();
        targets.dedup();
        if targets.is_empty() {
            return Err(Error::usage("no target modules were given").hint("use --target-modules all-linear"));
        }
        Ok(targets)
    }
}

/// One adapter's matrices, or their gradients, or an optimizer's state of them.
#[derive(Debug)]
pub struct Pair {
    /// A `[r, in]`.
    pub a: Act,
    /// B `[out, r]`, its rows in the order of the frozen layer's.
    pub b: Act,
    /// Values of a head, where B's rows are interleaved within each: `q_proj` and `k_proj` of a base whose
    /// rotation pairs neighbours. Files have them in halves.
    pub interleaved: Option<usize>,
}

/// A pair as a layer sees it: all of A, and its own rows of B.
#[derive(Debug, Clone, Copy)]
pub struct PairView<'a> {
    /// A `[r, in]`.
    pub a: View<'a>,
    /// B `[out, r]`.
    pub b: View<'a>,
}

impl Pair {
    /// As a layer sees it.
    pub fn of(&self, p: Projection, c: &Config) -> PairView<'_> {
        PairView { a: self.a.view(), b: self.b.rows_view(p.rows(c)) }
    }
}

/// The pairs of a block, by [`Projection`].
pub type BlockPairs = [Option<Pair>; 9];

/// A pair for each target of a block, from a function that allocates.
pub fn block_pairs(
    c: &Config,
    adapter: &AdapterConfig,
    mut alloc: impl FnMut(usize, usize) -> Act,
) -> BlockPairs {
    Projection::MODULES.map(|p| {
        adapter.has(p, c).then(|| {
            let (out, input) = p.shape(c);
            let interleaved = (c.rope.layout == Layout::Interleaved
                && matches!(p, Projection::Q | Projection::K))
            .then_some(c.head_dim);
            Pair { a: alloc(adapter.rank, input), b: alloc(out, adapter.rank), interleaved }
        })
    })
}

/// Persistent pairs for every block.
pub fn persistent_pairs<B: Backend>(
    be: &mut B,
    c: &Config,
    adapter: &AdapterConfig,
    elem: Elem,
    label: Label,
) -> Vec<BlockPairs> {
    (0..c.layers).map(|_| block_pairs(c, adapter, |r, k| be.persist_as(r, k, elem, label))).collect()
}

/// Every matrix of some blocks in order: A before B, projections in forward order.
pub fn matrices(blocks: &[BlockPairs]) -> impl Iterator<Item = &Act> {
    blocks.iter().flatten().flatten().flat_map(|p| [&p.a, &p.b])
}

/// As [`matrices`], to write.
pub fn matrices_mut(blocks: &mut [BlockPairs]) -> impl Iterator<Item = &mut Act> {
    blocks.iter_mut().flatten().flatten().flat_map(|p| [&mut p.a, &mut p.b])
}
