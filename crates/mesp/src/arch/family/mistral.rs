//! Mistral: Llama without biases, every layer with a window where the configuration has one.

use mesp_formats::ModelConfig;

use super::{Family, PLAIN};

pub(super) fn family(_: &ModelConfig) -> Family {
    PLAIN
}
