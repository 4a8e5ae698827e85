//! Low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685): where they are placed, how they are initialized, how
//! they compute.

pub mod dora;
mod init;
pub mod lora;
mod param;
pub mod peft;

use std::ops::Range;

use mesp_device::{Act, Backend, Dropout, Elem, LINE, Label, Layout, Owner, View, ViewMut};
use mesp_formats::peft::{Pattern, Places};

pub use dora::Norms;
pub use init::init;
pub use mesp_formats::peft::Matrix;
pub use param::params;

use crate::arch::{Config, Module, Param, Tensor};
use crate::gradient::starts;
use crate::{Error, ErrorKind, Result};

/// The largest rank: more than any layer of a model has rows or columns.
const MOST_RANK: usize = 1 << 20;

/// Rank, scale and placement, as PEFT's `LoraConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// r.
    pub rank: usize,
    /// `lora_alpha`.
    pub alpha: f64,
    /// Whether the scale is alpha/√r (rsLoRA; Kalajdzievski 2023) in place of alpha/r.
    pub rslora: bool,
    /// Whether a magnitude is trained for each row of the adapted weights (DoRA; Liu et al. 2024, arXiv 2402.09353).
    pub dora: bool,
    /// `lora_dropout`: the probability with which a value of the adapter's input is zeroed in training.
    pub dropout: f64,
    /// `target_modules`, in order.
    pub targets: Vec<Module>,
    /// `rank_pattern`: r of some modules, by name.
    pub ranks: Pattern<usize>,
    /// `alpha_pattern`: `lora_alpha` of some modules, by name.
    pub alphas: Pattern<f64>,
    /// `layers_to_transform`: the layers with adapters, counted from 0; `None` for all.
    pub layers: Option<Vec<usize>>,
    /// The exact modules with adapters, where the target names alone do not determine them; `None` for all.
    pub places: Option<Places>,
}

/// Rank and scale of the adapter of one matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    /// r.
    pub rank: usize,
    /// s, the factor of the adapter's output: alpha/r, or alpha/√r.
    pub scale: f64,
}

impl AdapterConfig {
    /// No adapter: the base model.
    pub const fn none() -> Self {
        Self::new(1, 1.0, false, Vec::new())
    }

    /// The same adapter with its output scaled by `by`; 0 gives the base model.
    #[must_use]
    pub fn scaled(self, by: f64) -> Self {
        if by == 0.0 {
            return Self::none();
        }
        Self { alpha: self.alpha * by, alphas: self.alphas.map(|alpha| alpha * by), ..self }
    }

    /// The same rank and alpha for all modules, in every layer.
    pub const fn new(rank: usize, alpha: f64, rslora: bool, targets: Vec<Module>) -> Self {
        Self {
            rank,
            alpha,
            rslora,
            dora: false,
            dropout: 0.0,
            targets,
            ranks: Pattern::none(),
            alphas: Pattern::none(),
            layers: None,
            places: None,
        }
    }

    /// Rank and scale of the adapter of module `p` at a place ([`Module::list_index`]); `None` if it has none.
    pub fn slot(&self, place: usize, p: Module, c: &Config) -> Option<Slot> {
        if !self.has(p, c) || p.list_index(place, c) != place || (!p.is_outside_blocks() && place >= c.layers)
        {
            return None;
        }
        if !p.is_outside_blocks() && self.layers.as_ref().is_some_and(|layers| !layers.contains(&place)) {
            return None;
        }
        let path = p.path(place);
        if self.places.as_ref().is_some_and(|places| !places.has(&path)) {
            return None;
        }
        let rank = self.ranks.of(&path).unwrap_or(self.rank);
        let r = rank as f64;
        let alpha = self.alphas.of(&path).unwrap_or(self.alpha);
        Some(Slot { rank, scale: alpha / if self.rslora { r.sqrt() } else { r } })
    }

    /// The paths of the modules with adapters, such as `layers.0.self_attn.q_proj`.
    pub fn paths(&self, c: &Config) -> Vec<String> {
        let all = (0..list_count(c)).flat_map(|l| Module::MODULES.map(|p| (l, p)));
        all.filter(|(l, p)| self.slot(*l, *p, c).is_some()).map(|(l, p)| p.path(l)).collect()
    }

    /// The first name in a pattern that matches no module of the model.
    pub fn unused(&self, c: &Config) -> Option<String> {
        let paths = self.paths(c);
        self.ranks.unused(&paths).or(self.alphas.unused(&paths)).map(str::to_owned)
    }

