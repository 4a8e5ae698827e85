//! The operations, each a value: what a backend runs, and what is known of each whatever computes it.

use mesp_kernels::{
    AdamW, AttentionShape as Attention, Dropout, Factored, Foam, Gate, Layout, Lion, Noise, RowStat, Sgd,
    attention_scratch, matmul_scratch,
};

use crate::{Elem, View, ViewMut, Weight};

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

/// A parameter that an update changes, or some rows of one. In bf16 it is rounded up or down at random, so that it is
/// right on average, or to the nearest where `rest` keeps what that cuts off.
#[derive(Debug)]
pub struct Updated<'a> {
    /// The parameter.
    pub p: ViewMut<'a>,
    /// What rounding cut off, in bf16 and of the parameter's shape; nothing is kept of a parameter in full.
    pub rest: Option<ViewMut<'a>>,
    /// Names the random numbers.
    pub key: u64,
    /// The place of the first value in its tensor.
    pub first: usize,
}

impl<'a> Updated<'a> {
    /// All of a parameter, rounded at random where it is in bf16.
    pub fn at_random(p: ViewMut<'a>, key: u64) -> Self {
        Self { p, rest: None, key, first: 0 }
    }
}

/// A moment that an update changes: in full; in bf16, rounded at random by numbers of its own that follow from the
/// parameter's key; or in bytes, codes by blocks of 256 values.
#[derive(Debug)]
pub struct Moment<'a> {
    /// The values. Bytes begin at a multiple of 256 in their tensor.
    pub values: ViewMut<'a>,
    /// A scale in full for each block of bytes, the last one shorter.
    pub scales: Option<ViewMut<'a>>,
    /// Whether bytes stand for negative values too: of a first moment.
    pub signed: bool,
}

impl<'a> From<ViewMut<'a>> for Moment<'a> {
    /// Without scales: in full or in bf16.
    fn from(values: ViewMut<'a>) -> Self {
        Self { values, scales: None, signed: true }
    }
}

