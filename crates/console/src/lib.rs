//! What every program on a terminal that uses mesp needs, and nothing of what it does there: the two streams ([`ui`]),
//! errors and exit statuses ([`failure`]), options that several commands take ([`args`]), signals ([`interrupt`]),
//! processes that end with their parent ([`child`]), what a process holds in memory ([`memory`]), names of the hub
//! ([`names`]), which files may be written ([`outputs`]), settings shown as options ([`flags`]), progress of long work
//! ([`progress`]), and numbers for people ([`sizes`]). The program `mesp` and its benchmarks are built on it.

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
