//! What a model needs from a device: buffers, and operations whose math is in `mesp-kernels`.

use mesp_kernels::{AdamW, AttentionShape as Attention, Dropout, Gate, Layout, Noise, RowStat, Sgd};

use crate::{Act, Elem, Label, View, ViewMut, Weight};

/// A sequence of allocations that is planned as one: a training step, an evaluation, a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program(pub usize);

/// A place in a program's sequence of allocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(pub(crate) usize);

/// Which factors of a product are transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// a·b
    Plain,
    /// a·bᵀ
    RightTransposed,
    /// aᵀ·b
    LeftTransposed,
}

/// How positions turn queries and keys.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Angle per position of each pair.
    pub frequencies: Vec<f32>,
    /// Which values form a pair.
    pub layout: Layout,
    /// Values of a head, of which the first are turned, two for each frequency.
    pub head_dim: usize,
    /// By what turned values are multiplied.
    pub factor: f32,
}

/// Where attention's backward finds probabilities.
#[derive(Debug, Clone, Copy)]
pub enum Probs<'a> {
    /// Rebuilt from q, k and the log-sum-exp, tile by tile.
    Rebuild,
    /// Kept, `[heads, Σ length²]`.
    Kept(View<'a>),
}

/// A device. Implementations: [`crate::Cpu`], [`crate::Dry`].
///
/// Every operation panics when shapes disagree: shapes follow from the model, so a disagreement is a mistake
/// in the program and never in a user's file. The same holds for buffers in bf16 where they are not provided
/// for: they are for `load`, `store`, `zero`, `copy`, for factors of products, for the outputs of `rms_norm`, for
/// `gated_in_place` and its gradient (gate and up alike), for parameters, and where DoRA's operations say so.
pub trait Backend {
    /// Names the program whose allocations follow, from its first.
    fn begin(&mut self, program: Program);
    /// A buffer that lives as long as the backend, zero at first. Before any program begins.
    fn persist_as(&mut self, rows: usize, cols: usize, elem: Elem, label: Label) -> Act;
    /// A buffer with unspecified content.
    fn alloc_as(&mut self, rows: usize, cols: usize, elem: Elem, label: Label) -> Act;
    /// [`Backend::persist_as`] of the backend's numbers.
    fn persist(&mut self, rows: usize, cols: usize, label: Label) -> Act {
        self.persist_as(rows, cols, Elem::Full, label)
    }
    /// [`Backend::alloc_as`] of the backend's numbers.
    fn alloc(&mut self, rows: usize, cols: usize, label: Label) -> Act {
        self.alloc_as(rows, cols, Elem::Full, label)
    }
    /// Its end.
    fn free(&mut self, act: Act);
    /// The place where a loop begins. Each turn makes the same allocations and frees all of them, so a plan
    /// for one turn serves any number; [`Backend::rewind`] goes back to the place before each turn.
    fn mark(&self) -> Mark;
    /// See [`Backend::mark`].
    fn rewind(&mut self, mark: Mark);