    /// The part of an adapter that applies to a model: names of modules and layers that the model does not have are
    /// ignored if others match, as in PEFT. What a user types is checked by [`fits`](Self::fits) instead.
    ///
    /// # Errors
    /// [`Error::Usage`] when no module matches.
    pub fn on(mut self, c: &Config) -> Result<Self> {
        // The base model has none from the start.
        if self.targets.is_empty() {
            return Ok(self);
        }
        let named = self.targets.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ");
        self.targets.retain(|p| p.exists(c));
        if let Some(layers) = &mut self.layers {
            layers.retain(|layer| *layer < c.layers);
        }
        if self.paths(c).is_empty() {
            return Err(Error::usage(
                ErrorKind::Mismatch,
                format!(
                    "the adapter is on {named}, in the places that its configuration names: a {} \
                        model of {} layers has none of them",
                    c.arch, c.layers
                ),
            )
            .hint("give the model that the adapter was made for"));
        }
        Ok(self)
    }

    /// Whether a matrix of the model's checkpoint has an adapter.
    pub fn has(&self, p: Module, c: &Config) -> bool {
        p.exists(c) && self.targets.iter().any(|target| target.stored_in(c.family.fused) == p)
    }

    /// Checks that the model has the modules that the targets name. All seven layers together mean all linear layers of
    /// a block.
    ///
    /// # Errors
    /// [`Error::Usage`] when a target is part of a fused matrix, is a module or a layer that the model does not have,
    /// or cannot have DoRA; when a rank is out of range.
    pub fn fits(&self, c: &Config) -> Result<()> {
        let ranks = self.ranks.entries().iter().map(|(_, rank)| *rank).chain([self.rank]);
        if let Some(rank) = ranks.into_iter().find(|rank| *rank == 0 || *rank > MOST_RANK) {
            return Err(Error::usage(ErrorKind::OutOfRange, "the adapter's rank")
                .is(rank)
                .expected(format!("1 to {MOST_RANK}"))
                .hint("ranks are far smaller than the layers: 4 to 256"));
        }
        let wrong = |p: &&Module| {
            // An expression may be for several models.
            let all = || Module::ALL.iter().all(|p| self.targets.contains(p));
            !p.exists(c) && self.places.is_none() && !(c.family.fused && all())
        };
        if let Some(p) = self.targets.iter().find(|p| self.dora && p.is_outside_blocks()) {
            let merge = if *p == Module::Head { "mesp merge" } else { "PEFT" };
            let hint =
                format!("leave it out of the target modules, or fold the adapter into its base by {merge}");
            return Err(Error::usage(
                ErrorKind::Unsupported,
                format!(
                    "DoRA cannot be computed with on {}: its magnitudes are of linear layers in blocks",
                    p.name()
                ),
            )
            .hint(hint));
        }
        if let Some(layer) = self.layers.iter().flatten().find(|l| **l >= c.layers) {
            let (arch, last) = (&c.arch, c.layers - 1);
            return Err(Error::usage(ErrorKind::Mismatch, "the adapter")
                .has(format!("a layer {layer}"))
                .expected(format!("0 to {last}, those of this {arch} model")));
        }
        let Some(p) = self.targets.iter().find(wrong) else { return Ok(()) };
        let known: Vec<_> = Module::MODULES.into_iter().filter(|p| p.exists(c)).map(Module::name).collect();
        let (name, arch, known) = (p.name(), &c.arch, known.join(", "));
        Err(Error::usage(ErrorKind::Unknown, format!("a {arch} model has no module {name}"))
            .expected(format!("{known}, or all-linear")))
    }

    /// The number of trainable parameters on a model.
    pub fn parameters(&self, c: &Config) -> u64 {
        let all = (0..list_count(c)).flat_map(|l| Module::MODULES.map(|p| (l, p)));
        let each = |(l, p): (usize, Module)| {
            let (out, input) = p.shape(c);
            let magnitudes = if self.dora { out } else { 0 };
            let of = |slot: Slot| (slot.rank as u64).saturating_mul((out + input) as u64);
            self.slot(l, p, c).map_or(0, |slot| of(slot).saturating_add(magnitudes as u64))
        };
        all.map(each).fold(0, u64::saturating_add)
    }

    /// Parses a list of targets such as `q_proj,v_proj`, or `all-linear`.
    ///
    /// # Errors
    /// [`Error::Usage`] when a name is unknown or the list is empty.
    pub fn parse_targets(list: &str) -> Result<Vec<Module>> {
        let mut targets = Vec::new();
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            match (name, Module::from_name(name)) {
                ("all-linear", _) => targets.extend(Module::ALL),
                (_, Some(p)) => targets.push(p),
                _ => {
                    let known = Module::MODULES.map(Module::name).join(", ");
                    return Err(Error::usage(ErrorKind::Unknown, "‘target_modules’")
                        .found(format!("{name:?}"))
                        .expected(format!("{known}, or all-linear")));
                }
            }
        }
        targets.sort_unstable();
        targets.dedup();
        if targets.is_empty() {
            return Err(Error::usage(ErrorKind::Empty, "‘target_modules’ names none")
                .hint("use ‘target_modules’ all-linear"));
        }
        Ok(targets)
    }
}

