//! Qwen2 and Qwen2.5: biases on queries, keys and values, always.

use mesp_formats::ModelConfig;

use super::{Family, PLAIN};

pub(super) fn family(_: &ModelConfig) -> Family {
    Family { qkv_bias: true, ..PLAIN }
}
