//! Qwen2 and Qwen2.5: biases on queries, keys and values, always.

use mesp_formats::ModelConfig;

use super::Family;

pub(super) fn family(_: &ModelConfig) -> Family {
    Family { qkv_bias: true, o_bias: false, mlp_bias: false, qk_norm: false }
}
