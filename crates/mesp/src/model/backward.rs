//! The backward of a block, with the shortest lifetimes.
//!
//! ```text
//! dy arrives in the buffer that becomes dx
//! 1  rebuild what `within` names from x
//! 2  per tile of rows: n2, gate, up, a
//!      [gemma3: m too; dy's place is taken by dm = norm backward(dy, m)]
//!      down: dB, dA from (a, dy); da takes a's buffer     gate: dgate, dup take gate's and up's
//!      gate, up: dB, dA from (n2, ·); dn2 takes n2's buffer     dy += norm backward(dn2, u)      (now du)
//!    u dies
//! 3  [gemma3: du's place is taken by dp = norm backward(du, p)]
//!    o_proj: dB, dA from (o, du); do     δ from do, o     dq takes o's buffer     dk, dv
//!    q, k, v, ℓ, do die     inverse rope     [qwen3: norm backward per head]
//! 4  q, k, v: dB, dA from (n1, ·); dn1 takes n1's buffer     du += norm backward(dn1, x)         (now dx)
//! ```
//! Where n1, n2 and a are stored in bf16 ([`SiteSet::HALVED`]), they die before dn1, dn2 and da get buffers of their own;
//! dgate and dup are bf16 then.
//! With magnitudes (DoRA) each adapted layer's output is rebuilt once more for their gradient, and what comes into it is
//! multiplied by the gains first ([`lora::through_gain`]).
//! Where base weights are trained, each layer's factors (g, x) are handed over beside its adapter's, while x is there,
//! and each norm's (dn, x) before its backward.
//! The down projection's forward is not rebuilt: nobody reads its output. The first block's step 4 ends with
//! what is trained there: nobody reads its dx.

use std::ops::Range;

use mesp_device::{Act, Backend, Class, Elem, Label, Probs, View, ViewMut};

use super::BlockRun;
use crate::adapter::lora;
use crate::arch::{Module, Norm, POST_NORMS, QK_NORMS, Tensor};
use crate::gradient::Factors;
use crate::tape::{Lifted, Rules, Site, SiteSet, Tape};

const DH: Label = Label::new(Class::WithinBlock, "lora_dh");

