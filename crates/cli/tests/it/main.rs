//! The program, run as a user runs it: what it prints, what it writes, how it ends.

mod adapters;
mod bad_input;
mod bench;
mod bench_convergence;
mod bench_generate;
mod bench_gradients;
mod bench_step;
#[cfg(unix)]
mod browser;
mod budget;
mod chat;
#[cfg(unix)]
mod dash;
mod data;
mod demo;
mod estimators;
mod eval;
mod full;
mod generate;
mod gguf;
mod hub;
#[cfg(feature = "pull")]
mod hub_server;
mod kills;
mod limits;
mod lost_file;
mod made_with;
mod merge;
mod models;
mod no_space;
mod numbers;
mod outputs;
mod overwrite;
#[cfg(feature = "pull")]
mod pull;
mod replaced;
mod replay;
mod results;
mod resume;
mod runs;
mod spans;
mod support;
mod tables;
mod tokens;
