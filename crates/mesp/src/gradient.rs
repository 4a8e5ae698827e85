//! Gradients as pairs of factors, who takes them, and the buffers they are added to.

mod buffers;
mod factors;

pub use buffers::{Gradients, ParamList, Sums, starts};
pub use factors::{Factors, Nothing, Quiet};
