//! Limits of a process's memory: sizes, what the system has free, and why a run does not fit.

mod over;
mod size;
mod system;

pub use over::{Limit, OverBudget, Saving};
pub use size::ByteSize;
pub use system::{Resident, Room};
