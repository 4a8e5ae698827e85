//! Optimizers over adapters, block by block.

mod schedule;

use std::fmt;
use std::sync::Arc;

use mesp_device::{Act, AdamW, Backend, Class, Label, Sgd, View, ViewMut};

pub use schedule::{Schedule, ScheduleKind};

use crate::adapter::{BlockPairs, Matrix};
use crate::arch::{Param, Tensor};
use crate::gradient::{Gradients, ParamList};
use crate::{Error, Result, rng};

/// A state that an update keeps of each parameter.
#[derive(Debug, Clone, Copy)]
pub struct StateSpec {
    /// Its name: in plans, and of its file in checkpoints.
    pub name: &'static str,
    /// Rows and columns for a parameter of so many.
    pub shape: fn([usize; 2]) -> [usize; 2],
}

impl StateSpec {
    /// One value for each of the parameter's.
    pub const fn alike(name: &'static str) -> Self {
        Self { name, shape: |shape| shape }
    }
}

/// Where a parameter stands when it is stepped.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// η.
    pub learning_rate: f64,
    /// λ.
    pub weight_decay: f64,
    /// Updates of it, this one among them.
    pub step: u64,
    /// Names the random numbers by which it is rounded.
    pub key: u64,
}

/// How a parameter is stepped.
pub trait UpdateRule {
    /// What it keeps of each parameter, in the order in which [`UpdateRule::update`] gets it.
    fn states(&self) -> &'static [StateSpec];
    /// One step of `p` along its gradient `g`.
    fn update<B: Backend>(&self, be: &mut B, p: ViewMut<'_>, g: View<'_>, states: &mut [Act], at: At);
}

/// Stochastic gradient descent; momentum 0 keeps no state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdUpdate {
    /// μ.
    pub momentum: f64,
}

impl UpdateRule for SgdUpdate {
    fn states(&self) -> &'static [StateSpec] {
        const MOMENTUM: [StateSpec; 1] = [StateSpec::alike("first_moment")];
        if self.momentum == 0.0 { &[] } else { &MOMENTUM }
    }

    fn update<B: Backend>(&self, be: &mut B, p: ViewMut<'_>, g: View<'_>, states: &mut [Act], at: At) {
        let At { learning_rate, weight_decay, key, .. } = at;
        let settings = Sgd { learning_rate, momentum: self.momentum, weight_decay };
        be.sgd(p, states.first_mut().map(Act::view_mut), g, settings, key);
    }
}

/// Adam with decoupled weight decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWUpdate {
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
}

impl UpdateRule for AdamWUpdate {
    fn states(&self) -> &'static [StateSpec] {
        const MOMENTS: [StateSpec; 2] = [StateSpec::alike("first_moment"), StateSpec::alike("second_moment")];
        &MOMENTS
    }

    fn update<B: Backend>(&self, be: &mut B, p: ViewMut<'_>, g: View<'_>, states: &mut [Act], at: At) {
        let [m, v] = states else { return };
        let Self { beta1, beta2, eps } = *self;
        let At { learning_rate, weight_decay, step, key } = at;
        let settings = AdamW { learning_rate, beta1, beta2, eps, weight_decay, step };
        be.adamw(p, m.view_mut(), v.view_mut(), g, settings, key);
    }
}

/// Which update, with its own settings. Steps as PyTorch's optimizers of the same names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerKind {
    /// Stochastic gradient descent.
    Sgd(SgdUpdate),
    /// Adam with decoupled weight decay.
    AdamW(AdamWUpdate),
}

impl OptimizerKind {
    /// From the command line's name, with the usual settings.
    ///
    /// # Errors
    /// When there is none by that name.
    pub fn parse(name: &str, momentum: f64) -> Result<Self> {
        match name {
            "sgd" => Ok(Self::sgd(momentum)),
            "adamw" => Ok(Self::adamw(0.9, 0.999, 1e-8)),
            _ => Err(Error::usage(format!("optimizer {name:?} is unknown, expected sgd or adamw"))),
        }
    }

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sgd(_) => "sgd",
            Self::AdamW(_) => "adamw",
        }
    }

    /// SGD with a momentum, 0 for none.
    pub const fn sgd(momentum: f64) -> Self {
        Self::Sgd(SgdUpdate { momentum })
    }

    /// AdamW with β₁, β₂ and ε.
    pub const fn adamw(beta1: f64, beta2: f64, eps: f64) -> Self {
        Self::AdamW(AdamWUpdate { beta1, beta2, eps })
    }
}

/// As checkpoints name it.
impl fmt::Display for OptimizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sgd(SgdUpdate { momentum }) => write!(f, "Sgd {{ momentum: {momentum:?} }}"),
            Self::AdamW(AdamWUpdate { beta1, beta2, eps }) => {
                write!(f, "AdamW {{ beta1: {beta1:?}, beta2: {beta2:?}, eps: {eps:?} }}")
            }
        }
    }
}

