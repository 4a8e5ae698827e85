//! What a run needs in the memory of its process, and whether a budget or the system allows it.
//!
//! [`MemoryPlan`] has every byte that a run allocates by what it is for; [`decide`] looks for the fastest policy that
//! keeps a budget, or says which budgets would do ([`OverBudget`]). A budget covers the anonymous memory of the whole
//! process, the program around the engine included; mapped weights are the system's to drop and are not counted.

mod budget;
mod plan;
mod work;

pub use budget::{Decision, Process, Request, decide, least_budget};
pub use plan::{MemoryPlan, spill};
pub use work::Workload;

pub use crate::limits::{ByteSize, Limit, OverBudget, Resident, Room, Saving};

use std::sync::Arc;

use mesp_device::{Cpu, Plan, Real, Threads};

use crate::{Error, Result};

/// The processor with its arena.
///
/// # Errors
/// [`Error::OverBudget`] where the system has less than the plan's arena needs, [`Error::OutOfMemory`] where it does not
/// give it.
pub fn processor<R: Real>(plan: Plan, pool: Arc<Threads>) -> Result<Cpu<R>> {
    let needs = plan.bytes() as u64;
    if let Some(room) = Room::now().filter(|room| room.lacks(needs)) {
        return Err(OverBudget::arena(needs, room).into());
    }
    Cpu::try_new(plan, pool).map_err(|asked| Error::OutOfMemory { bytes: asked as u64 })
}
