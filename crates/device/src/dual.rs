//! A backend that carries tangents: forward-mode differentiation of whatever runs on it.
//!
//! ```text
//! every buffer x has a second one, x'         y = f(x)   ⇒   y' = J_f(x)·x'
//! linear     y' = x'·Wᵀ                       product    y' = a'·b + a·b'
//! adapted    y' = x'·Wᵀ + α·(h'·Bᵀ + h·B'ᵀ)   copy, sums, rotation: the same of the tangents
//! norm, attention, gate: their own rules      derivation: docs/math/forward.md
//! ```
//! The model's code runs on it as on any backend, so no rule of a block is stated a second time. It serves
//! blocks; what a step does around them (heads, gradients, updates) needs no tangents and panics here.

use mesp_kernels::{AdamW, Dropout, Gate, Noise, RowStat, Sgd};

use crate::{
    Act, Attention, Backend, Class, Elem, Form, Label, Mark, Probs, Program, Rope, View, ViewMut, Weight,
};

/// Which buffer's tangent lies where. Kept from step to step, so that it takes from the heap but once.
#[derive(Debug, Default)]
pub struct Tangents {
    beside: Vec<(u32, Act)>,
}

impl Tangents {
    /// For so many buffers with tangents at a time.
    pub fn new(buffers: usize) -> Self {
        Self { beside: Vec::with_capacity(buffers) }
    }

    fn of<'v>(&self, x: View<'v>) -> Option<View<'v>> {
        let (_, tangent) = self.beside.iter().find(|(entry, _)| *entry == x.entry)?;
        Some(x.on(tangent))
    }

    #[track_caller]
    fn must<'v>(&self, x: View<'v>) -> View<'v> {
        self.of(x).expect("a buffer that was made here, or was given a tangent")
    }

    /// The tangent's rows of a view to write: exclusive, as the view is.
    #[track_caller]
    fn to<'v>(&self, y: &'v ViewMut<'_>) -> ViewMut<'v> {
        let found = self.beside.iter().find(|(entry, _)| *entry == y.entry);
        y.on(&found.expect("a buffer that was made here").1)
    }
}

/// A backend and the tangents of its buffers.
#[derive(Debug)]
pub struct Dual<'a, B> {
    be: &'a mut B,
    tangents: &'a mut Tangents,
}

impl<'a, B: Backend> Dual<'a, B> {
    /// Around a backend. Buffers allocated here get a tangent; those from before have none, which stands for a
    /// tangent of zero, until [`Dual::attach`] gives them one.
    pub fn new(be: &'a mut B, tangents: &'a mut Tangents) -> Self {
        Self { be, tangents }
    }

    /// The backend itself, for what has no tangent.
    pub fn primal(&mut self) -> &mut B {
        self.be
    }

    /// Gives a buffer that was allocated elsewhere a tangent, which `fill` writes.
    ///
    /// # Panics
    /// When it has one.
    pub fn attach(&mut self, x: &Act, class: Class, fill: impl FnOnce(&mut B, ViewMut<'_>)) {
        assert!(self.tangents.of(x.view()).is_none(), "one tangent for a buffer");
        let mut tangent = self.be.alloc(x.rows(), x.cols(), Label::new(class, "tangent"));
        fill(self.be, tangent.view_mut());
        self.tangents.beside.push((x.entry, tangent));
    }

    /// Takes a buffer's tangent away, to be freed by the caller.
    pub fn detach(&mut self, x: &Act) -> Option<Act> {
        let at = self.tangents.beside.iter().position(|(entry, _)| *entry == x.entry)?;
        Some(self.tangents.beside.swap_remove(at).1)
    }
}

#[cold]
#[track_caller]
fn without(op: &str) -> ! {
    panic!("{op} is not for a forward with tangents")
}

impl<B: Backend> Backend for Dual<'_, B> {
    fn begin(&mut self, _: Program) {
        without("begin")
    }
    fn persist_as(&mut self, _: usize, _: usize, _: Elem, _: Label) -> Act {
        without("persist")
    }
    fn alloc_as(&mut self, rows: usize, cols: usize, elem: Elem, label: Label) -> Act {
        let act = self.be.alloc_as(rows, cols, elem, label);
        self.attach(&act, label.class, |_, _| ());
        act
    }
    fn free(&mut self, act: Act) {
        if let Some(tangent) = self.detach(&act) {
            self.be.free(tangent);
        }
        self.be.free(act);
    }
    fn mark(&self) -> Mark {
        self.be.mark()
    }
    fn rewind(&mut self, mark: Mark) {
        self.be.rewind(mark);
    }

