//! Options of `mesp bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::SharedArgs;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) what: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Peak memory of training, method by method, beside the figures of the MeSP paper
    ///
    /// Each configuration trains a model of random weights in a process of its own: batch 1, SGD. The published
    /// methods keep all gradients until the step, as their released code does; ours step block by block.
    Memory(BenchMemoryArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchMemoryArgs {
    /// Parts to run: ladder, table-1, table-2, table-3, table-5 [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) parts: Vec<String>,
    /// Shapes to train, of those that `mesp init-model --preset` knows [default: qwen2.5-0.5b, qwen2.5-1.5b,
    /// qwen2.5-3b; the ladder takes the first]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) models: Vec<String>,
    /// Lengths of table 2; the ladder takes 256 if it is among them, else the first [default: 128, 256, 512,
    /// 1024]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) tokens: Vec<usize>,
    /// Ranks of table 3 [default: 4, 8, 16, 32]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) ranks: Vec<usize>,
    /// Rungs to run: store-all, mebp, mesp-paper-store-h, mesp-paper, mesp, mesp-bf16-checkpoints,
    /// mesp-file-checkpoints, mesp-least [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) rungs: Vec<String>,
    /// Only the ladder, one step each
    #[arg(long, conflicts_with_all = ["parts", "steps"])]
    pub(crate) quick: bool,
    /// Optimizer steps of a run; the peak is reached in the first [default: 4]
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// Number type of the base weights, as `mesp init-model --type` takes it
    #[arg(long = "type", value_name = "TYPE", default_value = BASE_TYPE)]
    pub(crate) base_type: String,
    /// Run nothing: give the plans
    #[arg(long)]
    pub(crate) plan_only: bool,
    /// Give the plan of a configuration whose steps would take longer than this, by the speed of those before
    /// it [default: no limit]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) limit: Option<f64>,
    /// Draw the memory of one step over time, for MeBP, the paper's MeSP and ours, and run nothing
    #[arg(long, conflicts_with_all = ["parts", "quick", "steps", "plan_only", "limit"])]
    pub(crate) timeline: bool,
    /// Where results go [default: results]
    #[arg(long, value_name = "DIR", default_value = "results", hide_default_value = true)]
    pub(crate) output: PathBuf,
    /// The results are memory-NAME.json and memory-NAME.svg [default: the date]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where models are kept between runs: 0.3 to 2 GB each in 4 bits [default: mesp-bench in the temporary folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

/// What the base weights are stored in, unless told otherwise.
const BASE_TYPE: &str = "q4_0";
