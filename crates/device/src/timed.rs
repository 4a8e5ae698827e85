//! A backend around another that measures every operation: nothing of it is there when it is not used.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::{Act, Backend, Elem, Form, Label, Mark, Op, Program, View, ViewMut, Weight};

/// What the calls of one kind came to.
#[derive(Debug, Clone, Default)]
pub struct OpCost {
    /// The operation, after [`Backend`]'s method.
    pub op: &'static str,
    /// The weight, by the name it was given; empty for operations without one.
    pub weight: &'static str,
    /// Calls.
    pub calls: u64,
    /// Time on the clock.
    pub wall: Duration,
    /// Time on all processors, of all threads of the process; zero where the system does not tell.
    pub cpu: Duration,
    /// Multiplications and additions of products, each counted.
    pub flop: u64,
    /// Bytes of the operands: each read or written once.
    pub bytes: u64,
}

/// The measuring backend.
#[derive(Debug)]
pub struct Timed<B> {
    inner: B,
    value_bytes: u64,
    /// Ranges of addresses of weights, in ascending order.
    names: Vec<(usize, usize, &'static str)>,
    costs: RefCell<Vec<OpCost>>,
}

impl<B> Timed<B> {
    /// Around a backend whose values have `value_bytes`.
    pub fn new(inner: B, value_bytes: usize) -> Self {
        Self { inner, value_bytes: value_bytes as u64, names: Vec::new(), costs: RefCell::default() }
    }

    /// Names a weight, and with it all of its rows. A weight without values has no name.
    pub fn name(&mut self, weight: &Weight, name: &'static str) {
        if let Some(range) = weight.addresses() {
            let at = self.names.partition_point(|n| n.0 < range.start);
            self.names.insert(at, (range.start, range.end, name));
        }
    }

    /// The backend inside.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// What was measured since the last call, in the order in which operations were first called.
    pub fn take_costs(&mut self) -> Vec<OpCost> {
        std::mem::take(self.costs.get_mut())
    }

    fn named(&self, weight: &Weight) -> &'static str {
        let Some(range) = weight.addresses() else { return "" };
        let at = self.names.partition_point(|n| n.0 <= range.start);
        match at.checked_sub(1).map(|i| self.names[i]) {
            Some((_, end, name)) if range.end <= end => name,
            _ => "",
        }
    }

    fn note(&self, op: &'static str, weight: &'static str, (flop, bytes): (u64, u64), begun: Begun) {
        let (wall, cpu) = begun.elapsed();
        let mut costs = self.costs.borrow_mut();
        let at = costs.iter().position(|c| c.op == op && c.weight == weight).unwrap_or_else(|| {
            costs.push(OpCost { op, weight, ..OpCost::default() });
            costs.len() - 1
        });
        let cost = &mut costs[at];
        cost.calls += 1;
        cost.wall += wall;
        cost.cpu += cpu;
        cost.flop += flop;
        cost.bytes += bytes;
    }

    /// Notes what passed over whole views.
    fn passed(&self, op: &'static str, over: &[View<'_>], begun: Begun) {
        let value = |x: &View<'_>| x.rows() * x.cols() * x.elem().bytes(self.value_bytes as usize);
        self.note(op, "", (0, over.iter().map(value).sum::<usize>() as u64), begun);
    }

    fn bytes(&self, values: usize, bytes: usize) -> u64 {
        values as u64 * self.value_bytes + bytes as u64
    }
}

/// When an operation began, on both clocks.
struct Begun(Instant, Duration);

impl Begun {
    fn now() -> Self {
        let cpu = process_cpu_time().unwrap_or_default();
        Self(Instant::now(), cpu)
    }

    fn elapsed(&self) -> (Duration, Duration) {
        let wall = self.0.elapsed();
        (wall, process_cpu_time().unwrap_or_default().saturating_sub(self.1))
    }
}

