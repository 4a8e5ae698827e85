//! A backend that hands out another's buffers and computes nothing.
//!
//! A step that leaves out a part of its work asks for that part's buffers all the same, so that every step makes
//! the allocations of the plan, in their order.

use crate::{Act, Backend, Elem, Label, Mark, Op, Program, View, ViewMut, Weight};

/// Buffers of a backend, without its operations.
#[derive(Debug)]
pub struct AllocOnly<'a, B> {
    be: &'a mut B,
}

impl<'a, B: Backend> AllocOnly<'a, B> {
    /// Around a backend.
    pub fn new(be: &'a mut B) -> Self {
        Self { be }
    }
}

impl<B: Backend> Backend for AllocOnly<'_, B> {
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
    fn will_need(&self, _: &Weight) {}
    fn run(&mut self, _: Op<'_>) {}
}
