//! The model's own tensors that are trained, in buffers of the backend.
//!
//! Each tensor of the checkpoint is one persistent buffer, a fused matrix and a tied table too: matrices in the type that
//! was asked for, norms and biases in the backend's numbers. They are read from their file once. The session's model holds
//! handles of the matrices, so that what is written to a buffer is the weight from then on, and copies of norms and
//! biases, which are brought up to date after a step ([`TrainedWeights::refresh`]).

use std::ops::Range;
use std::sync::Arc;

use mesp_device::{Act, Backend, Class, Elem, Label, Updated, View, ViewMut, Weight};

use crate::arch::{Param, Selection, Tensor, base_params};
use crate::model::{ModelWeights, Part};

/// Where a part of the model lies: the number of a tensor, and the tensor's rows.
type Place = (usize, Range<usize>);

/// The buffers of the trained tensors.
#[derive(Debug)]
pub struct TrainedWeights {
    params: Vec<Param>,
    acts: Vec<Act>,
    /// Of each matrix in bf16, what rounding cut off, where that is kept.
    rests: Vec<Option<Act>>,
    /// Of each part of the model, in the order of [`ModelWeights::parts`].
    places: Vec<Option<Place>>,
    /// What training starts from.
    source: Arc<ModelWeights>,
    /// What the model's norms have beyond the values in the buffers.
    norm_offset: f64,
}

/// A label of trained weights.
const fn label(name: &'static str) -> Label {
    Label::new(Class::Trained, name)
}

impl TrainedWeights {
    /// Buffers with the selected tensors of a model, matrices stored as `elem`, and the model that reads them there. With
    /// `compensated`, what rounding to bf16 cuts off is kept too. Norms lie without the `norm_offset` that the model's
    /// have: as checkpoints have them, or where it is 0 as they are multiplied.
    pub fn new<B: Backend>(
        be: &mut B,
        source: &Arc<ModelWeights>,
        selection: &Selection,
        elem: Elem,
        compensated: bool,
        norm_offset: f32,
    ) -> (Self, ModelWeights) {
        let mut params = base_params(&source.config);
        params.retain(|param| selection.has(param));
        let mut acts = Vec::with_capacity(params.len());
        let mut rests = Vec::with_capacity(params.len());
        for Param { tensor, shape: [rows, cols], .. } in &params {
            let matrix = matches!(tensor, Tensor::Weight(_));
            let (elem, name) = if matrix { (elem, "weights") } else { (Elem::Full, "vectors") };
            acts.push(be.persist_as(*rows, *cols, elem, label(name)));
            let rest = matrix && compensated && elem == Elem::Bf16;
            rests.push(rest.then(|| be.persist_as(*rows, *cols, elem, label("compensation"))));
        }
        let (mut rest, mut places) = (ModelWeights::clone(source), Vec::new());
        rest.parts_mut(&mut |piece, part| {
            let is = |p: &Param| (p.place, p.tensor) == (piece.place, piece.tensor);
            let place = params.iter().position(is).map(|i| (i, piece.rows.clone()));
            if let (Some((i, rows)), Part::Matrix(w)) = (&place, part) {
                *w = Weight::held(&acts[*i]).rows_range(rows.clone());
            }
            places.push(place);
        });
        let source = Arc::clone(source);
        let mut weights = Self { params, acts, rests, places, source, norm_offset: f64::from(norm_offset) };
        weights.reset(be, &mut rest);
        (weights, rest)
    }

    /// Goes back to what training started from.
    pub fn reset<B: Backend>(&mut self, be: &mut B, model: &mut ModelWeights) {
        let Self { params, acts, rests, places, source, norm_offset } = self;
        let mut places = places.iter();
        source.parts(&mut |_, part| {
            let Some((i, rows)) = places.next().and_then(Option::as_ref) else { return };
            let to = acts[*i].rows_mut(rows.clone());
            let offset = if matches!(params[*i].tensor, Tensor::Norm(_)) { *norm_offset } else { 0.0 };
            match part {
                Part::Matrix(w) => be.load_weight(to, w),
                Part::Vector(v) => be.load(to, &mut |i| f64::from(v[i]) - offset),
            }
        });
        rests.iter_mut().flatten().for_each(|rest| be.zero(rest.view_mut()));
        self.refresh(be, model);
    }

    /// Brings the norms and biases of the session's model up to date with their buffers.
    pub fn refresh<B: Backend>(&self, be: &B, model: &mut ModelWeights) {
        let mut places = self.places.iter();
        model.parts_mut(&mut |_, part| {
            let Some((i, rows)) = places.next().and_then(Option::as_ref) else { return };
            let Part::Vector(v) = part else { return };
            let offset = self.offset(*i);
            let from = self.acts[*i].rows_view(rows.clone());
            be.store(from, &mut |i, value| v[i] = (value + offset) as f32);
        });
    }

    /// By how much a tensor's values in the model are larger than in its buffer.
    fn offset(&self, i: usize) -> f64 {
        if matches!(self.params[i].tensor, Tensor::Norm(_)) { self.norm_offset } else { 0.0 }
    }

    /// What is left of [`Config::norm_offset`](crate::arch::Config) in the buffers of norms.
    pub fn left_offset(&self) -> f32 {
        self.source.config.norm_offset - self.norm_offset as f32
    }

    /// The tensors with their buffers, in the order of [`base_params`].
    pub fn iter(&self) -> impl Iterator<Item = (&Param, &Act)> {
        self.params.iter().zip(&self.acts)
    }

    /// The same, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Param, &mut Act)> {
        self.params.iter().zip(&mut self.acts)
    }

    /// What rounding to bf16 cut off of each tensor, where that is kept.
    pub fn rests(&self) -> impl Iterator<Item = (&Param, &Act)> {
        self.params.iter().zip(&self.rests).filter_map(|(param, rest)| Some((param, rest.as_ref()?)))
    }

    /// The same, mutable.
    pub fn rests_mut(&mut self) -> impl Iterator<Item = (&Param, &mut Act)> {
        self.params.iter().zip(&mut self.rests).filter_map(|(param, rest)| Some((param, rest.as_mut()?)))
    }

    /// Whether a tensor is trained.
    pub fn has(&self, place: usize, tensor: Tensor) -> bool {
        self.params.iter().any(|p| (p.place, p.tensor) == (place, tensor))
    }

    /// The parts of the model in the order of [`ModelWeights::parts`]: rows of the buffers.
    pub fn parts(&self) -> impl Iterator<Item = View<'_>> {
        self.places.iter().flatten().map(|(i, rows)| self.acts[*i].rows_view(rows.clone()))
    }

    /// A part of the model, by its number in that order, to write.
    pub fn part_mut(&mut self, part: usize) -> Option<ViewMut<'_>> {
        let (i, rows) = self.places.get(part)?.clone()?;
        Some(self.acts[i].rows_mut(rows))
    }

    /// Some rows of a tensor, to be updated with the random numbers of `key`.
    pub fn updated(
        &mut self,
        place: usize,
        tensor: Tensor,
        rows: Range<usize>,
        key: u64,
    ) -> Option<Updated<'_>> {
        let i = self.params.iter().position(|p| (p.place, p.tensor) == (place, tensor))?;
        let first = rows.start * self.acts[i].cols();
        let rest = self.rests[i].as_mut().map(|rest| rest.rows_mut(rows.clone()));
        Some(Updated { p: self.acts[i].rows_mut(rows), rest, key, first })
    }
}
