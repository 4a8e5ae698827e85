//! Momentum that is made orthogonal (Muon; Jordan et al. 2024).
//!
//! ```text
//! M ← M + (1−μ)·(G − M)      U = G + μ·(M − G)      X₀ = U/(‖U‖ + ε)
//! five times   A = X·Xᵀ   X ← a·X + (b·A + c·A²)·X      (a, b, c) = (3.4445, −4.775, 2.0315)
//! W ← (1 − ηλ)·W − 0.2·η·√max(rows, columns)·X
//! ```
//! The last factor gives updates the root mean square of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning
//! rate serves both.
//! Where there are more rows than columns, `A = Xᵀ·X` stands on the right. As `torch.optim.Muon` with
//! `adjust_lr_fn="match_rms_adamw"`: matrices of blocks; tables, norms and biases are stepped by AdamW.

use mesp_device::{Act, Backend, Class, Form, Label, Sgd, Updated, View};

use super::{AdamWUpdate, At, StateSpec, UpdateRule};
use crate::arch::{Param, Tensor};

/// Muon for the matrices of blocks, AdamW for everything else.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MuonUpdate {
    /// μ.
    pub momentum: f64,
    /// What steps the rest.
    pub rest: AdamWUpdate,
}

const STEPS: usize = 5;
const COEFFICIENTS: [f64; 3] = [3.4445, -4.775, 2.0315];
const EPS: f64 = 1e-7;

const fn label(name: &'static str) -> Label {
    Label::new(Class::Optimizer, name)
}

impl MuonUpdate {
    /// Whether a parameter is a matrix of a block.
    fn takes(param: &Param) -> bool {
        match param.tensor {
            Tensor::Weight(module) => !module.is_outside_blocks(),
            Tensor::Adapter(module, _) => !module.is_outside_blocks() && param.shape[1] > 1,
            Tensor::Bias(_) | Tensor::Norm(_) => false,
        }
    }
}

impl UpdateRule for MuonUpdate {
    fn states(&self, param: &Param) -> Vec<StateSpec> {
        if Self::takes(param) {
            vec![StateSpec::new("momentum", param.shape)]
        } else {
            self.rest.states(param)
        }
    }

    fn needs_whole(&self, param: &Param) -> bool {
        Self::takes(param) || self.rest.needs_whole(param)
    }

    fn allocates(&self) -> bool {
        true
    }

    fn update<B: Backend>(&self, be: &mut B, p: Updated<'_>, g: View<'_>, states: &mut [Act], at: At) {
        if !Self::takes(&at.param) {
            return self.rest.update(be, p, g, states, at);
        }
        let [m] = states else { return };
        let [rows, cols] = at.param.shape;
        be.scale(m.view_mut(), self.momentum);
        be.add_scaled(m.view_mut(), g, 1.0 - self.momentum);
        let mut x = be.alloc(rows, cols, label("muon_update"));
        be.copy(x.view_mut(), g);
        be.scale(x.view_mut(), 1.0 - self.momentum);
        be.add_scaled(x.view_mut(), m.view(), self.momentum);
        let x = orthogonal(be, x);
        let adjusted = 0.2 * (rows.max(cols) as f64).sqrt();
        let settings = Sgd {
            learning_rate: at.learning_rate * adjusted,
            momentum: 0.0,
            weight_decay: at.weight_decay / adjusted,
        };
        be.sgd(p, None, x.view(), settings);
        be.free(x);
    }
}

/// The nearest matrix with singular values near 1.
fn orthogonal<B: Backend>(be: &mut B, mut x: Act) -> Act {
    let (rows, cols) = (x.rows(), x.cols());
    let (tall, side) = (rows > cols, rows.min(cols));
    let norm = be.sum_of_squares(x.view()).sqrt();
    be.scale(x.view_mut(), 1.0 / (norm + EPS));
    let mut gram = be.alloc(side, side, label("muon_gram"));
    let mut square = be.alloc(side, side, label("muon_square"));
    let mut next = be.alloc(rows, cols, label("muon_next"));
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..STEPS {
        let form = if tall { Form::LeftTransposed } else { Form::RightTransposed };
        be.product(gram.view_mut(), form, x.view(), x.view(), 1.0, false);
        be.product(square.view_mut(), Form::Plain, gram.view(), gram.view(), c, false);
        be.add_scaled(square.view_mut(), gram.view(), b);
        be.copy(next.view_mut(), x.view());
        be.scale(next.view_mut(), a);
        let (left, right) = if tall { (x.view(), square.view()) } else { (square.view(), x.view()) };
        be.product(next.view_mut(), Form::Plain, left, right, 1.0, true);
        std::mem::swap(&mut x, &mut next);
    }
    be.free(next);
    be.free(square);
    be.free(gram);
    x
}
