//! Phi-3: queries, keys and values from one matrix, gate and up from another; a window where the configuration has
//! one. Positions beyond the original length, for which longrope has other divisors, are not run.

use mesp_formats::ModelConfig;

use super::{Family, PLAIN};

pub(super) fn family(_: &ModelConfig) -> Family {
    Family { fused: true, ..PLAIN }
}
