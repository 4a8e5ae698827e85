//! Optimizers: SGD and AdamW as in PyTorch, stepped block by block, and the trait for others ([`UpdateRule`]).

mod schedule;

use std::fmt;
use std::sync::Arc;

use mesp_device::{Act, AdamW, Backend, Class, Label, Sgd, Updated, View, ViewMut};

pub use schedule::{Schedule, ScheduleKind};

use crate::adapter::{BlockPairs, Matrix};
use crate::arch::{Param, Tensor};
use crate::gradient::{Gradients, ParamList};
use crate::{Error, ErrorKind, Result, rng};

/// A state tensor that an optimizer keeps for each parameter, such as AdamW's first moment.
#[derive(Debug, Clone, Copy)]
pub struct StateSpec {
    /// Its name in plans, and of its file in checkpoints.
    pub name: &'static str,
    /// The state's `[rows, cols]` for a parameter of shape `[rows, cols]`.
    pub shape: fn([usize; 2]) -> [usize; 2],
}

impl StateSpec {
    /// A state of the parameter's shape.
    pub const fn alike(name: &'static str) -> Self {
        Self { name, shape: |shape| shape }
    }
}

/// The arguments of one update of a parameter.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// η.
    pub learning_rate: f64,
    /// λ, the decoupled weight decay.
    pub weight_decay: f64,
    /// The number of updates of this parameter, this one included.
    pub step: u64,
    /// Selects the random stream of stochastic rounding.
    pub key: u64,
}

/// The rule of an optimizer: its states, and one update of a parameter.
pub trait UpdateRule {
    /// The states of each parameter, in the order in which [`UpdateRule::update`] receives them.
    fn states(&self) -> &'static [StateSpec];
    /// Updates parameter `p` with its gradient `g`, which has the same shape.
    fn update<B: Backend>(&self, be: &mut B, p: ViewMut<'_>, g: View<'_>, states: &mut [Act], at: At);
}

/// Stochastic gradient descent, as `torch.optim.SGD`; with momentum 0 it has no state.
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
        be.sgd(Updated::at_random(p, key), states.first_mut().map(Act::view_mut), g, settings);
    }
}

/// Adam with decoupled weight decay, as `torch.optim.AdamW` (Loshchilov and Hutter 2019).
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
        be.adamw(Updated::at_random(p, key), m.view_mut().into(), v.view_mut().into(), g, settings);
    }
}

/// The choice of optimizer with its settings. Updates are those of PyTorch's optimizers of the same names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerKind {
    /// Stochastic gradient descent.
    Sgd(SgdUpdate),
    /// Adam with decoupled weight decay.
    AdamW(AdamWUpdate),
}

impl OptimizerKind {
    /// From the name on the command line, `sgd` or `adamw`, with PyTorch's default settings.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no optimizer of that name.
    pub fn parse(name: &str, momentum: f64) -> Result<Self> {
        match name {
            "sgd" => Ok(Self::sgd(momentum)),
            "adamw" => Ok(Self::adamw(0.9, 0.999, 1e-8)),
            _ => Err(Error::usage(ErrorKind::Unknown, "‘optimizer’")
                .is(format!("{name:?}"))
                .expected("sgd or adamw")),
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

/// The name and settings as checkpoints store them.
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
}

/// An optimizer and the state of all its parameters.
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
    /// Allocates all state as zeros. `seed` is for the stochastic rounding of bf16 adapters.
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

    /// Updates the parameters of a place (a block, the head, the embeddings); `step` counts from 1.
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

    /// The parameters.
    pub fn list(&self) -> &Arc<ParamList> {
        &self.list
    }

    /// The update rule.
    pub fn kind(&self) -> U {
        self.kind
    }

    /// Each state by name, with its tensor for each parameter; for checkpoints.
    pub fn states(&self) -> impl Iterator<Item = (&'static str, Vec<(&Param, View<'_>)>)> {
        self.kind.states().iter().enumerate().map(|(i, spec)| {
            let states = self.states.iter().skip(i).step_by(self.kind.states().len());
            (spec.name, self.list.params().iter().zip(states.map(Act::view)).collect())
        })
    }

    /// The tensors of one state, mutable.
    pub fn state_mut(&mut self, name: &str) -> Vec<(Param, &mut Act)> {
        let Some(i) = self.kind.states().iter().position(|spec| spec.name == name) else { return Vec::new() };
        let states = self.states.iter_mut().skip(i).step_by(self.kind.states().len());
        self.list.params().iter().copied().zip(states).collect()
    }
}