/// The one list of operations. `$with` is a macro that makes something of it: the values ([`Op`]), or the methods of
/// [`Backend`](crate::Backend) that run them.
macro_rules! operations {
    ($with:ident) => {
        $with! {
            'a;
            /// 0.
            zero Zero { x: ViewMut<'a> }
            /// `to = from`, each stored in its own way: to 16 bits by rounding to the nearest, ties to even.
            copy Copy { to: ViewMut<'a>, from: View<'a> }
            /// `y[t] += bias`
            add_bias AddBias { y: ViewMut<'a>, bias: &'a [f32] }
            /// `db += Σ_t dy[t]`, the gradient of a bias; `dy` may be in bf16.
            bias_grad BiasGrad { db: ViewMut<'a>, dy: View<'a> }
            /// `x ← c·x`
            scale Scale { x: ViewMut<'a>, c: f64 }
            /// `to = W`, stored in the buffer's way.
            load_weight LoadWeight { to: ViewMut<'a>, w: &'a Weight }

            /// `y[t] = table[tokens[t]]`
            embedding Embedding { y: ViewMut<'a>, table: &'a Weight, tokens: &'a [u32] }
            /// `y[t] = x[index[t]]`; `x` may be in bf16.
            gather_rows GatherRows { y: ViewMut<'a>, x: View<'a>, index: &'a [u32] }
            /// `y[index[t]] = x[t]`
            scatter_rows ScatterRows { y: ViewMut<'a>, x: View<'a>, index: &'a [u32] }
            /// `y[index[t] − first] += x[t]`, in the order of t; other rows than y's are passed over.
            scatter_add_rows ScatterAddRows { y: ViewMut<'a>, x: View<'a>, index: &'a [u32], first: usize }

            /// `y = rms_norm(x)·w`, over the columns of the views.
            rms_norm RmsNorm { y: ViewMut<'a>, x: View<'a>, w: &'a [f32], eps: f64 }
            /// `y += rms_norm(x)·w`
            rms_norm_add RmsNormAdd { y: ViewMut<'a>, x: View<'a>, w: &'a [f32], eps: f64 }
            /// `dx +=` the gradient of `rms_norm`.
            rms_norm_backward RmsNormBackward {
                dx: ViewMut<'a>, dy: View<'a>, x: View<'a>, w: &'a [f32], eps: f64,
            }
            /// `d ←` the gradient of `rms_norm` for the incoming gradient `d`.
            rms_norm_backward_in_place RmsNormBackwardInPlace {
                d: ViewMut<'a>, x: View<'a>, w: &'a [f32], eps: f64,
            }
            /// `dw += Σ_t dy[t]∘x̂[t]`, x̂ the normed rows of `x`: the gradient of `rms_norm`'s `w`.
            rms_norm_weight_grad RmsNormWeightGrad { dw: ViewMut<'a>, dy: View<'a>, x: View<'a>, eps: f64 }
            /// `t = J·xt`, or `t +=`: how `rms_norm`'s `y` moves as x moves along xt.
            rms_norm_tangent RmsNormTangent {
                t: ViewMut<'a>, xt: View<'a>, x: View<'a>, w: &'a [f32], eps: f64, accumulate: bool,
            }
            /// Rotates queries or keys; `inverse` is the gradient.
            rope Rope { x: ViewMut<'a>, positions: &'a [u32], rope: &'a Rope, inverse: bool }

            /// `y = x·Wᵀ + b`, or `y += x·Wᵀ` when accumulating (then without bias).
            linear Linear {
                y: ViewMut<'a>, x: View<'a>, w: &'a Weight, bias: Option<&'a [f32]>, accumulate: bool,
            }
            /// `dx = dy·W`, or `dx +=`.
            input_grad InputGrad { dx: ViewMut<'a>, dy: View<'a>, w: &'a Weight, accumulate: bool }
            /// `linear` without bias where it accumulates, then `y += alpha·h·Bᵀ`: to the bit as two products, where the
            /// device can in one pass over `y`.
            adapted_linear AdaptedLinear {
                y: ViewMut<'a>, x: View<'a>, w: &'a Weight, bias: Option<&'a [f32]>, accumulate: bool,
                h_b_alpha: (View<'a>, View<'a>, f64),
            }
            /// `input_grad`, then `dx += dh·A`, likewise.
            adapted_input_grad AdaptedInputGrad {
                dx: ViewMut<'a>, dy: View<'a>, w: &'a Weight, accumulate: bool, dh_a: (View<'a>, View<'a>),
            }
            /// `y = alpha·a·b` in a form, or `y +=`: the small products of adapters, and gradients of weights.
            product Product {
                y: ViewMut<'a>, form: Form, a: View<'a>, b: View<'a>, alpha: f64, accumulate: bool,
            }
            /// `dw = g[:, first..]ᵀ·x`, or `dw +=`: rows of a weight's gradient, from its row `first` on; g and x may be in
            /// bf16.
            weight_grad WeightGrad { dw: ViewMut<'a>, g_x: [View<'a>; 2], first: usize, accumulate: bool }

            /// `y = k∘x/(1−p)`, or `y +=`, k the mask's zeros and ones for the rows from `first` on of the matrix that
            /// `x` is a part of; `x` may be in bf16. The gradient is the same of dy.
            dropout Dropout { y: ViewMut<'a>, x: View<'a>, mask: Dropout, first: usize, accumulate: bool }

            /// `to_j = ‖W_j‖²`
            row_squares RowSquares { to: ViewMut<'a>, w: &'a Weight }
            /// `gain_j = m_j/n_j` and `inverse_j = 1/n_j`, where `n_j² = ‖W_j‖² + 2s·B_j·P_j + s²·B_j·G·B_jᵀ`: the norm
            /// of row j of `W + s·B·A`, for `P = A·Wᵀ` and `G = A·Aᵀ`. B may be in bf16.
            dora_gains DoraGains {
                gain_inverse: (ViewMut<'a>, ViewMut<'a>), m_squares: (View<'a>, View<'a>), b: View<'a>,
                p_g: (View<'a>, View<'a>), scale: f64,
            }
            /// `y[t] ← gain∘y[t] + b`; without bias `y` may be in bf16.
            dora_gain DoraGain { y: ViewMut<'a>, gain: View<'a>, bias: Option<&'a [f32]> }
            /// `y[t] += gain∘z[t] + b`
            dora_gain_add DoraGainAdd { y: ViewMut<'a>, z: View<'a>, gain: View<'a>, bias: Option<&'a [f32]> }
            /// `dm += Σ_t dy[t]∘z[t]∘inverse`; `dy` may be in bf16.
            dora_magnitude_grad DoraMagnitudeGrad {
                dm: ViewMut<'a>, dy: View<'a>, z: View<'a>, inverse: View<'a>,
            }

            /// `gate ← f(gate)∘up`
            gated_in_place GatedInPlace { f: Gate, gate: ViewMut<'a>, up: View<'a> }
            /// `gate_t ←` how `gated_in_place`'s result moves as gate and up, `at`, move along `gate_t` and `up_t`.
            gated_tangent_in_place GatedTangentInPlace {
                f: Gate, gate_t: ViewMut<'a>, up_t: View<'a>, at: [View<'a>; 2],
            }
            /// `gate ← dgate`, `up ← dup`
            gated_backward_in_place GatedBackwardInPlace {
                f: Gate, gate: ViewMut<'a>, up: ViewMut<'a>, da: View<'a>,
            }

            /// `o` and the log-sum-exp `[n, heads]`.
            attention Attention { o: ViewMut<'a>, lse: ViewMut<'a>, qkv: [View<'a>; 3], shape: Attention<'a> }
            /// Probabilities `[heads, Σ length²]`.
            attention_probs AttentionProbs {
                p: ViewMut<'a>, lse: View<'a>, qk: [View<'a>; 2], shape: Attention<'a>,
            }
            /// `t =` how `attention`'s `o` moves as q, k and v move along `tangents`.
            attention_tangent AttentionTangent {
                t: ViewMut<'a>, o_lse: [View<'a>; 2], qkv: [View<'a>; 3], tangents: [View<'a>; 3],
                shape: Attention<'a>,
            }
            /// `delta = rowsum(d_o∘o)` per head, `[n, heads]`.
            attention_delta AttentionDelta { delta: ViewMut<'a>, d_o: View<'a>, o: View<'a> }
            /// `dq`
            attention_backward_q AttentionBackwardQ {
                dq: ViewMut<'a>, d_o: View<'a>, qkv: [View<'a>; 3], lse_delta: [View<'a>; 2], probs: Probs<'a>,
                shape: Attention<'a>,
            }
            /// `dk`, `dv`
            attention_backward_kv AttentionBackwardKv {
                dk: ViewMut<'a>, dv: ViewMut<'a>, d_o: View<'a>, qkv: [View<'a>; 3], lse_delta: [View<'a>; 2],
                probs: Probs<'a>, shape: Attention<'a>,
            }

            /// Takes logits of a range of the vocabulary that begins at `first` into the rows' statistics.
            softmax_stats SoftmaxStats {
                logits: View<'a>, labels: &'a [u32], first: usize, stats: &'a mut [RowStat],
            }
            /// `logits ← c·w·dloss/dlogits` of such a range, once all were taken in, w the rows' weights.
            softmax_gradient SoftmaxGradient {
                logits: ViewMut<'a>, labels: &'a [u32], first: usize, c: f64, stats: &'a [RowStat],
            }
            /// `softmax_stats`, and adds the embedding rows of the range, `[range, d]`, to each row's sum, weighted by
            /// exp(logit − largest so far). The first range sets the sum. `logits` is left with those weights.
            softmax_sum SoftmaxSum {
                sum: ViewMut<'a>, logits: ViewMut<'a>, labels: &'a [u32], first: usize,
                stats: &'a mut [RowStat], words: &'a Weight,
            }
            /// `sum ← c·w·dloss/dx` for `logits = x·Wᵀ`, after all ranges; `word` holds the labels' embedding rows.
            softmax_sum_gradient SoftmaxSumGradient {
                sum: ViewMut<'a>, word: View<'a>, c: f64, stats: &'a [RowStat],
            }

            /// One SGD update of `p`; `m` when there is momentum.
            sgd Sgd { p: Updated<'a>, m: Option<ViewMut<'a>>, g: View<'a>, settings: Sgd }
            /// One AdamW update of `p`.
            adamw AdamW { p: Updated<'a>, m: Moment<'a>, v: Moment<'a>, g: View<'a>, settings: AdamW }
            /// One Lion update of `p`.
            lion Lion { p: Updated<'a>, m: ViewMut<'a>, g: View<'a>, settings: Lion }
            /// One FOAM update of `p`, rows of the settings' columns, with moments `[rows, settings.folded()]`.
            foam Foam { p: Updated<'a>, m: ViewMut<'a>, v: ViewMut<'a>, g: View<'a>, settings: Foam }
            /// The first of three visits to the gradient of a parameter with a factored second moment: for rows from
            /// `first_row` on, a multiple of 64, their `r`, their part of `c`, which a vector has not, and `sums[0] = Σr`.
            factored_moments FactoredMoments {
                r: ViewMut<'a>, c: Option<ViewMut<'a>>, sums: ViewMut<'a>, g: View<'a>, settings: Factored,
                first_row: usize,
            }
            /// The second, after the first of all rows: `sums[1] = Σu²` of the steps u, and `sums[2] = Σp²`; `p` may be in
            /// bf16.
            factored_norms FactoredNorms {
                sums: ViewMut<'a>, p: View<'a>, r: View<'a>, c: Option<View<'a>>, g: View<'a>,
                settings: Factored, first_row: usize,
            }
            /// The third, after the second of all rows: the update of some rows of `p`.
            factored_step FactoredStep {
                p: Updated<'a>, r: View<'a>, c: Option<View<'a>>, sums: View<'a>, g: View<'a>,
                settings: Factored,
            }
            /// `y += c·x`
            add_scaled AddScaled { y: ViewMut<'a>, x: View<'a>, c: f64 }
            /// `to = a·from + c·z`, z the noise's direction; `from` may be in bf16.
            perturb Perturb { to: ViewMut<'a>, from: View<'a>, ac: [f64; 2], noise: Noise }
            /// `p ← a·p + c·z`; a parameter in bf16 is rounded up or down at random.
            perturb_in_place PerturbInPlace { p: ViewMut<'a>, a: f64, c: f64, noise: Noise }
        }
    };
}
pub(crate) use operations;

macro_rules! values {
    ($a:lifetime; $($(#[$doc:meta])* $method:ident $variant:ident { $($field:ident: $ty:ty),* $(,)? })*) => {
        /// An operation with its operands. Each has a method of [`Backend`](crate::Backend) that runs it, whose parameters
        /// are its fields.
        #[derive(Debug)]
        #[allow(missing_docs, reason = "fields are named in the equations of their operation")]
        pub enum Op<$a> {
            $($(#[$doc])* $variant { $($field: $ty),* },)*
        }

        impl Op<'_> {
            /// The name of its method.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => stringify!($method),)*
                }
            }
        }
    };
}
operations!(values);

/// A product that an operation makes: `m·n·k` multiplications with additions.
#[derive(Debug, Clone, Copy)]
pub struct Multiplied<'a> {
    /// m, n and k.
    pub size: [usize; 3],
    /// The weight, if it is one of a weight.
    pub weight: Option<&'a Weight>,
}

impl Multiplied<'_> {
    /// Multiplications with additions.
    pub fn multiply_adds(&self) -> u64 {
        self.size.into_iter().fold(1, |all, n| all.saturating_mul(n as u64))
    }
}

/// Numbers of the backend's, and bytes besides, that an operation reads and writes, each once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passes {
    /// Numbers.
    pub values: usize,
    /// Bytes of weights.
    pub bytes: usize,
}

/// Numbers of the backend that take as many bytes as so many values.
fn numbers(values: usize, elem: Elem) -> usize {
    match elem {
        Elem::Full => values,
        Elem::Bf16 => values.div_ceil(2),
        Elem::Byte => values.div_ceil(4),
    }
}

fn view(x: &View<'_>) -> usize {
    numbers(x.rows * x.cols, x.elem)
}

fn view_mut(x: &ViewMut<'_>) -> usize {
    numbers(x.rows * x.cols, x.elem)
}

/// Read and written.
fn updated(x: &Updated<'_>) -> usize {
    2 * (view_mut(&x.p) + x.rest.as_ref().map_or(0, view_mut))
}

/// Read and written.
fn moment(x: &Moment<'_>) -> usize {
    2 * (view_mut(&x.values) + x.scales.as_ref().map_or(0, view_mut))
}

fn views(x: &[View<'_>]) -> usize {
    x.iter().map(view).sum()
}

impl Op<'_> {
    /// Calls `f` with each of its products; attention's are [`Op::attention`].
    pub fn each_product(&self, f: &mut dyn FnMut(Multiplied<'_>)) {
        let mut product = |size: [usize; 3], weight: Option<&Weight>| f(Multiplied { size, weight });
        match self {
            Self::Linear { y, x, w, .. } => product([y.rows, y.cols, x.cols], Some(w)),
            Self::InputGrad { dx, dy, w, .. } => product([dx.rows, dx.cols, dy.cols], Some(w)),
            Self::AdaptedLinear { y, x, w, h_b_alpha: (h, ..), .. } => {
                product([y.rows, y.cols, x.cols], Some(w));
                product([y.rows, y.cols, h.cols], None);
            }
            Self::AdaptedInputGrad { dx, dy, w, dh_a: (dh, _), .. } => {
                product([dx.rows, dx.cols, dy.cols], Some(w));
                product([dx.rows, dx.cols, dh.cols], None);
            }
            Self::Product { y, form, a, .. } => {
                let depth = if *form == Form::LeftTransposed { a.rows } else { a.cols };
                product([y.rows, y.cols, depth], None);
            }
            Self::WeightGrad { dw, g_x: [g, _], .. } => product([dw.rows, dw.cols, g.rows], None),
            Self::SoftmaxSum { sum, words, .. } => product([sum.rows, sum.cols, words.rows()], Some(words)),
            _ => {}
        }
    }

    /// Attention's shape, and its products of the size of the scores; one more in a backward pass where probabilities
    /// are rebuilt.
    pub fn attention(&self) -> Option<(Attention<'_>, u64)> {
        let rebuilt = |probs: &Probs<'_>| u64::from(matches!(probs, Probs::Rebuild));
        match self {
            Self::Attention { shape, .. } => Some((*shape, 2)),
            Self::AttentionProbs { shape, .. } => Some((*shape, 1)),
            Self::AttentionTangent { shape, .. } => Some((*shape, 5)),
            Self::AttentionBackwardQ { shape, probs, .. } => Some((*shape, 2 + rebuilt(probs))),
            Self::AttentionBackwardKv { shape, probs, .. } => Some((*shape, 3 + rebuilt(probs))),
            _ => None,
        }
    }

    /// Multiplications with additions of all its products.
    pub fn multiply_adds(&self) -> u64 {
        let mut all: u64 = 0;
        self.each_product(&mut |product| all = all.saturating_add(product.multiply_adds()));
        all.saturating_add(self.attention().map_or(0, |(shape, products)| attended(shape, products)))
    }

    /// Values of scratch that the processor's kernels take on so many threads.
    pub fn scratch(&self, threads: usize) -> usize {
        if let Some((shape, _)) = self.attention() {
            return attention_scratch(threads, shape.head_dim, shape.key_tile);
        }
        let mut most = 0;
        self.each_product(&mut |product| {
            // A layer's weight that moves is put, moved, into a tile.
            let moves = matches!(self, Self::Linear { .. } | Self::AdaptedLinear { .. });
            let tile = product.weight.filter(|_| moves).map_or(0, Weight::tile);
            most = most.max(matmul_scratch(threads) + tile);
        });
        most
    }

    /// The weight that it multiplies with, or goes through.
    pub fn weight(&self) -> Option<&Weight> {
        match self {
            Self::Linear { w, .. }
            | Self::InputGrad { w, .. }
            | Self::AdaptedLinear { w, .. }
            | Self::AdaptedInputGrad { w, .. }
            | Self::RowSquares { w, .. } => Some(w),
            Self::SoftmaxSum { words, .. } => Some(words),
            _ => None,
        }
    }

    /// What it reads and writes; the factors of an adapter's product that is part of a layer's are [`Op::term`].
    pub fn passes(&self) -> Passes {
        let kept = |probs: &Probs<'_>| if let Probs::Kept(p) = probs { view(p) } else { 0 };
        let mut bytes = self.weight().map_or(0, Weight::bytes);
        let values = match self {
            Self::Zero { x } => view_mut(x),
            Self::Copy { from, .. } | Self::Perturb { from, .. } => 2 * view(from),
            Self::AddBias { y, .. } | Self::GatherRows { y, .. } | Self::DoraGain { y, .. } => {
                2 * view_mut(y)
            }
            Self::BiasGrad { dy, .. } => view(dy),
            Self::Scale { x, .. } | Self::Rope { x, .. } => 2 * view_mut(x),
            Self::LoadWeight { to, w } => {
                bytes = w.bytes();
                to.rows * to.cols
            }
            Self::Embedding { y, table, tokens } => {
                bytes = tokens.len() * table.bytes() / table.rows().max(1);
                view_mut(y)
            }
            Self::ScatterRows { x, .. }
            | Self::RmsNorm { x, .. }
            | Self::RmsNormWeightGrad { x, .. }
            | Self::Dropout { x, .. } => 2 * view(x),
            Self::ScatterAddRows { x, .. }
            | Self::RmsNormAdd { x, .. }
            | Self::AddScaled { x, .. }
            | Self::RmsNormBackwardInPlace { x, .. } => 3 * view(x),
            Self::RmsNormBackward { x, .. } => 4 * view(x),
            Self::RmsNormTangent { x, accumulate, .. } => (3 + usize::from(*accumulate)) * view(x),
            Self::Linear { y, x, .. } | Self::AdaptedLinear { y, x, .. } => view_mut(y) + view(x),
            Self::InputGrad { dx, dy, .. } | Self::AdaptedInputGrad { dx, dy, .. } => view_mut(dx) + view(dy),
            Self::Product { y, a, b, .. } => view_mut(y) + view(a) + view(b),
            Self::WeightGrad { dw, g_x: [g, x], .. } => {
                view_mut(dw) + numbers(g.rows * dw.rows, g.elem) + view(x)
            }
            Self::RowSquares { to, .. } => view_mut(to),
            Self::DoraGains { gain_inverse, b, p_g, .. } => {
                view(b) + view(&p_g.0) + 4 * view_mut(&gain_inverse.0)
            }
            Self::DoraGainAdd { z, .. } => 3 * view(z),
            Self::DoraMagnitudeGrad { dy, z, .. } => view(dy) + view(z),
            Self::GatedInPlace { up, .. } => 3 * view(up),
            Self::GatedTangentInPlace { up_t, .. } => 5 * view(up_t),
            Self::GatedBackwardInPlace { da, .. } => 5 * view(da),
            Self::Attention { o, lse, qkv, .. } => view_mut(o) + view_mut(lse) + views(qkv),
            Self::AttentionProbs { p, lse, qk, .. } => view_mut(p) + view(lse) + views(qk),
            Self::AttentionTangent { t, o_lse, qkv, tangents, .. } => {
                view_mut(t) + views(o_lse) + views(qkv) + views(tangents)
            }
            Self::AttentionDelta { o, .. } => 2 * view(o),
            Self::AttentionBackwardQ { dq, d_o, qkv, lse_delta, probs, .. } => {
                view_mut(dq) + view(d_o) + views(qkv) + views(lse_delta) + kept(probs)
            }
            Self::AttentionBackwardKv { dk, dv, d_o, qkv, lse_delta, probs, .. } => {
                view_mut(dk) + view_mut(dv) + view(d_o) + views(qkv) + views(lse_delta) + kept(probs)
            }
            Self::SoftmaxStats { logits, .. } => view(logits),
            Self::SoftmaxGradient { logits, .. } => 2 * view_mut(logits),
            Self::SoftmaxSum { sum, logits, .. } => 2 * view_mut(logits) + 2 * view_mut(sum),
            Self::SoftmaxSumGradient { word, .. } => 3 * view(word),
            Self::Sgd { p, m, g, .. } => updated(p) + m.as_ref().map_or(0, |m| 2 * view_mut(m)) + view(g),
            Self::AdamW { p, m, v, g, .. } => updated(p) + moment(m) + moment(v) + view(g),
            Self::Lion { p, m, g, .. } => updated(p) + 2 * view_mut(m) + view(g),
            Self::Foam { p, m, v, g, .. } => updated(p) + 2 * view_mut(m) + 2 * view_mut(v) + view(g),
            // Once by rows and once by columns.
            Self::FactoredMoments { r, c, g, .. } => {
                2 * view_mut(r) + c.as_ref().map_or(0, |c| 2 * view_mut(c) + view(g)) + view(g)
            }
            Self::FactoredNorms { p, r, c, g, .. } => {
                view(p) + view(r) + c.as_ref().map_or(0, view) + view(g)
            }
            Self::FactoredStep { p, r, c, g, .. } => {
                updated(p) + view(r) + c.as_ref().map_or(0, view) + view(g)
            }
            Self::PerturbInPlace { p, .. } => 2 * p.rows * p.cols,
        };
        Passes { values, bytes }
    }

    /// For a layer with an adapter's product, that product's name, multiplications with additions, and numbers of its
    /// factors.
    pub fn term(&self) -> Option<(&'static str, u64, usize)> {
        let all = |m: usize, n: usize, k: usize| Multiplied { size: [m, n, k], weight: None }.multiply_adds();
        match self {
            Self::AdaptedLinear { y, h_b_alpha: (h, b, _), .. } => {
                Some(("adapter output", all(y.rows, y.cols, h.cols), view(h) + view(b)))
            }
            Self::AdaptedInputGrad { dx, dh_a: (dh, a), .. } => {
                Some(("adapter input_grad", all(dx.rows, dx.cols, dh.cols), view(dh) + view(a)))
            }
            _ => None,
        }
    }
}

/// Queries and the keys they see, counted in pairs.
fn attention_pairs(shape: Attention<'_>) -> u64 {
    let sequences = shape.queries.windows(2).zip(shape.keys.windows(2));
    // Of the first `keys` positions of a sequence, each with the keys in its window.
    let seen = |keys: usize| {
        let short = keys.min(shape.window) as u64;
        short * (short + 1) / 2 + (keys as u64 - short) * short
    };
    sequences.map(|(q, k)| seen(k[1] - k[0]) - seen(k[1] - k[0] - (q[1] - q[0]))).sum()
}

/// `products` of scores' size for every query and the keys it sees.
pub(crate) fn attended(shape: Attention<'_>, products: u64) -> u64 {
    let cols = (shape.heads as u64).saturating_mul(shape.head_dim as u64);
    products.saturating_mul(attention_pairs(shape)).saturating_mul(cols)
}
