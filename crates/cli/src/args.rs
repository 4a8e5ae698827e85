//! What can be typed. Every option says its unit and its default.

mod groups;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use groups::{
    AdapterArgs, CommonArgs, Compute, DataArgs, MethodArgs, ModelArgs, OutputArgs, PromptStyleArg, UpdateArg,
};

use crate::sizes::Bytes;

/// Fine-tunes language models with exact gradients in a planned amount of memory.
///
/// `mesp train` alone runs a small demonstration that needs no files. Exit status: 0 done, 1 the run failed,
/// 2 wrong usage or unusable input, 3 the memory budget cannot be met, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "mesp", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fine-tune a model; without --model and --data, the built-in demo
    Train(Box<TrainArgs>),
    /// Say what a training run will need, without running it or reading weights
    Plan(Box<PlanArgs>),
    /// Write the loss and the adapter's gradients for some rows, all of them as one batch
    Grads(Box<GradsArgs>),
    /// Loss, perplexity and accuracy of a model on a data file
    Eval(EvalArgs),
    /// Text from a model that continues or answers a prompt
    Generate(GenerateArgs),
    /// Write a model of a given shape with random weights
    InitModel(InitModelArgs),
    /// Say what a model, an adapter, a checkpoint, a run or a safetensors file holds
    Inspect(InspectArgs),
}

// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct SharedArgs {
    /// Print one JSON document to standard output, everything else to standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// Threads to compute with [default: the processor cores available]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Plan for a published shape in place of --model: qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-3b, qwen3-0.6b,
    /// llama-3.2-1b, smollm2-135m or tiny
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub(crate) preset: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GradsArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Adapter to put on the model: a directory in PEFT's layout [default: none]
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Rows that are evaluated at once [default: 1]
    #[arg(long, value_name = "ROWS", default_value_t = 1, hide_default_value = true)]
    pub(crate) batch_size: usize,
    /// Number type of the computation
    #[arg(long, value_enum, default_value_t = Compute::F32)]
    pub(crate) compute: Compute,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Adapter to put on the model: a directory in PEFT's layout [default: none]
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// The text to answer or to continue
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// Tokens to generate at most [default: 128]
    #[arg(long, value_name = "N", default_value_t = 128, hide_default_value = true)]
    pub(crate) max_tokens: usize,
    /// Temperature of the choice; 0 always takes the likeliest token [default: 0]
    #[arg(long, value_name = "T", default_value_t = 0.0, hide_default_value = true)]
    pub(crate) temperature: f64,
    /// Choose among the likeliest so many tokens; 0 for all [default: 0]
    #[arg(long, value_name = "K", default_value_t = 0, hide_default_value = true)]
    pub(crate) top_k: usize,
    /// Choose among the likeliest tokens that together have this probability [default: 1]
    #[arg(long, value_name = "P", default_value_t = 1.0, hide_default_value = true)]
    pub(crate) top_p: f64,
    /// Seed of the choices [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) seed: u64,
    /// Continue the prompt as it stands, also when the model has a chat template
    #[arg(long)]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FileType {
    Bf16,
    F32,
    F16,
}

#[derive(Debug, Args)]
pub(crate) struct InitModelArgs {
    /// A published shape: qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-3b, qwen3-0.6b, llama-3.2-1b, smollm2-135m or
    /// tiny
    #[arg(long, value_name = "NAME", required_unless_present = "config", conflicts_with = "config")]
    pub(crate) preset: Option<String>,
    /// The config.json of a model whose shape to take
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Number type of the weights
    #[arg(long = "type", value_enum, default_value_t = FileType::Bf16)]
    pub(crate) dtype: FileType,
    /// Seed of the weights [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) seed: u64,
    /// A tokenizer.json to copy into the directory [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// The model directory to write
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A model directory, an adapter, a checkpoint, a run directory, or a safetensors file
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

/// For clap: a size such as 128MB.
fn size(text: &str) -> Result<Bytes, String> {
    text.parse()
}
