//! The list of what an adapter trains: one order, by which gradients, optimizer states and files are addressed.

use mesp_formats::peft;

use super::{BlockPairs, Matrix, Pair};
use crate::arch::Module;

/// A matrix or a vector that is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Param {
    /// Its module, by [`Module::place`] for one outside the blocks.
    pub layer: usize,
    /// The layer that it adapts.
    pub module: Module,
    /// Which of the adapter's.
    pub matrix: Matrix,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Values of a head, where its rows are interleaved within each; files have them in halves.
    pub interleaved: Option<usize>,
    /// Names its random numbers among those of a step: of matrices that may be in bf16, which magnitudes never are.
    pub stream: u64,
}

impl Param {
    /// Its name in PEFT's files.
    pub fn name(&self) -> String {
        peft::tensor_name(self.layer, self.module.name(), self.matrix)
    }
}

/// What some adapters train, in the order of [`matrices`](super::matrices): by place, module, then A, B, magnitudes.
pub fn params(blocks: &[BlockPairs]) -> Vec<Param> {
    let mut list = Vec::new();
    for (layer, pairs) in blocks.iter().enumerate() {
        let mut stream = (layer * 2 * Module::ALL.len()) as u64;
        for (module, pair) in Module::MODULES.into_iter().zip(pairs) {
            let Some(pair @ Pair { interleaved, .. }) = pair else { continue };
            for (matrix, act) in pair.matrices() {
                let (shape, interleaved) = ([act.rows(), act.cols()], *interleaved);
                list.push(Param { layer, module, matrix, shape, interleaved, stream });
                stream += u64::from(matrix != Matrix::M);
            }
        }
    }
    list
}
