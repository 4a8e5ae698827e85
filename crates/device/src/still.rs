//! A backend that hands out another's buffers and computes nothing.
//!
//! A step that leaves out a part of its work asks for that part's buffers all the same, so that every step makes
//! the allocations of the plan, in their order.

use mesp_kernels::{AdamW, Dropout, Gate, Noise, RowStat, Sgd};

use crate::{Act, Attention, Backend, Elem, Form, Label, Mark, Probs, Program, Rope, View, ViewMut, Weight};

/// Buffers of a backend, without its operations.
#[derive(Debug)]
pub struct Still<'a, B> {
    be: &'a mut B,
}

impl<'a, B: Backend> Still<'a, B> {
    /// Around a backend.
    pub fn new(be: &'a mut B) -> Self {
        Self { be }
    }
}

impl<B: Backend> Backend for Still<'_, B> {
    fn begin(&mut self, _: Program) {}
    fn persist_as(&mut self, _: usize, _: usize, _: Elem, _: Label) -> Act {
        panic!("a block keeps nothing")
    }
    fn alloc_as(&mut self, rows: usize, cols: usize, elem: Elem, label: Label) -> Act {
        self.be.alloc_as(rows, cols, elem, label)
    }
    fn free(&mut self, act: Act) {
        self.be.free(act);
    }
    fn mark(&self) -> Mark {
        self.be.mark()
    }
    fn rewind(&mut self, mark: Mark) {
        self.be.rewind(mark);
    }
    fn load(&mut self, _: ViewMut<'_>, _: &mut dyn FnMut(usize) -> f64) {}
    fn store(&self, _: View<'_>, _: &mut dyn FnMut(usize, f64)) {}
    fn zero(&mut self, _: ViewMut<'_>) {}
    fn copy(&mut self, _: ViewMut<'_>, _: View<'_>) {}
    fn add_bias(&mut self, _: ViewMut<'_>, _: &[f32]) {}
    fn bias_grad(&mut self, _: ViewMut<'_>, _: View<'_>) {}
    fn scale(&mut self, _: ViewMut<'_>, _: f64) {}
    fn dot(&mut self, _: View<'_>, _: View<'_>) -> f64 {
        0.0
    }
    fn sum_of_squares(&mut self, _: View<'_>) -> f64 {
        0.0
    }
    fn spill(&mut self, _: usize, _: View<'_>) {}
    fn fetch(&mut self, _: usize, _: ViewMut<'_>) {}
    fn faulty(&self) -> bool {
        self.be.faulty()
    }
    fn take_fault(&mut self) -> Option<std::io::Error> {
        self.be.take_fault()
    }
    fn load_weight(&mut self, _: ViewMut<'_>, _: &Weight) {}
    fn will_need(&self, _: &Weight) {}
    fn embedding(&mut self, _: ViewMut<'_>, _: &Weight, _: &[u32]) {}
    fn gather_rows(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[u32]) {}
    fn scatter_rows(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[u32]) {}
    fn scatter_add_rows(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[u32]) {}
    fn rms_norm(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[f32], _: f64) {}
    fn rms_norm_add(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[f32], _: f64) {}
    fn rms_norm_backward(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: &[f32], _: f64) {}
    fn rms_norm_backward_in_place(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[f32], _: f64) {}
    fn rms_norm_weight_grad(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: f64) {}
    fn rms_norm_tangent(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: &[f32], _: f64, _: bool) {}
    fn rope(&mut self, _: ViewMut<'_>, _: &[u32], _: &Rope, _: bool) {}
    fn linear(&mut self, _: ViewMut<'_>, _: View<'_>, _: &Weight, _: Option<&[f32]>, _: bool) {}
    fn input_grad(&mut self, _: ViewMut<'_>, _: View<'_>, _: &Weight, _: bool) {}
    fn product(&mut self, _: ViewMut<'_>, _: Form, _: View<'_>, _: View<'_>, _: f64, _: bool) {}
    fn dropout(&mut self, _: ViewMut<'_>, _: View<'_>, _: Dropout, _: usize, _: bool) {}
    fn row_squares(&mut self, _: ViewMut<'_>, _: &Weight) {}
    fn dora_gains(
        &mut self,
        _: (ViewMut<'_>, ViewMut<'_>),
        _: (View<'_>, View<'_>),
        _: View<'_>,
        _: (View<'_>, View<'_>),
        _: f64,
    ) {
    }
    fn dora_gain(&mut self, _: ViewMut<'_>, _: View<'_>, _: Option<&[f32]>) {}
    fn dora_gain_add(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: Option<&[f32]>) {}
    fn dora_magnitude_grad(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: View<'_>) {}
    fn gated_in_place(&mut self, _: Gate, _: ViewMut<'_>, _: View<'_>) {}
    fn gated_tangent_in_place(&mut self, _: Gate, _: ViewMut<'_>, _: View<'_>, _: [View<'_>; 2]) {}
    fn gated_backward_in_place(&mut self, _: Gate, _: ViewMut<'_>, _: ViewMut<'_>, _: View<'_>) {}
    fn attention(&mut self, _: ViewMut<'_>, _: ViewMut<'_>, _: [View<'_>; 3], _: Attention<'_>) {}
    fn attention_probs(&mut self, _: ViewMut<'_>, _: View<'_>, _: [View<'_>; 2], _: Attention<'_>) {}
    fn attention_tangent(
        &mut self,
        _: ViewMut<'_>,
        _: [View<'_>; 2],
        _: [View<'_>; 3],
        _: [View<'_>; 3],
        _: Attention<'_>,
    ) {
    }
    fn attention_delta(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>) {}
    fn attention_backward_q(
        &mut self,
        _: ViewMut<'_>,
        _: View<'_>,
        _: [View<'_>; 3],
        _: [View<'_>; 2],
        _: Probs<'_>,
        _: Attention<'_>,
    ) {
    }
    fn attention_backward_kv(
        &mut self,
        _: ViewMut<'_>,
        _: ViewMut<'_>,
        _: View<'_>,
        _: [View<'_>; 3],
        _: [View<'_>; 2],
        _: Probs<'_>,
        _: Attention<'_>,
    ) {
    }
    fn softmax_stats(&mut self, _: View<'_>, _: &[u32], _: usize, _: &mut [RowStat]) {}
    fn softmax_gradient(&mut self, _: ViewMut<'_>, _: &[u32], _: usize, _: f64, _: &[RowStat]) {}
    fn softmax_sum(
        &mut self,
        _: ViewMut<'_>,
        _: ViewMut<'_>,
        _: &[u32],
        _: usize,
        _: &mut [RowStat],
        _: &Weight,
    ) {
    }
    fn softmax_sum_gradient(&mut self, _: ViewMut<'_>, _: View<'_>, _: f64, _: &[RowStat]) {}
    fn sgd(&mut self, _: ViewMut<'_>, _: Option<ViewMut<'_>>, _: View<'_>, _: Sgd, _: u64) {}
    fn adamw(&mut self, _: ViewMut<'_>, _: ViewMut<'_>, _: ViewMut<'_>, _: View<'_>, _: AdamW, _: u64) {}
    fn perturb(&mut self, _: ViewMut<'_>, _: View<'_>, _: [f64; 2], _: Noise) {}
    fn drift(&mut self, _: ViewMut<'_>, _: f64, _: f64, _: Noise) {}
}
