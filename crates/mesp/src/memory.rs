//! The memory that a run needs in its process, and whether it fits a budget and the system.
//!
//! [`MemoryPlan`] lists every byte that a run allocates by its purpose; [`decide`] searches for the fastest policy that
//! fits a budget, or reports the smallest budgets that would do ([`OverBudget`]). A budget covers the anonymous memory
//! of the whole process, the program around the engine included. Memory-mapped weights are not counted, since the
//! system can drop their pages.

mod budget;
mod plan;
mod work;

pub use budget::{Decision, Process, Request, decide, least_budget};
pub use plan::{MemoryPlan, spill};
pub use work::{Workload, largest_evaluation};

pub use crate::limits::{ByteSize, Limit, OverBudget, Resident, Room, Saving};

use std::sync::Arc;

use mesp_device::{Cpu, Plan, Real, Threads};

use crate::{Error, Result};

/// Allocates a plan's arena on the CPU.
///
/// # Errors
/// [`Error::OverBudget`] if the system has less free memory than the arena needs, [`Error::OutOfMemory`] if the
/// allocation fails.
pub fn processor<R: Real>(plan: Plan, pool: Arc<Threads>) -> Result<Cpu<R>> {
    let needs = plan.bytes() as u64;
    if let Some(room) = Room::now().filter(|room| room.lacks(needs)) {
        return Err(OverBudget::arena(needs, room).into());
    }
    Cpu::try_new(plan, pool).map_err(|asked| Error::OutOfMemory { bytes: asked as u64 })
}
