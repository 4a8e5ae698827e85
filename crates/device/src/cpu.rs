//! The processor: planned offsets, kernels on a pool of threads.

mod products;
mod updates;

use std::sync::Arc;

use mesp_kernels::{
    self as kernels, Compute, Init, Lhs, MOST_RANKS, Out, Par, ProbsAt, Real, Rhs, Threads, Values,
};

use crate::act::PERSISTENT;
use crate::arena::Arena;
use crate::plan::{Plan, padded};
use crate::resident::Resident;
use crate::weight::Held;
use crate::{
    Act, Attention, Backend, Elem, Form, Label, Mark, Op, Owner, Probs, Program, Rope, Spill, View, ViewMut,
    Weight,
};

/// A processor that computes in `R`: `f32` to run, `f64` to check.
///
/// Buffers are handed out as the plan says; asking for other buffers than were planned is a panic.
#[derive(Debug)]
pub struct Cpu<R> {
    owner: Owner,
    arena: Arena<R>,
    plan: Plan,
    pool: Arc<Threads>,
    persisted: usize,
    program: usize,
    next: usize,
    reached: usize,
    compute: Compute,
    spill: Option<Spill>,
    fault: Option<std::io::Error>,
    /// Where pages of mapped weights are minded.
    resident: Option<Resident>,
}

impl<R: Real> Cpu<R> {
    /// Allocates the plan's arena. `pool` must have as many threads as the plan was made for, the caller's among them.
    ///
    /// # Panics
    /// When the plan was made for another type, or the system does not have the memory.
    pub fn new(plan: Plan, pool: Arc<Threads>) -> Self {
        Self::try_new(plan, pool).expect("memory for the plan")
    }

    /// The same, or the bytes that the system does not have.
    ///
    /// # Errors
    /// When it does not have them.
    ///
    /// # Panics
    /// When the plan was made for another type.
    pub fn try_new(plan: Plan, pool: Arc<Threads>) -> Result<Self, usize> {
        assert_eq!(plan.value_bytes, size_of::<R>(), "a plan for this type");
        let bytes = plan.bytes();
        Ok(Self {
            owner: Owner::new(),
            arena: Arena::new(bytes).ok_or(bytes)?,
            plan,
            pool,
            persisted: 0,
            program: 0,
            next: 0,
            reached: 0,
            compute: Compute::Full,
            spill: None,
            fault: None,
            resident: None,
        })
    }

    /// Says what numbers the products with base weights and those of attention multiply. Adapters' products are full
    /// always.
    #[must_use]
    pub fn with_compute(mut self, compute: Compute) -> Self {
        self.compute = compute;
        self
    }

