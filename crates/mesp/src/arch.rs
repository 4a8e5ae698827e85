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
pub use param::{Norm, Param, Tensor, base_params};

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";
/// Of the attention's and of the MLP's output.
/// Of queries and keys.
pub(crate) const QK_NORMS: [Norm; 2] = [Norm::Query, Norm::Key];
pub(crate) const POST_NORMS: [Norm; 2] = [Norm::PostAttention, Norm::PostFeedforward];
