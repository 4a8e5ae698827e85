//! Around the blocks: the embedding, a block's forward, the logits of the last row.

use mesp_device::{Act, Attention, Backend, Class, Form, Label};

use super::head::{logits, projected};
use super::{Batch, BlockRun, Cache, ModelWeights};
use crate::adapter::{Matrix, Pair};
use crate::arch::{Module, Tensor};
use crate::gradient::Factors;
use crate::tape::{Site, SiteSet, Tape};

/// x of the first block, `[N, d]`: rows of the embedding table, `E[w] + s·B[w]·A` with an adapter, computed only for
/// the tokens in the batch.
pub fn embed<B: Backend>(
    be: &mut B,
    model: &ModelWeights,
    adapter: Option<&Pair>,
    batch: &Batch,
    class: Class,
) -> Act {
    let label = Label::new(class, Site::BlockIn.name());
    let mut x = be.alloc(batch.rows(), model.config.hidden_size, label);
    be.embedding(x.view_mut(), &model.embedding, &batch.tokens);
    if let Some(pair) = adapter {
        let h = looked_up(be, pair, batch);
        be.product(x.view_mut(), Form::Plain, h.view(), pair.a.view(), pair.scale, true);
        be.free(h);
    }
    if let Some(scale) = model.config.embedding_scale() {
        be.scale(x.view_mut(), scale);
    }
    x
}

/// The batch's rows of an embedding adapter's B.
fn looked_up<B: Backend>(be: &mut B, pair: &Pair, batch: &Batch) -> Act {
    let mut h = be.alloc(batch.rows(), pair.b.cols(), Label::new(Class::WithinBlock, "embed_h"));
    be.gather_rows(h.view_mut(), pair.b.view(), &batch.tokens);
    h
}

/// Factors of the gradients of the embeddings and of their adapter from `dx`, which is used up.
///
/// ```text
/// dx ← scale·dx      dE[w_t] += dx_t, the first t first
/// an adapter's       dA += s·hᵀ·dx      dB[w_t] += s·dx_t·Aᵀ, likewise      h = B[w]
/// ```
pub fn embed_backward<B: Backend>(
    be: &mut B,
    model: &ModelWeights,
    adapter: Option<&Pair>,
    factors: &mut impl Factors<B>,
    dx: &mut Act,
    batch: &Batch,
) {
    if let Some(scale) = model.config.embedding_scale() {
        be.scale(dx.view_mut(), scale);
    }
    if factors.wants(Tensor::Weight(Module::Embed)) {
        factors.table_rows(be, Tensor::Weight(Module::Embed), &batch.tokens, dx.view());
    }
    let Some(pair) = adapter else { return };
    let mut h = looked_up(be, pair, batch);
    let [a, b] = [Matrix::A, Matrix::B].map(|matrix| Tensor::Adapter(Module::Embed, matrix));
    if factors.wants(a) {
        let rank = h.cols();
        factors.linear(be, a, 0..rank, [h.view(), dx.view()], pair.scale);
    }
    be.product(h.view_mut(), Form::RightTransposed, dx.view(), pair.a.view(), pair.scale, false);
    factors.table_rows(be, b, &batch.tokens, h.view());
    be.free(h);
}

