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
#[cfg(unix)]
mod dash_server;
#[cfg(unix)]
mod dash_trouble;
mod data;
mod demo;
mod endless;
mod estimators;
mod eval;
mod full;
mod generate;
mod gguf;
mod hub;
#[cfg(feature = "pull")]
mod hub_server;
mod kills;
mod large_rows;
mod leftovers;
mod limits;
mod lost_file;
mod made_with;
mod merge;
mod models;
mod no_space;
mod numbers;
mod outputs;
mod overwrite;
mod preference;
#[cfg(feature = "pull")]
mod pull;
mod replaced;
mod replay;
mod results;
mod resume;
mod runs;
mod spans;
mod starts;
mod support;
mod tables;
mod tokens;