    /// Attention with this processor's numbers.
    fn attended<'a>(&self, at: Attention<'a>) -> Attention<'a> {
        Attention { compute: self.compute, ..at }
    }

    /// Gives it a file for what is spilled.
    #[must_use]
    pub fn with_spill(mut self, spill: Spill) -> Self {
        self.spill = Some(spill);
        self
    }

    /// Sets whether pages of mapped weights are prefetched and released after use, so that few of them are
    /// resident at a time.
    #[must_use]
    pub fn with_advice(mut self, advise: bool) -> Self {
        self.resident = advise.then(Resident::new);
        self
    }

    fn note(&mut self, result: std::io::Result<()>) {
        if let (Err(e), None) = (result, &self.fault) {
            self.fault = Some(e);
        }
    }

    /// The plan that this backend follows.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The furthest byte of the arena that any buffer reached: what was used of the plan.
    pub fn reached_bytes(&self) -> usize {
        self.reached
    }

    fn take(
        &mut self,
        start: usize,
        bytes: usize,
        [rows, cols]: [usize; 2],
        elem: Elem,
        entry: usize,
        label: Label,
    ) -> Act {
        let need = padded(rows, cols, elem.bytes(size_of::<R>()));
        assert!(
            need.is_some_and(|need| need <= bytes),
            "{label:?}: {rows} x {cols} values asked, {bytes} bytes planned"
        );
        self.reached = self.reached.max(start + bytes);
        self.owner.act(entry as u32, start, [rows, cols], elem.on(size_of::<R>()))
    }

    /// The values of a view, however they are stored.
    #[track_caller]
    fn values<'a>(&self, view: View<'a>) -> Values<'a, R> {
        assert!(self.owner.owns(&view), "a buffer of this backend");
        // SAFETY: buffers of this backend lie where its plan puts them, and a plan's buffers that are alive
        // together do not overlap; handles are not copied and end with `free`. The type is the buffer's.
        unsafe {
            match view.elem {
                Elem::Full => Values::Full(self.arena.read(view)),
                Elem::Bf16 => Values::Bf16(self.arena.read(view)),
                Elem::Byte => panic!("{NO_BYTES}"),
            }
        }
    }

    /// As [`Cpu::values`], to write.
    #[track_caller]
    fn values_mut<'a>(&self, view: ViewMut<'a>) -> ValuesMut<'a, R> {
        assert!(self.owner.owns(&view.view()), "a buffer of this backend");
        // SAFETY: as in `values`; the view borrows its handle exclusively.
        unsafe {
            match view.elem {
                Elem::Full => ValuesMut::Full(self.arena.write(view)),
                Elem::Bf16 => ValuesMut::Bf16(self.arena.write(view)),
                Elem::Byte => panic!("{NO_BYTES}"),
            }
        }
    }

    #[track_caller]
    fn read<'a>(&self, view: View<'a>) -> &'a [R] {
        match self.values(view) {
            Values::Full(x) => x,
            Values::Bf16(_) => panic!("this operation reads no bf16"),
        }
    }

    #[track_caller]
    fn write<'a>(&self, view: ViewMut<'a>) -> &'a mut [R] {
        match self.values_mut(view) {
            ValuesMut::Full(x) => x,
            ValuesMut::Bf16(_) => panic!("this operation writes no bf16"),
        }
    }

    /// The values of a view of this processor's buffers; none where they are stored in bf16.
    ///
    /// # Panics
    /// When the view is of another backend.
    #[track_caller]
    pub fn slice<'a>(&'a self, view: View<'a>) -> Option<&'a [R]> {
        match self.values(view) {
            Values::Full(x) => Some(x),
            Values::Bf16(_) => None,
        }
    }

    /// As [`Cpu::slice`], to write.
    ///
    /// # Panics
    /// When the view is of another backend.
    #[track_caller]
    pub fn slice_mut<'a>(&'a mut self, view: ViewMut<'a>) -> Option<&'a mut [R]> {
        match self.values_mut(view) {
            ValuesMut::Full(x) => Some(x),
            ValuesMut::Bf16(_) => None,
        }
    }

    /// The kernels' scratch, which lies behind the persistent buffers.
    fn scratch<'a>(&mut self) -> &'a mut [R] {
        let at = self.plan.persistent_bytes();
        // SAFETY: no buffer overlaps the scratch, and an operation takes it once, under `&mut self`, for no
        // longer than the operation.
        unsafe { self.arena.range(at, self.plan.scratch_bytes) }
    }
}

/// Rows of a table that are read before its pages are let go. A row brings 64 kB with it where the page cache holds
/// a file in small pieces, and 2 MB where it holds it in large ones.
const LOOKUPS: usize = 4;

/// Of codes, which only moments have.
const NO_BYTES: &str = "this operation is not for a buffer of bytes";