/// Processor time of all threads of this process so far, where the system tells.
pub fn process_cpu_time() -> Option<Duration> {
    #[cfg(unix)]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes to `time`, which outlives it.
        let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
        (failed == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
    #[cfg(not(unix))]
    {
        None
    }
}

impl<B: Backend> Backend for Timed<B> {
    fn begin(&mut self, program: Program) {
        self.inner.begin(program);
    }

    fn persist_as(&mut self, rows: usize, cols: usize, elem: Elem, label: Label) -> Act {
        self.inner.persist_as(rows, cols, elem, label)
    }

    fn alloc_as(&mut self, rows: usize, cols: usize, elem: Elem, label: Label) -> Act {
        self.inner.alloc_as(rows, cols, elem, label)
    }

    fn free(&mut self, act: Act) {
        self.inner.free(act);
    }

    fn mark(&self) -> Mark {
        self.inner.mark()
    }

    fn rewind(&mut self, mark: Mark) {
        self.inner.rewind(mark);
    }

    fn load(&mut self, to: ViewMut<'_>, from: &mut dyn FnMut(usize) -> f64) {
        self.inner.load(to, from);
    }

    fn store(&self, from: View<'_>, to: &mut dyn FnMut(usize, f64)) {
        self.inner.store(from, to);
    }

    fn sum_of_squares(&mut self, x: View<'_>) -> f64 {
        let begun = Begun::now();
        let sum = self.inner.sum_of_squares(x);
        self.passed("sum_of_squares", &[x], begun);
        sum
    }

    fn dot(&mut self, x: View<'_>, y: View<'_>) -> f64 {
        let begun = Begun::now();
        let dot = self.inner.dot(x, y);
        self.passed("dot", &[x, y], begun);
        dot
    }

    fn spill(&mut self, slot: usize, from: View<'_>) {
        let begun = Begun::now();
        self.inner.spill(slot, from);
        self.passed("spill", &[from], begun);
    }

    fn fetch(&mut self, slot: usize, mut to: ViewMut<'_>) {
        let begun = Begun::now();
        self.inner.fetch(slot, to.again());
        self.passed("fetch", &[to.view()], begun);
    }

    fn faulty(&self) -> bool {
        self.inner.faulty()
    }

    fn take_fault(&mut self) -> Option<std::io::Error> {
        self.inner.take_fault()
    }

    fn will_need(&self, w: &Weight) {
        let begun = Begun::now();
        self.inner.will_need(w);
        self.note("advice", "", (0, 0), begun);
    }

    fn run(&mut self, op: Op<'_>) {
        let (name, part) = called(&op);
        let named = op.weight().map_or(part, |w| self.named(w));
        let (term, passes) = (op.term(), op.passes());
        let flop = match &op {
            // A multiplication and an addition for each value.
            Op::RowSquares { w, .. } => 2 * (w.rows() * w.cols()) as u64,
            _ => 2 * (op.multiply_adds() - term.map_or(0, |(_, products, _)| products)),
        };
        let begun = Begun::now();
        self.inner.run(op);
        self.note(name, named, (flop, self.bytes(passes.values, passes.bytes)), begun);
        if let Some((name, products, values)) = term {
            // Its time is the layer's.
            self.note(name, "", (2 * products, self.bytes(values, 0)), Begun::now());
        }
    }
}

/// What an operation is called in tables, and which part of it.
fn called(op: &Op<'_>) -> (&'static str, &'static str) {
    let name = match op {
        Op::RmsNormBackwardInPlace { .. } => "rms_norm_backward",
        Op::GatedInPlace { .. } => "gated",
        Op::GatedTangentInPlace { .. } => "gated_tangent",
        Op::GatedBackwardInPlace { .. } => "gated_backward",
        Op::AdaptedLinear { .. } => "linear",
        Op::AdaptedInputGrad { .. } => "input_grad",
        Op::AttentionBackwardQ { .. } => return ("attention_backward", "q"),
        Op::AttentionBackwardKv { .. } => return ("attention_backward", "kv"),
        // After `adapter/lora.rs`, which is where most of the small products are.
        Op::Product { form, accumulate, .. } => match (form, accumulate) {
            (Form::RightTransposed, false) => "adapter h",
            (Form::RightTransposed, true) => "adapter output",
            (Form::LeftTransposed, _) => "adapter gradient",
            (Form::Plain, false) => "adapter dh",
            (Form::Plain, true) => "adapter input_grad",
        },
        op => op.name(),
    };
    (name, "")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesp_kernels::Dtype;

    use super::*;
    use crate::Threads;
    use crate::{Class, Cpu, Dry};

    #[test]
    fn calls_are_counted_and_named() {
        let bytes: Vec<u8> = (0..6).flat_map(|x| (x as f32).to_le_bytes()).collect();
        let weight = Weight::owned(Dtype::F32, 3, 2, bytes);
        let pool = Threads::new(1).expect("threads");
        let label = Label::new(Class::Other, "x");
        let mut dry = Dry::new(4, 1);
        let work = |be: &mut dyn FnMut(&mut ViewMut<'_>, View<'_>, &Weight), x: &Act, y: &mut Act| {
            be(&mut y.view_mut(), x.view(), &weight);
            be(&mut y.view_mut(), x.view(), &weight.rows_range(0..3));
        };
        dry.begin(Program(0));
        let (x, mut y) = (dry.alloc(4, 2, label), dry.alloc(4, 3, label));
        work(&mut |y, x, w| dry.linear(y.again(), x, w, None, false), &x, &mut y);
        let plan = dry.finish();

        let mut be = Timed::new(Cpu::<f32>::new(plan, Arc::new(pool)), 4);
        be.name(&weight, "q_proj");
        be.begin(Program(0));
        let (mut x, mut y) = (be.alloc(4, 2, label), be.alloc(4, 3, label));
        be.zero(x.view_mut());
        work(&mut |y, x, w| be.linear(y.again(), x, w, None, false), &x, &mut y);
        be.will_need(&weight);
        let costs = be.take_costs();
        let found: Vec<_> = costs.iter().map(|c| (c.op, c.weight, c.calls, c.flop, c.bytes)).collect();
        let linear = ("linear", "q_proj", 2, 2 * 2 * 4 * 3 * 2, 2 * 4 * (4 * 3 + 4 * 2 + 3 * 2));
        assert_eq!(found, [("zero", "", 1, 0, 32), linear, ("advice", "", 1, 0, 0)]);
        assert!(be.take_costs().is_empty(), "taken");
        be.free(x);
        be.free(y);
    }
}
