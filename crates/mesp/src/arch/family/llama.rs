//! Llama: biases where the configuration says so. SmolLM2 and TinyLlama are of this family.

use mesp_formats::ModelConfig;

use super::{Family, PLAIN};

pub(super) fn family(c: &ModelConfig) -> Family {
    let bias = c.attention_bias.unwrap_or(false);
    Family { qkv_bias: bias, o_bias: bias, mlp_bias: c.mlp_bias, ..PLAIN }
}
