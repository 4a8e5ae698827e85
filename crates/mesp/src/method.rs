//! How a gradient is made. Knows no architecture: it walks blocks, and tells each what to keep.

mod backprop;
mod blocks;
mod bounds;
mod directional;
mod forward;
mod presets;
mod subset;
pub mod zeroth;

pub use backprop::{Backprop, Consumer};
pub use blocks::Blocks;
pub use bounds::Bounds;
pub use directional::{Derivative, Direction, Directional, Estimator, add_direction, perturb_in_place};
pub use presets::Method;
pub use subset::Subset;
pub use zeroth::Perturbation;
