//! What a model is before it has weights: shapes, families, the names of its parts.
//!
//! Below adapters and models; knows neither.

mod config;
mod family;
mod linear;
mod module;

pub use config::{Config, Sees, Turn};
pub use family::Family;
pub use linear::Linear;
pub use module::Module;

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";
/// Of the attention's and of the MLP's output.
pub(crate) const POST_NORMS: [&str; 2] = ["post_attention_layernorm", "post_feedforward_layernorm"];
