//! Full fine-tuning from losses, in place (MeZO; Malladi et al. 2023, arXiv 2305.17333).
//!
//! ```text
//! loss       at W + c·z: a product reads its weight through a tile of W + c·z, an embedding through such rows
//! update     W ← (1 − ηλ)·W − η/n·Σ gᵢ·zᵢ in place; norms and biases without λ
//! ```
//! Every tensor is one persistent buffer, a tied embedding table too, with its own random stream for z. Matrices are
//! perturbed where they are read, tile by tile, so there is no second copy of them. Norms and biases, a thousandth of
//! the model, have a second copy with the perturbed values.
//!
//! The state is the initial model and the directional derivatives of all steps: a checkpoint takes a few bytes a step,
//! and repeating the updates gives the same weights bit for bit.

mod directory;

use std::sync::Arc;

use mesp_device::{Act, Backend, Class, Elem, Label, Motion, Noise, Weight};

use super::replay::Replay;
use crate::method::Direction;
use crate::model::{ModelWeights, Part};

pub use directory::save;

/// The buffers of a model's tensors, in the order of [`ModelWeights::parts`], and what stands for them.
#[derive(Debug)]
pub(super) struct FullWeights {
    acts: Vec<Act>,
    /// The model at the point where a loss is taken.
    moved: ModelWeights,
    /// What training starts from.
    source: Arc<ModelWeights>,
    /// Values of the longest vector.
    longest: usize,
    /// What a checkpoint holds.
    pub(super) log: Option<History>,
}

/// A run up to now.
#[derive(Debug)]
pub(super) struct History {
    pub(super) header: Replay,
    /// The derivatives of all steps, one a direction.
    pub(super) derivatives: Vec<f32>,
}

/// A label of trained weights.
const fn label(name: &'static str) -> Label {
    Label::new(Class::Trained, name)
}

impl FullWeights {
    /// Buffers with a model's weights, and the model that reads them there.
    pub(super) fn new<B: Backend>(
        be: &mut B,
        source: &Arc<ModelWeights>,
        elem: Elem,
    ) -> (Self, ModelWeights) {
        let mut rest = ModelWeights::clone(source);
        let (mut acts, mut longest) = (Vec::new(), 0);
        rest.parts_mut(&mut |_, part| {
            acts.push(match part {
                Part::Matrix(w) => {
                    let act = be.persist_as(w.rows(), w.cols(), elem, label("weights"));
                    *w = Weight::held(&act);
                    act
                }
                Part::Vector(v) => {
                    longest = longest.max(v.len());
                    be.persist(v.len(), 1, label("vectors"))
                }
            });
        });
        let mut full = Self { acts, moved: rest.clone(), source: Arc::clone(source), longest, log: None };
        full.reset(be, &mut rest);
        (full, rest)
    }

    /// Goes back to what training started from.
    pub(super) fn reset<B: Backend>(&mut self, be: &mut B, rest: &mut ModelWeights) {
        let mut acts = self.acts.iter_mut();
        self.source.parts(&mut |_, part| {
            let Some(act) = acts.next() else { return };
            match part {
                Part::Matrix(w) => be.load_weight(act.view_mut(), w),
                Part::Vector(v) => be.load(act.view_mut(), &mut |i| f64::from(v[i])),
            }
        });
        self.refresh(be, rest);
    }

    /// The tensors, in order.
    pub(super) fn acts(&self) -> &[Act] {
        &self.acts
    }

    /// The model at θ + by·z.
    pub(super) fn at<B: Backend>(&mut self, be: &mut B, by: f64, direction: Direction) -> &ModelWeights {
        let mut acts = self.acts.iter().enumerate();
        let mut point = be.alloc(self.longest, 1, label("moved_vector"));
        self.moved.parts_mut(&mut |_, part| {
            let Some((i, act)) = acts.next() else { return };
            let noise = stream(direction, i);
            match part {
                Part::Matrix(w) => w.set_motion((by != 0.0).then_some(Motion { by, noise })),
                Part::Vector(v) => {
                    be.perturb(point.rows_mut(0..v.len()), act.view(), [1.0, by], noise);
                    be.store(point.rows_view(0..v.len()), &mut |i, value| v[i] = value as f32);
                }
            }
        });
        be.free(point);
        &self.moved
    }

    /// `θ ← a·θ + c·z`; norms and biases with 1 for `a`.
    pub(super) fn perturb_in_place<B: Backend>(
        &mut self,
        be: &mut B,
        rest: &mut ModelWeights,
        [a, c]: [f64; 2],
        direction: Direction,
    ) {
        let mut acts = self.acts.iter_mut().enumerate();
        rest.parts_mut(&mut |_, part| {
            let Some((i, act)) = acts.next() else { return };
            let a = if matches!(part, Part::Matrix(_)) { a } else { 1.0 };
            be.perturb_in_place(act.view_mut(), a, c, stream(direction, i));
        });
        self.refresh(be, rest);
    }

    /// Brings the vectors of the model at rest up to date with their buffers.
    fn refresh<B: Backend>(&self, be: &B, rest: &mut ModelWeights) {
        let mut acts = self.acts.iter();
        rest.parts_mut(&mut |_, part| {
            if let (Some(act), Part::Vector(v)) = (acts.next(), part) {
                be.store(act.view(), &mut |i, value| v[i] = value as f32);
            }
        });
    }
}

/// z of the i-th tensor.
fn stream(direction: Direction, i: usize) -> Noise {
    Noise { tensor: i as u32, ..direction.noise }
}