/// A block's forward: its input is on the tape, its output is returned, and of the rest only `keep` stays on
/// the tape.
pub fn forward_block<B: Backend>(be: &mut B, run: &BlockRun<'_>, tape: &mut Tape, keep: SiteSet) -> Act {
    let n = run.batch.rows();
    let keep = run.existing(keep);
    let attention = keep.without(SiteSet::MLP).with(Site::Mid);
    tape.materialize(be, run, attention, keep, run.all());
    tape.free_all(be, SiteSet::of(&[Site::BlockIn, Site::AttnOut]).without(keep));
    // The output grows in u's buffer, or in a copy when u is kept: each tile reads its rows of u before it
    // adds to them.
    let mut copy = keep.has(Site::Mid).then(|| {
        let mut y = be.alloc(n, run.config.hidden_size, Label::new(Class::Checkpoint, Site::BlockIn.name()));
        be.copy(y.view_mut(), tape.view(Site::Mid, &run.all()));
        y
    });
    tape.reserve(be, run, keep.intersection(SiteSet::MLP), n);
    let post_norm = run.block.post_norms.as_ref().map(|norms| &norms[1]);
    let last = SiteSet::of(&[if post_norm.is_some() { Site::MlpOut } else { Site::Act }]);
    let targets = if post_norm.is_some() { last } else { run.h_site(Module::Down).union(last) };
    let mark = be.mark();
    for start in (0..n).step_by(run.tiles.mlp_rows.min(n)) {
        let rows = start..(start + run.tiles.mlp_rows.min(n)).min(n);
        be.rewind(mark);
        let whole = keep.intersection(SiteSet::MLP);
        tape.materialize(be, run, targets.union(whole), keep, rows.clone());
        // With a copy u is only read, and the view of it that comes along goes unused.
        let (mid, rest) = tape.split(Site::Mid, &rows);
        let y = copy.as_mut().map_or(mid, |copy| copy.rows_mut(rows.clone()));
        if let Some(norm) = post_norm {
            be.rms_norm_add(y, rest.view(Site::MlpOut, &rows), norm, run.config.eps);
        } else {
            let h = run.pair(Module::Down).map(|_| rest.view(Site::H(Module::Down), &rows));
            run.add_linear(be, y, Module::Down, rest.view(Site::Act, &rows), h);
        }
        tape.free_all(be, SiteSet::MLP.without(keep));
    }
    copy.unwrap_or_else(|| tape.take(Site::Mid))
}

/// A block's forward for rows that follow `past` others, whose keys and values the cache holds; it takes in
/// those of these rows. Attention then reads the cache; everything else is [`forward_block`].
pub fn decode_block<B: Backend>(
    be: &mut B,
    run: &BlockRun<'_>,
    tape: &mut Tape,
    cache: &mut Cache,
    past: usize,
) -> Act {
    let all = 0..run.batch.rows();
    let (n, end) = (all.len(), past + all.len());
    let label = |site: Site| Label::new(Class::WithinBlock, site.name());
    let qkv = SiteSet::of(&[Site::Q, Site::K, Site::V]);
    tape.keep_across(SiteSet::EMPTY);
    tape.materialize(be, run, qkv, SiteSet::EMPTY, all.clone());
    be.copy(cache.k.rows_mut(past..end), tape.view(Site::K, &all));
    be.copy(cache.v.rows_mut(past..end), tape.view(Site::V, &all));
    let mut o = be.alloc(n, run.config.q_cols(), label(Site::AttnOut));
    let mut lse = be.alloc(n, run.config.heads, label(Site::Lse));
    let (queries, keys) = ([0, n], [0, end]);
    let shape = Attention { queries: &queries, keys: &keys, ..run.attention() };
    let views = [tape.view(Site::Q, &all), cache.k.rows_view(0..end), cache.v.rows_view(0..end)];
    be.attention(o.view_mut(), lse.view_mut(), views, shape);
    be.free(lse);
    tape.free_all(be, qkv);
    tape.put(Site::AttnOut, o);
    forward_block(be, run, tape, SiteSet::EMPTY)
}

/// Logits of the last row.
pub fn last_logits<B: Backend>(
    be: &mut B,
    model: &ModelWeights,
    adapter: Option<&Pair>,
    x: &Act,
    out: &mut [f32],
) {
    let mut normed = be.alloc(1, model.config.hidden_size, Label::new(Class::Head, "normed"));
    be.rms_norm(normed.view_mut(), x.rows_view(x.rows() - 1..x.rows()), &model.norm, model.config.eps);
    let adapter = projected(be, adapter, normed.view(), None, 0);
    let all = 0..model.config.vocab_size;
    let logits = logits(be, normed.view(), model.head(), adapter.as_ref().map(|(pair, h)| (*pair, h)), all);
    be.store(logits.view(), &mut |i, value| out[i] = value as f32);
    be.free(logits);
    if let Some((_, h)) = adapter {
        be.free(h);
    }
    be.free(normed);
}