/// [`Values`] to write.
enum ValuesMut<'a, R> {
    Full(&'a mut [R]),
    Bf16(&'a mut [u16]),
}

fn no_file() -> std::io::Result<()> {
    Err(std::io::Error::other("this backend has no file to spill to"))
}

impl<R: Real> Backend for Cpu<R> {
    fn begin(&mut self, program: Program) {
        (self.program, self.next) = (program.0, 0);
    }

    fn persist_as(&mut self, rows: usize, cols: usize, elem: Elem, label: Label) -> Act {
        let e = self.plan.persistent[self.persisted];
        assert_eq!(e.label, label, "persistent buffers in the planned order");
        self.persisted += 1;
        let entry = PERSISTENT as usize | (self.persisted - 1);
        self.take(e.offset, e.bytes, [rows, cols], elem, entry, label)
    }

    fn alloc_as(&mut self, rows: usize, cols: usize, elem: Elem, label: Label) -> Act {
        let e = self.plan.programs[self.program].entries[self.next];
        assert_eq!(e.label, label, "buffers in the planned order");
        let start = self.plan.persistent_bytes() + self.plan.scratch_bytes + e.offset;
        self.next += 1;
        let mut act = self.take(start, e.bytes, [rows, cols], elem, self.next - 1, label);
        if cfg!(debug_assertions) {
            // Whoever reads what was never written shall see it.
            self.fill(act.view_mut(), f32::NAN);
        }
        act
    }

    fn free(&mut self, act: Act) {
        assert!(self.owner.owns(&act.view()), "a buffer of this backend");
        drop(act);
    }

    fn mark(&self) -> Mark {
        Mark(self.next)
    }

    fn rewind(&mut self, mark: Mark) {
        self.next = mark.0;
    }

    fn load(&mut self, to: ViewMut<'_>, from: &mut dyn FnMut(usize) -> f64) {
        if to.elem == Elem::Byte {
            return self.bytes_mut(to).iter_mut().enumerate().for_each(|(i, x)| *x = from(i) as u8);
        }
        match self.values_mut(to) {
            ValuesMut::Full(to) => to.iter_mut().enumerate().for_each(|(i, x)| *x = R::from_f64(from(i))),
            ValuesMut::Bf16(to) => {
                for (i, x) in to.iter_mut().enumerate() {
                    kernels::narrow(std::slice::from_mut(x), &[from(i)], Par::serial());
                }
            }
        }
    }

    fn store(&self, from: View<'_>, to: &mut dyn FnMut(usize, f64)) {
        if from.elem == Elem::Byte {
            return self.bytes(from).iter().enumerate().for_each(|(i, x)| to(i, f64::from(*x)));
        }
        match self.values(from) {
            Values::Full(x) => x.iter().enumerate().for_each(|(i, x)| to(i, x.to_f64())),
            Values::Bf16(x) => {
                for (i, x) in x.iter().enumerate() {
                    let mut wide = [0.0f64];
                    kernels::widen(&mut wide, std::slice::from_ref(x), Par::serial());
                    to(i, wide[0]);
                }
            }
        }
    }

    fn sum_of_squares(&mut self, x: View<'_>) -> f64 {
        kernels::sum_of_squares(self.read(x))
    }

    fn dot(&mut self, x: View<'_>, y: View<'_>) -> f64 {
        kernels::dot(self.read(x), self.read(y))
    }

    fn spill(&mut self, slot: usize, from: View<'_>) {
        let values = self.read(from);
        let result = self.spill.as_ref().map_or_else(no_file, |s| s.write(slot, values));
        self.note(result);
    }

    fn fetch(&mut self, slot: usize, to: ViewMut<'_>) {
        let values = self.write(to);
        let result = self.spill.as_ref().map_or_else(no_file, |s| s.read(slot, values));
        if result.is_err() {
            values.fill(R::ZERO);
        }
        self.note(result);
    }

    fn faulty(&self) -> bool {
        self.fault.is_some()
    }

    fn take_fault(&mut self) -> Option<std::io::Error> {
        self.fault.take()
    }

    fn will_need(&self, w: &Weight) {
        if self.resident.is_some() {
            w.will_need();
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm an operation")]
    fn run(&mut self, op: Op<'_>) {
        match op {
            Op::Zero { x } => {
                self.fill(x, 0.0);
            }
            Op::Copy { to, from } => {
                let par = Par::on(&self.pool);
                match (self.values_mut(to), self.values(from)) {
                    (ValuesMut::Full(to), Values::Full(from)) => kernels::copy(to, from, par),
                    (ValuesMut::Full(to), Values::Bf16(from)) => kernels::widen(to, from, par),
                    (ValuesMut::Bf16(to), Values::Full(from)) => kernels::narrow(to, from, par),
                    (ValuesMut::Bf16(to), Values::Bf16(from)) => kernels::copy(to, from, par),
                }
            }
            Op::AddBias { y, bias } => {
                kernels::add_bias(self.write(y), bias, Par::on(&self.pool));
            }
            Op::BiasGrad { db, dy } => {
                kernels::bias_grad(self.write(db), self.values(dy), Par::on(&self.pool));
            }
            Op::Scale { x, c } => {
                kernels::scale(self.write(x), c, Par::on(&self.pool));
            }
            Op::LoadWeight { to, w } => {
                let par = Par::on(&self.pool);
                match self.values_mut(to) {
                    ValuesMut::Full(to) => kernels::converted(to, w.view(), par),
                    ValuesMut::Bf16(to) => kernels::converted_bf16(to, w.view(), par),
                }
                // It is read once.
                w.done_with();
            }
            Op::Embedding { y, table, tokens } => {
                let cols = y.cols;
                if let Some(Held { place, motion }) = table.as_held() {
                    assert_ne!(y.entry, place.entry, "a weight's own buffer is written beside reading it");
                    debug_assert!(motion.is_none_or(|m| m.from == 0), "a table has a buffer of its own");
                    let moved = motion.map(|m| (m.by, m.noise));
                    let (y, rows, par) = (self.write(y), self.values(place), Par::on(&self.pool));
                    return kernels::perturb_rows(y, rows, tokens, cols, moved, place.first, par);
                }
                let y = self.write(y);
                if self.resident.is_none() {
                    return kernels::embedding(y, table.view(), tokens, Par::on(&self.pool));
                }
                // The system maps a whole stretch around each row.
                for (y, tokens) in y.chunks_mut(LOOKUPS * cols).zip(tokens.chunks(LOOKUPS)) {
                    kernels::embedding(y, table.view(), tokens, Par::on(&self.pool));
                    table.done_with();
                }
            }
            Op::GatherRows { y, x, index } => match self.values(x) {
                Values::Full(from) => kernels::gather_rows(self.write(y), from, index, x.cols),
                Values::Bf16(from) => kernels::gather_rows_bf16(self.write(y), from, index, x.cols),
            },
            Op::ScatterRows { y, x, index } => {
                kernels::scatter_rows(self.write(y), self.read(x), index, x.cols);
            }
            Op::ScatterAddRows { y, x, index, first } => {
                kernels::scatter_add_rows(self.write(y), self.read(x), index, x.cols, first);
            }
            Op::RmsNorm { y, x, w, eps } => {
                assert_eq!(x.cols, w.len(), "rms_norm: columns");
                let (x, par) = (self.read(x), Par::on(&self.pool));
                match self.values_mut(y) {
                    ValuesMut::Full(y) => kernels::rms_norm(y, x, w, eps, par),
                    ValuesMut::Bf16(y) => kernels::rms_norm_bf16(y, x, w, eps, par),
                }
            }
            Op::RmsNormAdd { y, x, w, eps } => {
                assert_eq!(x.cols, w.len(), "rms_norm: columns");
                kernels::rms_norm_add(self.write(y), self.read(x), w, eps, Par::on(&self.pool));
            }
            Op::RmsNormBackward { dx, dy, x, w, eps } => {
                kernels::rms_norm_backward(
                    self.write(dx),
                    self.read(dy),
                    self.read(x),
                    w,
                    eps,
                    Par::on(&self.pool),
                );
            }
            Op::RmsNormBackwardInPlace { d, x, w, eps } => {
                kernels::rms_norm_backward_in_place(self.write(d), self.read(x), w, eps, Par::on(&self.pool));
            }
            Op::RmsNormWeightGrad { dw, dy, x, eps } => {
                let (dy, x, par) = (self.read(dy), self.read(x), Par::on(&self.pool));
                kernels::rms_norm_weight_grad(self.write(dw), dy, x, eps, par);
            }
            Op::RmsNormTangent { t, xt, x, w, eps, accumulate } => {
                let (t, par) = (self.write(t), Par::on(&self.pool));
                kernels::rms_norm_tangent(t, self.read(xt), self.read(x), w, eps, accumulate, par);
            }
            Op::Rope { x, positions, rope, inverse } => {
                let Rope { frequencies, layout, head_dim, factor } = rope;
                let shape =
                    kernels::RopeShape { frequencies, layout: *layout, head_dim: *head_dim, factor: *factor };
                kernels::rope(self.write(x), positions, shape, inverse, Par::on(&self.pool));
            }
            Op::Linear { y, x, w, bias, accumulate } => {
                self.forward_product(y, x, w, bias, accumulate, None);
            }
            Op::InputGrad { dx, dy, w, accumulate } => {
                self.backward_product(dx, dy, w, accumulate, None);
            }
            Op::AdaptedLinear { y, x, w, bias, accumulate, h_b_alpha: term } => {
                self.forward_product(y, x, w, bias, accumulate, Some(term));
            }
            Op::AdaptedInputGrad { dx, dy, w, accumulate, dh_a: term } => {
                self.backward_product(dx, dy, w, accumulate, Some(term));
            }
            Op::Product { y, form, a, b, alpha, accumulate } => {
                let init = if accumulate { Init::Accumulate } else { Init::Zero };
                let (m, n, rows) = (y.rows, y.cols, a.rows);
                let (x, w, scratch) = (self.values(a), self.values(b), self.scratch());
                let y = self.write(y);
                let (alpha, par) = (R::from_f64(alpha), Par::on(&self.pool));
                // The factor with the rank, which is small, is the left one and passes over the other. Which way a product
                // takes must not depend on the rows of a tile: the last bits of what is scaled do.
                let (size, out, left, right) = match form {
                    Form::Plain | Form::RightTransposed if n <= MOST_RANKS => {
                        let b = match form {
                            Form::Plain => Lhs::transposed_of(w, b.cols),
                            _ => Lhs::rows_of(w, b.cols),
                        };
                        ([n, m, a.cols], Out::transposed(y, n), b, Rhs::transposed_of(x, a.cols))
                    }
                    Form::LeftTransposed if n < m => {
                        let (b, a) = (Lhs::transposed_of(w, b.cols), Rhs::rows_of(x, a.cols));
                        ([n, m, rows], Out::transposed(y, n), b, a)
                    }
                    Form::LeftTransposed => {
                        let (a, b) = (Lhs::transposed_of(x, a.cols), Rhs::rows_of(w, b.cols));
                        ([m, n, rows], Out::rows(y, n), a, b)
                    }
                    Form::Plain => {
                        ([m, n, a.cols], Out::rows(y, n), Lhs::rows_of(x, a.cols), Rhs::rows_of(w, b.cols))
                    }
                    Form::RightTransposed => (
                        [m, n, a.cols],
                        Out::rows(y, n),
                        Lhs::rows_of(x, a.cols),
                        Rhs::transposed_of(w, b.cols),
                    ),
                };
                let rank_r = n <= MOST_RANKS || form == Form::LeftTransposed && m <= MOST_RANKS;
                if rank_r {
                    kernels::matmul_rank_r(out, size, alpha, left, right, init, scratch, par);
                } else {
                    kernels::matmul(out, size, alpha, left, right, init, Compute::Full, scratch, par);
                }
            }
            Op::WeightGrad { dw, g_x, first, accumulate } => self.weight_grad(dw, g_x, first, accumulate),
            Op::Dropout { y, x, mask, first, accumulate } => {
                let (d, par) = (x.cols, Par::on(&self.pool));
                kernels::dropout(self.write(y), self.values(x), d, mask, first, accumulate, par);
            }
            Op::RowSquares { to, w } => {
                let to = self.write(to);
                for part in w.stretches(self.resident.is_some()) {
                    self.using(&part.weight);
                    kernels::row_squares(&mut to[part.rows.clone()], part.weight.view(), Par::on(&self.pool));
                }
            }
            Op::DoraGains {
                gain_inverse: (gain, inverse),
                m_squares: (m, squares),
                b,
                p_g: (p, g),
                scale,
            } => {
                let to = (self.write(gain), self.write(inverse));
                let (factors, products) = ((self.read(m), self.read(squares)), (self.read(p), self.read(g)));
                let par = Par::on(&self.pool);
                kernels::dora_gains(to, factors, self.values(b), products, R::from_f64(scale), par);
            }
            Op::DoraGain { y, gain, bias } => {
                let (gain, par) = (self.read(gain), Par::on(&self.pool));
                match self.values_mut(y) {
                    ValuesMut::Full(y) => kernels::dora_gain(y, gain, bias, par),
                    ValuesMut::Bf16(y) => {
                        assert!(bias.is_none(), "bf16 takes no bias");
                        kernels::dora_gain_bf16(y, gain, par);
                    }
                }
            }
            Op::DoraGainAdd { y, z, gain, bias } => {
                kernels::dora_gain_add(
                    self.write(y),
                    self.read(z),
                    self.read(gain),
                    bias,
                    Par::on(&self.pool),
                );
            }
            Op::DoraMagnitudeGrad { dm, dy, z, inverse } => {
                let (dy, par) = (self.values(dy), Par::on(&self.pool));
                kernels::dora_magnitude_grad(self.write(dm), dy, self.read(z), self.read(inverse), par);
            }
            Op::GatedInPlace { f, gate, up } => {
                let par = Par::on(&self.pool);
                match (self.values_mut(gate), self.values(up)) {
                    (ValuesMut::Full(gate), Values::Full(up)) => kernels::gated_in_place(f, gate, up, par),
                    (ValuesMut::Bf16(gate), Values::Bf16(up)) => {
                        kernels::gated_in_place_bf16::<R>(f, gate, up, par);
                    }
                    _ => panic!("gate and up are stored alike"),
                }
            }
            Op::GatedTangentInPlace { f, gate_t, up_t, at } => {
                let at = at.map(|x| self.read(x));
                kernels::gated_tangent_in_place(
                    f,
                    self.write(gate_t),
                    self.read(up_t),
                    at,
                    Par::on(&self.pool),
                );
            }
            Op::GatedBackwardInPlace { f, gate, up, da } => {
                let (da, par) = (self.read(da), Par::on(&self.pool));
                match (self.values_mut(gate), self.values_mut(up)) {
                    (ValuesMut::Full(gate), ValuesMut::Full(up)) => {
                        kernels::gated_backward_in_place(f, gate, up, da, par);
                    }
                    (ValuesMut::Bf16(gate), ValuesMut::Bf16(up)) => {
                        kernels::gated_backward_in_place_bf16(f, gate, up, da, par);
                    }
                    _ => panic!("gate and up are stored alike"),
                }
            }
            Op::Attention { o, lse, qkv, shape: at } => {
                let at = self.attended(at);
                let (scratch, qkv) = (self.scratch(), qkv.map(|x| self.read(x)));
                kernels::attention(self.write(o), self.write(lse), qkv, at, scratch, Par::on(&self.pool));
            }
            Op::AttentionProbs { p, lse, qk, shape: at } => {
                let at = self.attended(at);
                let (scratch, qk) = (self.scratch(), qk.map(|x| self.read(x)));
                kernels::attention_probs(self.write(p), self.read(lse), qk, at, scratch, Par::on(&self.pool));
            }
            Op::AttentionTangent { t, o_lse, qkv, tangents, shape: at } => {
                let at = self.attended(at);
                let (scratch, o_lse) = (self.scratch(), o_lse.map(|x| self.read(x)));
                let [qkv, tangents] = [qkv, tangents].map(|views| views.map(|x| self.read(x)));
                kernels::attention_tangent(
                    self.write(t),
                    o_lse,
                    qkv,
                    tangents,
                    at,
                    scratch,
                    Par::on(&self.pool),
                );
            }
            Op::AttentionDelta { delta, d_o, o } => {
                let head_dim = o.cols / delta.cols;
                kernels::attention_delta(
                    self.write(delta),
                    self.read(d_o),
                    self.read(o),
                    head_dim,
                    Par::on(&self.pool),
                );
            }
            Op::AttentionBackwardQ { dq, d_o, qkv, lse_delta, probs, shape: at } => {
                let at = self.attended(at);
                let scratch = self.scratch();
                let (qkv, lse_delta) = (qkv.map(|x| self.read(x)), lse_delta.map(|x| self.read(x)));
                let (dq, d_o, probs) = (self.write(dq), self.read(d_o), self.probs(probs));
                kernels::attention_backward_q(
                    dq,
                    d_o,
                    qkv,
                    lse_delta,
                    probs,
                    at,
                    scratch,
                    Par::on(&self.pool),
                );
            }
            Op::AttentionBackwardKv { dk, dv, d_o, qkv, lse_delta, probs, shape: at } => {
                let at = self.attended(at);
                let scratch = self.scratch();
                let (qkv, lse_delta) = (qkv.map(|x| self.read(x)), lse_delta.map(|x| self.read(x)));
                let (dk, dv, d_o, probs) =
                    (self.write(dk), self.write(dv), self.read(d_o), self.probs(probs));
                kernels::attention_backward_kv(
                    dk,
                    dv,
                    d_o,
                    qkv,
                    lse_delta,
                    probs,
                    at,
                    scratch,
                    Par::on(&self.pool),
                );
            }
            Op::SoftmaxStats { logits, labels, first, stats } => {
                kernels::softmax_stats(self.read(logits), labels, first, stats, Par::on(&self.pool));
            }
            Op::SoftmaxGradient { logits, labels, first, c, stats } => {
                kernels::softmax_gradient(self.write(logits), labels, first, c, stats, Par::on(&self.pool));
            }
            Op::SoftmaxSum { sum, logits, labels, first, stats, words } => {
                let (scratch, compute) = (self.scratch(), self.compute);
                let (sum, logits) = (self.write(sum), self.write(logits));
                let (table, par) = (self.plain(words), Par::on(&self.pool));
                kernels::softmax_sum(sum, logits, labels, first, stats, table, compute, scratch, par);
                // The other words come first, all of them.
                if let Some(resident) = &mut self.resident {
                    resident.done_with(words);
                }
            }
            Op::SoftmaxSumGradient { sum, word, c, stats } => {
                kernels::softmax_sum_gradient(
                    self.write(sum),
                    self.read(word),
                    c,
                    stats,
                    Par::on(&self.pool),
                );
            }
            Op::Sgd { p, m, g, settings } => {
                let m = m.map_or(&mut [] as &mut [R], |m| self.write(m));
                kernels::sgd(self.updated(p), m, self.read(g), settings, Par::on(&self.pool));
            }
            Op::AdamW { p, m, v, g, settings } => {
                let (m, v) = (self.moment(m, &p, 1), self.moment(v, &p, 2));
                kernels::adamw(self.updated(p), m, v, self.read(g), settings, Par::on(&self.pool));
            }
            Op::Lion { p, m, g, settings } => {
                kernels::lion(self.updated(p), self.write(m), self.read(g), settings, Par::on(&self.pool));
            }
            Op::Foam { p, m, v, g, settings } => {
                let (m, v) = (self.write(m), self.write(v));
                kernels::foam(self.updated(p), m, v, self.read(g), settings, Par::on(&self.pool));
            }
            Op::FactoredMoments { r, c, sums, g, settings, first_row } => {
                let (r, c, sums) = (self.write(r), c.map(|c| self.write(c)), self.write(sums));
                let (g, par) = (self.read(g), Par::on(&self.pool));
                kernels::factored_moments(r, c, sums, g, settings, first_row, par);
            }
            Op::FactoredNorms { sums, p, r, c, g, settings, first_row } => {
                let (sums, p, g) = (self.write(sums), self.values(p), self.read(g));
                let (r, c, par) = (self.read(r), c.map(|c| self.read(c)), Par::on(&self.pool));
                kernels::factored_norms(sums, p, r, c, g, settings, first_row, par);
            }
            Op::FactoredStep { p, r, c, sums, g, settings } => {
                let (r, c, sums) = (self.read(r), c.map(|c| self.read(c)), self.read(sums));
                let (g, par) = (self.read(g), Par::on(&self.pool));
                kernels::factored_step(self.updated(p), r, c, sums, g, settings, par);
            }
            Op::AddScaled { y, x, c } => {
                kernels::add_scaled(self.write(y), self.read(x), c, Par::on(&self.pool));
            }
            Op::Perturb { to, from, ac: c, noise } => {
                let (to, par) = (self.write(to), Par::on(&self.pool));
                match self.values(from) {
                    Values::Full(from) => kernels::perturb(to, from, c, noise, par),
                    Values::Bf16(from) => kernels::perturb_bf16(to, from, c, noise, par),
                }
            }
            Op::PerturbInPlace { p, a, c, noise } => {
                let par = Par::on(&self.pool);
                match self.values_mut(p) {
                    ValuesMut::Full(p) => kernels::perturb_in_place(p, a, c, noise, par),
                    ValuesMut::Bf16(p) => kernels::perturb_in_place_bf16(p, a, c, noise, par),
                }
            }
        }
    }
}

impl<R: Real> Cpu<R> {
    fn fill(&self, x: ViewMut<'_>, value: f32) {
        if x.elem == Elem::Byte {
            // No byte stands for NaN; this is the code of the largest value.
            return self.bytes_mut(x).fill(if value.is_nan() { u8::MAX } else { value as u8 });
        }
        match self.values_mut(x) {
            ValuesMut::Full(x) => x.fill(R::from_f32(value)),
            ValuesMut::Bf16(x) => x.fill((value.to_bits() >> 16) as u16),
        }
    }

    /// A weight, or some rows of one, is about to be read.
    fn using(&mut self, w: &Weight) {
        if let Some(resident) = &mut self.resident {
            resident.using(w, Par::on(&self.pool));
        }
    }

    fn probs<'a>(&self, probs: Probs<'a>) -> ProbsAt<'a, R> {
        match probs {
            Probs::Rebuild => ProbsAt::Rebuild,
            Probs::Kept(p) => ProbsAt::Kept(self.read(p)),
        }
    }
}
