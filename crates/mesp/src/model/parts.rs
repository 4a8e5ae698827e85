//! A model's tensors one by one, in a fixed order: for what treats all of them alike.

use std::ops::Range;

use mesp_device::Weight;

use super::ModelWeights;
use crate::arch::{Module, Norm, POST_NORMS, QK_NORMS, Tensor};

/// Which tensor of a checkpoint, or which rows of one: layers that are fused in it are visited one by one, in the order of
/// their rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The layer, or the place of what is outside the blocks ([`Module::list_index`]).
    pub place: usize,
    /// The checkpoint's tensor.
    pub tensor: Tensor,
    /// Its rows.
    pub rows: Range<usize>,
}

impl Piece {
    /// The tensor's name in the checkpoint.
    pub fn name(&self) -> String {
        self.tensor.name(self.place)
    }
}

/// A tensor.
#[derive(Debug)]
pub enum Part<M, V> {
    /// The weight of a linear layer.
    Matrix(M),
    /// A norm or a bias.
    Vector(V),
}

/// A tensor to look at.
pub type Seen<'a> = Part<&'a Weight, &'a [f32]>;
/// A tensor to change.
pub type Changed<'a> = Part<&'a mut Weight, &'a mut [f32]>;

macro_rules! walk {
    ($model:ident, $f:ident $(, $mutable:tt)?) => {{
        let c = &$model.config;
        let family = c.family;
        let before = family.norms();
        let (d, vocabulary) = (c.hidden_size, c.vocab_size);
        let [head, embeddings] = Module::OUTSIDE_BLOCKS.map(|module| module.list_index(0, c));
        let norm = |place, norm, values: &[f32]| Piece { place, tensor: Tensor::Norm(norm), rows: 0..values.len() };
        let rows = Module::ALL.map(|p| (p.stored_in(family.fused), p.rows(c)));
        let table = |place, module| Piece { place, tensor: Tensor::Weight(module), rows: 0..vocabulary };
        $f(table(embeddings, Module::Embed), Part::Matrix(&$($mutable)? $model.embedding));
        if let Some(weight) = &$($mutable)? $model.head {
            $f(table(head, Module::Head), Part::Matrix(weight));
        }
        $f(Piece { place: head, tensor: Tensor::Norm(Norm::Final), rows: 0..d }, Part::Vector(&$($mutable)? $model.norm));
        for (l, block) in (&$($mutable)? $model.blocks).into_iter().enumerate() {
            $f(norm(l, before[0], &block.attn_norm), Part::Vector(&$($mutable)? block.attn_norm));
            $f(norm(l, before[1], &block.mlp_norm), Part::Vector(&$($mutable)? block.mlp_norm));
            for (norms, names) in [(&$($mutable)? block.post_norms, POST_NORMS), (&$($mutable)? block.qk_norm, QK_NORMS)] {
                for (values, name) in norms.into_iter().flatten().zip(names) {
                    $f(norm(l, name, values), Part::Vector(values));
                }
            }
            for (linear, (module, rows)) in (&$($mutable)? block.linears).into_iter().zip(&rows) {
                let piece = |tensor| Piece { place: l, tensor, rows: rows.clone() };
                $f(piece(Tensor::Weight(*module)), Part::Matrix(&$($mutable)? linear.weight));
                if let Some(bias) = &$($mutable)? linear.bias {
                    $f(piece(Tensor::Bias(*module)), Part::Vector(bias));
                }
            }
        }
    }};
}

impl ModelWeights {
    /// Visits every tensor; a tied table once.
    pub fn parts(&self, f: &mut dyn FnMut(Piece, Seen<'_>)) {
        walk!(self, f);
    }

    /// The same, to change them.
    pub fn parts_mut(&mut self, f: &mut dyn FnMut(Piece, Changed<'_>)) {
        walk!(self, f, mut);
    }
}
