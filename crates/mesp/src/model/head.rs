//! The output head in tiles of rows and vocabulary: losses, and the gradient of its input.
//!
//! ```text
//! per tile of rows     x̂ = x[rows]   n = norm(x̂)
//!   per vocab tile     z = n·Eᵀ      statistics of z      p = exp(z − largest so far)   s (+)= p·E
//!                      dn = c·(s / Σ p − E[labels])
//!                      dn ← norm backward(dn, x̂)   x[rows] ← dn
//!
//! with an adapter      h = n·Aᵀ
//!   per vocab tile     z = n·Eᵀ + s·h·Bᵀ      statistics of z
//!   and once more      z again      dz = c·(p / Σ p − [labels])      dn (+)= dz·E
//!                      dB[tile] += s·dzᵀ·h   dh (+)= s·dz·B[tile]
//!                      dA += dhᵀ·n   dn += dh·A
//! where E is trained   the same two times, dE[tile] += dzᵀ·n       the norm's weight: dw += Σ_t dn∘(x̂/rms)
//! ```
//! Derivation: `docs/math/cross_entropy.md`. Only rows with a target are multiplied. Without an adapter, and with E
//! frozen, there is one pass over the vocabulary. The gradient of a vocabulary entry's row of B, or of E, is a sum over
//! rows of terms divided by each row's Σ p, which is known only after the whole vocabulary: then there are two passes, and
//! z is recomputed rather than kept. A vocabulary tile serves all rows at once, which is faster than few rows and the
//! whole vocabulary (`docs/log.md`).

use std::ops::Range;

use mesp_device::{Act, Backend, Class, Dropout, Label, RowStat, View, Weight};

use super::{Batch, ModelWeights, Top};
use crate::adapter::{Pair, PairView, lora};
use crate::arch::{Module, Norm, Tensor};
use crate::gradient::Factors;
use crate::tape::Tiles;

/// The head's adapter.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadAdapter<'a> {
    /// Its matrices, if there is one.
    pub pair: Option<&'a Pair>,
    /// What it does not see of the trained rows' normed values, which are counted from 0; none outside of training.
    pub dropout: Option<Dropout>,
}

const fn label(name: &'static str) -> Label {
    Label::new(Class::Head, name)
}

/// Statistics of the trained rows' logits, and, with a `gradient` c, `x ← c·w·dloss/dx`, w the rows' weights (untrained
/// rows become zero), and the factors of the head, its norm and its adapter handed over. `stats` has one place for each
/// trained row.
pub(super) fn head<B: Backend>(
    be: &mut B,
    top: Top<'_>,
    x: &mut Act,
    gradient: Option<(f64, &mut impl Factors<B>)>,
    stats: &mut [RowStat],
) {
    stats.fill(RowStat::EMPTY);
    for (stat, weight) in stats.iter_mut().zip(&top.batch.target_weights) {
        stat.weight = *weight;
    }
    in_row_tiles(be, top, x, gradient, stats, false);
}

/// The gradient of [`head`] from statistics that it left, with the weights that stand in them.
pub(super) fn head_gradient<B: Backend>(
    be: &mut B,
    top: Top<'_>,
    x: &mut Act,
    gradient: (f64, &mut impl Factors<B>),
    stats: &mut [RowStat],
) {
    in_row_tiles(be, top, x, Some(gradient), stats, true);
}

/// Whether something at the head has a gradient that sums over rows.
pub(super) fn sums_over_rows<B: Backend>(top: Top<'_>, factors: &impl Factors<B>) -> bool {
    top.head.pair.is_some()
        || top.later
        || factors.wants(Tensor::Weight(table(top.model)))
        || factors.wants(Tensor::Norm(Norm::Final))
}

