//! Gemma 3, its text models: norms on both sides of attention and MLP and on queries and keys, all around 1, a
//! scaled embedding, gelu by its tanh; windows in most layers, with a rotary base of their own.

use mesp_device::Gate;
use mesp_formats::ModelConfig;

use super::{Family, PLAIN};

pub(super) fn family(c: &ModelConfig) -> Family {
    let bias = c.attention_bias.unwrap_or(false);
    Family {
        qkv_bias: bias,
        o_bias: bias,
        qk_norm: true,
        post_norms: true,
        norm_around_one: true,
        scaled_embedding: true,
        gate: Gate::GeluTanh,
        ..PLAIN
    }
}
