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

use std::ops::Range;

use crate::{Act, Backend, Class, Elem, Form, Label, Mark, Op, Program, View, ViewMut, Weight};

/// Which buffer's tangent lies where. Kept from step to step, so that it takes from the heap but once.
#[derive(Debug, Default)]
pub struct Tangents {
    beside: Vec<Beside>,
}

/// A buffer's tangent.
#[derive(Debug)]
struct Beside {
    /// The buffer's number, and which of the values there are its own: parts of a buffer have one each.
    entry: u32,
    values: Range<usize>,
    tangent: Act,
}

impl Tangents {
    /// For so many buffers with tangents at a time.
    pub fn new(buffers: usize) -> Self {
        Self { beside: Vec::with_capacity(buffers) }
    }

    fn of<'v>(&self, x: View<'v>) -> Option<View<'v>> {
        let Beside { values, tangent, .. } = &self.beside[self.at(x.entry, x.first)?];
        Some(x.on(values.start, tangent))
    }

    /// Which is of a buffer's value.
    fn at(&self, entry: u32, first: usize) -> Option<usize> {
        self.beside.iter().position(|of| of.entry == entry && of.values.contains(&first))
    }

    #[track_caller]
    fn must<'v>(&self, x: View<'v>) -> View<'v> {
        self.of(x).expect("a buffer that was made here, or was given a tangent")
    }

    /// The tangent's rows of a view to write: exclusive, as the view is.
    #[track_caller]
    fn to<'v>(&self, y: &'v ViewMut<'_>) -> ViewMut<'v> {
        let found = self.at(y.entry, y.first).expect("a buffer that was made here");
        let Beside { values, tangent, .. } = &self.beside[found];
        y.on(values.start, tangent)
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
        let values = x.first..x.first + x.rows() * x.cols();
        self.tangents.beside.push(Beside { entry: x.entry, values, tangent });
    }

    /// Takes a buffer's tangent away, to be freed by the caller.
    pub fn detach(&mut self, x: &Act) -> Option<Act> {
        let at = self.tangents.at(x.entry, x.first)?;
        Some(self.tangents.beside.swap_remove(at).tangent)
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
    fn will_need(&self, w: &Weight) {
        self.be.will_need(w);
    }

    fn run(&mut self, op: Op<'_>) {
        let Self { be, tangents } = self;
        match op {
            Op::Zero { x } => {
                be.zero(tangents.to(&x));
                be.zero(x);
            }
            Op::Copy { to, from } => {
                be.copy(tangents.to(&to), tangents.must(from));
                be.copy(to, from);
            }
            Op::AddBias { y, bias } => be.add_bias(y, bias),
            Op::Scale { x, c } => {
                be.scale(tangents.to(&x), c);
                be.scale(x, c);
            }
            Op::Embedding { y, table, tokens } => {
                be.zero(tangents.to(&y));
                be.embedding(y, table, tokens);
            }
            Op::GatherRows { y, x, index } => {
                match tangents.of(x) {
                    Some(xt) => be.gather_rows(tangents.to(&y), xt, index),
                    None => be.zero(tangents.to(&y)),
                }
                be.gather_rows(y, x, index);
            }
            Op::ScatterRows { y, x, index } => {
                be.scatter_rows(tangents.to(&y), tangents.must(x), index);
                be.scatter_rows(y, x, index);
            }
            Op::RmsNorm { y, x, w, eps } => {
                be.rms_norm_tangent(tangents.to(&y), tangents.must(x), x, w, eps, false);
                be.rms_norm(y, x, w, eps);
            }
            Op::RmsNormAdd { y, x, w, eps } => {
                be.rms_norm_tangent(tangents.to(&y), tangents.must(x), x, w, eps, true);
                be.rms_norm_add(y, x, w, eps);
            }
            Op::Rope { x, positions, rope, inverse } => {
                be.rope(tangents.to(&x), positions, rope, inverse);
                be.rope(x, positions, rope, inverse);
            }
            Op::Linear { y, x, w, bias, accumulate } => {
                be.linear(tangents.to(&y), tangents.must(x), w, None, accumulate);
                be.linear(y, x, w, bias, accumulate);
            }
            Op::AdaptedLinear { y, x, w, bias, accumulate, h_b_alpha: (h, b, alpha) } => {
                let (xt, ht) = (tangents.must(x), tangents.must(h));
                be.adapted_linear(tangents.to(&y), xt, w, None, accumulate, (ht, b, alpha));
                if let Some(bt) = tangents.of(b) {
                    be.product(tangents.to(&y), Form::RightTransposed, h, bt, alpha, true);
                }
                be.adapted_linear(y, x, w, bias, accumulate, (h, b, alpha));
            }
            Op::Product { y, form, a, b, alpha, accumulate } => {
                let mut begun = accumulate;
                let terms = [tangents.of(a).map(|at| (at, b)), tangents.of(b).map(|bt| (a, bt))];
                for (a, b) in terms.into_iter().flatten() {
                    be.product(tangents.to(&y), form, a, b, alpha, begun);
                    begun = true;
                }
                if !begun {
                    be.zero(tangents.to(&y));
                }
                be.product(y, form, a, b, alpha, accumulate);
            }
            Op::GatedInPlace { f, gate, up } => {
                let up_t = tangents.must(up);
                be.gated_tangent_in_place(f, tangents.to(&gate), up_t, [gate.view(), up]);
                be.gated_in_place(f, gate, up);
            }
            Op::Attention { mut o, mut lse, qkv, shape } => {
                be.attention(o.again(), lse.again(), qkv, shape);
                let along = qkv.map(|x| tangents.must(x));
                be.attention_tangent(tangents.to(&o), [o.view(), lse.view()], qkv, along, shape);
                // Nothing of a forward reads ℓ, so ℓ' stays unwritten.
            }
            op => without(op.name()),
        }
    }
}
