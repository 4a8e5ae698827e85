//! One driver for all exact methods.

use std::ops::Range;
use std::sync::Arc;

use mesp_device::{Act, AllocOnly, Backend, Class, Dropout, Elem, Label};

use super::Perturbation;
use crate::adapter::{BlockPairs, dora, pair_outside_blocks};
use crate::arch::{Module, Tensor};
use crate::gradient::{Factors, IgnoreFactors, ParamList};
use crate::model::{self, Batch, BlockRun, HeadAdapter, ModelWeights, Objective, Top};
use crate::tape::{Policy, SavedAs, Site, SiteSet, Tape};

/// What takes the factors of the gradients of a sweep, place by place ([`Module::list_index`]): the head, the blocks from the
/// last to the first, the embeddings.
pub trait Consumer<B: Backend> {
    /// What takes those of one place.
    type Place<'a>: Factors<B>
    where
        Self: 'a;
    /// Whether factors of a place's tensor are wanted, before the place begins.
    fn wants(&self, place: usize, of: Tensor) -> bool;
    /// The backward of a place begins, before any loop over tiles: buffers that live until its end are made here.
    fn begin(&mut self, be: &mut B, place: usize) -> Self::Place<'_>;
    /// All factors of a place were handed over, and its adapters are read no more in this sweep. Does nothing unless
    /// implemented.
    fn finish(&mut self, _be: &mut B, _place: usize, _adapters: &mut BlockPairs) {}
    /// Whether tables are stepped while the sweep goes on ([`Consumer::table`]): then no place wants their factors. Not
    /// unless implemented.
    fn steps_tables(&self) -> bool {
        false
    }
    /// The gradient of a table is known, and the table is read no more in this sweep but by `make`, which makes the
    /// gradient of some of its rows. Does nothing unless implemented.
    fn table(
        &mut self,
        _be: &mut B,
        _place_of: (usize, Tensor),
        _make: &mut impl FnMut(&mut B, Range<usize>) -> Act,
    ) {
    }
    /// In place of the finish, where the backward was left out: nothing was handed over. Does nothing unless
    /// implemented.
    fn left_out(&mut self, _be: &mut B, _place: usize) {}
}

/// Exact backpropagation under a policy. Holds the tapes, one a block.
#[derive(Debug)]
pub struct Backprop {
    pub(super) policy: Policy,
    pub(super) tapes: Vec<Tape>,
    /// Inputs of blocks that wait rounded.
    saved: Vec<Option<Act>>,
    /// Blocks that the next step goes back through.
    through: Vec<bool>,
    /// What adapters do not see of their inputs in the next step.
    dropout: Option<Dropout>,
    /// What a forward with tangents has gradients of, once there was one.
    pub(super) head: Option<Arc<ParamList>>,
}

impl Backprop {
    /// For a model of `blocks`.
    pub fn new(policy: Policy, blocks: usize) -> Self {
        Self {
            policy,
            tapes: (0..blocks).map(|_| Tape::default()).collect(),
            saved: (0..blocks).map(|_| None).collect(),
            through: vec![true; blocks],
            dropout: None,
            head: None,
        }
    }

    /// What it keeps.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Says which blocks the steps from here on go back through, all at first.
    pub fn go_through(&mut self, through: impl Fn(usize) -> bool) {
        self.through.iter_mut().enumerate().for_each(|(l, t)| *t = through(l));
    }

    /// Says what adapters do not see of their inputs in the steps from here on, nothing at first; evaluations have no
    /// dropout.
    pub fn set_dropout(&mut self, dropout: Option<Dropout>) {
        self.dropout = dropout;
    }

