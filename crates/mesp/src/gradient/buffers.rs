//! Gradient buffers: one flat buffer for all parameters of a list, in its order.

use std::ops::Range;
use std::sync::Arc;

use mesp_device::{Act, Backend, Form, LINE, Label, View, ViewMut};
use mesp_formats::peft::Matrix;

use super::Factors;
use crate::arch::{Module, Norm, Param, Tensor};

/// The offset in values of each parameter in a flat buffer, a multiple of [`LINE`], and at the end the buffer's length.
pub fn starts<'a>(params: impl Iterator<Item = &'a Param>) -> impl Iterator<Item = usize> {
    let lines = params.map(|Param { shape: [rows, cols], .. }| {
        rows.saturating_mul(*cols).div_ceil(LINE).saturating_mul(LINE)
    });
    let mut end = 0usize;
    std::iter::once(0).chain(lines.map(move |values| {
        end = end.saturating_add(values);
        end
    }))
}

/// The trained parameters, ordered by place, and the offset of each in a flat buffer.
#[derive(Debug, Default)]
pub struct ParamList {
    params: Vec<Param>,
    /// One more than there are parameters: the last is the length.
    starts: Vec<usize>,
}

impl ParamList {
    /// From parameters ordered by place.
    pub fn new(mut params: Vec<Param>) -> Self {
        params.shrink_to_fit();
        let mut all = Vec::with_capacity(params.len() + 1);
        all.extend(starts(params.iter()));
        Self { params, starts: all }
    }

    /// The parameters.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The indices of the parameters of a place.
    pub fn of(&self, place: usize) -> Range<usize> {
        let before = |first| self.params.partition_point(|param| param.place < first);
        before(place)..before(place + 1)
    }

    /// The indices of the parameters that get factors from a place of a model with `layers` layers: its own. Outside
    /// the blocks these are all parameters there, since with tied embeddings the head adds to the embedding table.
    pub fn reached_from(&self, place: usize, layers: usize) -> Range<usize> {
        if place < layers { self.of(place) } else { self.of(layers).start..self.params.len() }
    }

    /// Whether a tensor of a place is trained.
    pub fn has(&self, place: usize, tensor: Tensor) -> bool {
        self.number(place, tensor).is_some()
    }

    /// The index of a tensor of a place, if it is trained.
    pub fn number(&self, place: usize, tensor: Tensor) -> Option<usize> {
        self.of(place).find(|i| self.params[*i].tensor == tensor)
    }
}

/// The gradients of all parameters of a list, or of a contiguous range of them.
#[derive(Debug)]
pub struct Gradients {
    list: Arc<ParamList>,
    range: Range<usize>,
    /// All of them; none where there is nothing.
    flat: Option<Act>,
}

impl Gradients {
    /// No gradients.
    pub fn none(list: &Arc<ParamList>) -> Self {
        Self { list: Arc::clone(list), range: 0..0, flat: None }
    }

    /// Allocates the gradients of all parameters for the lifetime of the backend, zero at first.
    pub fn persistent<B: Backend>(be: &mut B, list: &Arc<ParamList>, label: Label) -> Self {
        let range = 0..list.params.len();
        let lines = list.starts[range.end] / LINE;
        let flat = (lines > 0).then(|| be.persist(lines, LINE, label));
        Self { list: Arc::clone(list), range, flat }
    }

    /// Allocates the gradients of a range of parameters, zero at first.
    pub fn zeros<B: Backend>(be: &mut B, list: &Arc<ParamList>, range: Range<usize>, label: Label) -> Self {
        let lines = (list.starts[range.end] - list.starts[range.start]) / LINE;
        let flat = (lines > 0).then(|| {
            let mut flat = be.alloc(lines, LINE, label);
            be.zero(flat.view_mut());
            flat
        });
        Self { list: Arc::clone(list), range, flat }
    }

    /// Frees the buffer.
    pub fn free<B: Backend>(self, be: &mut B) {
        if let Some(flat) = self.flat {
            be.free(flat);
        }
    }

    /// The parameters.
    pub fn list(&self) -> &Arc<ParamList> {
        &self.list
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flat.is_none()
    }

