//! One file a command.

pub(crate) mod chat;
pub(crate) mod dash;
pub(crate) mod data;
pub(crate) mod demo;
mod dry_run;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod generate;
mod generation;
pub(crate) mod grads;
pub(crate) mod init_model;
pub(crate) mod inspect;
mod inspect_gguf;
mod listed;
pub(crate) mod merge;
pub(crate) mod plan;
pub(crate) mod pull;
pub(crate) mod quantize;
pub(crate) mod replay;
pub(crate) mod sample;
mod sites;
pub(crate) mod train;
mod watch;
