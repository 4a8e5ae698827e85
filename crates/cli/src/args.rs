//! What can be typed. Every option says its unit and its default.

mod adapters;
mod dash;
mod eval;
mod generate;
mod groups;
mod pull;
mod run;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mesp_formats::Dtype;
use mesp_formats::gguf::TensorType;

pub(crate) use adapters::{ExportArgs, LayoutArg, MergeArgs};
pub(crate) use dash::{DashArgs, ReportArgs};
pub(crate) use eval::EvalArgs;
pub(crate) use generate::{ChatArgs, GenerateArgs, SamplingArgs};
pub(crate) use groups::{CommonArgs, reference};
pub(crate) use mesp::settings::{Compute, TrainingSettings};
pub(crate) use mesp_console::args::{DataArgs, ModelArgs, ReplaceArgs, SharedArgs};
pub(crate) use pull::PullArgs;
pub(crate) use run::RunArgs;

use mesp::ByteSize;
use mesp::settings::Objective;

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

impl Cli {
    /// The command line of one command, without its help: of those whose memory is planned.
    pub(crate) fn only(name: &str) -> Option<clap::Command> {
        type Options = fn(clap::Command) -> clap::Command;
        let train: (&'static str, Options) = ("train", TrainArgs::augment_args);
        let these: &[(&'static str, Options)] = match name {
            "train" => &[train],
            // Files for --config are written for `train`.
            "plan" => &[train, ("plan", PlanArgs::augment_args)],
            "grads" => &[train, ("grads", GradsArgs::augment_args)],
            "eval" => &[("eval", EvalArgs::augment_args)],
            "generate" => &[("generate", GenerateArgs::augment_args)],
            "chat" => &[("chat", ChatArgs::augment_args)],
            "replay" => &[("replay", ReplayArgs::augment_args)],
            _ => return None,
        };
        let all = these.iter().map(|(name, options)| options(clap::Command::new(*name)));
        Some(clap::Command::new("mesp").subcommands(all))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fine-tune a model; without --model and --data, the built-in demo
    Train(Box<TrainArgs>),
    /// Show what a training run will need, without running it or reading weights
    Plan(Box<PlanArgs>),
    /// Write the loss and the adapter's gradients for some rows, all of them as one batch
    Grads(Box<GradsArgs>),
    /// Loss, perplexity and accuracy of a model on a data file, or its answers to questions
    Eval(Box<EvalArgs>),
    /// Generate text that continues or answers a prompt
    Generate(Box<GenerateArgs>),
    /// Chat with a model in the terminal
    ///
    /// The conversation is formatted with the model's chat template. Keys and values of earlier turns are kept: only
    /// new tokens are computed. Ctrl-C ends an answer; at the prompt it ends the program, as /exit does.
    Chat(Box<ChatArgs>),
    /// Write a model of a given shape with random weights
    InitModel(InitModelArgs),
    /// Write a Hugging Face model as a GGUF file
    Quantize(QuantizeArgs),
    /// Merge an adapter into its model
    Merge(MergeArgs),
    /// Convert an adapter to the layout of PEFT, llama.cpp, mlx-lm or Ollama
    Export(ExportArgs),
    /// Download a model, an adapter or a dataset from the Hugging Face hub into its cache
    ///
    /// Commands take what is there by its name: --model ORG/NAME. This is the only command that uses the network. It
    /// goes where HF_ENDPOINT says, with the token of HF_TOKEN or of the token file, into HF_HUB_CACHE or HF_HOME/hub.
    #[expect(clippy::doc_markdown, reason = "a help text, shown as it stands")]
    Pull(PullArgs),
    /// Check training data, show which tokens the loss covers, or tokenize it
    #[command(subcommand)]
    Data(DataCommand),
    /// Show what a model, a GGUF file, an adapter, a checkpoint, a run or a safetensors file holds
    Inspect(InspectArgs),
    /// Run benchmarks, beside published figures
    #[cfg(feature = "bench")]
    Bench(mesp_bench::BenchArgs),
    /// Show runs on a local web page, live or afterwards
    ///
    /// The page is served on 127.0.0.1 only and asks nothing of anyone. Its address is printed; Ctrl-C ends it.
    Dash(DashArgs),
    /// Write the page of `mesp dash` as one HTML file that needs nothing else
    Report(ReportArgs),
    /// Write a commented file of options for --config
    InitConfig(InitConfigArgs),
    #[command(hide = true)]
    Sample(SampleArgs),
    /// Rebuild the adapter of a run of --method mezo or forward from its log of directional derivatives, without data
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Do everything up to the first step, the check of the data and the plan included, then stop; writes
    /// nothing
    #[arg(long, help_heading = "Run")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Plan for a published shape in place of --model: qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-3b, qwen2.5-7b,
    /// qwen3-0.6b, qwen3-1.7b, qwen3-4b, llama-3.2-1b, llama-3.2-3b, smollm2-135m, smollm3-3b, gemma-3-1b,
    /// mistral-7b, phi-3-mini or tiny
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub(crate) preset: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GradsArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// How the numbers of a file are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum FileType {
    F32,
    F16,
    Bf16,
    /// 8.5 bits each, in blocks of 32
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits
    #[value(name = "q4_0")]
    Q4_0,
    /// 5 bits
    #[value(name = "q4_1")]
    Q4_1,
    /// 5.5 bits
    #[value(name = "q5_0")]
    Q5_0,
    /// 6 bits
    #[value(name = "q5_1")]
    Q5_1,
}

impl FileType {
    /// In GGUF.
    pub(crate) fn tensor_type(self) -> TensorType {
        match self {
            Self::F32 => TensorType::F32,
            Self::F16 => TensorType::F16,
            Self::Bf16 => TensorType::BF16,
            Self::Q8_0 => TensorType::Q8_0,
            Self::Q4_0 => TensorType::Q4_0,
            Self::Q4_1 => TensorType::Q4_1,
            Self::Q5_0 => TensorType::Q5_0,
            Self::Q5_1 => TensorType::Q5_1,
        }
    }

    /// In safetensors, which have no blocks.
    pub(crate) fn dtype(self) -> Option<Dtype> {
        match self {
            Self::F32 => Some(Dtype::F32),
            Self::F16 => Some(Dtype::F16),
            Self::Bf16 => Some(Dtype::BF16),
            _ => None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct InitModelArgs {
    /// A published shape: qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-3b, qwen2.5-7b, qwen3-0.6b, qwen3-1.7b,
    /// qwen3-4b, llama-3.2-1b, llama-3.2-3b, smollm2-135m, smollm3-3b, gemma-3-1b, mistral-7b, phi-3-mini or
    /// tiny
    #[arg(long, value_name = "NAME", required_unless_present = "config", conflicts_with = "config")]
    pub(crate) preset: Option<String>,
    /// The config.json of a model whose shape to take
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How the weights are stored; types in blocks make a GGUF file
    #[arg(long = "type", value_enum, default_value_t = FileType::Bf16)]
    pub(crate) dtype: FileType,
    /// Seed of the weights [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) seed: u64,
    /// A tokenizer.json to copy into the directory [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// The model directory to write, or with a name that ends in .gguf the file
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct QuantizeArgs {
    /// The model: a Hugging Face directory, or the name of one in the Hugging Face cache
    #[arg(long, value_name = "DIR|ORG/NAME")]
    pub(crate) model: Option<PathBuf>,
    /// Which revision of --model ORG/NAME: a branch, a tag or a commit [default: main]
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// How the matrices are stored; norms and biases stay f32
    #[arg(long = "type", value_enum)]
    pub(crate) ty: FileType,
    /// The file to write
    #[arg(long, value_name = "FILE.gguf")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Show what a file holds, how it is read, and what is wrong with it, line by line; ends with status 2 if a row
    /// cannot be used
    Check(CheckArgs),
    /// Print rows as the model will see them, with the tokens that the loss covers marked
    Show(ShowArgs),
    /// Write rows as a compact file of tokens, which --data takes too
    Tokenize(TokenizeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The model whose tokenizer and chat template to use: a Hugging Face directory, a GGUF file, or a name in the
    /// Hugging Face cache
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub(crate) model: Option<PathBuf>,
    /// Which revision of --model ORG/NAME: a branch, a tag or a commit [default: main]
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// What the rows are for; check and show know pairs of completions without it [default: sft]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Data")]
    pub(crate) objective: Option<Objective>,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The model whose tokenizer and chat template to use: a Hugging Face directory, a GGUF file, or a name in the
    /// Hugging Face cache
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub(crate) model: Option<PathBuf>,
    /// Which revision of --model ORG/NAME: a branch, a tag or a commit [default: main]
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// What the rows are for; check and show know pairs of completions without it [default: sft]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Data")]
    pub(crate) objective: Option<Objective>,
    /// Rows to show [default: 3]
    #[arg(long, value_name = "N", default_value_t = 3, hide_default_value = true)]
    pub(crate) rows: usize,
    /// Begin with the row on this line, counted from 1 [default: 1]
    #[arg(long, value_name = "LINE", default_value_t = 1, hide_default_value = true)]
    pub(crate) from_line: usize,
    /// List each token with its number too
    #[arg(long)]
    pub(crate) ids: bool,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// The model whose tokenizer to use: a Hugging Face directory, a GGUF file, or a name in the
    /// Hugging Face cache
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub(crate) model: Option<PathBuf>,
    /// Which revision of --model ORG/NAME: a branch, a tag or a commit [default: main]
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// What the rows are for; check and show know pairs of completions without it [default: sft]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Data")]
    pub(crate) objective: Option<Objective>,
    /// The file to write; - for standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Read a pair of completions as two with a label, as --loss-type kto does
    #[arg(long, requires = "objective")]
    pub(crate) unpair: bool,
    /// Leave rows whole, as grads and eval do
    #[arg(long, conflicts_with = "max_seq_len")]
    pub(crate) whole: bool,
    /// Print errors only
    #[arg(long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The run's folder, or its slopes.replay
    #[arg(value_name = "RUN|FILE")]
    pub(crate) log: PathBuf,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The adapter that the run started from [default: a new one from the run's seed]
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Stop after so many steps [default: all of the log]
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// The folder to write the adapter to, or the model where all weights were trained
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A model directory, an adapter, a checkpoint, a run directory, a GGUF file, a safetensors file, or the name of a
    /// model in the Hugging Face cache
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InitConfigArgs {
    /// The file to write [default: standard output]
    #[arg(value_name = "FILE.toml")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SampleArgs {
    #[arg(long)]
    pub(crate) model: PathBuf,
    #[arg(long)]
    pub(crate) adapter: Option<PathBuf>,
    #[arg(long)]
    pub(crate) max_tokens: usize,
    #[arg(long, value_enum)]
    pub(crate) compute: Option<Compute>,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

/// For clap: a size such as 128MB.
fn size(text: &str) -> Result<ByteSize, String> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use mesp_console::flags::SETTINGS;

    use super::*;

    #[test]
    fn every_setting_is_an_option() {
        fn options(command: &clap::Command, names: &mut Vec<String>) {
            names.extend(command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned));
            command.get_subcommands().for_each(|command| options(command, names));
        }
        let mut names = Vec::new();
        options(&Cli::command(), &mut names);
        for setting in SETTINGS {
            assert!(names.contains(&setting.replace('_', "-")), "{setting}");
        }
    }
}