impl BlockRun<'_> {
    /// Hands the gradients' factors over and turns `dy` into dx (unless `need_dx` is false: then `dy` ends as du). The block's
    /// input is on the tape; nothing is left there.
    pub fn backward<B: Backend>(
        &self,
        be: &mut B,
        tape: &mut Tape,
        within: SiteSet,
        dy: &mut Act,
        factors: &mut impl Factors<B>,
        need_dx: bool,
    ) {
        tape.keep_across(SiteSet::EMPTY);
        let attention = within.without(SiteSet::MLP);
        tape.materialize(be, self, self.existing(attention), within, self.all());
        self.backward_mlp(be, tape, within, dy, factors);
        tape.free(be, Site::Mid);
        let [dq, dk, dv] = self.backward_attention(be, tape, within, dy, factors);
        self.backward_qkv(be, tape, dy, [dq, dk, dv], factors, need_dx);
        tape.free_all(be, SiteSet::ALL);
    }

    /// Without sites that this block does not have: h without an adapter, raw queries without a norm, outputs
    /// that no norm follows.
    pub fn existing(&self, sites: SiteSet) -> SiteSet {
        let mut absent = SiteSet::EMPTY;
        for p in Module::INSIDE {
            if self.pairs[p as usize].is_none() {
                absent = absent.with(Site::H(p));
            }
        }
        if !self.config.family.qk_norm {
            absent = absent.with(Site::QRaw).with(Site::KRaw);
        }
        if !self.config.family.post_norms {
            absent = absent.with(Site::AttnProj).with(Site::MlpOut);
        }
        sites.without(absent)
    }

    fn backward_mlp<B: Backend>(
        &self,
        be: &mut B,
        tape: &mut Tape,
        within: SiteSet,
        dy: &mut Act,
        factors: &mut impl Factors<B>,
    ) {
        let n = self.batch.rows();
        tape.materialize(be, self, SiteSet::of(&[Site::Mid]), within, self.all());
        let kept = self.existing(within).intersection(SiteSet::MLP);
        if !kept.is_empty() {
            // A replay that keeps the MLP fills whole buffers first, tile by tile as the forward did.
            tape.reserve(be, self, kept, n);
            let whole = tape.alive();
            self.in_tiles(be, |be, rows| {
                tape.materialize(be, self, kept, within, rows);
                tape.free_all(be, SiteSet::MLP.without(whole));
            });
        }
        self.in_tiles(be, |be, rows| self.backward_mlp_tile(be, tape, within, dy, factors, &rows));
        tape.free_all(be, SiteSet::MLP);
    }

    /// Runs `f` for each tile of MLP rows, every turn with the same allocations.
    fn in_tiles<B: Backend>(&self, be: &mut B, mut f: impl FnMut(&mut B, Range<usize>)) {
        let (n, mark) = (self.batch.rows(), be.mark());
        let tile = self.tiles.mlp_rows.min(n);
        for start in (0..n).step_by(tile) {
            be.rewind(mark);
            f(be, start..(start + tile).min(n));
        }
    }

    fn backward_mlp_tile<B: Backend>(
        &self,
        be: &mut B,
        tape: &mut Tape,
        within: SiteSet,
        dy: &mut Act,
        factors: &mut impl Factors<B>,
        rows: &Range<usize>,
    ) {
        // What was there before the tile belongs to the whole; the rest is this tile's.
        let whole = tape.alive();
        let post_norm = self.block.post_norms.as_ref().map(|norms| &norms[1]);
        let mut sites = SiteSet::of(&[Site::MlpNorm, Site::Gate, Site::Up, Site::Act]);
        if post_norm.is_some() {
            sites = sites.with(Site::MlpOut);
        }
        tape.materialize(be, self, sites, within, rows.clone());
        let dm = post_norm.map(|w| {
            let (site, dy) = ((Site::MlpOut, POST_NORMS[1]), dy.rows_view(rows.clone()));
            self.before_norm(be, tape, site, dy, w, factors, rows)
        });
        let dm = self.own_gain(be, tape, Module::Down, (dm, dy.rows_view(rows.clone())), factors, rows);
        if !whole.has(Site::MlpOut) {
            tape.free(be, Site::MlpOut);
        }
        let d_out = dm.as_ref().map_or_else(|| dy.rows_view(rows.clone()), Act::view);

        // down: y = u + linear(a)
        let parts = [(Module::Down, d_out)];
        let steps = factors.steps_weights();
        if !steps {
            self.base_gradients(be, tape, &parts, Site::Act, factors, rows);
        }
        let dh = self.adapter_gradients(be, tape, &parts, Site::Act, factors, rows);
        let down = self.block.linear(Module::Down);
        let adapter = self.pair(Module::Down).zip(dh.as_ref().map(Act::view));
        let mut da = GradOf::new(self, be, tape, Site::Act, (whole, steps), rows);
        lora::input_grad(be, da.view_mut(rows), d_out, down, adapter, false, rows.start);
        if steps {
            self.base_gradients(be, tape, &parts, Site::Act, factors, rows);
        }
        free(be, dh);
        free(be, dm);

        // a = f(gate)∘up
        let mut gate = tape.lift(Site::Gate);
        let up = tape.view_mut(Site::Up, rows);
        be.gated_backward_in_place(self.config.family.gate, gate.view_mut(rows), up, da.view(rows));
        tape.lower(gate);
        da.end(be, tape);
        if !whole.has(Site::Act) {
            tape.free(be, Site::Act);
        }

        // gate, up = linear(n2)
        let parts = [(Module::Gate, Site::Gate), (Module::Up, Site::Up)];
        for (p, site) in parts {
            let mut g = tape.lift(site);
            self.through_gain(be, tape, (p, Site::MlpNorm), g.view_mut(rows), factors, rows);
            tape.lower(g);
        }
        let [gate, up] = parts.map(|(_, g)| tape.lift(g));
        let g = [(Module::Gate, gate.view(rows)), (Module::Up, up.view(rows))];
        let dh = self.shared_gradients(be, tape, g, Site::MlpNorm, factors, rows);
        tape.lower(gate);
        tape.lower(up);
        let mut dn = GradOf::new(self, be, tape, Site::MlpNorm, (whole, steps), rows);
        for (i, (p, g)) in parts.into_iter().enumerate() {
            let adapter = self.pair(p).zip(dh[i].as_ref().map(Act::view));
            let (dn, g) = (dn.view_mut(rows), tape.view(g, rows));
            lora::input_grad(be, dn, g, self.block.linear(p), adapter, i > 0, rows.start);
        }
        let g = parts.map(|(p, site)| (p, tape.view(site, rows)));
        if steps {
            self.base_gradients(be, tape, &g, Site::MlpNorm, factors, rows);
        }
        let (dy, dn2, u) = (dy.rows_mut(rows.clone()), dn.view(rows), tape.view(Site::Mid, rows));
        let [_, which] = self.config.family.norms();
        if factors.wants(Tensor::Norm(which)) {
            factors.norm(be, which, [dn2, u], self.config.eps);
        }
        be.rms_norm_backward(dy, dn2, u, &self.block.mlp_norm, self.config.eps);
        dn.end(be, tape);
        for dh in dh {
            free(be, dh);
        }
        tape.free_all(be, SiteSet::MLP.without(whole));
    }

    fn backward_attention<B: Backend>(
        &self,
        be: &mut B,
        tape: &mut Tape,
        within: SiteSet,
        du: &mut Act,
        factors: &mut impl Factors<B>,
    ) -> [Act; 3] {
        let (c, all) = (self.config, self.all());
        let n = self.batch.rows();
        let label = |name| Label::new(Class::WithinBlock, name);
        let kept_probs = tape.has(Site::Probs, &all);
        let reads = SiteSet::of(&[Site::Q, Site::K, Site::V, Site::AttnOut]);
        let post_norm = self.block.post_norms.as_ref().map(|norms| &norms[0]);
        let mut targets = if kept_probs { reads } else { reads.with(Site::Lse) };
        if post_norm.is_some() {
            targets = targets.with(Site::AttnProj);
        }
        tape.materialize(be, self, targets, within, all.clone());

        // u = x + linear(o), or with a norm between
        let site = (Site::AttnProj, POST_NORMS[0]);
        let dp = post_norm.map(|w| self.before_norm(be, tape, site, du.view(), w, factors, &all));
        tape.free(be, Site::AttnProj);
        let dp = self.own_gain(be, tape, Module::O, (dp, du.view()), factors, &all);
        let d_out = dp.as_ref().map_or_else(|| du.view(), Act::view);
        let (parts, steps) = ([(Module::O, d_out)], factors.steps_weights());
        if !steps {
            self.base_gradients(be, tape, &parts, Site::AttnOut, factors, &all);
        }
        let dh = self.adapter_gradients(be, tape, &parts, Site::AttnOut, factors, &all);
        let mut d_o = be.alloc(n, c.q_cols(), label("d_attn_out"));
        let adapter = self.pair(Module::O).zip(dh.as_ref().map(Act::view));
        lora::input_grad(be, d_o.view_mut(), d_out, self.block.linear(Module::O), adapter, false, 0);
        if steps {
            self.base_gradients(be, tape, &parts, Site::AttnOut, factors, &all);
        }
        free(be, dh);
        free(be, dp);

        let mut delta = be.alloc(n, c.heads, label("delta"));
        be.attention_delta(delta.view_mut(), d_o.view(), tape.view(Site::AttnOut, &all));
        let mut dq = tape.take(Site::AttnOut);
        let [mut dk, mut dv] = ["dk", "dv"].map(|name| be.alloc(n, c.kv_cols(), label(name)));
        let qkv = [Site::Q, Site::K, Site::V].map(|s| tape.view(s, &all));
        // With kept probabilities ℓ is not read; δ stands in for the argument.
        let lse = if kept_probs { delta.view() } else { tape.view(Site::Lse, &all) };
        let probs = if kept_probs { Probs::Kept(tape.view(Site::Probs, &all)) } else { Probs::Rebuild };
        be.attention_backward_q(dq.view_mut(), d_o.view(), qkv, [lse, delta.view()], probs, self.attention());
        let (dk_out, dv_out) = (dk.view_mut(), dv.view_mut());
        be.attention_backward_kv(
            dk_out,
            dv_out,
            d_o.view(),
            qkv,
            [lse, delta.view()],
            probs,
            self.attention(),
        );
        be.free(delta);
        be.free(d_o);
        tape.free_all(be, reads.with(Site::Lse).with(Site::Probs));

        if let Some(rope) = self.rope() {
            for d in [&mut dq, &mut dk] {
                be.rope(d.view_mut(), &self.batch.positions, rope, true);
            }
        }
        [dq, dk, dv]
    }

    /// The gradient of what a norm took from a site into the residual stream, for the stream's gradient `d`.
    fn before_norm<B: Backend>(
        &self,
        be: &mut B,
        tape: &Tape,
        (site, which): (Site, Norm),
        d: View<'_>,
        norm: &[f32],
        factors: &mut impl Factors<B>,
        rows: &Range<usize>,
    ) -> Act {
        let label = Label::new(Class::WithinBlock, "d_post_norm");
        let mut grad = be.alloc(rows.len(), self.config.hidden_size, label);
        be.copy(grad.view_mut(), d);
        if factors.wants(Tensor::Norm(which)) {
            factors.norm(be, which, [grad.view(), tape.view(site, rows)], self.config.eps);
        }
        be.rms_norm_backward_in_place(grad.view_mut(), tape.view(site, rows), norm, self.config.eps);
        grad
    }

    fn backward_qkv<B: Backend>(
        &self,
        be: &mut B,
        tape: &mut Tape,
        du: &mut Act,
        mut d: [Act; 3],
        factors: &mut impl Factors<B>,
        need_dx: bool,
    ) {
        let (c, all) = (self.config, self.all());
        if let Some(norms) = &self.block.qk_norm {
            let raw = SiteSet::of(&[Site::QRaw, Site::KRaw]);
            // n1 is read again below: it is kept, not rebuilt twice.
            tape.materialize(be, self, raw.with(Site::AttnNorm), SiteSet::EMPTY, all.clone());
            for (i, site) in raw.iter().enumerate() {
                let x = tape.view(site, &all).reshape(c.head_dim);
                if factors.wants(Tensor::Norm(QK_NORMS[i])) {
                    factors.norm(be, QK_NORMS[i], [d[i].view().reshape(c.head_dim), x], c.eps);
                }
                be.rms_norm_backward_in_place(d[i].view_mut().reshape(c.head_dim), x, &norms[i], c.eps);
            }
            tape.free_all(be, raw);
        }
        let parts = [Module::Q, Module::K, Module::V];
        let [which, _] = c.family.norms();
        let norm = factors.wants(Tensor::Norm(which));
        let reads_input =
            |p: &Module| self.pair(*p).is_some() || factors.wants(Tensor::Weight(self.stored_in(*p)));
        if need_dx || norm || parts.iter().any(reads_input) {
            tape.materialize(be, self, SiteSet::of(&[Site::AttnNorm]), SiteSet::EMPTY, all.clone());
        }
        for (p, d) in parts.into_iter().zip(&mut d) {
            self.through_gain(be, tape, (p, Site::AttnNorm), d.view_mut(), factors, &all);
        }
        let g = [(parts[0], d[0].view()), (parts[1], d[1].view()), (parts[2], d[2].view())];
        let steps = factors.steps_weights();
        let dh = self.shared_gradients(be, tape, g, Site::AttnNorm, factors, &all);
        if need_dx || norm {
            let mut dn = GradOf::new(self, be, tape, Site::AttnNorm, (SiteSet::EMPTY, steps), &all);
            for (i, p) in parts.into_iter().enumerate() {
                let adapter = self.pair(p).zip(dh[i].as_ref().map(Act::view));
                lora::input_grad(be, dn.view_mut(&all), d[i].view(), self.block.linear(p), adapter, i > 0, 0);
            }
            let x = tape.view(Site::BlockIn, &all);
            if norm {
                factors.norm(be, which, [dn.view(&all), x], c.eps);
            }
            if need_dx {
                be.rms_norm_backward(du.view_mut(), dn.view(&all), x, &self.block.attn_norm, c.eps);
            }
            dn.end(be, tape);
        }
        if steps {
            self.base_gradients(be, tape, &g, Site::AttnNorm, factors, &all);
        }
        for dh in dh {
            free(be, dh);
        }
        for d in d {
            be.free(d);
        }
    }

    /// [`lora::through_gain`] of a layer that reads `x`; nothing without magnitudes.
    fn through_gain<B: Backend>(
        &self,
        be: &mut B,
        tape: &mut Tape,
        (p, x): (Module, Site),
        dy: ViewMut<'_>,
        factors: &mut impl Factors<B>,
        rows: &Range<usize>,
    ) {
        let Some(pair) = self.pair(p).filter(|pair| pair.gain.is_some()) else { return };
        let site = Site::H(self.stored_in(p));
        let lent = tape.has(site, rows);
        tape.materialize(be, self, SiteSet::of(&[site]), SiteSet::EMPTY, rows.clone());
        let adapter = (pair, tape.view(site, rows));
        let to = (self.stored_in(p), p.rows(self.config), factors);
        lora::through_gain(be, to, dy, tape.view(x, rows), self.block.linear(p), adapter);
        if !lent {
            tape.free(be, site);
        }
    }

    /// The same for a layer whose output is added to the residual stream, with magnitudes in a copy of the stream's
    /// gradient where it has no buffer of its own.
    fn own_gain<B: Backend>(
        &self,
        be: &mut B,
        tape: &mut Tape,
        p: Module,
        (own, stream): (Option<Act>, View<'_>),
        factors: &mut impl Factors<B>,
        rows: &Range<usize>,
    ) -> Option<Act> {
        if self.pair(p).is_none_or(|pair| pair.gain.is_none()) {
            return own;
        }
        let mut own = own.unwrap_or_else(|| {
            let label = Label::new(Class::WithinBlock, "dora_dz");
            let mut copy = be.alloc(stream.rows(), stream.cols(), label);
            be.copy(copy.view_mut(), stream);
            copy
        });
        let x = if p == Module::O { Site::AttnOut } else { Site::Act };
        self.through_gain(be, tape, (p, x), own.view_mut(), factors, rows);
        Some(own)
    }

    /// [`BlockRun::adapter_gradients`] of layers with a common input: one after another, or together where they
    /// share an adapter; dh, which then is the whole of theirs, comes with the first.
    fn shared_gradients<B: Backend, const N: usize>(
        &self,
        be: &mut B,
        tape: &mut Tape,
        parts: [(Module, View<'_>); N],
        x: Site,
        factors: &mut impl Factors<B>,
        rows: &Range<usize>,
    ) -> [Option<Act>; N] {
        if !factors.steps_weights() {
            self.base_gradients(be, tape, &parts, x, factors, rows);
        }
        if self.config.family.fused {
            let mut all = Some(self.adapter_gradients(be, tape, &parts, x, factors, rows));
            return parts.map(|_| all.take().flatten());
        }
        parts.map(|part| self.adapter_gradients(be, tape, &[part], x, factors, rows))
    }

    /// Hands over the factors of layers' own matrices and biases, for what comes into each; layers that are stored in one
    /// matrix are given together. A consumer that updates matrices in place is told after their input gradient, others
    /// before, so that the buffers of x may be used again.
    fn base_gradients<B: Backend>(
        &self,
        be: &mut B,
        tape: &Tape,
        parts: &[(Module, View<'_>)],
        x: Site,
        factors: &mut impl Factors<B>,
        rows: &Range<usize>,
    ) {
        let mut rest = parts;
        while let Some((first, _)) = rest.first() {
            let stored_in = self.stored_in(*first);
            let together = rest.iter().take_while(|(p, _)| self.stored_in(*p) == stored_in).count();
            let (own, others) = rest.split_at(together);
            rest = others;
            if factors.wants(Tensor::Bias(stored_in)) {
                for (p, g) in own {
                    factors.bias(be, stored_in, p.rows(self.config), *g);
                }
            }
            if factors.wants(Tensor::Weight(stored_in)) {
                // Three at most: queries, keys and values.
                let given: [_; 3] = std::array::from_fn(|i| {
                    own.get(i).map_or_else(|| (0..0, own[0].1), |(p, g)| (p.rows(self.config), *g))
                });
                factors.weight(be, stored_in, &given[..together], tape.view(x, rows));
            }
        }
    }

    /// Adds an adapter's gradients, for the layers that it acts on and what comes into each, and returns dh,
    /// which the input gradient reads; `None` without an adapter. h is lent when it is kept and rebuilt from `x`
    /// when not.
    fn adapter_gradients<B: Backend>(
        &self,
        be: &mut B,
        tape: &mut Tape,
        parts: &[(Module, View<'_>)],
        x: Site,
        factors: &mut impl Factors<B>,
        rows: &Range<usize>,
    ) -> Option<Act> {
        let stored_in = self.stored_in(parts.first()?.0);
        let rank = self.pairs[stored_in as usize].as_ref()?.a.rows();
        let site = Site::H(stored_in);
        let lent = tape.has(site, rows);
        tape.materialize(be, self, SiteSet::of(&[site]), SiteSet::EMPTY, rows.clone());
        let mut dh = be.alloc(rows.len(), rank, DH);
        let h = tape.view(site, rows);
        for (i, (p, g)) in parts.iter().enumerate() {
            let Some(pair) = self.pair(*p) else { continue };
            let to = (stored_in, p.rows(self.config), &mut *factors);
            lora::gradients(be, to, dh.view_mut(), pair, h, *g, i > 0);
        }
        let mask = self.pair(parts[0].0).and_then(|pair| pair.dropout);
        lora::gradient_of_a(be, (stored_in, factors), dh.view(), tape.view(x, rows), mask, rows.start);
        if !lent {
            tape.free(be, site);
        }
        Some(dh)
    }
}

fn free<B: Backend>(be: &mut B, act: Option<Act>) {
    if let Some(act) = act {
        be.free(act);
    }
}

/// The place of the gradient of an intermediate that is read no more: the intermediate's buffer, or one of its own where
/// the intermediate is stored in bf16, as gradients are summed over more than one block of depth.
enum GradOf {
    Taken(Lifted),
    Own(Act),
}

impl GradOf {
    /// For rows of `site`, whose buffer dies here unless it is one of those in `whole`, which outlive the rows, or is
    /// `read` later: then the gradient has a buffer of its own.
    fn new<B: Backend>(
        run: &BlockRun<'_>,
        be: &mut B,
        tape: &mut Tape,
        site: Site,
        (whole, read): (SiteSet, bool),
        rows: &Range<usize>,
    ) -> Self {
        if run.stored(site) == Elem::Full && !read {
            return Self::Taken(tape.lift(site));
        }
        if !whole.has(site) && !read {
            tape.free(be, site);
        }
        let (r, c) = Rules::<B>::shape(run, site, rows.len());
        Self::Own(be.alloc(r, c, Label::new(Class::WithinBlock, "d_activation")))
    }

    fn view(&self, rows: &Range<usize>) -> View<'_> {
        match self {
            Self::Taken(lifted) => lifted.view(rows),
            Self::Own(act) => act.view(),
        }
    }

    fn view_mut(&mut self, rows: &Range<usize>) -> ViewMut<'_> {
        match self {
            Self::Taken(lifted) => lifted.view_mut(rows),
            Self::Own(act) => act.view_mut(),
        }
    }

    fn end<B: Backend>(self, be: &mut B, tape: &mut Tape) {
        match self {
            Self::Taken(lifted) => tape.lower(lifted),
            Self::Own(act) => be.free(act),
        }
    }
}