/// The matrices of one adapter.
#[derive(Debug)]
pub struct Pair {
    /// A `[r, in]`.
    pub a: Act,
    /// B `[out, r]`, its rows in the order of the frozen weight's.
    pub b: Act,
    /// With DoRA, m `[out, 1]`: the magnitudes of the rows of W + s·B·A; never in bf16.
    pub m: Option<Act>,
    /// With DoRA, the row norms of the adapted weight; a perturbed copy has none.
    pub norms: Option<Norms>,
    /// s.
    pub scale: f64,
    /// The head size, if B's rows are interleaved within each head: `q_proj` and `k_proj` of a base whose RoPE pairs
    /// adjacent values. Files have them in halves.
    pub interleaved: Option<usize>,
}

/// The adapter of one layer: all of A, and the layer's rows of B.
#[derive(Debug, Clone, Copy)]
pub struct PairView<'a> {
    /// A `[r, in]`.
    pub a: View<'a>,
    /// B `[out, r]`.
    pub b: View<'a>,
    /// s.
    pub scale: f64,
    /// The dropout of the adapter's input; `None` outside training.
    pub dropout: Option<Dropout>,
    /// With DoRA, m/n and 1/n, each `[out, 1]`; n are the norms of the rows of W + s·B·A.
    pub gain: Option<[View<'a>; 2]>,
}

impl Pair {
    /// The part of the adapter that belongs to layer `p`.
    pub fn of(&self, p: Module, c: &Config) -> PairView<'_> {
        let rows = p.rows(c);
        let gain = self.norms.as_ref().map(|n| [&n.gain, &n.inverse].map(|x| x.rows_view(rows.clone())));
        PairView { a: self.a.view(), b: self.b.rows_view(rows), scale: self.scale, dropout: None, gain }
    }

    /// The adapter of some rows of its weight.
    pub fn rows_view(&self, rows: Range<usize>) -> PairView<'_> {
        PairView { a: self.a.view(), b: self.b.rows_view(rows), scale: self.scale, dropout: None, gain: None }
    }

    /// Its matrices: A, B, and m with DoRA.
    pub fn matrices(&self) -> impl Iterator<Item = (Matrix, &Act)> {
        let m = self.m.as_ref().map(|m| (Matrix::M, m));
        [(Matrix::A, &self.a), (Matrix::B, &self.b)].into_iter().chain(m)
    }

    /// Its matrices, mutable.
    pub fn matrices_mut(&mut self) -> impl Iterator<Item = (Matrix, &mut Act)> {
        let m = self.m.as_mut().map(|m| (Matrix::M, m));
        [(Matrix::A, &mut self.a), (Matrix::B, &mut self.b)].into_iter().chain(m)
    }

    /// One of its matrices; `None` for m without DoRA.
    pub fn matrix(&self, matrix: Matrix) -> Option<&Act> {
        self.matrices().find(|(m, _)| *m == matrix).map(|(_, act)| act)
    }

    /// [`Pair::matrix`], mutable.
    pub fn matrix_mut(&mut self, matrix: Matrix) -> Option<&mut Act> {
        self.matrices_mut().find(|(m, _)| *m == matrix).map(|(_, act)| act)
    }

    /// Frees its buffers.
    pub fn free<B: Backend>(self, be: &mut B) {
        be.free(self.a);
        be.free(self.b);
        if let Some(m) = self.m {
            be.free(m);
        }
    }
}

/// The adapters of a block, or of a module outside the blocks, indexed by [`Module`].
pub type BlockPairs = [Option<Pair>; 11];

/// The number of places of a model: its blocks, the head and the embeddings.
pub const fn list_count(c: &Config) -> usize {
    c.layers + Module::OUTSIDE_BLOCKS.len()
}

/// The adapter of a module outside the blocks.
pub fn pair_outside_blocks<'a>(pairs: &'a [BlockPairs], p: Module, c: &Config) -> Option<&'a Pair> {
    pairs.get(p.list_index(0, c))?[p as usize].as_ref()
}

/// Allocates an adapter for each target of a place, with `alloc(matrix, rows, cols)`.
pub fn block_pairs(
    c: &Config,
    adapter: &AdapterConfig,
    place: usize,
    mut alloc: impl FnMut(Matrix, usize, usize) -> Act,
) -> BlockPairs {
    Module::MODULES.map(|p| {
        let Slot { rank, scale } = adapter.slot(place, p, c)?;
        let (out, input) = p.shape(c);
        let turned = c.rope.layout == Layout::Interleaved && matches!(p, Module::Q | Module::K);
        let interleaved = turned.then_some(c.head_dim);
        Some(Pair {
            a: alloc(Matrix::A, rank, input),
            b: alloc(Matrix::B, out, rank),
            m: adapter.dora.then(|| alloc(Matrix::M, out, 1)),
            norms: None,
            scale,
            interleaved,
        })
    })
}

