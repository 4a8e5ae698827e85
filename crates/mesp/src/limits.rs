//! What a process may have of memory: sizes, what the system gives, and why a run does not fit.

mod over;
mod size;
mod system;

pub use over::{Limit, OverBudget, Saving};
pub use size::ByteSize;
pub use system::{Resident, Room};
