//! Which tensors of the model itself are trained, beside an adapter or in its place.

use super::{Module, Param, Tensor};

/// Tensors of the checkpoint that are trained or whose gradients are wanted; none at first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    parts: Vec<Part>,
}

/// A group of tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Every tensor.
    Full,
    /// The weights of all norms.
    Norms,
    /// All biases.
    Biases,
    /// A module's matrix, with its bias; that of a tied head is the embedding's.
    Module(Module),
}

impl Selection {
    /// All tensors of these groups.
    pub fn of(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// Every tensor.
    pub fn full() -> Self {
        Self::of(vec![Part::Full])
    }

    /// Whether nothing is selected.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether every tensor is selected.
    pub fn is_full(&self) -> bool {
        self.parts.contains(&Part::Full)
    }

    /// Whether a tensor of the checkpoint is selected.
    pub fn has(&self, param: &Param) -> bool {
        self.parts.iter().any(|part| match (part, param.tensor) {
            (Part::Full, _) | (Part::Norms, Tensor::Norm(_)) | (Part::Biases, Tensor::Bias(_)) => true,
            (Part::Module(module), Tensor::Weight(of) | Tensor::Bias(of)) => *module == of,
            _ => false,
        })
    }
}
