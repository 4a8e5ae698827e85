//! A backend around another that measures every operation: nothing of it is there when it is not used.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use mesp_kernels::{AdamW, Dropout, Gate, Noise, RowStat, Sgd};

use crate::dry::attention_pairs;
use crate::{Act, Attention, Backend, Elem, Form, Label, Mark, Probs, Program, Rope, View, ViewMut, Weight};

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

    /// Runs an operation without a weight that passes over `values`.
    fn pass<T>(&mut self, op: &'static str, values: usize, run: impl FnOnce(&mut B) -> T) -> T {
        self.product(op, "", (0, values, 0), run)
    }

    /// Runs an operation with `flop` that passes over `values` and `bytes` besides.
    fn product<T>(
        &mut self,
        op: &'static str,
        weight: &'static str,
        (flop, values, bytes): (u64, usize, usize),
        run: impl FnOnce(&mut B) -> T,
    ) -> T {
        let begun = Begun::now();
        let result = run(&mut self.inner);
        self.note(op, weight, (flop, values as u64 * self.value_bytes + bytes as u64), begun);
        result
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

fn view(x: &View<'_>) -> usize {
    numbers(x.rows * x.cols, x.elem)
}

fn view_mut(x: &ViewMut<'_>) -> usize {
    numbers(x.rows * x.cols, x.elem)
}

/// Numbers of the backend that take as many bytes as so many values.
fn numbers(values: usize, elem: Elem) -> usize {
    match elem {
        Elem::Full => values,
        Elem::Bf16 => values.div_ceil(2),
    }
}

fn views(x: &[View<'_>]) -> usize {
    x.iter().map(view).sum()
}

fn multiplied(m: usize, n: usize, k: usize) -> u64 {
    2 * m as u64 * n as u64 * k as u64
}

/// `products` of the size of the scores.
fn attended(shape: Attention<'_>, products: u64) -> u64 {
    2 * products * attention_pairs(shape) * (shape.heads * shape.head_dim) as u64
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

    fn zero(&mut self, x: ViewMut<'_>) {
        self.pass("zero", view_mut(&x), |be| be.zero(x));
    }

    fn copy(&mut self, to: ViewMut<'_>, from: View<'_>) {
        self.pass("copy", 2 * view(&from), |be| be.copy(to, from));
    }

    fn add_bias(&mut self, y: ViewMut<'_>, bias: &[f32]) {
        self.pass("add_bias", 2 * view_mut(&y), |be| be.add_bias(y, bias));
    }

    fn bias_grad(&mut self, db: ViewMut<'_>, dy: View<'_>) {
        self.pass("bias_grad", view(&dy), |be| be.bias_grad(db, dy));
    }

    fn scale(&mut self, x: ViewMut<'_>, c: f64) {
        self.pass("scale", 2 * view_mut(&x), |be| be.scale(x, c));
    }

    fn sum_of_squares(&mut self, x: View<'_>) -> f64 {
        self.pass("sum_of_squares", view(&x), |be| be.sum_of_squares(x))
    }

    fn dot(&mut self, x: View<'_>, y: View<'_>) -> f64 {
        self.pass("dot", view(&x) + view(&y), |be| be.dot(x, y))
    }

    fn spill(&mut self, slot: usize, from: View<'_>) {
        self.pass("spill", view(&from), |be| be.spill(slot, from));
    }

    fn fetch(&mut self, slot: usize, to: ViewMut<'_>) {
        self.pass("fetch", view_mut(&to), |be| be.fetch(slot, to));
    }

    fn faulty(&self) -> bool {
        self.inner.faulty()
    }

    fn take_fault(&mut self) -> Option<std::io::Error> {
        self.inner.take_fault()
    }

    fn load_weight(&mut self, to: ViewMut<'_>, w: &Weight) {
        let (values, bytes) = (to.rows() * to.cols(), w.bytes());
        self.product("load_weight", "", (0, values, bytes), |be| be.load_weight(to, w));
    }

    fn will_need(&self, w: &Weight) {
        let begun = Begun::now();
        self.inner.will_need(w);
        self.note("advice", "", (0, 0), begun);
    }

    fn embedding(&mut self, y: ViewMut<'_>, table: &Weight, tokens: &[u32]) {
        let bytes = tokens.len() * table.bytes() / table.rows().max(1);
        self.product("embedding", "", (0, view_mut(&y), bytes), |be| be.embedding(y, table, tokens));
    }

    fn gather_rows(&mut self, y: ViewMut<'_>, x: View<'_>, index: &[u32]) {
        self.pass("gather_rows", 2 * view_mut(&y), |be| be.gather_rows(y, x, index));
    }

    fn scatter_rows(&mut self, y: ViewMut<'_>, x: View<'_>, index: &[u32]) {
        self.pass("scatter_rows", 2 * view(&x), |be| be.scatter_rows(y, x, index));
    }

    fn scatter_add_rows(&mut self, y: ViewMut<'_>, x: View<'_>, index: &[u32]) {
        self.pass("scatter_add_rows", 3 * view(&x), |be| be.scatter_add_rows(y, x, index));
    }

    fn rms_norm(&mut self, y: ViewMut<'_>, x: View<'_>, w: &[f32], eps: f64) {
        self.pass("rms_norm", 2 * view(&x), |be| be.rms_norm(y, x, w, eps));
    }

    fn rms_norm_add(&mut self, y: ViewMut<'_>, x: View<'_>, w: &[f32], eps: f64) {
        self.pass("rms_norm_add", 3 * view(&x), |be| be.rms_norm_add(y, x, w, eps));
    }

    fn rms_norm_backward(&mut self, dx: ViewMut<'_>, dy: View<'_>, x: View<'_>, w: &[f32], eps: f64) {
        self.pass("rms_norm_backward", 4 * view(&x), |be| be.rms_norm_backward(dx, dy, x, w, eps));
    }

    fn rms_norm_backward_in_place(&mut self, d: ViewMut<'_>, x: View<'_>, w: &[f32], eps: f64) {
        self.pass("rms_norm_backward", 3 * view(&x), |be| be.rms_norm_backward_in_place(d, x, w, eps));
    }

    fn rms_norm_weight_grad(&mut self, dw: ViewMut<'_>, dy: View<'_>, x: View<'_>, eps: f64) {
        self.pass("rms_norm_weight_grad", 2 * view(&x), |be| be.rms_norm_weight_grad(dw, dy, x, eps));
    }

    fn rms_norm_tangent(
        &mut self,
        t: ViewMut<'_>,
        xt: View<'_>,
        x: View<'_>,
        w: &[f32],
        eps: f64,
        accumulate: bool,
    ) {
        let values = (3 + usize::from(accumulate)) * view(&x);
        self.pass("rms_norm_tangent", values, |be| be.rms_norm_tangent(t, xt, x, w, eps, accumulate));
    }

    fn rope(&mut self, x: ViewMut<'_>, positions: &[u32], rope: &Rope, inverse: bool) {
        self.pass("rope", 2 * view_mut(&x), |be| be.rope(x, positions, rope, inverse));
    }

    fn linear(&mut self, y: ViewMut<'_>, x: View<'_>, w: &Weight, bias: Option<&[f32]>, accumulate: bool) {
        let work = (multiplied(y.rows, y.cols, x.cols), view_mut(&y) + view(&x), w.bytes());
        self.product("linear", self.named(w), work, |be| be.linear(y, x, w, bias, accumulate));
    }

    fn input_grad(&mut self, dx: ViewMut<'_>, dy: View<'_>, w: &Weight, accumulate: bool) {
        let work = (multiplied(dx.rows, dx.cols, dy.cols), view_mut(&dx) + view(&dy), w.bytes());
        self.product("input_grad", self.named(w), work, |be| be.input_grad(dx, dy, w, accumulate));
    }

    fn adapted_linear(
        &mut self,
        y: ViewMut<'_>,
        x: View<'_>,
        w: &Weight,
        bias: Option<&[f32]>,
        accumulate: bool,
        (h, b, alpha): (View<'_>, View<'_>, f64),
    ) {
        let work = (multiplied(y.rows, y.cols, x.cols), view_mut(&y) + view(&x), w.bytes());
        let term = (multiplied(y.rows, y.cols, h.cols), view(&h) + view(&b), 0);
        self.product("linear", self.named(w), work, |be| {
            be.adapted_linear(y, x, w, bias, accumulate, (h, b, alpha));
        });
        // Its time is the layer's.
        self.product("adapter output", "", term, |_| ());
    }

    fn adapted_input_grad(
        &mut self,
        dx: ViewMut<'_>,
        dy: View<'_>,
        w: &Weight,
        accumulate: bool,
        (dh, a): (View<'_>, View<'_>),
    ) {
        let work = (multiplied(dx.rows, dx.cols, dy.cols), view_mut(&dx) + view(&dy), w.bytes());
        let term = (multiplied(dx.rows, dx.cols, dh.cols), view(&dh) + view(&a), 0);
        self.product("input_grad", self.named(w), work, |be| {
            be.adapted_input_grad(dx, dy, w, accumulate, (dh, a));
        });
        self.product("adapter input_grad", "", term, |_| ());
    }

    fn product(
        &mut self,
        y: ViewMut<'_>,
        form: Form,
        a: View<'_>,
        b: View<'_>,
        alpha: f64,
        accumulate: bool,
    ) {
        let depth = if form == Form::LeftTransposed { a.rows } else { a.cols };
        let work = (multiplied(y.rows, y.cols, depth), view_mut(&y) + view(&a) + view(&b), 0);
        // After `adapter/lora.rs`, which is where the small products are.
        let op = match (form, accumulate) {
            (Form::RightTransposed, false) => "adapter h",
            (Form::RightTransposed, true) => "adapter output",
            (Form::LeftTransposed, _) => "adapter gradient",
            (Form::Plain, false) => "adapter dh",
            (Form::Plain, true) => "adapter input_grad",
        };
        self.product(op, "", work, |be| be.product(y, form, a, b, alpha, accumulate));
    }

    fn dropout(&mut self, y: ViewMut<'_>, x: View<'_>, mask: Dropout, first: usize, accumulate: bool) {
        self.pass("dropout", 2 * view(&x), |b| b.dropout(y, x, mask, first, accumulate));
    }

    fn row_squares(&mut self, to: ViewMut<'_>, w: &Weight) {
        let (name, values) = (self.named(w), w.rows() * w.cols());
        self.product("row_squares", name, (2 * values as u64, view_mut(&to), w.bytes()), |b| {
            b.row_squares(to, w);
        });
    }

    fn dora_gains(
        &mut self,
        to: (ViewMut<'_>, ViewMut<'_>),
        factors: (View<'_>, View<'_>),
        b: View<'_>,
        products: (View<'_>, View<'_>),
        scale: f64,
    ) {
        let values = view(&b) + view(&products.0) + 4 * view_mut(&to.0);
        self.pass("dora_gains", values, |be| be.dora_gains(to, factors, b, products, scale));
    }

    fn dora_gain(&mut self, y: ViewMut<'_>, gain: View<'_>, bias: Option<&[f32]>) {
        self.pass("dora_gain", 2 * view_mut(&y), |b| b.dora_gain(y, gain, bias));
    }

    fn dora_gain_add(&mut self, y: ViewMut<'_>, z: View<'_>, gain: View<'_>, bias: Option<&[f32]>) {
        self.pass("dora_gain_add", 3 * view(&z), |b| b.dora_gain_add(y, z, gain, bias));
    }

    fn dora_magnitude_grad(&mut self, dm: ViewMut<'_>, dy: View<'_>, z: View<'_>, inverse: View<'_>) {
        let values = view(&dy) + view(&z);
        self.pass("dora_magnitude_grad", values, |b| b.dora_magnitude_grad(dm, dy, z, inverse));
    }

    fn gated_in_place(&mut self, f: Gate, gate: ViewMut<'_>, up: View<'_>) {
        self.pass("gated", 3 * view(&up), |be| be.gated_in_place(f, gate, up));
    }

    fn gated_tangent_in_place(&mut self, f: Gate, gate_t: ViewMut<'_>, up_t: View<'_>, at: [View<'_>; 2]) {
        self.pass("gated_tangent", 5 * view(&up_t), |be| be.gated_tangent_in_place(f, gate_t, up_t, at));
    }

    fn gated_backward_in_place(&mut self, f: Gate, gate: ViewMut<'_>, up: ViewMut<'_>, da: View<'_>) {
        self.pass("gated_backward", 5 * view(&da), |be| be.gated_backward_in_place(f, gate, up, da));
    }

    fn attention(&mut self, o: ViewMut<'_>, lse: ViewMut<'_>, qkv: [View<'_>; 3], shape: Attention<'_>) {
        let work = (attended(shape, 2), view_mut(&o) + view_mut(&lse) + views(&qkv), 0);
        self.product("attention", "", work, |be| be.attention(o, lse, qkv, shape));
    }

    fn attention_probs(&mut self, p: ViewMut<'_>, lse: View<'_>, qk: [View<'_>; 2], shape: Attention<'_>) {
        let work = (attended(shape, 1), view_mut(&p) + view(&lse) + views(&qk), 0);
        self.product("attention_probs", "", work, |be| be.attention_probs(p, lse, qk, shape));
    }

    fn attention_tangent(
        &mut self,
        t: ViewMut<'_>,
        o_lse: [View<'_>; 2],
        qkv: [View<'_>; 3],
        tangents: [View<'_>; 3],
        shape: Attention<'_>,
    ) {
        let work = (attended(shape, 5), view_mut(&t) + views(&o_lse) + views(&qkv) + views(&tangents), 0);
        self.product("attention_tangent", "", work, |be| {
            be.attention_tangent(t, o_lse, qkv, tangents, shape);
        });
    }

    fn attention_delta(&mut self, delta: ViewMut<'_>, d_o: View<'_>, o: View<'_>) {
        self.pass("attention_delta", 2 * view(&o), |be| be.attention_delta(delta, d_o, o));
    }

    fn attention_backward_q(
        &mut self,
        dq: ViewMut<'_>,
        d_o: View<'_>,
        qkv: [View<'_>; 3],
        lse_delta: [View<'_>; 2],
        probs: Probs<'_>,
        shape: Attention<'_>,
    ) {
        let (products, p) = backward_of(probs, 2);
        let values = view_mut(&dq) + view(&d_o) + views(&qkv) + views(&lse_delta) + p;
        let work = (attended(shape, products), values, 0);
        self.product("attention_backward", "q", work, |be| {
            be.attention_backward_q(dq, d_o, qkv, lse_delta, probs, shape);
        });
    }

    fn attention_backward_kv(
        &mut self,
        dk: ViewMut<'_>,
        dv: ViewMut<'_>,
        d_o: View<'_>,
        qkv: [View<'_>; 3],
        lse_delta: [View<'_>; 2],
        probs: Probs<'_>,
        shape: Attention<'_>,
    ) {
        let (products, p) = backward_of(probs, 3);
        let outputs = view_mut(&dk) + view_mut(&dv);
        let values = outputs + view(&d_o) + views(&qkv) + views(&lse_delta) + p;
        let work = (attended(shape, products), values, 0);
        self.product("attention_backward", "kv", work, |be| {
            be.attention_backward_kv(dk, dv, d_o, qkv, lse_delta, probs, shape);
        });
    }

    fn softmax_stats(&mut self, logits: View<'_>, labels: &[u32], first: usize, stats: &mut [RowStat]) {
        self.pass("softmax_stats", view(&logits), |be| be.softmax_stats(logits, labels, first, stats));
    }

    fn softmax_gradient(
        &mut self,
        logits: ViewMut<'_>,
        labels: &[u32],
        first: usize,
        c: f64,
        stats: &[RowStat],
    ) {
        let values = 2 * view_mut(&logits);
        self.pass("softmax_gradient", values, |be| be.softmax_gradient(logits, labels, first, c, stats));
    }

    fn softmax_sum(
        &mut self,
        sum: ViewMut<'_>,
        logits: ViewMut<'_>,
        labels: &[u32],
        first: usize,
        stats: &mut [RowStat],
        words: &Weight,
    ) {
        let values = 2 * view_mut(&logits) + 2 * view_mut(&sum);
        let work = (multiplied(sum.rows, sum.cols, words.rows()), values, words.bytes());
        self.product("softmax_sum", self.named(words), work, |be| {
            be.softmax_sum(sum, logits, labels, first, stats, words);
        });
    }

    fn softmax_sum_gradient(&mut self, sum: ViewMut<'_>, word: View<'_>, c: f64, stats: &[RowStat]) {
        self.pass("softmax_sum_gradient", 3 * view(&word), |be| be.softmax_sum_gradient(sum, word, c, stats));
    }

    fn perturb(&mut self, to: ViewMut<'_>, from: View<'_>, c: [f64; 2], noise: Noise) {
        self.pass("perturb", 2 * view(&from), |be| be.perturb(to, from, c, noise));
    }

    fn drift(&mut self, p: ViewMut<'_>, a: f64, c: f64, noise: Noise) {
        self.pass("drift", 2 * p.rows() * p.cols(), |be| be.drift(p, a, c, noise));
    }

    fn sgd(&mut self, p: ViewMut<'_>, m: Option<ViewMut<'_>>, g: View<'_>, settings: Sgd, key: u64) {
        let passes = if m.is_some() { 5 } else { 3 };
        self.pass("sgd", passes * view(&g), |be| be.sgd(p, m, g, settings, key));
    }

    fn adamw(
        &mut self,
        p: ViewMut<'_>,
        m: ViewMut<'_>,
        v: ViewMut<'_>,
        g: View<'_>,
        settings: AdamW,
        key: u64,
    ) {
        self.pass("adamw", 7 * view(&g), |be| be.adamw(p, m, v, g, settings, key));
    }
}

/// Products of a backward pass, one more where probabilities are rebuilt, and the values of kept ones.
fn backward_of(probs: Probs<'_>, products: u64) -> (u64, usize) {
    match probs {
        Probs::Rebuild => (products + 1, 0),
        Probs::Kept(p) => (products, view(&p)),
    }
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