impl UpdateRule for OptimizerKind {
    fn states(&self) -> &'static [StateSpec] {
        match self {
            Self::Sgd(update) => update.states(),
            Self::AdamW(update) => update.states(),
        }
    }

    fn update<B: Backend>(&self, be: &mut B, p: ViewMut<'_>, g: View<'_>, states: &mut [Act], at: At) {
        match self {
            Self::Sgd(update) => update.update(be, p, g, states, at),
            Self::AdamW(update) => update.update(be, p, g, states, at),
        }
    }
}

/// Which parts of an adapter are trained, and how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trained {
    /// Whether A stays as it is (LoRA-FA; Zhang et al. 2023): no gradient and no state of it exist.
    pub freeze_a: bool,
    /// The learning rate of B, and of magnitudes, over A's (LoRA+; Hayou et al. 2024).
    pub b_ratio: f64,
}

impl Trained {
    /// A and B alike.
    pub const ALIKE: Self = Self { freeze_a: false, b_ratio: 1.0 };

    /// Whether a parameter is stepped.
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
}

/// An optimizer and its state.
#[derive(Debug)]
pub struct Optimizer<U = OptimizerKind> {
    kind: U,
    weight_decay: f64,
    trained: Trained,
    seed: u64,
    list: Arc<ParamList>,
    /// The states of each parameter, one parameter's beside each other.
    states: Vec<Act>,
}

impl<U: UpdateRule + Copy> Optimizer<U> {
    /// With all state zero. `seed` is of the random numbers by which adapters in bf16 are rounded.
    pub fn new<B: Backend>(
        be: &mut B,
        kind: U,
        weight_decay: f64,
        trained: Trained,
        seed: u64,
        list: &Arc<ParamList>,
    ) -> Self {
        let (params, list) = (list.params(), Arc::clone(list));
        let mut all = |spec: &StateSpec| -> Vec<Act> {
            let label = Label::new(Class::Optimizer, spec.name);
            let each = |param: &Param| {
                let [rows, cols] = (spec.shape)(param.shape);
                be.persist(rows, cols, label)
            };
            params.iter().map(each).collect()
        };
        let mut each: Vec<_> = kind.states().iter().map(|spec| all(spec).into_iter()).collect();
        let mut states = Vec::with_capacity(params.len() * each.len());
        for _ in params {
            states.extend(each.iter_mut().filter_map(Iterator::next));
        }
        Self { kind, weight_decay, trained, seed, list, states }
    }

    /// Steps the adapters of a place; `step` counts from 1.
    pub fn update<B: Backend>(
        &mut self,
        be: &mut B,
        place: usize,
        pairs: &mut BlockPairs,
        grads: &Gradients,
        learning_rate: f64,
        step: u64,
    ) {
        debug_assert!(Arc::ptr_eq(grads.list(), &self.list), "gradients of what is stepped");
        let Self { kind, weight_decay, trained, seed, list, states } = self;
        let kept = kind.states().len();
        for i in list.of(place) {
            let param = &list.params()[i];
            let Tensor::Adapter(module, matrix) = param.tensor else { continue };
            let p = pairs[module as usize].as_mut().and_then(|pair| pair.matrix_mut(matrix));
            let (Some(p), Some(g)) = (p, grads.view(i)) else { continue };
            let at = At {
                learning_rate: trained.rate(param, learning_rate),
                weight_decay: *weight_decay,
                step,
                key: rng::bits(*seed, step, param.stream),
            };
            kind.update(be, p.view_mut(), g, &mut states[i * kept..][..kept], at);
        }
    }

    /// What it steps.
    pub fn list(&self) -> &Arc<ParamList> {
        &self.list
    }

    /// Which update.
    pub fn kind(&self) -> U {
        self.kind
    }

    /// Each state by its name, with what it holds of each parameter: for checkpoints.
    pub fn states(&self) -> impl Iterator<Item = (&'static str, Vec<(&Param, View<'_>)>)> {
        self.kind.states().iter().enumerate().map(|(i, spec)| {
            let states = self.states.iter().skip(i).step_by(self.kind.states().len());
            (spec.name, self.list.params().iter().zip(states.map(Act::view)).collect())
        })
    }

    /// As [`Optimizer::states`], to write.
    pub fn state_mut(&mut self, name: &str) -> Vec<(Param, &mut Act)> {
        let Some(i) = self.kind.states().iter().position(|spec| spec.name == name) else { return Vec::new() };
        let states = self.states.iter_mut().skip(i).step_by(self.kind.states().len());
        self.list.params().iter().copied().zip(states).collect()
    }
}
