//! The forward rules of a block, one for each site.
//!
//! ```text
//! n1 = norm(x)    q, k, v = linear(n1)    [qwen3: q, k = norm per head]    q, k = rope(q, k)
//! o, ℓ = attention(q, k, v)    u = x + linear(o)    n2 = norm(u)    gate, up = linear(n2)
//! a = f(gate)∘up    y = u + linear(a)    [gemma3: u = x + norm(linear(o)), y = u + norm(linear(a))]
//! ```

use std::ops::Range;

use mesp_device::{Act, Attention, Backend, Class, Compute, Dropout, Elem, Label, Rope, View};

use super::{Batch, Block};
use crate::adapter::{BlockPairs, PairView, lora};
use crate::arch::{Config, Module};
use crate::tape::{Rules, Saved, Site, SiteSet, Tape, Tiles};

/// Keys and values of the tokens before the batch's, for generation.
#[derive(Debug)]
pub struct Cache {
    /// `[capacity, kv_heads·D]`.
    pub k: Act,
    /// `[capacity, kv_heads·D]`.
    pub v: Act,
}

/// A block with all that its rules read.
#[derive(Debug, Clone, Copy)]
pub struct BlockRun<'a> {
    /// Shape.
    pub config: &'a Config,
    /// Frozen weights.
    pub block: &'a Block,
    /// Adapters.
    pub pairs: &'a BlockPairs,
    /// Tokens, positions, sequences.
    pub batch: &'a Batch,
    /// In which form sites are saved.
    pub saved: Saved,
    /// How work is cut.
    pub tiles: Tiles,
    /// What adapters of this block do not see of their inputs; none outside of training.
    pub dropout: Option<Dropout>,
}

impl<'a> BlockRun<'a> {
    /// A projection's adapter.
    pub(super) fn pair(&self, p: Module) -> Option<PairView<'a>> {
        let stored_in = self.stored_in(p);
        let pair = self.pairs[stored_in as usize].as_ref()?.of(p, self.config);
        Some(PairView { dropout: self.dropout.map(|mask| mask.stream(stored_in as u64)), ..pair })
    }

    /// The matrix that a projection is in.
    pub(super) fn stored_in(&self, p: Module) -> Module {
        p.stored_in(self.config.family.fused)
    }

    /// All rows.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.batch.rows()
    }

    pub(super) fn attention(&self) -> Attention<'a> {
        let c = self.config;
        Attention {
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            queries: &self.batch.offsets,
            keys: &self.batch.offsets,
            key_tile: self.tiles.keys,
            window: self.block.attention.window,
            scale: c.score_scale,
            // The backend puts its own here.
            compute: Compute::Full,
        }
    }

    /// The site of a projection's h, if it has an adapter.
    pub(super) fn h_site(&self, p: Module) -> SiteSet {
        if self.pair(p).is_some() { SiteSet::of(&[Site::H(self.stored_in(p))]) } else { SiteSet::EMPTY }
    }

    /// How this block's queries and keys are turned, if they are.
    pub(super) fn rope(&self) -> Option<&'a Rope> {
        self.config.rope_of(self.block.attention)
    }

    /// How a site is stored.
    pub(super) fn stored(&self, site: Site) -> Elem {
        self.saved.on_tape(site)
    }

    /// Runs a projection from one site to another. Its sums run over more than one block of depth, so what is
    /// stored rounded is summed beside its place first.
    fn project<B: Backend>(
        &self,
        be: &mut B,
        tape: &mut Tape,
        p: Module,
        from: Site,
        to: Site,
        rows: &Range<usize>,
    ) {
        let linear = self.block.linear(p);
        if self.stored(to) == Elem::Full {
            tape.open(be, self, to, rows);
            let (out, rest) = tape.split(to, rows);
            let adapter = self.pair(p).map(|pair| (pair, rest.view(Site::H(self.stored_in(p)), rows)));
            lora::forward(be, out, rest.view(from, rows), linear, adapter, false);
            return;
        }
        let (r, c) = Rules::<B>::shape(self, to, rows.len());
        let mut sums = be.alloc(r, c, Label::new(Class::WithinBlock, "sums"));
        let adapter = self.pair(p).map(|pair| (pair, tape.view(Site::H(self.stored_in(p)), rows)));
        lora::forward(be, sums.view_mut(), tape.view(from, rows), linear, adapter, false);
        tape.open(be, self, to, rows);
        be.copy(tape.view_mut(to, rows), sums.view());
        be.free(sums);
    }

    /// `y += linear(x)` with a projection's adapter: the residual additions.
    pub(super) fn add_linear<B: Backend>(
        &self,
        be: &mut B,
        y: mesp_device::ViewMut<'_>,
        p: Module,
        x: View<'_>,
        h: Option<View<'_>>,
    ) {
        let adapter = self.pair(p).zip(h);
        lora::forward(be, y, x, self.block.linear(p), adapter, true);
    }
}

