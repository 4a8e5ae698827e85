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

use mesp_device::{Backend, Class, Label, Motion, Noise};

use super::replay::Replay;
use crate::method::Direction;
use crate::model::{ModelWeights, Part};
use crate::optim::TrainedWeights;

pub use directory::save;

/// The model at the point where a loss is taken, and the run's log.
#[derive(Debug)]
pub(super) struct Moved {
    model: ModelWeights,
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

impl Moved {
    /// Of the model that reads the trained weights.
    pub(super) fn new(model: &ModelWeights) -> Self {
        let mut longest = 0;
        model.parts(&mut |_, part| {
            if let Part::Vector(v) = part {
                longest = longest.max(v.len());
            }
        });
        Self { model: model.clone(), longest, log: None }
    }

    /// The model at θ + by·z.
    pub(super) fn at<B: Backend>(
        &mut self,
        be: &mut B,
        weights: &TrainedWeights,
        by: f64,
        direction: Direction,
    ) -> &ModelWeights {
        let mut parts = weights.parts().enumerate();
        let label = Label::new(Class::Trained, "moved_vector");
        let mut point = be.alloc(self.longest, 1, label);
        self.model.parts_mut(&mut |_, part| {
            let Some((i, at)) = parts.next() else { return };
            let noise = stream(direction, i);
            match part {
                Part::Matrix(w) => {
                    w.set_motion((by != 0.0).then_some(Motion { by, noise, from: at.first() }));
                }
                Part::Vector(v) => {
                    be.perturb(point.rows_mut(0..v.len()), at, [1.0, by], noise);
                    be.store(point.rows_view(0..v.len()), &mut |i, value| v[i] = value as f32);
                }
            }
        });
        be.free(point);
        &self.model
    }
}

/// `θ ← a·θ + c·z`; norms and biases with 1 for `a`.
pub(super) fn perturb_in_place<B: Backend>(
    be: &mut B,
    weights: &mut TrainedWeights,
    model: &mut ModelWeights,
    [a, c]: [f64; 2],
    direction: Direction,
) {
    let mut next = 0;
    model.parts(&mut |_, part| {
        let Some(view) = weights.part_mut(next) else { return };
        let a = if matches!(part, Part::Matrix(_)) { a } else { 1.0 };
        be.perturb_in_place(view, a, c, stream(direction, next));
        next += 1;
    });
    weights.refresh(be, model);
}

/// z of the i-th part.
fn stream(direction: Direction, i: usize) -> Noise {
    Noise { tensor: i as u32, ..direction.noise }
}
