//! One file a command.

mod demo;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod grads;
pub(crate) mod init_model;
pub(crate) mod inspect;
pub(crate) mod plan;
mod speak;
pub(crate) mod train;
mod watch;
