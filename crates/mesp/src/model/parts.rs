//! A model's tensors one by one, in a fixed order: for what treats all of them alike.

use std::fmt;

use mesp_device::Weight;

use super::ModelWeights;
use crate::arch::{EMBEDDING, HEAD, Module, Norm, POST_NORMS, QK_NORMS};

/// Which tensor. As text it is the checkpoint's name, of a part of a fused matrix that of the whole: its parts follow
/// each other in the order of their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// The table of words.
    Embedding,
    /// The head's own table.
    Head,
    /// The final norm.
    Norm,
    /// A norm of a block.
    BlockNorm(usize, Norm),
    /// A layer's matrix; whether it is a part of a fused one.
    Weight(usize, Module, bool),
    /// A layer's bias.
    Bias(usize, Module, bool),
}

impl Name {
    /// Whether it scales normed inputs.
    pub const fn is_norm(self) -> bool {
        matches!(self, Self::Norm | Self::BlockNorm(..))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str(EMBEDDING),
            Self::Head => f.write_str(HEAD),
            Self::Norm => write!(f, "{}.weight", Norm::Final.path()),
            Self::BlockNorm(l, norm) => write!(f, "model.layers.{l}.{}.weight", norm.path()),
            Self::Weight(l, p, fused) => write!(f, "{}.weight", p.stored_in(*fused).path(*l)),
            Self::Bias(l, p, fused) => write!(f, "{}.bias", p.stored_in(*fused).path(*l)),
        }
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
        let family = $model.config.family;
        let names = family.norms();
        $f(Name::Embedding, Part::Matrix(&$($mutable)? $model.embedding));
        if let Some(head) = &$($mutable)? $model.head {
            $f(Name::Head, Part::Matrix(head));
        }
        $f(Name::Norm, Part::Vector(&$($mutable)? $model.norm));
        for (l, block) in (&$($mutable)? $model.blocks).into_iter().enumerate() {
            $f(Name::BlockNorm(l, names[0]), Part::Vector(&$($mutable)? block.attn_norm));
            $f(Name::BlockNorm(l, names[1]), Part::Vector(&$($mutable)? block.mlp_norm));
            for (norms, names) in [(&$($mutable)? block.post_norms, POST_NORMS), (&$($mutable)? block.qk_norm, QK_NORMS)] {
                for (norm, name) in norms.into_iter().flatten().zip(names) {
                    $f(Name::BlockNorm(l, name), Part::Vector(norm));
                }
            }
            for (linear, p) in (&$($mutable)? block.linears).into_iter().zip(Module::ALL) {
                $f(Name::Weight(l, p, family.fused), Part::Matrix(&$($mutable)? linear.weight));
                if let Some(bias) = &$($mutable)? linear.bias {
                    $f(Name::Bias(l, p, family.fused), Part::Vector(bias));
                }
            }
        }
    }};
}

impl ModelWeights {
    /// Visits every tensor; a tied table once.
    pub fn parts(&self, f: &mut dyn FnMut(Name, Seen<'_>)) {
        walk!(self, f);
    }

    /// The same, to change them.
    pub fn parts_mut(&mut self, f: &mut dyn FnMut(Name, Changed<'_>)) {
        walk!(self, f, mut);
    }
}
