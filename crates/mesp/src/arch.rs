//! What a model is before it has weights: shapes, families, the names of its parts.
//!
//! Below adapters and models; knows neither.

mod config;
mod family;
mod linear;
mod module;
mod names;
mod param;
mod selection;

pub use config::{Config, LayerAttention, RopeKind};
pub use family::Family;
pub use linear::Linear;
pub use module::Module;
pub use names::Norm;
pub(crate) use names::{EMBEDDING, HEAD, POST_NORMS, QK_NORMS};
pub use param::{Param, Tensor, base_params};
pub use selection::{Part as TrainedPart, Selection};
