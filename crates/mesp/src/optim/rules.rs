//! The update rules that are one pass over values, or a few.

use mesp_device::{Act, AdamW, Backend, Elem, Factored, Foam, Lion, Moment, Sgd, Updated, View, ViewMut};

use super::{At, StateSpec, UpdateRule};
use crate::adapter::Matrix;
use crate::arch::{Param, Tensor};

/// Stochastic gradient descent, as `torch.optim.SGD`; with momentum 0 it has no state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdUpdate {
    /// μ.
    pub momentum: f64,
}

impl UpdateRule for SgdUpdate {
    fn states(&self, param: &Param) -> Vec<StateSpec> {
        if self.momentum == 0.0 { Vec::new() } else { vec![StateSpec::new("first_moment", param.shape)] }
    }

    fn update<B: Backend>(&self, be: &mut B, p: Updated<'_>, g: View<'_>, states: &mut [Act], at: At) {
        let At { learning_rate, weight_decay, .. } = at;
        let settings = Sgd { learning_rate, momentum: self.momentum, weight_decay };
        be.sgd(p, states.first_mut().map(|m| rows(m, &at, g)), g, settings);
    }
}

/// How AdamW's moments are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moments {
    /// In the backend's numbers.
    Full,
    /// In bf16, rounded at random: β₂ moves a second moment by less than half of bf16's last place.
    Bf16,
    /// In 8 bits by blocks of 256 values (Dettmers et al. 2022, arXiv 2110.02861); small tensors in the backend's numbers.
    Bits8,
}

/// Values from which on a tensor's moments are stored in 8 bits, as in bitsandbytes.
const LEAST_FOR_BITS8: usize = 4096;
/// Values of a block with one scale.
const BLOCK: usize = 256;

/// Adam with decoupled weight decay, as `torch.optim.AdamW` (Loshchilov and Hutter 2019).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWUpdate {
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
    /// How the moments are stored.
    pub moments: Moments,
}

impl AdamWUpdate {
    /// How a parameter's moments are stored.
    fn stored(&self, param: &Param) -> Moments {
        let small = param.shape[0] * param.shape[1] < LEAST_FOR_BITS8;
        if self.moments == Moments::Bits8 && small { Moments::Full } else { self.moments }
    }
}

impl UpdateRule for AdamWUpdate {
    fn states(&self, param: &Param) -> Vec<StateSpec> {
        let names = ["first_moment", "second_moment"];
        let [rows, cols] = param.shape;
        match self.stored(param) {
            Moments::Full => names.map(|name| StateSpec::new(name, param.shape)).into(),
            Moments::Bf16 => {
                names.map(|name| StateSpec { elem: Elem::Bf16, ..StateSpec::new(name, param.shape) }).into()
            }
            Moments::Bits8 => {
                let scales = [(rows * cols).div_ceil(BLOCK), 1];
                let codes =
                    names.map(|name| StateSpec { elem: Elem::Byte, ..StateSpec::new(name, param.shape) });
                let scales =
                    ["first_moment_scales", "second_moment_scales"].map(|name| StateSpec::new(name, scales));
                [codes[0], codes[1], scales[0], scales[1]].into()
            }
        }
    }

    /// Blocks of values with one scale are not cut.
    fn needs_whole(&self, param: &Param) -> bool {
        self.stored(param) == Moments::Bits8 && !(64 * param.shape[1]).is_multiple_of(BLOCK)
    }

    fn update<B: Backend>(&self, be: &mut B, p: Updated<'_>, g: View<'_>, states: &mut [Act], at: At) {
        let Self { beta1, beta2, eps, .. } = *self;
        let At { learning_rate, weight_decay, step, .. } = at;
        let settings = AdamW { learning_rate, beta1, beta2, eps, weight_decay, step };
        let first = at.first_row * at.param.shape[1] / BLOCK;
        let blocks = (g.rows() * g.cols()).div_ceil(BLOCK);
        let (m, v) = match states {
            [m, v] => (rows(m, &at, g).into(), rows(v, &at, g).into()),
            [m, v, m_scales, v_scales] => {
                let [m_scales, v_scales] =
                    [m_scales, v_scales].map(|s| Some(s.rows_mut(first..first + blocks)));
                let moment = |values, scales, signed| Moment { values, scales, signed };
                (moment(rows(m, &at, g), m_scales, true), moment(rows(v, &at, g), v_scales, false))
            }
            _ => return,
        };
        be.adamw(p, m, v, g, settings);
    }
}

/// The sign of an interpolated momentum (Lion; Chen et al. 2023, arXiv 2302.06675).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LionUpdate {
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
}

impl UpdateRule for LionUpdate {
    fn states(&self, param: &Param) -> Vec<StateSpec> {
        vec![StateSpec::new("first_moment", param.shape)]
    }

    fn update<B: Backend>(&self, be: &mut B, p: Updated<'_>, g: View<'_>, states: &mut [Act], at: At) {
        let [m] = states else { return };
        let At { learning_rate, weight_decay, .. } = at;
        let Self { beta1, beta2 } = *self;
        be.lion(p, rows(m, &at, g), g, Lion { learning_rate, beta1, beta2, weight_decay });
    }
}

