//! Optimizers, which step parameter by parameter, and the trait for others ([`UpdateRule`]).
//!
//! An optimizer is a value ([`OptimizerKind`]) that names the states of each parameter, each with its own shape and
//! storage, and says how a parameter is updated from its gradient. An update may be made tile by tile: a rule that needs
//! sums over a whole tensor visits its tiles several times ([`UpdateRule::visits`]), so that a gradient never has to be in
//! memory as a whole. Equations: `docs/math/optimizers.md`.

mod kind;
mod muon;
mod rules;
mod schedule;
mod trained;
mod weights;

use std::ops::Range;
use std::sync::Arc;

use mesp_device::{Act, Backend, Class, Elem, Label, Updated, View};

pub use kind::OptimizerKind;
pub use muon::MuonUpdate;
pub use rules::{AdamWUpdate, FactoredUpdate, FoamUpdate, LionUpdate, Moments, SgdUpdate};
pub use schedule::{Schedule, ScheduleKind};
pub use trained::Trained;
pub use weights::TrainedWeights;

use crate::adapter::BlockPairs;
use crate::arch::{Param, Tensor};
use crate::gradient::{Gradients, ParamList};
use crate::rng;

/// A state tensor that an optimizer keeps for a parameter, such as AdamW's first moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateSpec {
    /// Its name in plans, and of its file in checkpoints.
    pub name: &'static str,
    /// Its rows and columns.
    pub shape: [usize; 2],
    /// How it is stored.
    pub elem: Elem,
    /// Whether a later update reads it: others are no part of checkpoints.
    pub saved: bool,
}

impl StateSpec {
    /// A state in the backend's numbers.
    pub const fn new(name: &'static str, shape: [usize; 2]) -> Self {
        Self { name, shape, elem: Elem::Full, saved: true }
    }
}

/// The arguments of one update of a parameter, or of some rows of it.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// The parameter.
    pub param: Param,
    /// The first of its rows that are updated.
    pub first_row: usize,
    /// Which visit it is, counted from 0.
    pub visit: usize,
    /// η.
    pub learning_rate: f64,
    /// λ, the decoupled weight decay.
    pub weight_decay: f64,
    /// The number of updates of this parameter, this one included.
    pub step: u64,
}

/// The rule of an optimizer: its states, and one update of a parameter.
pub trait UpdateRule {
    /// The states of a parameter, in the order in which [`UpdateRule::update`] receives them.
    fn states(&self, param: &Param) -> Vec<StateSpec>;
    /// How often an update goes through all tiles of rows of a parameter. Once unless implemented.
    fn visits(&self, _param: &Param) -> usize {
        1
    }
    /// Whether an update needs the whole gradient of a parameter at once, and no tile of rows will do. Not unless
    /// implemented.
    fn needs_whole(&self, _param: &Param) -> bool {
        false
    }
    /// Whether an update allocates buffers. Not unless implemented.
    fn allocates(&self) -> bool {
        false
    }
    /// Updates some rows of a parameter with their gradient `g`, which has the same shape: in the last visit, while those
    /// before it collect what it reads. `states` are those of the whole parameter.
    fn update<B: Backend>(&self, be: &mut B, p: Updated<'_>, g: View<'_>, states: &mut [Act], at: At);
}

/// What an optimizer steps: adapters of a place, and tensors of the model.
#[derive(Debug)]
pub struct Stepped<'a> {
    /// The adapters of the place.
    pub pairs: &'a mut BlockPairs,
    /// The model's tensors that are trained.
    pub weights: Option<&'a mut TrainedWeights>,
}

impl Stepped<'_> {
    /// Some rows of a parameter.
    fn updated(&mut self, param: &Param, rows: Range<usize>, key: u64) -> Option<Updated<'_>> {
        let Tensor::Adapter(module, matrix) = param.tensor else {
            return self.weights.as_mut()?.updated(param.place, param.tensor, rows, key);
        };
        let act = self.pairs[module as usize].as_mut()?.matrix_mut(matrix)?;
        let first = rows.start * act.cols();
        Some(Updated { p: act.rows_mut(rows), rest: None, key, first })
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
    /// Where each parameter's begin, and at the end their number.
    starts: Vec<usize>,
}

