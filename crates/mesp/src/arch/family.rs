//! What tells one architecture from another. One file a family, named as `model_type` in `config.json`.

mod gemma3_text;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;
mod smollm3;

use mesp_device::Gate;
use mesp_formats::ModelConfig;

use super::names::Norm;
use crate::{Error, ErrorKind, Result};

/// What a family adds to the common pre-norm block. Which layers have a window or no rotation is in the
/// configuration: [`Config::attention`](super::Config::attention).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of an architecture")]
pub struct Family {
    /// Biases on `q_proj`, `k_proj`, `v_proj`.
    pub qkv_bias: bool,
    /// Bias on `o_proj`.
    pub o_bias: bool,
    /// Biases on `gate_proj`, `up_proj`, `down_proj`.
    pub mlp_bias: bool,
    /// A norm per head on queries and keys, before they are rotated.
    pub qk_norm: bool,
    /// Norms between the attention's and the MLP's output and the residual stream.
    pub post_norms: bool,
    /// Norms are stored as what is added to 1.
    pub norm_around_one: bool,
    /// Embeddings are multiplied by √d on their way into the first block.
    pub scaled_embedding: bool,
    /// `qkv_proj` and `gate_up_proj` in place of five matrices; adapters sit on the whole.
    pub fused: bool,
    /// What the MLP's gate goes through.
    pub gate: Gate,
}

/// The block that most families share.
const PLAIN: Family = Family {
    qkv_bias: false,
    o_bias: false,
    mlp_bias: false,
    qk_norm: false,
    post_norms: false,
    norm_around_one: false,
    scaled_embedding: false,
    fused: false,
    gate: Gate::Silu,
};

impl Family {
    /// The norms before attention and before the MLP.
    pub(crate) fn norms(self) -> [Norm; 2] {
        [Norm::Input, if self.post_norms { Norm::PreFeedforward } else { Norm::PostAttention }]
    }
}

/// A family's file.
type Make = fn(&ModelConfig) -> Family;

/// `model_type` of every family.
const FAMILIES: [(&str, Make); 7] = [
    ("llama", llama::family),
    ("mistral", mistral::family),
    ("qwen2", qwen2::family),
    ("qwen3", qwen3::family),
    ("gemma3_text", gemma3_text::family),
    ("smollm3", smollm3::family),
    ("phi3", phi3::family),
];

/// The family of a configuration.
///
/// # Errors
/// When there is none by that name.
pub(super) fn of(config: &ModelConfig) -> Result<Family> {
    let name = config.model_type.as_str();
    if let Some((_, make)) = FAMILIES.iter().find(|(known, _)| *known == name) {
        return Ok(make(config));
    }
    let known = FAMILIES.map(|(known, _)| known).join(", ");
    Err(Error::usage(ErrorKind::Unsupported, format!("config.json: model_type is {name:?}"))
        .expected(format!("one of {known}")))
}
