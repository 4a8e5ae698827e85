//! `SmolLM3`: Llama with layers whose queries and keys are not rotated, every fourth by default.

use mesp_formats::ModelConfig;

use super::{Family, llama};

pub(super) fn family(c: &ModelConfig) -> Family {
    llama::family(c)
}