/// Allocates adapters of the same shapes, for a copy.
pub fn pairs_like(pairs: &BlockPairs, mut alloc: impl FnMut(usize, usize) -> Act) -> BlockPairs {
    std::array::from_fn(|p| {
        let Pair { a, b, m, norms: _, scale, interleaved } = pairs[p].as_ref()?;
        Some(Pair {
            a: alloc(a.rows(), a.cols()),
            b: alloc(b.rows(), b.cols()),
            m: m.as_ref().map(|m| alloc(m.rows(), 1)),
            norms: None,
            scale: *scale,
            interleaved: *interleaved,
        })
    })
}

/// Allocates persistent adapters for every place. Matrices of one storage type share one buffer, trained ones first, in
/// the layout of [`Gradients`](crate::gradient::Gradients), so that [`flat`] can view them as one.
pub fn persistent_pairs<B: Backend>(
    be: &mut B,
    c: &Config,
    adapter: &AdapterConfig,
    elem: Elem,
    trained: impl Fn(&Param) -> bool,
    label: Label,
) -> Vec<BlockPairs> {
    // Handles that are of no backend, in whose place the parts come.
    let nobody = Owner::new();
    let mut shape = |_, rows, cols| nobody.act(0, 0, [rows, cols], Elem::Full);
    let mut blocks: Vec<_> = (0..list_count(c)).map(|l| block_pairs(c, adapter, l, &mut shape)).collect();
    let list = params(&blocks);
    // Magnitudes are few, and near enough to each other that rounded ones would not move.
    let of = |param: &Param| match param.tensor {
        Tensor::Adapter(_, Matrix::M) => Elem::Full,
        _ => elem,
    };
    for stored in [elem, Elem::Full].into_iter().take(1 + usize::from(elem != Elem::Full)) {
        let (first, last): (Vec<_>, Vec<_>) = list
            .iter()
            .enumerate()
            .filter(|(_, param)| of(param) == stored)
            .partition(|(_, param)| trained(param));
        let group: Vec<_> = first.into_iter().chain(last).collect();
        let mut starts: Vec<_> = starts(group.iter().map(|(_, param)| *param)).collect();
        let lines = starts.pop().map_or(0, |end| end / LINE);
        if lines == 0 {
            continue;
        }
        let whole = be.persist_as(lines, LINE, stored, label);
        let parts = whole.carve(starts.into_iter().zip(group.iter().map(|(_, param)| param.shape)));
        let mut parts: Vec<_> = group.iter().map(|(i, _)| *i).zip(parts).collect();
        parts.sort_unstable_by_key(|(i, _)| *i);
        let mut acts = matrices_mut(&mut blocks).enumerate();
        for (i, part) in parts {
            if let Some((_, act)) = acts.find(|(at, _)| *at == i) {
                *act = part;
            }
        }
    }
    blocks
}

/// The trained values as one flat view, in the layout of [`Gradients::flat`](crate::gradient::Gradients::flat), of
/// adapters from [`persistent_pairs`] with the same `trained`. `None` if there are none, or if magnitudes are stored
/// separately from bf16 matrices.
pub fn flat(blocks: &[BlockPairs], trained: impl Fn(&Param) -> bool) -> Option<View<'_>> {
    View::joined(
        params(blocks).iter().zip(matrices(blocks)).filter(|(param, _)| trained(param)).map(|(_, act)| act),
    )
}

/// [`flat`], mutable.
pub fn flat_mut(blocks: &mut [BlockPairs], trained: impl Fn(&Param) -> bool) -> Option<ViewMut<'_>> {
    let list = params(blocks);
    ViewMut::joined(
        list.iter().zip(matrices_mut(blocks)).filter(|(param, _)| trained(param)).map(|(_, act)| act),
    )
}

/// Every matrix of some blocks in order: by module in forward order, each A, B, and m with DoRA.
pub fn matrices(blocks: &[BlockPairs]) -> impl Iterator<Item = &Act> {
    blocks.iter().flatten().flatten().flat_map(Pair::matrices).map(|(_, act)| act)
}

/// [`matrices`], mutable.
pub fn matrices_mut(blocks: &mut [BlockPairs]) -> impl Iterator<Item = &mut Act> {
    blocks.iter_mut().flatten().flatten().flat_map(Pair::matrices_mut).map(|(_, act)| act)
}
