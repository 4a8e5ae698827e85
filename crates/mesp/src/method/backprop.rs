//! One driver for all exact methods.

use mesp_device::{Act, Backend, RowStat};

use crate::adapter::BlockPairs;
use crate::model::{self, Batch, BlockRun, Model};
use crate::tape::{Policy, Site, SiteSet, Tape, Tiles};

/// Where finished gradients go.
pub trait GradSink<B: Backend> {
    /// A block's backward begins: the pairs that it adds to.
    fn begin(&mut self, be: &mut B, block: usize) -> &mut BlockPairs;
    /// It has ended, and with it the last reader of the block's adapters.
    fn end(&mut self, be: &mut B, block: usize, adapters: &mut BlockPairs);
}

/// What a step needs besides the batch.
#[derive(Debug, Clone, Copy)]
pub struct StepShape {
    /// s.
    pub scale: f64,
    /// 1 / targets of the whole optimizer step.
    pub gradient: f64,
}

/// Exact backpropagation under a policy. Holds the tapes, one a block.
#[derive(Debug)]
pub struct Backprop {
    policy: Policy,
    tapes: Vec<Tape>,
}

impl Backprop {
    /// For a model of `blocks`.
    pub fn new(policy: Policy, blocks: usize) -> Self {
        Self { policy, tapes: (0..blocks).map(|_| Tape::default()).collect() }
    }

    /// What it keeps.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Forward and backward of a micro-batch: losses of its trained rows, gradients to the sink.
    pub fn step<B: Backend>(
        &mut self,
        be: &mut B,
        model: &Model,
        adapters: &mut [BlockPairs],
        batch: &Batch,
        shape: StepShape,
        stats: &mut [RowStat],
        sink: &mut impl GradSink<B>,
    ) {
        let Policy { across, within, keep_last, tiles } = self.policy;
        let across = across.with(Site::BlockIn);
        let last = model.blocks.len() - 1;
        let mut x = model::embed(be, model, batch);
        for (l, tape) in self.tapes.iter_mut().enumerate() {
            let keep = if l == last && keep_last { across.and(within) } else { across };
            tape.keep_across(across);
            tape.put(Site::BlockIn, x);
            x = model::forward_block(be, &run(model, &adapters[l], l, batch, shape.scale, tiles), tape, keep);
        }
        model::head(be, model, &mut x, batch, Some(shape.gradient), tiles, stats);
        // From here on x is dL/dx.
        for (l, tape) in self.tapes.iter_mut().enumerate().rev() {
            let grads = sink.begin(be, l);
            run(model, &adapters[l], l, batch, shape.scale, tiles).backward(be, tape, within, &mut x, grads, l > 0);
            sink.end(be, l, &mut adapters[l]);
        }
        be.free(x);
    }

    /// Losses of a micro-batch's trained rows, nothing kept.
    pub fn evaluate<B: Backend>(
        &mut self,
        be: &mut B,
        model: &Model,
        adapters: &[BlockPairs],
        batch: &Batch,
        scale: f64,
        stats: &mut [RowStat],
    ) {
        let mut x = self.forward(be, model, adapters, batch, scale);
        model::head(be, model, &mut x, batch, None, self.policy.tiles, stats);
        be.free(x);
    }

    fn forward<B: Backend>(
        &mut self,
        be: &mut B,
        model: &Model,
        adapters: &[BlockPairs],
        batch: &Batch,
        scale: f64,
    ) -> Act {
        let mut x = model::embed(be, model, batch);
        for (l, tape) in self.tapes.iter_mut().enumerate() {
            tape.keep_across(SiteSet::EMPTY);
            tape.put(Site::BlockIn, x);
            let run = run(model, &adapters[l], l, batch, scale, self.policy.tiles);
            x = model::forward_block(be, &run, tape, SiteSet::EMPTY);
        }
        x
    }
}

fn run<'a>(
    model: &'a Model,
    pairs: &'a BlockPairs,
    block: usize,
    batch: &'a Batch,
    scale: f64,
    tiles: Tiles,
) -> BlockRun<'a> {
    BlockRun { config: &model.config, block: &model.blocks[block], pairs, scale, batch, tiles }
}
