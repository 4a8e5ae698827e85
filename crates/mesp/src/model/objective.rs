//! What the rows after the last block are turned into: losses, and dL/dx.

use mesp_device::{Act, Backend, RowStat};

use super::{Batch, HeadAdapter, ModelWeights, head};
use crate::gradient::{Factors, Nothing};
use crate::tape::Tiles;

/// What stands above the blocks, and the batch whose rows came through them.
#[derive(Debug, Clone, Copy)]
pub struct Top<'a> {
    /// Weights and shape.
    pub model: &'a ModelWeights,
    /// The head's adapter.
    pub head: HeadAdapter<'a>,
    /// Tokens, labels, sequences.
    pub batch: &'a Batch,
    /// How work is cut.
    pub tiles: Tiles,
    /// Whether the gradient of the head's table is made later, from what [`Objective::of_logits`] says.
    pub later: bool,
}

/// A loss of the rows after the last block. Whatever it needs it allocates from the backend, so that the plan knows it.
pub trait Objective<B: Backend> {
    /// The losses of rows `x` `[N, d]`, which may be overwritten.
    fn losses(&mut self, be: &mut B, top: Top<'_>, x: &mut Act);
    /// The losses, and `x ← dL/dx`; the factors of what is trained above the blocks are handed over.
    fn gradient(&mut self, be: &mut B, top: Top<'_>, x: &mut Act, factors: &mut impl Factors<B>);
    /// After [`Objective::gradient`] with [`Top::later`], c and the statistics of the trained rows' logits z, whose weights
    /// w stand in them: `dL/dz = c·w·(softmax(z) − [label])`. `None` for a loss that has no logits.
    fn of_logits(&self) -> Option<(f64, &[RowStat])>;
}

/// Next-token cross-entropy, `L = scale·Σ_t w_t·(−ln p(y_t))` over the batch's trained rows, with the weights of the
/// batch.
#[derive(Debug)]
pub struct NextToken<'a> {
    /// 1 / targets of the whole optimizer step.
    pub scale: f64,
    /// A place for each trained row.
    pub stats: &'a mut [RowStat],
}

impl<B: Backend> Objective<B> for NextToken<'_> {
    fn losses(&mut self, be: &mut B, top: Top<'_>, x: &mut Act) {
        head(be, top, x, None::<(f64, &mut Nothing)>, self.stats);
    }

    fn gradient(&mut self, be: &mut B, top: Top<'_>, x: &mut Act, factors: &mut impl Factors<B>) {
        head(be, top, x, Some((self.scale, factors)), self.stats);
    }

    fn of_logits(&self) -> Option<(f64, &[RowStat])> {
        Some((self.scale, self.stats))
    }
}
