//! The list of trained adapter parameters.

use super::{BlockPairs, Matrix, Pair};
use crate::arch::{Module, Param, Tensor};

/// The parameters of some adapters in the order of [`matrices`](super::matrices): by place, then module, then A, B, m.
pub fn params(blocks: &[BlockPairs]) -> Vec<Param> {
    let mut list = Vec::new();
    for (place, pairs) in blocks.iter().enumerate() {
        let (first, mut stream) = (list.len(), (place * 2 * Module::ALL.len()) as u64);
        for (module, pair) in Module::MODULES.into_iter().zip(pairs) {
            let Some(pair @ Pair { interleaved, .. }) = pair else { continue };
            for (matrix, act) in pair.matrices() {
                let (shape, interleaved) = ([act.rows(), act.cols()], interleaved.map(|head| head as u16));
                let (tensor, index) = (Tensor::Adapter(module, matrix), (list.len() - first) as u8);
                list.push(Param { place, tensor, index, shape, interleaved, stream });
                stream += u64::from(matrix != Matrix::M);
            }
        }
    }
    list
}