    fn load(&mut self, _: ViewMut<'_>, _: &mut dyn FnMut(usize) -> f64) {
        without("load")
    }
    fn store(&self, from: View<'_>, to: &mut dyn FnMut(usize, f64)) {
        self.be.store(from, to);
    }
    fn zero(&mut self, x: ViewMut<'_>) {
        self.be.zero(self.tangents.to(&x));
        self.be.zero(x);
    }
    fn copy(&mut self, to: ViewMut<'_>, from: View<'_>) {
        self.be.copy(self.tangents.to(&to), self.tangents.must(from));
        self.be.copy(to, from);
    }
    fn add_bias(&mut self, y: ViewMut<'_>, bias: &[f32]) {
        self.be.add_bias(y, bias);
    }
    fn bias_grad(&mut self, _: ViewMut<'_>, _: View<'_>) {
        without("bias_grad")
    }
    fn scale(&mut self, x: ViewMut<'_>, c: f64) {
        self.be.scale(self.tangents.to(&x), c);
        self.be.scale(x, c);
    }
    fn sum_of_squares(&mut self, _: View<'_>) -> f64 {
        without("sum_of_squares")
    }
    fn dot(&mut self, _: View<'_>, _: View<'_>) -> f64 {
        without("dot")
    }

    fn spill(&mut self, _: usize, _: View<'_>) {
        without("spill")
    }
    fn fetch(&mut self, _: usize, _: ViewMut<'_>) {
        without("fetch")
    }
    fn faulty(&self) -> bool {
        self.be.faulty()
    }
    fn take_fault(&mut self) -> Option<std::io::Error> {
        self.be.take_fault()
    }
    fn load_weight(&mut self, _: ViewMut<'_>, _: &Weight) {
        without("load_weight")
    }
    fn will_need(&self, w: &Weight) {
        self.be.will_need(w);
    }

    fn embedding(&mut self, y: ViewMut<'_>, table: &Weight, tokens: &[u32]) {
        self.be.zero(self.tangents.to(&y));
        self.be.embedding(y, table, tokens);
    }
    fn gather_rows(&mut self, y: ViewMut<'_>, x: View<'_>, index: &[u32]) {
        match self.tangents.of(x) {
            Some(xt) => self.be.gather_rows(self.tangents.to(&y), xt, index),
            None => self.be.zero(self.tangents.to(&y)),
        }
        self.be.gather_rows(y, x, index);
    }
    fn scatter_rows(&mut self, y: ViewMut<'_>, x: View<'_>, index: &[u32]) {
        self.be.scatter_rows(self.tangents.to(&y), self.tangents.must(x), index);
        self.be.scatter_rows(y, x, index);
    }
    fn scatter_add_rows(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[u32]) {
        without("scatter_add_rows")
    }

    fn rms_norm(&mut self, y: ViewMut<'_>, x: View<'_>, w: &[f32], eps: f64) {
        let xt = self.tangents.must(x);
        self.be.rms_norm_tangent(self.tangents.to(&y), xt, x, w, eps, false);
        self.be.rms_norm(y, x, w, eps);
    }
    fn rms_norm_add(&mut self, y: ViewMut<'_>, x: View<'_>, w: &[f32], eps: f64) {
        let xt = self.tangents.must(x);
        self.be.rms_norm_tangent(self.tangents.to(&y), xt, x, w, eps, true);
        self.be.rms_norm_add(y, x, w, eps);
    }
    fn rms_norm_backward(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: &[f32], _: f64) {
        without("rms_norm_backward")
    }
    fn rms_norm_backward_in_place(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[f32], _: f64) {
        without("rms_norm_backward")
    }
    fn rms_norm_weight_grad(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: f64) {
        without("rms_norm_weight_grad")
    }
    fn rms_norm_tangent(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: &[f32], _: f64, _: bool) {
        without("rms_norm_tangent")
    }
    fn rope(&mut self, x: ViewMut<'_>, positions: &[u32], rope: &Rope, inverse: bool) {
        self.be.rope(self.tangents.to(&x), positions, rope, inverse);
        self.be.rope(x, positions, rope, inverse);
    }

    fn linear(&mut self, y: ViewMut<'_>, x: View<'_>, w: &Weight, bias: Option<&[f32]>, accumulate: bool) {
        self.be.linear(self.tangents.to(&y), self.tangents.must(x), w, None, accumulate);
        self.be.linear(y, x, w, bias, accumulate);
    }
    fn input_grad(&mut self, _: ViewMut<'_>, _: View<'_>, _: &Weight, _: bool) {
        without("input_grad")
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
        let (xt, ht) = (self.tangents.must(x), self.tangents.must(h));
        self.be.adapted_linear(self.tangents.to(&y), xt, w, None, accumulate, (ht, b, alpha));
        if let Some(bt) = self.tangents.of(b) {
            self.be.product(self.tangents.to(&y), Form::RightTransposed, h, bt, alpha, true);
        }
        self.be.adapted_linear(y, x, w, bias, accumulate, (h, b, alpha));
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
        let mut begun = accumulate;
        let terms = [self.tangents.of(a).map(|at| (at, b)), self.tangents.of(b).map(|bt| (a, bt))];
        for (a, b) in terms.into_iter().flatten() {
            self.be.product(self.tangents.to(&y), form, a, b, alpha, begun);
            begun = true;
        }
        if !begun {
            self.be.zero(self.tangents.to(&y));
        }
        self.be.product(y, form, a, b, alpha, accumulate);
    }

