//! The choice of an optimizer.

use mesp_device::{Act, Backend, Updated, View};

use super::{
    AdamWUpdate, At, FactoredUpdate, FoamUpdate, LionUpdate, Moments, MuonUpdate, SgdUpdate, StateSpec,
    UpdateRule,
};
use crate::arch::Param;
use crate::{Error, ErrorKind, Result};

/// The choice of optimizer with its settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerKind {
    /// Stochastic gradient descent.
    Sgd(SgdUpdate),
    /// SGD without state whose updates are fused into the backward (LOMO; Lv et al. 2023, arXiv 2306.09782).
    Lomo,
    /// Adam with decoupled weight decay.
    AdamW(AdamWUpdate),
    /// The sign of a momentum.
    Lion(LionUpdate),
    /// Adam with folded moments.
    Foam(FoamUpdate),
    /// A factored second moment: rates in proportion to a tensor's root mean square, updates fused into the backward.
    AdaLomo,
    /// A factored second moment.
    Adafactor,
    /// Orthogonal momentum.
    Muon(MuonUpdate),
}

/// Runs an expression with the rule of a kind.
macro_rules! rule {
    ($kind:expr, $rule:ident => $do:expr) => {
        match $kind {
            OptimizerKind::Sgd($rule) => $do,
            OptimizerKind::Lomo => {
                let $rule = &SgdUpdate { momentum: 0.0 };
                $do
            }
            OptimizerKind::AdamW($rule) => $do,
            OptimizerKind::Lion($rule) => $do,
            OptimizerKind::Foam($rule) => $do,
            OptimizerKind::AdaLomo => {
                let $rule = &FactoredUpdate { scale_parameter: true };
                $do
            }
            OptimizerKind::Adafactor => {
                let $rule = &FactoredUpdate { scale_parameter: false };
                $do
            }
            OptimizerKind::Muon($rule) => $do,
        }
    };
}

impl OptimizerKind {
    /// The names on the command line.
    pub const NAMES: [&'static str; 10] =
        ["sgd", "adamw", "adamw-bf16", "adamw-8bit", "adafactor", "lion", "muon", "foam", "lomo", "adalomo"];

    /// From the name on the command line ([`OptimizerKind::NAMES`]), with the settings of the field: PyTorch's defaults for
    /// SGD, AdamW and Muon, those of the papers for the others.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no optimizer of that name.
    pub fn parse(name: &str, momentum: f64) -> Result<Self> {
        let stored = |moments| AdamWUpdate { moments, ..Self::ADAMW };
        match name {
            "sgd" => Ok(Self::sgd(momentum)),
            "lomo" => Ok(Self::Lomo),
            "adamw" => Ok(Self::AdamW(Self::ADAMW)),
            "adamw-bf16" => Ok(Self::AdamW(stored(Moments::Bf16))),
            "adamw-8bit" => Ok(Self::AdamW(stored(Moments::Bits8))),
            "adafactor" => Ok(Self::Adafactor),
            "adalomo" => Ok(Self::AdaLomo),
            "lion" => Ok(Self::Lion(LionUpdate { beta1: 0.9, beta2: 0.99 })),
            "muon" => Ok(Self::Muon(MuonUpdate { momentum: 0.95, rest: Self::ADAMW })),
            "foam" => Ok(Self::Foam(FoamUpdate {
                level: 2,
                scale: 0.25,
                residual: 1.0,
                square_of_mean: false,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
            })),
            _ => Err(Error::usage(ErrorKind::Unknown, "‘optimizer’")
                .is(format!("{name:?}"))
                .expected(Self::NAMES.join(", "))),
        }
    }

    /// `torch.optim.AdamW`'s defaults.
    const ADAMW: AdamWUpdate = AdamWUpdate { beta1: 0.9, beta2: 0.999, eps: 1e-8, moments: Moments::Full };

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sgd(_) => "sgd",
            Self::Lomo => "lomo",
            Self::AdamW(AdamWUpdate { moments: Moments::Full, .. }) => "adamw",
            Self::AdamW(AdamWUpdate { moments: Moments::Bf16, .. }) => "adamw-bf16",
            Self::AdamW(AdamWUpdate { moments: Moments::Bits8, .. }) => "adamw-8bit",
            Self::Lion(_) => "lion",
            Self::Foam(_) => "foam",
            Self::AdaLomo => "adalomo",
            Self::Adafactor => "adafactor",
            Self::Muon(_) => "muon",
        }
    }

    /// Whether updates are fused into the backward unless something else is asked for.
    pub const fn is_fused(self) -> bool {
        matches!(self, Self::Lomo | Self::AdaLomo)
    }

    /// Where adapters are trained, the peak learning rate unless another is asked for.
    pub const fn adapter_rate(self) -> f64 {
        match self {
            Self::Lion(_) => 5e-5,
            Self::AdaLomo => 1e-3,
            _ => 2e-4,
        }
    }

    /// Where all weights are trained, the peak learning rate unless another is asked for: AdamW's usual one, and that of
    /// other rules for steps of a like size. AdaLomo's is of its paper, in proportion to a tensor's root mean square.
    pub const fn model_rate(self) -> f64 {
        match self {
            Self::Sgd(_) | Self::Lomo => 1e-2,
            Self::AdaLomo => 5e-4,
            Self::Foam(_) => 5e-5,
            Self::Lion(_) => 5e-6,
            Self::AdamW(_) | Self::Adafactor | Self::Muon(_) => 2e-5,
        }
    }

    /// States of a parameter, at most.
    pub const fn most_states(self) -> usize {
        match self {
            Self::Sgd(SgdUpdate { momentum: 0.0 }) | Self::Lomo => 0,
            Self::Sgd(_) | Self::Lion(_) => 1,
            Self::AdamW(AdamWUpdate { moments: Moments::Bits8, .. }) => 4,
            Self::AdamW(_) | Self::Foam(_) | Self::Muon(_) => 2,
            Self::AdaLomo | Self::Adafactor => 3,
        }
    }

    /// SGD with a momentum, 0 for none.
    pub const fn sgd(momentum: f64) -> Self {
        Self::Sgd(SgdUpdate { momentum })
    }

    /// AdamW with β₁, β₂ and ε.
    pub const fn adamw(beta1: f64, beta2: f64, eps: f64) -> Self {
        Self::AdamW(AdamWUpdate { beta1, beta2, eps, moments: Moments::Full })
    }
}

impl UpdateRule for OptimizerKind {
    fn states(&self, param: &Param) -> Vec<StateSpec> {
        rule!(self, rule => rule.states(param))
    }

    fn visits(&self, param: &Param) -> usize {
        rule!(self, rule => rule.visits(param))
    }

    fn needs_whole(&self, param: &Param) -> bool {
        rule!(self, rule => rule.needs_whole(param))
    }

    fn allocates(&self) -> bool {
        rule!(self, rule => rule.allocates())
    }

    fn update<B: Backend>(&self, be: &mut B, p: Updated<'_>, g: View<'_>, states: &mut [Act], at: At) {
        rule!(self, rule => rule.update(be, p, g, states, at));
    }
}
