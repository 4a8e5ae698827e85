//! A backend of another crate: it hands out buffers, computes nothing, and counts the operations that are run on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesp::method::{Estimator, Method};
use mesp::train::{Options, Session, Update};
use mesp_device::{Act, Backend, Elem, Label, Mark, Op, Owner, Program, View, ViewMut, Weight};

use crate::support::{ADAMW, ARCHS, Case, shapes};

#[derive(Debug)]
struct Counting {
    owner: Owner,
    buffers: u32,
    alive: i64,
    allocations: usize,
    runs: BTreeMap<&'static str, usize>,
    multiply_adds: u64,
}

impl Counting {
    fn new() -> Self {
        Self {
            owner: Owner::new(),
            buffers: 0,
            alive: 0,
            allocations: 0,
            runs: BTreeMap::new(),
            multiply_adds: 0,
        }
    }

    fn act(&mut self, rows: usize, cols: usize, elem: Elem) -> Act {
        self.buffers += 1;
        self.owner.act(self.buffers, 0, [rows, cols], elem)
    }
}

impl Backend for Counting {
    fn begin(&mut self, _: Program) {
        self.allocations = 0;
    }
    fn persist_as(&mut self, rows: usize, cols: usize, elem: Elem, _: Label) -> Act {
        self.act(rows, cols, elem)
    }
    fn alloc_as(&mut self, rows: usize, cols: usize, elem: Elem, _: Label) -> Act {
        self.alive += 1;
        self.allocations += 1;
        self.act(rows, cols, elem)
    }
    fn free(&mut self, act: Act) {
        assert!(self.owner.owns(&act.view()), "a buffer of this backend");
        self.alive -= 1;
    }
    fn mark(&self) -> Mark {
        Mark(self.allocations)
    }
    fn rewind(&mut self, mark: Mark) {
        self.allocations = mark.0;
    }
    fn load(&mut self, to: ViewMut<'_>, from: &mut dyn FnMut(usize) -> f64) {
        for i in 0..to.rows() * to.cols() {
            from(i);
        }
    }
    fn store(&self, from: View<'_>, to: &mut dyn FnMut(usize, f64)) {
        for i in 0..from.rows() * from.cols() {
            to(i, 0.0);
        }
    }
    fn dot(&mut self, _: View<'_>, _: View<'_>) -> f64 {
        0.0
    }
    fn sum_of_squares(&mut self, _: View<'_>) -> f64 {
        0.0
    }
    fn spill(&mut self, _: usize, _: View<'_>) {}
    fn fetch(&mut self, _: usize, _: ViewMut<'_>) {}
    fn faulty(&self) -> bool {
        false
    }
    fn take_fault(&mut self) -> Option<std::io::Error> {
        None
    }
    fn will_need(&self, _: &Weight) {}
    fn run(&mut self, op: Op<'_>) {
        *self.runs.entry(op.name()).or_default() += 1;
        self.multiply_adds += op.multiply_adds();
    }
}

/// A step on it makes as many multiplications as the plan of the same step says, and leaves no buffer.
#[test]
fn a_step_runs_on_a_backend_of_another_crate() {
    for arch in ARCHS {
        let case = Case::load(arch);
        for method in Method::ALL {
            for update in [Update::Accumulate, Update::PerBlock] {
                let options = Options { update, optimizer: ADAMW, ..case.options(method.policy()) };
                assert_eq!(options.estimator, Estimator::Exact);
                let shapes = shapes(&case.batch);
                let plan = mesp::train::plan(&case.model, &options, &shapes, 4, 1).expect("a plan");
                let model = Arc::clone(&case.model);
                let mut session = Session::new(Counting::new(), model, options, shapes.targets());
                match update {
                    Update::Accumulate => {
                        session.accumulate(&case.batch, case.batch.targets());
                        session.apply(1e-3, 1.0);
                    }
                    Update::PerBlock | Update::PerMatrix => drop(session.step_fused(&case.batch, 1e-3, None)),
                }
                let be = session.backend();
                let expected = plan.programs[0].multiply_adds;
                assert_eq!(be.multiply_adds, expected, "{arch} {} {update:?}", method.name());
                assert_eq!(be.alive, 0, "{arch} {} {update:?}: buffers that stay", method.name());
                // Four passes over the norms of a block at least, and an update for each matrix of each adapter.
                let steps = mesp::adapter::params(session.params()).len();
                assert_eq!(be.runs["adamw"], steps, "{arch} {}", method.name());
                assert!(be.runs["rms_norm"] > 2 * case.model.blocks.len(), "{:?}", be.runs);
            }
        }
    }
}

/// A handle that one backend made is none of another's.
#[test]
fn buffers_are_of_one_backend() {
    let [one, other] = [Owner::new(), Owner::new()];
    let act = one.act(0, 0, [2, 3], Elem::Full);
    assert!(one.owns(&act.view()) && !other.owns(&act.view()));
    assert_eq!((act.entry(), act.view().first(), act.rows_view(1..2).first()), (0, 0, 3));
}
