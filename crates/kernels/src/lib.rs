//! The arithmetic of a transformer on plain slices: one file per operation, the forward next to its hand-derived
//! backward, and the matrix products with SIMD code for AVX2, AVX-512, AVX512-BF16 and NEON.
//!
//! For whoever adds an operation, checks a derivative or wants one of these kernels alone: nothing here knows a tensor
//! type, a model or a file. Start reading at `rms_norm.rs`, the shortest complete operation (equations, shapes, what the
//! backward reads, tests), then `matmul.rs`. Main items: [`matmul()`] (with [`WeightView`], [`Term`] and [`Compute`]),
//! [`attention()`], [`rms_norm()`], [`rope()`], [`softmax_sum`] for the output head, [`adamw`]; [`Par`] and [`Threads`] say
//! where a kernel runs, [`isa()`] which instruction set it uses, and [`Real`] is `f32` or `f64`.
//!
//! Rows are tokens: `N` rows in a micro-batch, `d` hidden size, `D` head size, `V` vocabulary size, `r` LoRA rank. A
//! matrix `[n, d]` is a row-major slice of `n·d` values. The gradient of `x` is `dx`. A micro-batch is *ragged*:
//! sequences stand back to back without padding, and `offsets` holds where each begins, with one more entry for the end.
//!
//! Three rules hold for every function:
//!
//! 1. **Nothing is allocated.** Scratch is passed in; a function next to the operation gives its size.
//! 2. **Results do not depend on the number of threads**, nor on how rows are cut into tiles: every output element is
//!    computed by one thread, which adds its terms in one order.
//! 3. **The plain body is the reference.** Operations are generic over [`Real`]: the `f32` form is checked against the
//!    same code in `f64`.
//!
//! ```
//! use mesp_kernels::{Par, rms_norm, rms_norm_backward};
//!
//! let (x, weight, eps) = ([3.0_f64, 4.0], [1.0_f32, 2.0], 0.0); // one row, d = 2
//! let mut y = [0.0; 2];
//! rms_norm(&mut y, &x, &weight, eps, Par::serial());
//! let root_mean_square = 12.5_f64.sqrt();
//! assert!((y[1] - 2.0 * 4.0 / root_mean_square).abs() < 1e-12);
//!
//! // y does not change when x is scaled, so the gradient is orthogonal to x.
//! let mut dx = [0.0; 2]; // the backward adds to it
//! rms_norm_backward(&mut dx, &[1.0, 0.0], &x, &weight, eps, Par::serial());
//! assert!(dx[0] > 0.0 && (dx[0] * x[0] + dx[1] * x[1]).abs() < 1e-12);
//! ```

mod attention;
mod compact;
mod cross_entropy;
mod dora;
mod dropout;
mod embedding;
mod gated;
mod isa;
mod matmul;
mod noise;
mod online_softmax;
mod optim;
mod par;
mod random;
mod real;
mod rms_norm;
mod rope;
mod threads;
mod vector_grads;
mod weight;

pub use attention::{
    AttentionShape, ProbsAt, attention, attention_backward_kv, attention_backward_q, attention_delta,
    attention_probs, attention_scratch, attention_tangent, probs_len,
};
pub use compact::{Values, copy, narrow, widen};
pub use cross_entropy::{RowStat, VOCAB_STEP, softmax_gradient, softmax_stats};
pub use dora::{dora_gain, dora_gain_add, dora_gain_bf16, dora_gains, dora_magnitude_grad, row_squares};
pub use dropout::{Dropout, dropout};
pub use embedding::{embedding, gather_rows, gather_rows_bf16, scatter_add_rows, scatter_rows};
pub use gated::{
    Gate, gated_backward_in_place, gated_backward_in_place_bf16, gated_in_place, gated_in_place_bf16,
    gated_tangent_in_place,
};
pub use isa::{Isa, f32_is_faster, isa};
#[doc(hidden)]
pub use matmul::Micro;
pub use matmul::{
    Compute, Init, Lhs, MOST_RANKS, Out, Rhs, Term, hot_tiles, matmul, matmul_plus, matmul_rank_r,
    matmul_scratch,
};
pub use noise::{
    Distribution, Noise, perturb, perturb_at, perturb_bf16, perturb_in_place, perturb_in_place_bf16,
    perturb_rows,
};
pub use online_softmax::{softmax_sum, softmax_sum_gradient};
pub use optim::{
    AdamW, Factored, Foam, Lion, MomentMut, ParamMut, Sgd, adamw, add_bias, add_scaled, dot,
    factored_moments, factored_norms, factored_step, foam, lion, scale, sgd, sum_of_squares,
};
pub use par::Par;
pub use random::bits as random_bits;
pub use real::Real;
pub use rms_norm::{
    rms_norm, rms_norm_add, rms_norm_backward, rms_norm_backward_in_place, rms_norm_bf16, rms_norm_tangent,
};
pub use rope::{Layout, MAX_ROTARY_DIM, RopeShape, inverse_frequencies, rope};
pub use threads::Threads;
pub use vector_grads::{bias_grad, rms_norm_weight_grad};
pub use weight::{Dtype, WeightView, converted, converted_bf16};

#[cfg(test)]
mod test_util;