/// Adam with moments of blocks of 2^level adjacent values of a row, and the current gradient's deviation from its
/// block's mean (FOAM; Wen et al. 2025, arXiv 2512.07112). Matrices of blocks are folded; other tensors, and matrices
/// whose rows are an adapter's rank, have level 0 and scale 1, which is Adam with ε on the uncorrected root.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FoamUpdate {
    /// l.
    pub level: u32,
    /// α, by which updates of folded matrices are multiplied.
    pub scale: f64,
    /// ρ, by which the deviation is multiplied.
    pub residual: f64,
    /// Whether the second moment averages the square of a block's mean; else the mean of the squares.
    pub square_of_mean: bool,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
}

impl FoamUpdate {
    /// The level and scale of a parameter.
    fn of(&self, param: &Param) -> (u32, f64) {
        let folded = match param.tensor {
            Tensor::Weight(module) | Tensor::Adapter(module, Matrix::A) => !module.is_outside_blocks(),
            _ => false,
        };
        if folded { (self.level, self.scale) } else { (0, 1.0) }
    }
}

impl UpdateRule for FoamUpdate {
    fn states(&self, param: &Param) -> Vec<StateSpec> {
        let (level, _) = self.of(param);
        let [rows, cols] = param.shape;
        let shape = [rows, cols.div_ceil(1 << level)];
        vec![StateSpec::new("first_moment", shape), StateSpec::new("second_moment", shape)]
    }

    fn update<B: Backend>(&self, be: &mut B, p: Updated<'_>, g: View<'_>, states: &mut [Act], at: At) {
        let [m, v] = states else { return };
        let Self { residual, square_of_mean, beta1, beta2, eps, .. } = *self;
        let (level, scale) = self.of(&at.param);
        let At { learning_rate, weight_decay, step, .. } = at;
        let cols = at.param.shape[1];
        let settings = Foam {
            cols,
            level,
            beta1,
            beta2,
            eps,
            scale,
            residual,
            square_of_mean,
            learning_rate,
            weight_decay,
            step,
        };
        be.foam(p, rows(m, &at, g), rows(v, &at, g), g, settings);
    }
}

/// A second moment of rows times columns and updates of limited root mean square: AdaLomo (Lv et al. 2023, arXiv
/// 2310.10195), and with rates that do not grow with a tensor's own root mean square Adafactor without momentum (Shazeer
/// and Stern 2018), as `transformers.Adafactor` with `relative_step=False`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FactoredUpdate {
    /// Whether the rate is multiplied by a tensor's root mean square.
    pub scale_parameter: bool,
}

impl UpdateRule for FactoredUpdate {
    fn states(&self, param: &Param) -> Vec<StateSpec> {
        let [rows, cols] = param.shape;
        let sums = StateSpec { saved: false, ..StateSpec::new("update_sums", [3, 1]) };
        if cols == 1 {
            return vec![StateSpec::new("second_moment", [rows, 1]), sums];
        }
        vec![
            StateSpec::new("second_moment_rows", [rows, 1]),
            StateSpec::new("second_moment_columns", [cols, 1]),
            sums,
        ]
    }

    /// Means over rows and columns; the norm of the update, which needs both; the update.
    fn visits(&self, _: &Param) -> usize {
        3
    }

    fn update<B: Backend>(&self, be: &mut B, p: Updated<'_>, g: View<'_>, states: &mut [Act], at: At) {
        let (r, c, sums) = match states {
            [r, sums] => (r, None, sums),
            [r, c, sums] => (r, Some(c), sums),
            _ => return,
        };
        let [rows, cols] = at.param.shape;
        let settings = Factored {
            rows,
            cols,
            beta: 1.0 - (at.step as f64).powf(-0.8),
            eps1: 1e-30,
            eps2: 1e-3,
            threshold: 1.0,
            scale_parameter: self.scale_parameter,
            learning_rate: at.learning_rate,
            weight_decay: at.weight_decay,
        };
        let (first, own) = (at.first_row, at.first_row..at.first_row + g.rows());
        match at.visit {
            0 => be.factored_moments(
                r.rows_mut(own),
                c.map(Act::view_mut),
                sums.view_mut(),
                g,
                settings,
                first,
            ),
            1 => {
                let (r, c) = (r.rows_view(own), c.as_ref().map(|c| c.view()));
                be.factored_norms(sums.view_mut(), p.p.view(), r, c, g, settings, first);
            }
            _ => {
                let (r, c) = (r.rows_view(own), c.as_ref().map(|c| c.view()));
                be.factored_step(p, r, c, sums.view(), g, settings);
            }
        }
    }
}

/// The rows of a state that belong to those of a gradient.
fn rows<'a>(state: &'a mut Act, at: &At, g: View<'_>) -> ViewMut<'a> {
    state.rows_mut(at.first_row..at.first_row + g.rows())
}