impl<B: Backend> Rules<B> for BlockRun<'_> {
    fn parents(&self, site: Site) -> SiteSet {
        let (norm, post) = (self.config.family.qk_norm, self.config.family.post_norms);
        match site {
            Site::BlockIn => SiteSet::EMPTY,
            Site::AttnNorm => SiteSet::of(&[Site::BlockIn]),
            Site::Q if norm => SiteSet::of(&[Site::QRaw]),
            Site::K if norm => SiteSet::of(&[Site::KRaw]),
            Site::Q | Site::QRaw => self.h_site(Module::Q).with(Site::AttnNorm),
            Site::K | Site::KRaw => self.h_site(Module::K).with(Site::AttnNorm),
            Site::V => self.h_site(Module::V).with(Site::AttnNorm),
            Site::AttnOut | Site::Lse => SiteSet::of(&[Site::Q, Site::K, Site::V]),
            Site::Probs => SiteSet::of(&[Site::Q, Site::K, Site::Lse]),
            Site::Mid if post => SiteSet::of(&[Site::AttnProj, Site::BlockIn]),
            Site::AttnProj => self.h_site(Module::O).with(Site::AttnOut),
            Site::MlpOut => self.h_site(Module::Down).with(Site::Act),
            Site::Mid => self.h_site(Module::O).with(Site::AttnOut).with(Site::BlockIn),
            Site::MlpNorm => SiteSet::of(&[Site::Mid]),
            Site::Gate => self.h_site(Module::Gate).with(Site::MlpNorm),
            Site::Up => self.h_site(Module::Up).with(Site::MlpNorm),
            Site::Act => SiteSet::of(&[Site::Gate, Site::Up]),
            Site::H(module) => SiteSet::of(&[Site::input_of(module)]),
        }
    }

    fn shape(&self, site: Site, rows: usize) -> (usize, usize) {
        let c = self.config;
        match site {
            Site::BlockIn | Site::AttnNorm | Site::AttnProj | Site::Mid | Site::MlpNorm | Site::MlpOut => {
                (rows, c.hidden_size)
            }
            Site::Q | Site::QRaw | Site::AttnOut => (rows, c.q_cols()),
            Site::K | Site::KRaw | Site::V => (rows, c.kv_cols()),
            Site::Lse => (rows, c.heads),
            Site::Probs => (c.heads, self.batch.probs),
            Site::Gate | Site::Up | Site::Act => (rows, c.intermediate_size),
            Site::H(module) => (rows, self.pair(module).map_or(0, |pair| pair.a.rows())),
        }
    }

    fn elem(&self, site: Site) -> Elem {
        self.stored(site)
    }

    fn evaluate(&self, be: &mut B, tape: &mut Tape, site: Site, rows: Range<usize>, spare: SiteSet) {
        let (c, block) = (self.config, self.block);
        match site {
            Site::BlockIn => unreachable!("a block's input is given"),
            Site::AttnNorm | Site::MlpNorm => {
                let (from, w) = if site == Site::AttnNorm {
                    (Site::BlockIn, &block.attn_norm)
                } else {
                    (Site::Mid, &block.mlp_norm)
                };
                tape.open(be, self, site, &rows);
                let (out, rest) = tape.split(site, &rows);
                be.rms_norm(out, rest.view(from, &rows), w, c.eps);
            }
            Site::H(module) => {
                let Some(pair) = self.pair(module) else { return };
                tape.open(be, self, site, &rows);
                let (out, rest) = tape.split(site, &rows);
                lora::project(be, out, rest.view(Site::input_of(module), &rows), pair, rows.start);
            }
            Site::QRaw => self.project(be, tape, Module::Q, Site::AttnNorm, site, &rows),
            Site::KRaw => self.project(be, tape, Module::K, Site::AttnNorm, site, &rows),
            Site::V => self.project(be, tape, Module::V, Site::AttnNorm, site, &rows),
            Site::AttnProj => self.project(be, tape, Module::O, Site::AttnOut, site, &rows),
            Site::MlpOut => self.project(be, tape, Module::Down, Site::Act, site, &rows),
            Site::Gate => self.project(be, tape, Module::Gate, Site::MlpNorm, site, &rows),
            Site::Up => self.project(be, tape, Module::Up, Site::MlpNorm, site, &rows),
            Site::Q | Site::K => {
                let (raw, p) =
                    if site == Site::Q { (Site::QRaw, Module::Q) } else { (Site::KRaw, Module::K) };
                if let Some(norms) = &block.qk_norm {
                    tape.open(be, self, site, &rows);
                    let (out, rest) = tape.split(site, &rows);
                    let w = &norms[usize::from(site == Site::K)];
                    be.rms_norm(out.reshape(c.head_dim), rest.view(raw, &rows).reshape(c.head_dim), w, c.eps);
                } else {
                    self.project(be, tape, p, Site::AttnNorm, site, &rows);
                }
                if let Some(rope) = self.rope() {
                    be.rope(tape.view_mut(site, &rows), &self.batch.positions, rope, false);
                }
            }
            Site::AttnOut | Site::Lse => {
                // Both come together; the one that is already there is computed again and dropped.
                let [mut o, mut lse] = [Site::AttnOut, Site::Lse].map(|s| {
                    let (r, cols) = Rules::<B>::shape(self, s, rows.len());
                    be.alloc(r, cols, tape.label(s))
                });
                let qkv = [Site::Q, Site::K, Site::V].map(|s| tape.view(s, &rows));
                be.attention(o.view_mut(), lse.view_mut(), qkv, self.attention());
                for (s, act) in [(Site::AttnOut, o), (Site::Lse, lse)] {
                    if tape.has(s, &rows) { be.free(act) } else { tape.put(s, act) }
                }
            }
            Site::Probs => {
                tape.open(be, self, site, &rows);
                let (out, rest) = tape.split(site, &rows);
                let qk = [Site::Q, Site::K].map(|s| rest.view(s, &rows));
                be.attention_probs(out, rest.view(Site::Lse, &rows), qk, self.attention());
            }
            Site::Mid => {
                tape.open(be, self, site, &rows);
                let (mut out, rest) = tape.split(site, &rows);
                be.copy(out.again(), rest.view(Site::BlockIn, &rows));
                if let Some([norm, _]) = &block.post_norms {
                    be.rms_norm_add(out, rest.view(Site::AttnProj, &rows), norm, c.eps);
                    return;
                }
                let h = self.pair(Module::O).map(|_| rest.view(Site::H(Module::O), &rows));
                self.add_linear(be, out, Module::O, rest.view(Site::AttnOut, &rows), h);
            }
            Site::Act => {
                if spare.has(Site::Gate) && !tape.alive().has(Site::Act) {
                    tape.rename(Site::Gate, Site::Act, &rows);
                } else {
                    tape.open(be, self, site, &rows);
                    let (out, rest) = tape.split(site, &rows);
                    be.copy(out, rest.view(Site::Gate, &rows));
                }
                let (out, rest) = tape.split(site, &rows);
                be.gated_in_place(c.family.gate, out, rest.view(Site::Up, &rows));
            }
        }
    }
}
