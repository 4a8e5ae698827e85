//! What every program on a terminal that uses mesp needs, and nothing of what it does there: the two streams ([`ui`]),
//! errors and exit statuses ([`failure`]), options that several commands take ([`args`]), signals ([`interrupt`]),
//! processes that end with their parent ([`child`]), what a process really holds in memory ([`memory`]), and names of
//! the hub ([`names`]), and which files may be written ([`outputs`]).

pub mod args;
pub mod child;
pub mod failure;
pub mod flags;
pub mod interrupt;
mod machine;
pub mod memory;
pub mod names;
pub mod outputs;
pub mod progress;
pub mod sizes;
pub mod ui;
