//! `mesp bench`: measurements beside published ones.
//!
//! A subcommand is a module: `memory`, `paper`, `step`, `generate`, `gradients`, `convergence`. Begin with `runner`, which
//! starts a process for each configuration, so that each has a high-water mark of its own, and `report`, which writes
//! `results/*.json`; `svg` draws the figures of the documentation. Published figures are in `published`, each with its
//! source.

mod args;
mod asked;
mod chart;
mod convergence;
mod generate;
mod gradients;
mod machine;
mod memory;
mod models;
mod paper;
mod parts;
mod published;
mod report;
mod runner;
mod step;
mod svg;
mod timeline;

use anyhow::Result;

pub use args::BenchArgs;
pub use models::BuiltIn;

use args::BenchCommand;

/// Measures what was asked for. Runs that are measured in processes of their own are runs of this program: it has the
/// commands `train`, `plan`, `init-model` and `bench`.
///
/// # Errors
/// When it cannot be measured.
pub fn run(args: &BenchArgs, built_in: BuiltIn) -> Result<()> {
    match &args.what {
        BenchCommand::Memory(args) if args.timeline => timeline::run(args),
        BenchCommand::Memory(args) => memory::run(args),
        BenchCommand::Step(args) => step::run(args),
        BenchCommand::Generate(args) => generate::run(args),
        BenchCommand::Paper(args) => paper::run(args),
        BenchCommand::Gradients(args) => gradients::run(args, built_in),
        BenchCommand::Convergence(args) => convergence::run(args, built_in),
    }
}