    /// Forward and backward of a micro-batch: its losses to the objective, factors of gradients to the sink.
    pub fn step<B: Backend>(
        &mut self,
        be: &mut B,
        model: &ModelWeights,
        adapters: &mut [BlockPairs],
        batch: &Batch,
        objective: &mut impl Objective<B>,
        sink: &mut impl Consumer<B>,
    ) {
        let (policy, dropout) = (self.policy, self.dropout);
        let Policy { across, within, keep_last, tiles, .. } = policy;
        let form = policy.inputs();
        let last = model.blocks.len() - 1;
        // Inputs that wait in memory as they are stay on the tape; others leave it until their backward.
        let input = SiteSet::of(&[Site::BlockIn]);
        let (across, within, class) = match form {
            SavedAs::Full => (across.union(input), within, Class::Checkpoint),
            SavedAs::Bf16 | SavedAs::File => {
                (across.without(input), within.without(input), Class::WithinBlock)
            }
        };
        let c = &model.config;
        let [head, table] = Module::OUTSIDE_BLOCKS.map(|p| p.list_index(0, c));
        let mut x = model::embed(be, model, pair_outside_blocks(adapters, Module::Embed, c), batch, class);
        for (l, tape) in self.tapes.iter_mut().enumerate() {
            let keep = if l == last && keep_last { across.union(within) } else { across };
            will_need(be, model, l + 1);
            self.saved[l] = save(be, form, l, &mut x);
            tape.keep_across(across);
            tape.put(Site::BlockIn, x);
            dora::refresh(be, &model.config, &model.blocks[l].linears, &mut adapters[l]);
            x = model::forward_block(be, &run(model, &adapters[l], l, batch, policy, dropout), tape, keep);
        }
        let embedding = Tensor::Weight(Module::Embed);
        let of_head = if c.tied { (table, embedding) } else { (head, Tensor::Weight(Module::Head)) };
        let steps = |of: (usize, Tensor)| sink.steps_tables() && sink.wants(of.0, of.1);
        let (steps_head, steps_embedding) = (steps(of_head), steps((table, embedding)));
        let mut normed = steps_head.then(|| model::final_rows(be, model, &x, batch));
        {
            let pair = pair_outside_blocks(adapters, Module::Head, c);
            let dropout = dropout.map(|mask| mask.stream(head as u64));
            let top = Top { model, head: HeadAdapter { pair, dropout }, batch, tiles, later: steps_head };
            let factors = &mut sink.begin(be, head);
            objective.gradient(be, top, &mut x, factors);
        }
        if let Some(normed) = normed.take_if(|_| !c.tied) {
            let logits = objective.of_logits();
            sink.table(be, of_head, &mut |be, rows| {
                model::table_gradient(be, model, logits.map(|of| (&normed, batch, of)), None, rows)
            });
            be.free(normed);
        }
        sink.finish(be, head, &mut adapters[head]);
        let embeds =
            pair_outside_blocks(adapters, Module::Embed, c).is_some() || sink.wants(table, embedding);
        // From here on x is dL/dx.
        for (l, tape) in self.tapes.iter_mut().enumerate().rev() {
            let size = (batch.rows(), model.config.hidden_size);
            let run = run(model, &adapters[l], l, batch, policy, dropout);
            if !self.through[l] {
                // Taken for x and a constant: dx is dy. The buffers are asked for as in the plan.
                restore(&mut AllocOnly::new(be), form, l, size, self.saved[l].take(), tape);
                {
                    let quiet = &mut IgnoreFactors::new(sink.begin(be, l));
                    run.backward(&mut AllocOnly::new(be), tape, within, &mut x, quiet, l > 0 || embeds);
                }
                sink.left_out(be, l);
                continue;
            }
            if l > 0 && self.through[l - 1] {
                will_need(be, model, l - 1);
            }
            restore(be, form, l, size, self.saved[l].take(), tape);
            {
                let factors = &mut sink.begin(be, l);
                run.backward(be, tape, within, &mut x, factors, l > 0 || embeds);
            }
            sink.finish(be, l, &mut adapters[l]);
        }
        if embeds {
            {
                let pair = pair_outside_blocks(adapters, Module::Embed, c);
                let factors = &mut sink.begin(be, table);
                model::embed_backward(be, model, pair, factors, &mut x, batch);
            }
            if steps_embedding {
                let logits = objective.of_logits();
                let head = normed.as_ref().and_then(|normed| Some((normed, batch, logits?)));
                sink.table(be, (table, embedding), &mut |be, rows| {
                    model::table_gradient(be, model, head, Some((&x, batch)), rows)
                });
            }
            sink.finish(be, table, &mut adapters[table]);
        }
        if let Some(normed) = normed {
            be.free(normed);
        }
        be.free(x);
    }

    /// A micro-batch's losses, nothing kept; with a perturbation those of a point beside the adapters.
    pub fn evaluate<B: Backend>(
        &mut self,
        be: &mut B,
        model: &ModelWeights,
        adapters: &mut [BlockPairs],
        perturbation: Option<Perturbation<'_>>,
        batch: &Batch,
        objective: &mut impl Objective<B>,
    ) {
        let mut x = self.forward(be, model, adapters, perturbation, batch);
        let moved = moved(be, perturbation, Module::Head, model, adapters);
        let pair = match &moved {
            Some(pairs) => pairs[Module::Head as usize].as_ref(),
            None => pair_outside_blocks(adapters, Module::Head, &model.config),
        };
        let head = HeadAdapter { pair, ..HeadAdapter::default() };
        objective.losses(be, Top { model, head, batch, tiles: self.policy.tiles, later: false }, &mut x);
        free(be, moved);
        be.free(x);
    }

