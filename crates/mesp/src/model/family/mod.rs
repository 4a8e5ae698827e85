//! What tells one architecture from another. One file a family, named as `model_type` in `config.json`.

mod llama;
mod qwen2;
mod qwen3;

use mesp_formats::ModelConfig;

use crate::{Error, Result};

/// What a family adds to the common pre-norm block.
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
}

/// The family of a configuration.
///
/// # Errors
/// When there is none by that name, or the configuration asks for something that it does not have here.
pub(super) fn of(config: &ModelConfig) -> Result<Family> {
    if config.use_sliding_window {
        return Err(Error::usage(format!(
            "config.json: use_sliding_window is true, which is not supported for model_type {:?}",
            config.model_type
        ))
        .hint("set use_sliding_window to false if your sequences are no longer than the window"));
    }
    match config.model_type.as_str() {
        "llama" => Ok(llama::family(config)),
        "qwen2" => Ok(qwen2::family(config)),
        "qwen3" => Ok(qwen3::family(config)),
        other => {
            Err(Error::usage(format!("config.json: model_type is {other:?}, expected llama, qwen2 or qwen3")))
        }
    }
}
