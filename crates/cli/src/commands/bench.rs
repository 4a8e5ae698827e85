//! `mesp bench`: measurements beside published ones.

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

use crate::args::{BenchArgs, BenchCommand};

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.what {
        BenchCommand::Memory(args) if args.timeline => timeline::run(args),
        BenchCommand::Memory(args) => memory::run(args),
        BenchCommand::Step(args) => step::run(args),
        BenchCommand::Generate(args) => generate::run(args),
        BenchCommand::Paper(args) => paper::run(args),
        BenchCommand::Gradients(args) => gradients::run(args),
        BenchCommand::Convergence(args) => convergence::run(args),
    }
}