    fn forward<B: Backend>(
        &mut self,
        be: &mut B,
        model: &ModelWeights,
        adapters: &mut [BlockPairs],
        perturbation: Option<Perturbation<'_>>,
        batch: &Batch,
    ) -> Act {
        let moved = moved(be, perturbation, Module::Embed, model, adapters);
        let pair = match &moved {
            Some(pairs) => pairs[Module::Embed as usize].as_ref(),
            None => pair_outside_blocks(adapters, Module::Embed, &model.config),
        };
        let mut x = model::embed(be, model, pair, batch, Class::WithinBlock);
        free(be, moved);
        for (l, tape) in self.tapes.iter_mut().enumerate() {
            will_need(be, model, l + 1);
            tape.keep_across(SiteSet::EMPTY);
            tape.put(Site::BlockIn, x);
            dora::refresh(be, &model.config, &model.blocks[l].linears, &mut adapters[l]);
            let moved = perturbation.and_then(|s| s.moved(be, l, &adapters[l]));
            let pairs = moved.as_ref().unwrap_or(&adapters[l]);
            let run = run(model, pairs, l, batch, self.policy, None);
            x = model::forward_block(be, &run, tape, SiteSet::EMPTY);
            free(be, moved);
        }
        x
    }
}

/// A moved copy of the adapter of a module outside the blocks, if there is one and it moves.
fn moved<B: Backend>(
    be: &mut B,
    perturbation: Option<Perturbation<'_>>,
    p: Module,
    model: &ModelWeights,
    adapters: &[BlockPairs],
) -> Option<BlockPairs> {
    let place = p.list_index(0, &model.config);
    pair_outside_blocks(adapters, p, &model.config)?;
    perturbation?.moved(be, place, &adapters[place])
}

fn free<B: Backend>(be: &mut B, pairs: Option<BlockPairs>) {
    for pair in pairs.into_iter().flatten().flatten() {
        pair.free(be);
    }
}

/// Keeps a block's input apart from the tape, where the policy says so.
fn save<B: Backend>(be: &mut B, form: SavedAs, block: usize, x: &mut Act) -> Option<Act> {
    match form {
        SavedAs::Full => None,
        SavedAs::Bf16 => {
            let label = Label::new(Class::Checkpoint, Site::BlockIn.name());
            let mut kept = be.alloc_as(x.rows(), x.cols(), Elem::Bf16, label);
            be.copy(kept.view_mut(), x.view());
            be.copy(x.view_mut(), kept.view());
            Some(kept)
        }
        SavedAs::File => {
            be.spill(block, x.view());
            None
        }
    }
}

/// Puts a block's input `[rows, cols]` back on its tape.
fn restore<B: Backend>(
    be: &mut B,
    form: SavedAs,
    block: usize,
    (rows, cols): (usize, usize),
    kept: Option<Act>,
    tape: &mut Tape,
) {
    if form == SavedAs::Full {
        return;
    }
    let mut x = be.alloc(rows, cols, Label::new(Class::WithinBlock, Site::BlockIn.name()));
    if let Some(kept) = kept {
        be.copy(x.view_mut(), kept.view());
        be.free(kept);
    } else {
        be.fetch(block, x.view_mut());
    }
    tape.put(Site::BlockIn, x);
}

/// Asks for a block's weights ahead of its turn.
pub(super) fn will_need<B: Backend>(be: &B, model: &ModelWeights, block: usize) {
    if let Some(block) = model.blocks.get(block) {
        block.linears.iter().for_each(|l| be.will_need(&l.weight));
    }
}

/// A block with all that its rules read.
pub(super) fn run<'a>(
    model: &'a ModelWeights,
    pairs: &'a BlockPairs,
    block: usize,
    batch: &'a Batch,
    policy: Policy,
    dropout: Option<Dropout>,
) -> BlockRun<'a> {
    let Policy { saved, tiles, .. } = policy;
    let dropout = dropout.map(|mask| mask.stream(block as u64));
    BlockRun { config: &model.config, block: &model.blocks[block], pairs, batch, saved, tiles, dropout }
}
