//! Options of `mesp bench gradients`, `mesp bench convergence` and `mesp bench paper`.

use std::path::PathBuf;

use clap::Args;
use mesp::settings::Compute;
use mesp_console::args::{ReplaceArgs, SharedArgs};

use super::ResultsArgs;

#[derive(Debug, Args)]
pub(crate) struct BenchGradientsArgs {
    /// Methods to compare: mesp, mesp-bf16, forward, mezo, mezo-signs, mezo-one-sided,
    /// mezo-sparse, lcsb, mezo-16 [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) methods: Vec<String>,
    /// Another method: a name and options of `mesp grads`; may be given several times
    #[arg(long, value_name = "NAME=OPTIONS", allow_hyphen_values = true)]
    pub(crate) also: Vec<String>,
    /// The model [default: the built-in one]
    #[arg(long, value_name = "DIR|FILE.gguf", requires = "data")]
    pub(crate) model: Option<PathBuf>,
    /// The rows [default: the built-in ones that are held out]
    #[arg(long, value_name = "FILE", requires = "model")]
    pub(crate) data: Option<PathBuf>,
    /// So many rows from the beginning are one batch; there are four random ones [default: 8]
    #[arg(long, value_name = "N", default_value_t = 8, hide_default_value = true)]
    pub(crate) rows: usize,
    /// A published shape with random weights and random tokens, in place of --model; see `mesp init-model --help`
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub(crate) preset: Option<String>,
    /// Number type of the random weights, as `mesp init-model --type` takes it [default: bf16]
    #[arg(long = "type", value_name = "TYPE", default_value = "bf16", hide_default_value = true)]
    pub(crate) base_type: String,
    /// The most tokens of a row; the length of random ones [default: 64]
    #[arg(long, value_name = "N", default_value_t = 64, hide_default_value = true)]
    pub(crate) tokens: usize,
    /// The adapter at which gradients are taken [default: a new one, moved]
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// How far a new adapter is moved from its start, in every value, so that B is not zero [default: 0.01]
    #[arg(
        long,
        value_name = "SIGMA",
        default_value_t = 0.01,
        hide_default_value = true,
        conflicts_with = "adapter"
    )]
    pub(crate) moved: f64,
    /// Rank of a new adapter [default: 8]
    #[arg(long, value_name = "R", default_value_t = 8, hide_default_value = true)]
    pub(crate) rank: usize,
    /// Estimates to make with each method [default: 200]
    #[arg(long, value_name = "N", default_value_t = 200, hide_default_value = true)]
    pub(crate) seeds: usize,
    /// Estimates that a step is made along, to see what the loss gains [default: 16]
    #[arg(long, value_name = "N", default_value_t = 16, hide_default_value = true)]
    pub(crate) descents: usize,
    /// Length of that step as a share of the adapter's norm [default: 0.001]
    #[arg(long, value_name = "SHARE", default_value_t = 0.001, hide_default_value = true)]
    pub(crate) step: f64,
    /// Precision of the reference: f64, or f32 where that takes too long [default: f64]
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = Compute::F64, hide_default_value = true)]
    pub(crate) reference: Compute,
    /// Seed of a new adapter and of directions [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) results: ResultsArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchConvergenceArgs {
    /// Methods to run, the first one is what others are compared with: mesp, mesp-sgd, lcsb, forward,
    /// mezo, mezo-sparse, mezo-8 [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) methods: Vec<String>,
    /// Another method: a name and options of `mesp train`; may be given several times, each with its --rates
    #[arg(long, value_name = "NAME=OPTIONS", allow_hyphen_values = true)]
    pub(crate) also: Vec<String>,
    /// Learning rates that a method may choose from; may be given several times [default: three or four, each about
    /// three times the one before]
    #[arg(long, value_name = "NAME=LIST")]
    pub(crate) rates: Vec<String>,
    /// The model [default: the built-in one]
    #[arg(long, value_name = "DIR|FILE.gguf", requires = "data")]
    pub(crate) model: Option<PathBuf>,
    /// The rows to train [default: the built-in ones]
    #[arg(long, value_name = "FILE|DIR", requires = "model")]
    pub(crate) data: Option<PathBuf>,
    /// The rows to hold out [default: the built-in ones]
    #[arg(long, value_name = "FILE", requires = "data")]
    pub(crate) eval_data: Option<PathBuf>,
    /// Hold out this share of --data
    #[arg(long, value_name = "SHARE", conflicts_with = "eval_data", requires = "data")]
    pub(crate) eval_split: Option<f64>,
    /// Steps of an exact run [default: 100]
    #[arg(long, value_name = "N", default_value_t = 100, hide_default_value = true)]
    pub(crate) steps: usize,
    /// Steps of an estimate's run for each of an exact one's [default: 30]
    #[arg(long, value_name = "N", default_value_t = 30, hide_default_value = true)]
    pub(crate) factor: usize,
    /// Rows of a step [default: 8]
    #[arg(long, value_name = "ROWS", default_value_t = 8, hide_default_value = true)]
    pub(crate) batch_size: usize,
    /// The most tokens of a row [default: that of mesp train]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_seq_len: Option<usize>,
    /// Rank of the adapters [default: 8]
    #[arg(long, value_name = "R", default_value_t = 8, hide_default_value = true)]
    pub(crate) rank: usize,
    /// Seed of rows, adapters and directions [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) results: ResultsArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchPaperArgs {
    /// Where measurements are, and are written: memory-paper.json, gradients-paper.json, convergence-paper.json
    /// [default: results]
    #[arg(long, value_name = "DIR", default_value = "results", hide_default_value = true)]
    pub(crate) results: PathBuf,
    /// The page to write [default: docs/paper.md]
    #[arg(long, value_name = "FILE", default_value = "docs/paper.md", hide_default_value = true)]
    pub(crate) page: PathBuf,
    /// Measure again what is there
    #[arg(long)]
    pub(crate) again: bool,
    /// Plan what would take longer than so many seconds, in place of running it [default: no limit]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) limit: Option<f64>,
    /// Plans in place of runs, a small model and few steps: a page of the right form in a minute
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where models are kept between runs [default: mesp-bench in the temporary folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}
