//! The search for the fastest policy that fits a budget.
//!
//! All candidates give bit-identical gradients, so a budget changes the time of a run and never its result. The search
//! decides which activations are kept, the tile sizes of rows and vocabulary, and whether blocks' inputs are kept in
//! memory or in a file. What would change the result (bf16 checkpoints or activations, per-block updates, another
//! optimizer) is left to the user.

use std::sync::Arc;

use mesp_device::Plan;

use super::session::record;
use super::{Options, Shapes, Update};
use crate::Result;
use crate::method::Method;
use crate::model::{Batch, ModelWeights};
use crate::tape::{Policy, SavedAs, Site, SiteSet, Tiles};

/// A policy, its memory and its cost.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The requested options with the candidate's policy.
    pub options: Options,
    /// Its memory.
    pub plan: Plan,
    /// The cost by which candidates are ordered: multiply-adds, and in the same unit the cost of converting weights and
    /// of moving checkpoints.
    pub cost: f64,
}

/// The outcome of a search.
#[derive(Debug, Clone)]
pub struct Search {
    /// The fastest candidate within the limit, if there is one.
    pub fits: Option<Choice>,
    /// The candidate that needs the least memory.
    pub least: Choice,
}

/// What a search may change besides kept activations and tiles.
#[derive(Debug, Clone, Copy)]
pub struct Freedom {
    /// Whether blocks' inputs may be kept in a file.
    pub file: bool,
}

/// Plans every candidate and takes the fastest whose arena is at most `limit` bytes.
///
/// # Errors
/// When `options` cannot be planned.
pub fn search(
    model: &Arc<ModelWeights>,
    options: &Options,
    shapes: &Shapes,
    (value_bytes, threads): (usize, usize),
    limit: usize,
    freedom: Freedom,
) -> Result<Search> {
    let size = (value_bytes, threads);
    let mut order = Vec::new();
    let rows = shapes.train.as_ref().map_or(1, Batch::rows);
    for policy in candidates(options, freedom, rows) {
        let candidate = Options { policy, method_name: "auto".to_owned(), ..options.clone() };
        let (live, cost) = estimate(model, &candidate, shapes, size)?;
        if live <= limit {
            order.push((cost, candidate));
        }
    }
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let least = least(model, options, shapes, size, freedom)?;
    // Placing buffers may need a little more than what is alive at once, so the first that really fits.
    for (cost, options) in order {
        let plan = super::plan(model, &options, shapes, value_bytes, threads)?;
        if plan.bytes() <= limit {
            return Ok(Search { fits: Some(Choice { options, plan, cost }), least });
        }
    }
    let fits = (least.plan.bytes() <= limit).then(|| least.clone());
    Ok(Search { fits, least })
}

/// The policy that needs least among the same candidates, looked for only where it can be: a fraction of a search. Another
/// may be placed with smaller holes and need less, by less than a hundredth.
///
/// # Errors
/// When `options` cannot be planned.
pub fn least(
    model: &Arc<ModelWeights>,
    options: &Options,
    shapes: &Shapes,
    size: (usize, usize),
    freedom: Freedom,
) -> Result<Choice> {
    let rows = shapes.train.as_ref().map_or(1, Batch::rows);
    let all = candidates(options, freedom, rows);
    // Every smaller tile and every site that is not kept needs less or as much.
    let small = |p: &Policy| {
        let t = p.tiles;
        [t.mlp_rows, t.head_rows, t.head_vocab, t.weight_rows]
    };
    let least = all.iter().map(|p| p.across.iter().count()).min().unwrap_or(0);
    let floor = all.iter().map(small).reduce(|a, b| std::array::from_fn(|i| a[i].min(b[i])));
    let few = all.into_iter().filter(|p| p.across.iter().count() == least && Some(small(p)) == floor);
    let choose = |options: Options| -> Result<Choice> {
        let (_, cost) = estimate(model, &options, shapes, size)?;
        let plan = super::plan(model, &options, shapes, size.0, size.1)?;
        Ok(Choice { options, plan, cost })
    };
    let mut best: Option<Choice> = None;
    for policy in few {
        let choice = choose(Options { policy, method_name: "auto".to_owned(), ..options.clone() })?;
        if best.as_ref().is_none_or(|b| choice.plan.bytes() < b.plan.bytes()) {
            best = Some(choice);
        }
    }
    best.map_or_else(|| choose(options.clone()), Ok)
}

/// Bytes alive at the peak, and the cost that orders candidates.
fn estimate(
    model: &Arc<ModelWeights>,
    options: &Options,
    shapes: &Shapes,
    (value_bytes, threads): (usize, usize),
) -> Result<(usize, f64)> {
    let (live, cost) = record(model, options, shapes, value_bytes, threads)?.estimate();
    Ok((live, cost + spill_cost(model, options, shapes, value_bytes)))
}

/// Policies worth planning, all with the asked-for key tile, kind of checkpoint and way of storing activations.
fn candidates(options: &Options, freedom: Freedom, rows: usize) -> Vec<Policy> {
    const MLP: SiteSet = SiteSet::of(&[Site::Gate, Site::Up]);
    let (asked, base) = (options.policy, Method::Mesp.policy());
    let input = SiteSet::of(&[Site::BlockIn]);
    let forms: &[SavedAs] = match (asked.inputs(), freedom.file) {
        (SavedAs::Full, true) => &[SavedAs::Full, SavedAs::File],
        (SavedAs::Full, false) => &[SavedAs::Full],
        (SavedAs::Bf16, _) => &[SavedAs::Bf16],
        (SavedAs::File, _) => &[SavedAs::File],
    };
    // Tiles of more rows than there are differ in nothing.
    let useful = |tile: &usize| *tile < 2 * rows;
    // A matrix that is stepped in place gets the factors of all rows at once, and its gradient may be made in parts.
    let in_place = options.held.is_some() && options.update == Update::PerMatrix;
    let mlp: &[usize] = if in_place { &[usize::MAX] } else { &[1024, 512, 256, 128, 64, 32, 16] };
    let parts: &[usize] = if in_place { &[usize::MAX, 1024, 256] } else { &[usize::MAX] };
    let mlp = || mlp.iter().copied().filter(|tile| in_place || useful(tile));
    let mut all = Vec::new();
    for &form in forms {
        for across in [input.union(SiteSet::ATTENTION).union(MLP), input.union(SiteSet::ATTENTION), input] {
            for keep_last in [true, false] {
                for mlp_rows in mlp() {
                    for head_rows in [512, 256, 128, 64, 32].into_iter().filter(useful) {
                        // All words at once save nothing, and their pages would be resident together.
                        for head_vocab in [4096, 2048, 1024] {
                            for &weight_rows in parts {
                                let keys = asked.tiles.keys;
                                let tiles = Tiles { mlp_rows, head_rows, head_vocab, keys, weight_rows };
                                let saved = asked.with_inputs(form).saved;
                                all.push(Policy { across, saved, keep_last, tiles, ..base });
                            }
                        }
                    }
                }
            }
        }
    }
    all
}

/// Bytes written and read, in the multiplications that could be made meanwhile: a disk moves about a byte in
/// the time of 200 of them.
fn spill_cost(model: &ModelWeights, options: &Options, shapes: &Shapes, value_bytes: usize) -> f64 {
    let rows = shapes.train.as_ref().map_or(0, Batch::rows);
    let bytes = 2 * rows * model.config.hidden_size * model.config.layers * value_bytes;
    if options.policy.inputs() == SavedAs::File { 200.0 * bytes as f64 } else { 0.0 }
}
