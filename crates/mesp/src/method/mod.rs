//! How a gradient is made. Knows no architecture: it walks blocks, and tells each what to keep.

mod backprop;
mod presets;
mod zeroth;

pub use backprop::{Backprop, GradSink, StepShape};
pub use presets::Method;
pub use zeroth::{Estimator, Shift, Zeroth, drift};
