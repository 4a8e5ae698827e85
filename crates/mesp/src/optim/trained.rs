//! Rates and decays of single parameters.

use crate::adapter::Matrix;
use crate::arch::{Param, Tensor};

/// Which matrices of an adapter are trained, and their learning rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trained {
    /// Whether A is frozen (LoRA-FA; Zhang et al. 2023): it then has no gradient and no optimizer state.
    pub freeze_a: bool,
    /// The learning rate of B and of magnitudes divided by that of A (LoRA+; Hayou et al. 2024).
    pub b_ratio: f64,
}

impl Trained {
    /// A and B are both trained, at one learning rate.
    pub const ALIKE: Self = Self { freeze_a: false, b_ratio: 1.0 };

    /// Whether a parameter is trained.
    pub fn has(self, param: &Param) -> bool {
        !(self.freeze_a && matches!(param.tensor, Tensor::Adapter(_, Matrix::A)))
    }

    /// A parameter's learning rate.
    pub fn rate(self, param: &Param, learning_rate: f64) -> f64 {
        match param.tensor {
            Tensor::Adapter(_, Matrix::B | Matrix::M) => learning_rate * self.b_ratio,
            _ => learning_rate,
        }
    }

    /// A parameter's weight decay: norms and biases of the model have none.
    pub const fn decay(param: &Param, weight_decay: f64) -> f64 {
        if matches!(param.tensor, Tensor::Norm(_) | Tensor::Bias(_)) { 0.0 } else { weight_decay }
    }
}