impl<U: UpdateRule + Copy> Optimizer<U> {
    /// Allocates all state as zeros. `seed` is for stochastic rounding.
    pub fn new<B: Backend>(
        be: &mut B,
        kind: U,
        weight_decay: f64,
        trained: Trained,
        seed: u64,
        list: &Arc<ParamList>,
    ) -> Self {
        let specs: Vec<_> = list.params().iter().map(|param| kind.states(param)).collect();
        let mut states: Vec<Vec<Option<Act>>> =
            specs.iter().map(|specs| specs.iter().map(|_| None).collect()).collect();
        // All of one name lie behind one another.
        for name in names(specs.iter().flatten()) {
            for (specs, states) in specs.iter().zip(&mut states) {
                for (StateSpec { shape: [rows, cols], elem, .. }, state) in
                    specs.iter().zip(states).filter(|(spec, _)| spec.name == name)
                {
                    *state = Some(be.persist_as(*rows, *cols, *elem, Label::new(Class::Optimizer, name)));
                }
            }
        }
        let mut starts = Vec::with_capacity(specs.len() + 1);
        starts.push(0);
        for specs in &specs {
            starts.push(starts[starts.len() - 1] + specs.len());
        }
        let mut all = Vec::with_capacity(starts[specs.len()]);
        all.extend(states.into_iter().flatten().flatten());
        Self { kind, weight_decay, trained, seed, list: Arc::clone(list), states: all, starts }
    }

    /// Updates the parameters of a place (a block, the head, the embeddings) that have gradients; `step` counts from 1.
    pub fn update<B: Backend>(
        &mut self,
        be: &mut B,
        place: usize,
        stepped: &mut Stepped<'_>,
        grads: &Gradients,
        learning_rate: f64,
        step: u64,
    ) {
        let list = Arc::clone(&self.list);
        for i in list.of(place) {
            let param = &list.params()[i];
            let Some(g) = grads.get(param.place, param.tensor) else { continue };
            for visit in 0..self.kind.visits(param) {
                self.visit(be, i, (stepped, 0..param.shape[0]), g, (learning_rate, step, visit));
            }
        }
    }

    /// One visit to some rows of the i-th parameter with their gradient, for a step with this rate and number.
    pub fn visit<B: Backend>(
        &mut self,
        be: &mut B,
        i: usize,
        (stepped, rows): (&mut Stepped<'_>, Range<usize>),
        g: View<'_>,
        (learning_rate, step, visit): (f64, u64, usize),
    ) {
        let Self { kind, weight_decay, trained, seed, list, states, starts } = self;
        let param = &list.params()[i];
        let at = At {
            param: *param,
            first_row: rows.start,
            visit,
            learning_rate: trained.rate(param, learning_rate),
            weight_decay: Trained::decay(param, *weight_decay),
            step,
        };
        let key = rng::bits(*seed, step, param.stream);
        let Some(p) = stepped.updated(param, rows, key) else { return };
        kind.update(be, p, g, &mut states[starts[i]..starts[i + 1]], at);
    }

    /// The parameters.
    pub fn list(&self) -> &Arc<ParamList> {
        &self.list
    }

    /// The update rule.
    pub fn kind(&self) -> U {
        self.kind
    }

    /// Each saved state by name, with its tensor for each parameter that has it; for checkpoints.
    pub fn states(&self) -> Vec<(&'static str, Vec<(&Param, View<'_>)>)> {
        let with = |name| {
            let each = self.specs().filter(|(_, spec)| spec.name == name && spec.saved);
            each.map(|(i, _)| (&self.list.params()[self.param_of(i)], self.states[i].view())).collect()
        };
        self.names().into_iter().map(|name| (name, with(name))).collect()
    }

    /// The names of the saved states.
    pub fn names(&self) -> Vec<&'static str> {
        let specs: Vec<_> = self.specs().map(|(_, spec)| spec).filter(|spec| spec.saved).collect();
        names(specs.iter())
    }

    /// The tensors of one state, mutable.
    pub fn state_mut(&mut self, name: &str) -> Vec<(Param, &mut Act)> {
        let numbers: Vec<_> =
            self.specs().filter(|(_, spec)| spec.name == name && spec.saved).map(|(i, _)| i).collect();
        let params: Vec<_> = numbers.iter().map(|i| self.list.params()[self.param_of(*i)]).collect();
        let states = self.states.iter_mut().enumerate().filter(|(i, _)| numbers.contains(i));
        params.into_iter().zip(states.map(|(_, state)| state)).collect()
    }

    /// The number of each state, with what it is.
    fn specs(&self) -> impl Iterator<Item = (usize, StateSpec)> {
        let all = self.list.params().iter().enumerate();
        all.flat_map(|(i, param)| {
            let first = self.starts[i];
            self.kind.states(param).into_iter().enumerate().map(move |(n, spec)| (first + n, spec))
        })
    }

    /// The parameter that a state is of.
    fn param_of(&self, state: usize) -> usize {
        self.starts.partition_point(|start| *start <= state) - 1
    }
}

/// The names of states, each once, in the order of their first parameter.
fn names<'a>(specs: impl Iterator<Item = &'a StateSpec>) -> Vec<&'static str> {
    let mut names = Vec::new();
    for spec in specs {
        if !names.contains(&spec.name) {
            names.push(spec.name);
        }
    }
    names
}
