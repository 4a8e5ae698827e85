//! Around the blocks: the embedding, a block's forward, the head in tiles of rows.

use std::ops::Range;

use mesp_device::{Act, Attention, Backend, Class, Label, RowStat};

use super::{Batch, BlockRun, Cache, Model};
use crate::adapter::Projection;
use crate::tape::{Site, SiteSet, Tape, Tiles};

/// x of the first block, `[N, d]`.
pub fn embed<B: Backend>(be: &mut B, model: &Model, batch: &Batch, class: Class) -> Act {
    let label = Label::new(class, Site::BlockIn.name());
    let mut x = be.alloc(batch.rows(), model.config.hidden_size, label);
    be.embedding(x.view_mut(), &model.embedding, &batch.tokens);
    if let Some(scale) = model.config.embedding_scale() {
        be.scale(x.view_mut(), scale);
    }
    x
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
    tape.reserve(be, run, keep.common(SiteSet::MLP), n);
    let post_norm = run.block.post_norms.as_ref().map(|norms| &norms[1]);
    let last = SiteSet::of(&[if post_norm.is_some() { Site::MlpOut } else { Site::Act }]);
    let targets = if post_norm.is_some() { last } else { run.h_site(Projection::Down).and(last) };
    let mark = be.mark();
    for start in (0..n).step_by(run.tiles.mlp_rows.min(n)) {
        let rows = start..(start + run.tiles.mlp_rows.min(n)).min(n);
        be.rewind(mark);
        let whole = keep.common(SiteSet::MLP);
        tape.materialize(be, run, targets.and(whole), keep, rows.clone());
        // With a copy u is only read, and the view of it that comes along goes unused.
        let (mid, rest) = tape.split(Site::Mid, &rows);
        let y = copy.as_mut().map_or(mid, |copy| copy.rows_mut(rows.clone()));
        if let Some(norm) = post_norm {
            be.rms_norm_add(y, rest.view(Site::MlpOut, &rows), norm, run.config.eps);
        } else {
            let h = run.pair(Projection::Down).map(|_| rest.view(Site::HDown, &rows));
            run.add_linear(be, y, Projection::Down, rest.view(Site::Act, &rows), h);
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

/// Statistics of the trained rows' logits, and, with `gradient`, `x ← gradient·dloss/dx` (untrained rows
/// become zero).
///
/// ```text
/// per tile of rows     x̂ = x[rows]   n = norm(x̂)
///   per tile of words  z = n·Eᵀ      statistics of z      p = exp(z − largest so far)   s (+)= p·E
///                      dn = gradient·(s / Σ p − E[labels])
///                      dn ← norm backward(dn, x̂)   x[rows] ← dn
/// ```
/// Only trained rows are multiplied, and the vocabulary is gone through once. Tiles of it serve all rows at
/// once, which is faster than few rows and all words (`docs/log.md`). `stats` has one place for each trained
/// row.
pub fn head<B: Backend>(
    be: &mut B,
    model: &Model,
    x: &mut Act,
    batch: &Batch,
    gradient: Option<f64>,
    tiles: Tiles,
    stats: &mut [RowStat],
) {
    let targets = batch.targets();
    let tile = tiles.head_rows.min(targets).max(1);
    stats.fill(RowStat::EMPTY);
    let mark = be.mark();
    for start in (0..targets).step_by(tile) {
        be.rewind(mark);
        let rows = start..(start + tile).min(targets);
        head_rows(be, model, x, batch, gradient, tiles, &rows, &mut stats[rows.clone()]);
    }
    if gradient.is_some() {
        let mut next = 0;
        for row in batch.target_rows.iter().map(|r| *r as usize).chain([batch.rows()]) {
            be.zero(x.rows_mut(next..row));
            next = row + 1;
        }
    }
}

fn head_rows<B: Backend>(
    be: &mut B,
    model: &Model,
    x: &mut Act,
    batch: &Batch,
    gradient: Option<f64>,
    tiles: Tiles,
    rows: &Range<usize>,
    stats: &mut [RowStat],
) {
    let (d, v, eps) = (model.config.hidden_size, model.config.vocab_size, model.config.eps);
    let (index, labels) = (&batch.target_rows[rows.clone()], &batch.target_labels[rows.clone()]);
    let label = |name| Label::new(Class::Head, name);
    let mut picked = be.alloc(rows.len(), d, label("picked"));
    let mut normed = be.alloc(rows.len(), d, label("normed"));
    be.gather_rows(picked.view_mut(), x.view(), index);
    be.rms_norm(normed.view_mut(), picked.view(), &model.norm, eps);

    let width = tiles.head_vocab.min(v);
    let mut dn = gradient.is_some().then(|| be.alloc(rows.len(), d, label("d_normed")));
    let mark = be.mark();
    for first in (0..v).step_by(width) {
        be.rewind(mark);
        let words = model.head().rows_range(first..(first + width).min(v));
        let mut logits = be.alloc(rows.len(), words.rows(), label("logits"));
        be.linear(logits.view_mut(), normed.view(), &words, None, false);
        match &mut dn {
            Some(dn) => be.softmax_sum(dn.view_mut(), logits.view_mut(), labels, first, stats, &words),
            None => be.softmax_stats(logits.view(), labels, first, stats),
        }
        be.free(logits);
    }
    if let (Some(c), Some(mut dn)) = (gradient, dn) {
        // n is read no more: the labels' words take its place.
        be.embedding(normed.view_mut(), model.head(), labels);
        be.softmax_sum_gradient(dn.view_mut(), normed.view(), c, stats);
        be.rms_norm_backward_in_place(dn.view_mut(), picked.view(), &model.norm, eps);
        be.scatter_rows(x.view_mut(), dn.view(), index);
        be.free(dn);
    }
    be.free(normed);
    be.free(picked);
}

/// Logits of the last row.
pub fn last_logits<B: Backend>(be: &mut B, model: &Model, x: &Act, out: &mut [f32]) {
    let label = |name| Label::new(Class::Head, name);
    let mut normed = be.alloc(1, model.config.hidden_size, label("normed"));
    let mut logits = be.alloc(1, model.config.vocab_size, label("logits"));
    be.rms_norm(normed.view_mut(), x.rows_view(x.rows() - 1..x.rows()), &model.norm, model.config.eps);
    be.linear(logits.view_mut(), normed.view(), model.head(), None, false);
    be.store(logits.view(), &mut |i, value| out[i] = value as f32);
    be.free(logits);
    be.free(normed);
}
