//! Qwen3: a norm per head on queries and keys, and a head size of its own.

use mesp_formats::ModelConfig;

use super::{Family, PLAIN};

pub(super) fn family(c: &ModelConfig) -> Family {
    let bias = c.attention_bias.unwrap_or(false);
    Family { qkv_bias: bias, o_bias: bias, qk_norm: true, ..PLAIN }
}
