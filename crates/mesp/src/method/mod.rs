//! How a gradient is made. Knows no architecture: it walks blocks, and tells each what to keep.

mod backprop;
mod directional;
mod forward;
mod presets;
pub mod zeroth;

pub use backprop::{Backprop, GradSink, StepShape};
pub use directional::{Blocks, Directional, Estimator, Ray, Slope, drift};
pub use presets::Method;
pub use zeroth::Shift;
