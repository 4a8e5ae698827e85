//! What a model is before it has weights: shapes, families, the names of its parts.
//!
//! Below adapters and models; knows neither.

mod config;
mod family;
mod linear;
mod module;
mod param;

pub use config::{Config, Sees, Turn};
pub use family::Family;
pub use linear::Linear;
pub use module::Module;
pub use param::{Param, Tensor, base_params};

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";
/// Of the attention's and of the MLP's output.
/// The norm before the head, by its path.
pub(crate) const FINAL_NORM: &str = "model.norm";
/// Of queries and keys, by their paths in a block.
pub(crate) const QK_NORMS: [&str; 2] = ["self_attn.q_norm", "self_attn.k_norm"];
pub(crate) const POST_NORMS: [&str; 2] = ["post_attention_layernorm", "post_feedforward_layernorm"];
