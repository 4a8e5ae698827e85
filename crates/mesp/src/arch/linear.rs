//! A linear layer.

use std::ops::Range;

use mesp_device::Weight;

/// A frozen linear layer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// Some of its outputs.
    #[must_use]
    pub(crate) fn rows(&self, rows: Range<usize>) -> Self {
        let bias = self.bias.as_ref().map(|bias| bias[rows.clone()].to_vec());
        Self { weight: self.weight.rows_range(rows), bias }
    }
}