    fn dropout(&mut self, _: ViewMut<'_>, _: View<'_>, _: Dropout, _: usize, _: bool) {
        without("dropout")
    }
    fn row_squares(&mut self, _: ViewMut<'_>, _: &Weight) {
        without("row_squares")
    }
    fn dora_gains(
        &mut self,
        _: (ViewMut<'_>, ViewMut<'_>),
        _: (View<'_>, View<'_>),
        _: View<'_>,
        _: (View<'_>, View<'_>),
        _: f64,
    ) {
        without("dora_gains")
    }
    fn dora_gain(&mut self, _: ViewMut<'_>, _: View<'_>, _: Option<&[f32]>) {
        without("dora_gain")
    }
    fn dora_gain_add(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: Option<&[f32]>) {
        without("dora_gain_add")
    }
    fn dora_magnitude_grad(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: View<'_>) {
        without("dora_magnitude_grad")
    }

    fn gated_in_place(&mut self, f: Gate, gate: ViewMut<'_>, up: View<'_>) {
        let up_t = self.tangents.must(up);
        self.be.gated_tangent_in_place(f, self.tangents.to(&gate), up_t, [gate.view(), up]);
        self.be.gated_in_place(f, gate, up);
    }
    fn gated_backward_in_place(&mut self, _: Gate, _: ViewMut<'_>, _: ViewMut<'_>, _: View<'_>) {
        without("gated_backward")
    }
    fn gated_tangent_in_place(&mut self, _: Gate, _: ViewMut<'_>, _: View<'_>, _: [View<'_>; 2]) {
        without("gated_tangent")
    }

    fn attention(&mut self, mut o: ViewMut<'_>, mut lse: ViewMut<'_>, qkv: [View<'_>; 3], at: Attention<'_>) {
        self.be.attention(o.again(), lse.again(), qkv, at);
        let tangents = qkv.map(|x| self.tangents.must(x));
        self.be.attention_tangent(self.tangents.to(&o), [o.view(), lse.view()], qkv, tangents, at);
        // Nothing of a forward reads ℓ, so ℓ' stays unwritten.
    }
    fn attention_probs(&mut self, _: ViewMut<'_>, _: View<'_>, _: [View<'_>; 2], _: Attention<'_>) {
        without("attention_probs")
    }
    fn attention_tangent(
        &mut self,
        _: ViewMut<'_>,
        _: [View<'_>; 2],
        _: [View<'_>; 3],
        _: [View<'_>; 3],
        _: Attention<'_>,
    ) {
        without("attention_tangent")
    }
    fn attention_delta(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>) {
        without("attention_delta")
    }
    fn attention_backward_q(
        &mut self,
        _: ViewMut<'_>,
        _: View<'_>,
        _: [View<'_>; 3],
        _: [View<'_>; 2],
        _: Probs<'_>,
        _: Attention<'_>,
    ) {
        without("attention_backward_q")
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
        without("attention_backward_kv")
    }

    fn softmax_stats(&mut self, _: View<'_>, _: &[u32], _: usize, _: &mut [RowStat]) {
        without("softmax_stats")
    }
    fn softmax_gradient(&mut self, _: ViewMut<'_>, _: &[u32], _: usize, _: f64, _: &[RowStat]) {
        without("softmax_gradient")
    }
    fn softmax_sum(
        &mut self,
        _: ViewMut<'_>,
        _: ViewMut<'_>,
        _: &[u32],
        _: usize,
        _: &mut [RowStat],
        _: &Weight,
    ) {
        without("softmax_sum")
    }
    fn softmax_sum_gradient(&mut self, _: ViewMut<'_>, _: View<'_>, _: f64, _: &[RowStat]) {
        without("softmax_sum_gradient")
    }

    fn sgd(&mut self, _: ViewMut<'_>, _: Option<ViewMut<'_>>, _: View<'_>, _: Sgd, _: u64) {
        without("sgd")
    }
    fn adamw(&mut self, _: ViewMut<'_>, _: ViewMut<'_>, _: ViewMut<'_>, _: View<'_>, _: AdamW, _: u64) {
        without("adamw")
    }
    fn perturb(&mut self, _: ViewMut<'_>, _: View<'_>, _: [f64; 2], _: Noise) {
        without("perturb")
    }
    fn drift(&mut self, _: ViewMut<'_>, _: f64, _: f64, _: Noise) {
        without("drift")
    }
}