/// Tile of rows after tile of rows. `known` says that the statistics need not be made.
fn in_row_tiles<B: Backend>(
    be: &mut B,
    Top { model, head: adapter, batch, tiles, .. }: Top<'_>,
    x: &mut Act,
    mut gradient: Option<(f64, &mut impl Factors<B>)>,
    stats: &mut [RowStat],
    known: bool,
) {
    let targets = batch.targets();
    let tile = tiles.head_rows.min(targets).max(1);
    let mark = be.mark();
    for start in (0..targets).step_by(tile) {
        be.rewind(mark);
        let rows = start..(start + tile).min(targets);
        let gradient = gradient.as_mut().map(|(c, factors)| (*c, &mut **factors));
        let stats = &mut stats[rows.clone()];
        head_rows(be, model, adapter, x, batch, gradient, tiles, &rows, (stats, known));
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
    model: &ModelWeights,
    HeadAdapter { pair, dropout }: HeadAdapter<'_>,
    x: &mut Act,
    batch: &Batch,
    gradient: Option<(f64, &mut impl Factors<B>)>,
    tiles: Tiles,
    rows: &Range<usize>,
    (stats, known): (&mut [RowStat], bool),
) {
    let (d, eps) = (model.config.hidden_size, model.config.eps);
    let (index, labels) = (&batch.target_rows[rows.clone()], &batch.target_labels[rows.clone()]);
    let mut picked = be.alloc(rows.len(), d, label("picked"));
    let mut normed = be.alloc(rows.len(), d, label("normed"));
    be.gather_rows(picked.view_mut(), x.view(), index);
    be.rms_norm(normed.view_mut(), picked.view(), &model.norm, eps);
    let adapter = projected(be, pair, normed.view(), dropout, rows.start);
    let adapted = adapter.as_ref().map(|(pair, h)| (*pair, h));

    // Each row's Σ p must be known before any word's gradient is.
    let twice = known
        || adapted.is_some()
        || gradient.as_ref().is_some_and(|(_, factors)| factors.wants(Tensor::Weight(table(model))));
    let mut dn = (gradient.is_some() && !twice).then(|| be.alloc(rows.len(), d, label("d_normed")));
    if !known {
        in_tiles(be, model, tiles, |be, words, range| {
            let mut logits = logits(be, normed.view(), words, adapted, range.clone());
            match &mut dn {
                Some(dn) => {
                    be.softmax_sum(dn.view_mut(), logits.view_mut(), labels, range.start, stats, words);
                }
                None => be.softmax_stats(logits.view(), labels, range.start, stats),
            }
            be.free(logits);
        });
    }
    if let Some((c, factors)) = gradient {
        let mut dn = if let Some(mut dn) = dn {
            // n is read no more: the labels' words take its place.
            be.embedding(normed.view_mut(), model.head(), labels);
            be.softmax_sum_gradient(dn.view_mut(), normed.view(), c, stats);
            dn
        } else {
            let mut dn = be.alloc(rows.len(), d, label("d_normed"));
            let dropped = (dropout, rows.start);
            backward(be, model, (adapted, factors), &normed, dropped, &mut dn, (labels, c), tiles, stats);
            dn
        };
        if factors.wants(Tensor::Norm(Norm::Final)) {
            factors.norm(be, Norm::Final, [dn.view(), picked.view()], eps);
        }
        be.rms_norm_backward_in_place(dn.view_mut(), picked.view(), &model.norm, eps);
        be.scatter_rows(x.view_mut(), dn.view(), index);
        be.free(dn);
    }
    if let Some((_, h)) = adapter {
        be.free(h);
    }
    be.free(normed);
    be.free(picked);
}

/// The table that a model's head multiplies with.
const fn table(model: &ModelWeights) -> Module {
    if model.config.tied { Module::Embed } else { Module::Head }
}

/// The trained rows after the final norm, `[targets, d]`: what their logits are made of.
pub fn final_rows<B: Backend>(be: &mut B, model: &ModelWeights, x: &Act, batch: &Batch) -> Act {
    let shape = (batch.targets(), model.config.hidden_size);
    let mut normed = be.alloc(shape.0, shape.1, label("final_rows"));
    let mut picked = be.alloc(shape.0, shape.1, label("picked"));
    be.gather_rows(picked.view_mut(), x.view(), &batch.target_rows);
    be.rms_norm(normed.view_mut(), picked.view(), &model.norm, model.config.eps);
    be.free(picked);
    normed
}

/// What the logits of a batch's trained rows are made of, and their gradient: the rows after the final norm, the batch,
/// and what [`Objective::of_logits`](super::Objective::of_logits) says.
pub type Logits<'a> = (&'a Act, &'a Batch, (f64, &'a [RowStat]));