    /// All values as one flat view: each parameter starts at a multiple of [`LINE`] values, with zeros in the gaps. For
    /// adding, sending or averaging gradients. [`adapter::flat`](crate::adapter::flat) has the parameters in the same
    /// layout.
    pub fn flat(&self) -> Option<View<'_>> {
        Some(self.flat.as_ref()?.block(0, [self.values()?, 1]))
    }

    /// Values up to the end of the last parameter.
    fn values(&self) -> Option<usize> {
        let last = self.range.clone().next_back()?;
        let [rows, cols] = self.list.params[last].shape;
        Some(self.first(last).saturating_add(rows.saturating_mul(cols)))
    }

    /// [`Gradients::flat`], mutable. The gaps must stay zero.
    pub fn flat_mut(&mut self) -> Option<ViewMut<'_>> {
        let values = self.values()?;
        Some(self.flat.as_mut()?.block_mut(0, [values, 1]))
    }

    /// Each parameter with its gradient, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Param, View<'_>)> {
        self.range.clone().filter_map(|i| Some((&self.list.params[i], self.view(i)?)))
    }

    /// Calls `f` with each parameter and its gradient, mutable.
    pub fn for_each_mut(&mut self, mut f: impl FnMut(&Param, ViewMut<'_>)) {
        let list = Arc::clone(&self.list);
        for i in self.range.clone() {
            if let Some(gradient) = self.view_mut(i) {
                f(&list.params[i], gradient);
            }
        }
    }

    /// The gradient of a tensor of a place, in the parameter's shape.
    pub fn get(&self, place: usize, tensor: Tensor) -> Option<View<'_>> {
        self.view(self.list.number(place, tensor)?)
    }

    /// The gradient of a parameter, by its index in the list.
    pub fn view(&self, i: usize) -> Option<View<'_>> {
        let flat = self.flat.as_ref().filter(|_| self.range.contains(&i))?;
        Some(flat.block(self.first(i), self.list.params[i].shape))
    }

    fn view_mut(&mut self, i: usize) -> Option<ViewMut<'_>> {
        let (first, shape) = (self.first(i), self.list.params[i].shape);
        Some(self.flat.as_mut()?.block_mut(first, shape))
    }

    /// Where a parameter's values begin.
    fn first(&self, i: usize) -> usize {
        self.list.starts[i] - self.list.starts[self.range.start]
    }

    /// A consumer that adds the factors of all parameters to the gradients.
    pub fn sums(&mut self) -> Sums<'_> {
        self.sums_of(self.range.clone())
    }

    /// A consumer that adds the factors of some parameters, by their indices.
    pub fn sums_of(&mut self, numbers: Range<usize>) -> Sums<'_> {
        Sums { grads: self, numbers }
    }
}

/// A consumer of factors that adds their products to [`Gradients`].
#[derive(Debug)]
pub struct Sums<'a> {
    grads: &'a mut Gradients,
    /// Numbers of a place's parameters.
    numbers: Range<usize>,
}

impl Sums<'_> {
    fn number(&self, tensor: Tensor) -> Option<usize> {
        let Gradients { list, flat, .. } = &*self.grads;
        flat.as_ref()?;
        self.numbers.clone().find(|i| list.params[*i].tensor == tensor)
    }

    fn of(&mut self, tensor: Tensor) -> Option<ViewMut<'_>> {
        let i = self.number(tensor)?;
        self.grads.view_mut(i)
    }
}

impl<B: Backend> Factors<B> for Sums<'_> {
    fn wants(&self, of: Tensor) -> bool {
        self.number(of).is_some()
    }

    fn linear(&mut self, be: &mut B, of: Tensor, rows: Range<usize>, [g, x]: [View<'_>; 2], scale: f64) {
        let Some(sums) = self.of(of) else { return };
        if matches!(of, Tensor::Adapter(..)) {
            be.product(sums.part(rows), Form::LeftTransposed, g, x, scale, true);
        } else {
            debug_assert!(scale == 1.0, "the model's matrices stand for themselves");
            be.weight_grad(sums.part(rows), [g, x], 0, true);
        }
    }

    fn bias(&mut self, be: &mut B, of: Module, rows: Range<usize>, g: View<'_>) {
        if let Some(sums) = self.of(Tensor::Bias(of)) {
            be.bias_grad(sums.part(rows), g);
        }
    }

    fn norm(&mut self, be: &mut B, of: Norm, [dy, x]: [View<'_>; 2], eps: f64) {
        if let Some(sums) = self.of(Tensor::Norm(of)) {
            be.rms_norm_weight_grad(sums, dy, x, eps);
        }
    }

    fn magnitudes(&mut self, be: &mut B, of: Module, rows: Range<usize>, [dy, z, inverse]: [View<'_>; 3]) {
        if let Some(sums) = self.of(Tensor::Adapter(of, Matrix::M)) {
            be.dora_magnitude_grad(sums.part(rows), dy, z, inverse);
        }
    }

    fn table_rows(&mut self, be: &mut B, of: Tensor, index: &[u32], g: View<'_>) {
        if let Some(sums) = self.of(of) {
            be.scatter_add_rows(sums, g, index, 0);
        }
    }
}
