//! The `mesp` program: it reads options and configuration files, calls the library, and prints what happened.
//!
//! This crate is not a library to build on: whatever another program could want is in [`mesp`], whose page has examples.
//! It is compiled as a library so that `main.rs` is one call of [`main`], and so that fuzz targets reach the code that
//! reads untrusted input (`untrusted`).
//!
//! Start reading at `args.rs`, which declares the commands and their options, then `commands/train.rs`: each command has
//! one file under `commands`. `settings` turns options into the library's [`Settings`](mesp::settings::Settings), `flags`
//! puts option names in place of the setting names in the library's messages, `failure` turns an error into a message and
//! an exit status. Results go to standard output; progress, notes and errors go to standard error.

mod args;
mod card;
mod chart;
mod commands;
mod config;
mod hub;
mod inputs;
mod lines;
mod made_with;
mod metrics;
mod replaced;
mod run_dir;
mod run_files;
mod run_json;
mod samples;
mod settings;
mod step_memory;
mod tensorboard;
mod tokens;
#[doc(hidden)]
pub mod untrusted;

use std::process::ExitCode;

use args::Command;
// By their own names everywhere below.
use mesp_console::{child, failure, flags, interrupt, memory, outputs, progress, sizes, ui};

/// The program.
pub fn main() -> ExitCode {
    mesp_device::report_signals();
    let parsed = interrupt::listen().and_then(|()| child::follow_parent()).and_then(|()| {
        let mut cli = config::parse()?;
        hub::resolve(&mut cli.command)?;
        Ok(cli)
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return failure::report(&error),
    };
    let done = match &cli.command {
        Command::Train(args) => commands::train::run(args),
        Command::Plan(args) => commands::plan::run(args),
        Command::Grads(args) => commands::grads::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::InitModel(args) => commands::init_model::run(args),
        Command::Quantize(args) => commands::quantize::run(args),
        Command::Merge(args) => commands::merge::run(args),
        Command::Export(args) => commands::export::run(args),
        Command::Pull(args) => commands::pull::run(args),
        Command::Data(command) => commands::data::run(command),
        Command::Inspect(args) => commands::inspect::run(args),
        #[cfg(feature = "bench")]
        Command::Bench(args) => mesp_bench::run(args, commands::demo::write_files),
        Command::Dash(args) => commands::dash::run(args),
        Command::Report(args) => commands::dash::report(args),
        Command::InitConfig(args) => config::example::run(args),
        Command::Sample(args) => commands::sample::run(args),
        Command::Replay(args) => commands::replay::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