/// The gradient of some rows of a table: of the head, whose logits are made once more from the [`final_rows`]; of the
/// embeddings, from dL/dx of their rows; or of a table that is both.
///
/// ```text
/// z = n·E[rows]ᵀ     dE[rows] = (c·w·(softmax(z) − [label]))ᵀ·n     dE[token_t] += dx_t
/// ```
pub fn table_gradient<B: Backend>(
    be: &mut B,
    model: &ModelWeights,
    head: Option<Logits<'_>>,
    lookups: Option<(&Act, &Batch)>,
    rows: Range<usize>,
) -> Act {
    let grad = Label::new(Class::Gradient, "table_grad");
    let mut dw = be.alloc(rows.len(), model.config.hidden_size, grad);
    if let Some((normed, batch, (c, stats))) = head {
        let words = model.head().rows_range(rows.clone());
        let mut dz = logits(be, normed.view(), &words, None, rows.clone());
        be.softmax_gradient(dz.view_mut(), &batch.target_labels, rows.start, c, stats);
        be.weight_grad(dw.view_mut(), [dz.view(), normed.view()], 0, false);
        be.free(dz);
    } else {
        be.zero(dw.view_mut());
    }
    if let Some((dx, batch)) = lookups {
        be.scatter_add_rows(dw.view_mut(), dx.view(), &batch.tokens, rows.start);
    }
    dw
}

/// The second pass over the vocabulary: dn, and the factors of the table and of the adapter.
fn backward<B: Backend>(
    be: &mut B,
    model: &ModelWeights,
    (adapter, factors): (Option<(&Pair, &Act)>, &mut impl Factors<B>),
    normed: &Act,
    (dropout, first): (Option<Dropout>, usize),
    dn: &mut Act,
    (labels, c): (&[u32], f64),
    tiles: Tiles,
    stats: &[RowStat],
) {
    let of = Tensor::Weight(table(model));
    let mut dh = adapter.map(|(pair, _)| be.alloc(normed.rows(), pair.a.rows(), label("head_dh")));
    in_tiles(be, model, tiles, |be, words, range| {
        let again = range.start > 0;
        let mut dz = logits(be, normed.view(), words, adapter, range.clone());
        be.softmax_gradient(dz.view_mut(), labels, range.start, c, stats);
        be.input_grad(dn.view_mut(), dz.view(), words, again);
        if factors.wants(of) {
            factors.linear(be, of, range.clone(), [dz.view(), normed.view()], 1.0);
        }
        if let Some(((pair, h), dh)) = adapter.zip(dh.as_mut()) {
            let part = pair.rows_view(range.clone());
            let to = (Module::Head, range, &mut *factors);
            lora::gradients(be, to, dh.view_mut(), part, h.view(), dz.view(), again);
        }
        be.free(dz);
    });
    if let Some(((pair, _), dh)) = adapter.zip(dh) {
        lora::gradient_of_a(be, (Module::Head, factors), dh.view(), normed.view(), dropout, first);
        let whole = PairView { dropout, ..pair.rows_view(0..0) };
        lora::add_input_grad(be, dn.view_mut(), dh.view(), whole, first);
        be.free(dh);
    }
}

/// Runs `f` for each tile of the vocabulary, with the same allocations each time.
fn in_tiles<B: Backend>(
    be: &mut B,
    model: &ModelWeights,
    tiles: Tiles,
    mut f: impl FnMut(&mut B, &Weight, Range<usize>),
) {
    let v = model.config.vocab_size;
    let (width, mark) = (tiles.head_vocab.min(v), be.mark());
    for first in (0..v).step_by(width) {
        be.rewind(mark);
        let range = first..(first + width).min(v);
        f(be, &model.head().rows_range(range.clone()), range);
    }
}

/// An adapter with its h for rows from `first` on.
pub(super) fn projected<'a, B: Backend>(
    be: &mut B,
    adapter: Option<&'a Pair>,
    normed: View<'_>,
    dropout: Option<Dropout>,
    first: usize,
) -> Option<(&'a Pair, Act)> {
    let pair = adapter?;
    let mut h = be.alloc(normed.rows(), pair.a.rows(), label("head_h"));
    lora::project(be, h.view_mut(), normed, PairView { dropout, ..pair.rows_view(0..0) }, first);
    Some((pair, h))
}

/// Logits of a range of the vocabulary, whose rows of the table are `words`.
pub(super) fn logits<B: Backend>(
    be: &mut B,
    normed: View<'_>,
    words: &Weight,
    adapter: Option<(&Pair, &Act)>,
    range: Range<usize>,
) -> Act {
    let mut logits = be.alloc(normed.rows(), range.len(), label("logits"));
    if let Some((pair, h)) = adapter {
        let part = pair.rows_view(range);
        be.adapted_linear(logits.view_mut(), normed, words, None, false, (h.view(), part.b, part.scale));
    } else {
        be.linear(logits.view_mut(), normed, words, None, false);
    }
    logits
}
