//! Options of `mesp bench`.

mod compare;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use mesp::settings::{AdapterSettings, Compute, MethodSettings};
use mesp_console::args::{ModelArgs, ReplaceArgs, SharedArgs};
use mesp_console::names::{adapter, model, named, rows};

pub(crate) use compare::{BenchConvergenceArgs, BenchGradientsArgs, BenchPaperArgs};

/// What to measure.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub(crate) what: BenchCommand,
}

impl BenchArgs {
    /// Puts paths in the place of names of repositories.
    ///
    /// # Errors
    /// When the cache of the hub does not have what is named.
    pub fn resolve(&mut self) -> Result<()> {
        match &mut self.what {
            BenchCommand::Step(args) => {
                model(&mut args.model)?;
                args.adapter.adapter.iter_mut().try_for_each(adapter)
            }
            BenchCommand::Generate(args) => {
                named(args.model.as_mut(), None)?;
                args.adapter.iter_mut().try_for_each(adapter)
            }
            BenchCommand::Gradients(args) => {
                named(args.model.as_mut(), None)?;
                args.data.iter_mut().try_for_each(rows)?;
                args.adapter.iter_mut().try_for_each(adapter)
            }
            BenchCommand::Convergence(args) => {
                named(args.model.as_mut(), None)?;
                args.data.iter_mut().chain(args.eval_data.iter_mut()).try_for_each(rows)
            }
            BenchCommand::Memory(_) | BenchCommand::Paper(_) => Ok(()),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Peak memory of training, method by method, beside the figures of the MeSP paper
    ///
    /// Each configuration trains a model of random weights in a process of its own: batch 1, SGD. The published
    /// methods keep all gradients until the step, as their released code does; ours step block by block.
    Memory(Box<BenchMemoryArgs>),
    /// A training step taken apart; tokens per second by length and threads; a peer's steps beside ours
    ///
    /// The rows are random tokens, all trained but the last, and the model has random weights unless --model names
    /// one: neither changes the time of a step.
    Step(Box<BenchStepArgs>),
    /// Tokens one after another: their speed, as a share of the rate at which the machine reads
    ///
    /// The models have random weights unless --model names one. The read rate is measured in turns with the tokens.
    Generate(Box<BenchGenerateArgs>),
    /// Gradients of every method beside the exact ones: direction, error, and what a step along them gains
    ///
    /// The exact gradient is made in double precision. Estimates are made with many seeds and compared with what theory
    /// says of them.
    Gradients(Box<BenchGradientsArgs>),
    /// Held-out loss of exact and of estimated gradients against steps, tokens, time and work
    ///
    /// Every method has the same model, rows, batches and start of the adapter, and the best of a few learning rates.
    /// What takes an estimate of the gradient may take --factor times the steps.
    Convergence(Box<BenchConvergenceArgs>),
    /// The tables of the MeSP and MeBP papers, ours beside theirs, on one page
    ///
    /// Measurements are made where --results has none and kept there. Without --limit that takes hours.
    Paper(Box<BenchPaperArgs>),
}

// Where a bench leaves what it measured.
#[derive(Debug, Args)]
pub(crate) struct ResultsArgs {
    /// Where results go [default: results]
    #[arg(long, value_name = "DIR", default_value = "results", hide_default_value = true)]
    pub(crate) output: PathBuf,
    /// The results are BENCH-NAME.json, with a picture BENCH-NAME.svg where one is drawn [default: the date]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where models of random weights are kept between runs, 0.3 to 2 GB each in 4 bits, and runs while they last
    /// [default: mesp-bench in the temporary folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchMemoryArgs {
    /// Parts to run: ladder, table-1, table-2, table-3, table-5, mebp [default: all]
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
    /// mesp-file-checkpoints, mesp-least, mezo [default: all]
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
    #[command(flatten)]
    pub(crate) results: ResultsArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchStepArgs {
    /// A published shape with random weights, in place of --model; see `mesp init-model --help` [default:
    /// qwen2.5-0.5b]
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub(crate) preset: Option<String>,
    /// Number type of the random weights, as `mesp init-model --type` takes it [default: bf16]
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "model")]
    pub(crate) base_type: Option<String>,
    /// Tokens of the step that is taken apart, and of the peer's [default: 256]
    #[arg(long, value_name = "N", default_value_t = 256, hide_default_value = true)]
    pub(crate) tokens: usize,
    /// Lengths to give tokens per second for [default: 64, 256, 1024]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) rows: Vec<usize>,
    /// Numbers of threads to give tokens per second for [default: 1, and --threads]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) thread_counts: Vec<usize>,
    /// Only take one step apart: no lengths, no numbers of threads
    #[arg(long, conflicts_with_all = ["rows", "thread_counts"])]
    pub(crate) quick: bool,
    /// Steps that are timed, each time after one that is not [default: 3]
    #[arg(long, value_name = "N", default_value_t = 3, hide_default_value = true)]
    pub(crate) steps: usize,
    /// A command to time in turns with ours. {model}, {tokens}, {rank}, {threads} and {steps} in it become ours,
    /// {steps} one more to leave out; it prints a line with a JSON object whose `step_s` has the seconds
    /// of each step [default: none]
    #[arg(long, value_name = "COMMAND")]
    pub(crate) peer: Option<String>,
    /// Turns of ours and the peer's [default: 3]
    #[arg(long, value_name = "N", default_value_t = 3, hide_default_value = true)]
    pub(crate) rounds: usize,
    /// sgd or adamw [default: adamw]
    #[arg(long, value_name = "NAME")]
    pub(crate) optimizer: Option<String>,
    #[command(flatten)]
    pub(crate) results: ResultsArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) adapter: AdapterSettings,
    #[command(flatten)]
    pub(crate) method: MethodSettings,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchGenerateArgs {
    /// The model: a Hugging Face directory or a GGUF file [default: random weights]
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub(crate) model: Option<PathBuf>,
    /// A published shape with random weights, in place of --model; see `mesp init-model --help` [default:
    /// qwen2.5-0.5b]
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub(crate) preset: Option<String>,
    /// Number types of the random weights, as `mesp init-model --type` takes them [default: `bf16,q8_0,q4_0`]
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "model")]
    pub(crate) types: Vec<String>,
    /// Adapter to put on the model: a directory in PEFT's layout [default: none]
    #[arg(long, value_name = "DIR", requires = "model")]
    pub(crate) adapter: Option<PathBuf>,
    /// Tokens of the prompt [default: 64]
    #[arg(long, value_name = "N", default_value_t = 64, hide_default_value = true)]
    pub(crate) prompt_tokens: usize,
    /// Tokens that are timed in a round [default: 32]
    #[arg(long, value_name = "N", default_value_t = 32, hide_default_value = true)]
    pub(crate) tokens: usize,
    /// Rounds, after one that is not timed [default: 3]
    #[arg(long, value_name = "N", default_value_t = 3, hide_default_value = true)]
    pub(crate) rounds: usize,
    /// Number type of the products with frozen weights: auto, f32 or bf16 [default: auto]
    #[arg(long, value_enum)]
    pub(crate) compute: Option<Compute>,
    #[command(flatten)]
    pub(crate) results: ResultsArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

/// What the base weights are stored in, unless told otherwise.
const BASE_TYPE: &str = "q4_0";