    /// Fills a view from the host: `from(i)` is its i-th value.
    fn load(&mut self, to: ViewMut<'_>, from: &mut dyn FnMut(usize) -> f64);
    /// Hands a view's values to the host: `to(i, value)`.
    fn store(&self, from: View<'_>, to: &mut dyn FnMut(usize, f64));
    /// 0.
    fn zero(&mut self, x: ViewMut<'_>);
    /// `to = from`, each stored in its own way: to 16 bits by rounding to the nearest, ties to even.
    fn copy(&mut self, to: ViewMut<'_>, from: View<'_>);
    /// `y[t] += bias`
    fn add_bias(&mut self, y: ViewMut<'_>, bias: &[f32]);
    /// `db += Σ_t dy[t]`, the gradient of [`Backend::add_bias`]; `dy` may be in bf16.
    fn bias_grad(&mut self, db: ViewMut<'_>, dy: View<'_>);
    /// `x ← c·x`
    fn scale(&mut self, x: ViewMut<'_>, c: f64);
    /// Σ x·y
    fn dot(&mut self, x: View<'_>, y: View<'_>) -> f64;
    /// Σ x²
    fn sum_of_squares(&mut self, x: View<'_>) -> f64;

    /// Writes a view into a slot of the backend's file.
    fn spill(&mut self, slot: usize, from: View<'_>);
    /// Reads it back.
    fn fetch(&mut self, slot: usize, to: ViewMut<'_>);
    /// Whether the file failed since [`Backend::take_fault`] was called last.
    fn faulty(&self) -> bool;
    /// Why the file failed, if it did since the last call: what was computed since then is void.
    fn take_fault(&mut self) -> Option<std::io::Error>;

    /// `to = W`, stored in the buffer's way.
    fn load_weight(&mut self, to: ViewMut<'_>, w: &Weight);
    /// A weight is read soon: its pages may be fetched ahead.
    fn will_need(&self, w: &Weight);

    /// `y[t] = table[tokens[t]]`
    fn embedding(&mut self, y: ViewMut<'_>, table: &Weight, tokens: &[u32]);
    /// `y[t] = x[index[t]]`; `x` may be in bf16.
    fn gather_rows(&mut self, y: ViewMut<'_>, x: View<'_>, index: &[u32]);
    /// `y[index[t]] = x[t]`
    fn scatter_rows(&mut self, y: ViewMut<'_>, x: View<'_>, index: &[u32]);
    /// `y[index[t]] += x[t]`, in the order of t.
    fn scatter_add_rows(&mut self, y: ViewMut<'_>, x: View<'_>, index: &[u32]);

    /// `y = rms_norm(x)·w`, over the columns of the views.
    fn rms_norm(&mut self, y: ViewMut<'_>, x: View<'_>, w: &[f32], eps: f64);
    /// `y += rms_norm(x)·w`
    fn rms_norm_add(&mut self, y: ViewMut<'_>, x: View<'_>, w: &[f32], eps: f64);
    /// `dx +=` the gradient of [`Backend::rms_norm`].
    fn rms_norm_backward(&mut self, dx: ViewMut<'_>, dy: View<'_>, x: View<'_>, w: &[f32], eps: f64);
    /// `d ←` the gradient of [`Backend::rms_norm`] for the incoming gradient `d`.
    fn rms_norm_backward_in_place(&mut self, d: ViewMut<'_>, x: View<'_>, w: &[f32], eps: f64);
    /// `dw += Σ_t dy[t]∘x̂[t]`, x̂ the normed rows of `x`: the gradient of [`Backend::rms_norm`]'s `w`.
    fn rms_norm_weight_grad(&mut self, dw: ViewMut<'_>, dy: View<'_>, x: View<'_>, eps: f64);
    /// `t = J·xt`, or `t +=`: how [`Backend::rms_norm`]'s `y` moves as x moves along xt.
    fn rms_norm_tangent(
        &mut self,
        t: ViewMut<'_>,
        xt: View<'_>,
        x: View<'_>,
        w: &[f32],
        eps: f64,
        accumulate: bool,
    );
    /// Rotates queries or keys; `inverse` is the gradient.
    fn rope(&mut self, x: ViewMut<'_>, positions: &[u32], rope: &Rope, inverse: bool);

    /// `y = x·Wᵀ + b`, or `y += x·Wᵀ` when accumulating (then without bias).
    fn linear(&mut self, y: ViewMut<'_>, x: View<'_>, w: &Weight, bias: Option<&[f32]>, accumulate: bool);
    /// `dx = dy·W`, or `dx +=`. There is no gradient of a frozen weight.
    fn input_grad(&mut self, dx: ViewMut<'_>, dy: View<'_>, w: &Weight, accumulate: bool);
    /// [`Backend::linear`] without bias where it accumulates, then `y += alpha·h·Bᵀ`: to the bit as two products,
    /// where the device can in one pass over `y`.
    fn adapted_linear(
        &mut self,
        mut y: ViewMut<'_>,
        x: View<'_>,
        w: &Weight,
        bias: Option<&[f32]>,
        accumulate: bool,
        (h, b, alpha): (View<'_>, View<'_>, f64),
    ) {
        self.linear(y.again(), x, w, bias, accumulate);
        self.product(y, Form::RightTransposed, h, b, alpha, true);
    }
    /// [`Backend::input_grad`], then `dx += dh·A`, likewise.
    fn adapted_input_grad(
        &mut self,
        mut dx: ViewMut<'_>,
        dy: View<'_>,
        w: &Weight,
        accumulate: bool,
        (dh, a): (View<'_>, View<'_>),
    ) {
        self.input_grad(dx.again(), dy, w, accumulate);
        self.product(dx, Form::Plain, dh, a, 1.0, true);
    }
    /// `y = alpha·a·b` in a form, or `y +=`: the small products of adapters.
    fn product(&mut self, y: ViewMut<'_>, form: Form, a: View<'_>, b: View<'_>, alpha: f64, accumulate: bool);

    /// `y = k∘x/(1−p)`, or `y +=`, k the mask's zeros and ones for the rows from `first` on of the matrix that `x` is
    /// a part of; `x` may be in bf16. The gradient is the same of dy.
    fn dropout(&mut self, y: ViewMut<'_>, x: View<'_>, mask: Dropout, first: usize, accumulate: bool);

    /// `to_j = ‖W_j‖²`
    fn row_squares(&mut self, to: ViewMut<'_>, w: &Weight);
    /// `gain_j = m_j/n_j` and `inverse_j = 1/n_j`, where `n_j² = ‖W_j‖² + 2s·B_j·P_j + s²·B_j·G·B_jᵀ`: the norm of
    /// row j of `W + s·B·A`, for `P = A·Wᵀ` and `G = A·Aᵀ`. B may be in bf16.
    fn dora_gains(
        &mut self,
        gain_inverse: (ViewMut<'_>, ViewMut<'_>),
        m_squares: (View<'_>, View<'_>),
        b: View<'_>,
        p_g: (View<'_>, View<'_>),
        scale: f64,
    );
    /// `y[t] ← gain∘y[t] + b`; without bias `y` may be in bf16.
    fn dora_gain(&mut self, y: ViewMut<'_>, gain: View<'_>, bias: Option<&[f32]>);
    /// `y[t] += gain∘z[t] + b`
    fn dora_gain_add(&mut self, y: ViewMut<'_>, z: View<'_>, gain: View<'_>, bias: Option<&[f32]>);
    /// `dm += Σ_t dy[t]∘z[t]∘inverse`; `dy` may be in bf16.
    fn dora_magnitude_grad(&mut self, dm: ViewMut<'_>, dy: View<'_>, z: View<'_>, inverse: View<'_>);

    /// `gate ← f(gate)∘up`
    fn gated_in_place(&mut self, f: Gate, gate: ViewMut<'_>, up: View<'_>);
    /// `gate_t ←` how [`Backend::gated_in_place`]'s result moves as gate and up, `at`, move along `gate_t` and `up_t`.
    fn gated_tangent_in_place(&mut self, f: Gate, gate_t: ViewMut<'_>, up_t: View<'_>, at: [View<'_>; 2]);
    /// `gate ← dgate`, `up ← dup`
    fn gated_backward_in_place(&mut self, f: Gate, gate: ViewMut<'_>, up: ViewMut<'_>, da: View<'_>);

    /// `o` and the log-sum-exp `[n, heads]`.
    fn attention(&mut self, o: ViewMut<'_>, lse: ViewMut<'_>, qkv: [View<'_>; 3], shape: Attention<'_>);
    /// Probabilities `[heads, Σ length²]`.
    fn attention_probs(&mut self, p: ViewMut<'_>, lse: View<'_>, qk: [View<'_>; 2], shape: Attention<'_>);
    /// `t =` how [`Backend::attention`]'s `o` moves as q, k and v move along `tangents`.
    fn attention_tangent(
        &mut self,
        t: ViewMut<'_>,
        o_lse: [View<'_>; 2],
        qkv: [View<'_>; 3],
        tangents: [View<'_>; 3],
        shape: Attention<'_>,
    );
    /// `delta = rowsum(d_o∘o)` per head, `[n, heads]`.
    fn attention_delta(&mut self, delta: ViewMut<'_>, d_o: View<'_>, o: View<'_>);
    /// `dq`
    fn attention_backward_q(
        &mut self,
        dq: ViewMut<'_>,
        d_o: View<'_>,
        qkv: [View<'_>; 3],
        lse_delta: [View<'_>; 2],
        probs: Probs<'_>,
        shape: Attention<'_>,
    );
    /// `dk`, `dv`
    fn attention_backward_kv(
        &mut self,
        dk: ViewMut<'_>,
        dv: ViewMut<'_>,
        d_o: View<'_>,
        qkv: [View<'_>; 3],
        lse_delta: [View<'_>; 2],
        probs: Probs<'_>,
        shape: Attention<'_>,
    );

    /// Takes logits of a range of the vocabulary that begins at `first` into the rows' statistics.
    fn softmax_stats(&mut self, logits: View<'_>, labels: &[u32], first: usize, stats: &mut [RowStat]);
    /// `logits ← c·dloss/dlogits` of such a range, once all were taken in.
    fn softmax_gradient(
        &mut self,
        logits: ViewMut<'_>,
        labels: &[u32],
        first: usize,
        c: f64,
        stats: &[RowStat],
    );
    /// [`Backend::softmax_stats`], and adds the words of the range, `[range, d]`, to each row's sum, weighted by exp(logit − largest
    /// so far). The first range sets the sum. `logits` is left with those weights.
    fn softmax_sum(
        &mut self,
        sum: ViewMut<'_>,
        logits: ViewMut<'_>,
        labels: &[u32],
        first: usize,
        stats: &mut [RowStat],
        words: &Weight,
    );
    /// `sum ← c·dloss/dx` for `logits = x·Wᵀ`, once all ranges were taken in; `word` holds the labels' rows of W.
    fn softmax_sum_gradient(&mut self, sum: ViewMut<'_>, word: View<'_>, c: f64, stats: &[RowStat]);

    /// One SGD update of `p`; `m` when there is momentum. A parameter in bf16 is rounded up or down at random,
    /// so that it is right on average; `key` names the random numbers.
    fn sgd(&mut self, p: ViewMut<'_>, m: Option<ViewMut<'_>>, g: View<'_>, settings: Sgd, key: u64);
    /// One AdamW update of `p`, rounded as by [`Backend::sgd`].
    fn adamw(
        &mut self,
        p: ViewMut<'_>,
        m: ViewMut<'_>,
        v: ViewMut<'_>,
        g: View<'_>,
        settings: AdamW,
        key: u64,
    );

    /// `to = a·from + c·z`, z the noise's direction; `from` may be in bf16.
    fn perturb(&mut self, to: ViewMut<'_>, from: View<'_>, ac: [f64; 2], noise: Noise);
    /// `p ← a·p + c·z`, rounded as by [`Backend::sgd`].
    fn drift(&mut self, p: ViewMut<'_>, a: f64, c: f64, noise: Noise);
}
