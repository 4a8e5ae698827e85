//! The math on slices: one file per operation, forward beside backward.
//!
//! Rows are tokens. `N` rows in a micro-batch, `d` hidden size, `D` head size, `V` vocabulary, `r` LoRA
//! rank. A matrix `[n, d]` is a row-major slice of `n·d` values. The gradient of `x` is `dx`. A
//! micro-batch is *ragged*: sequences stand back to back, `offsets` holds where each begins, with one entry
//! more for the end.
//!
//! Three rules hold for every function here:
//!
//! 1. **Nothing is allocated.** Scratch is passed in; a function beside the operation says how much.
//! 2. **Results do not depend on the number of threads**, nor on how rows are cut into tiles: every output
//!    element is computed by one thread, in one order of its terms.
//! 3. **The plain body is the reference.** Operations are generic over [`Real`]: with `f64` they are what
//!    the `f32` form is checked against.

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
    Compute, Init, Lhs, Out, Rhs, THIN, Term, hot_tiles, matmul, matmul_plus, matmul_scratch, matmul_thin,
};
pub use noise::{
    Distribution, Noise, perturb, perturb_at, perturb_bf16, perturb_in_place, perturb_in_place_bf16,
    perturb_rows,
};
pub use online_softmax::{softmax_sum, softmax_sum_gradient};
pub use optim::{AdamW, Sgd, adamw, adamw_bf16, add_bias, dot, scale, sgd, sgd_bf16, sum_of_squares};
pub use par::Par;
pub use random::bits as random_bits;
pub use real::Real;
pub use rms_norm::{
    rms_norm, rms_norm_add, rms_norm_backward, rms_norm_backward_in_place, rms_norm_bf16, rms_norm_tangent,
};
pub use rope::{Layout, MOST_TURNED, RopeShape, inverse_frequencies, rope};
pub use threads::Threads;
pub use vector_grads::{bias_grad, rms_norm_weight_grad};
pub use weight::{Dtype, WeightView, converted, converted_bf16};

#[cfg(test)]
mod test_util;
