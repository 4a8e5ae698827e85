//! Gradients as pairs of factors ([`Factors`]), the consumers of these, and the buffers to which they are added
//! ([`Gradients`]).

mod buffers;
mod factors;

pub use buffers::{Gradients, ParamList, Sums, starts};
pub use factors::{Factors, IgnoreFactors, Nothing};
