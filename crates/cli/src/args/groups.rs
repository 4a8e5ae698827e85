//! Options that several commands share, in groups. They hold what was typed: a choice that was not made is
//! `None`, since what it then means may depend on others.

#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mesp::data::Columns;
use mesp::settings::{AdapterSettings, DirectionSettings, MethodSettings, Train, TrainingSettings};

use super::{RunArgs, SharedArgs};

/// The options of train, plan and grads.
#[derive(Debug, Clone, Args)]
pub(crate) struct CommonArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) adapter: AdapterSettings,
    #[command(flatten)]
    pub(crate) method: MethodSettings,
    #[command(flatten)]
    pub(crate) zeroth: DirectionSettings,
    #[command(flatten)]
    pub(crate) schedule: TrainingSettings,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

impl CommonArgs {
    /// Whether all weights of the model are trained, and no adapter.
    pub(crate) fn full(&self) -> bool {
        self.zeroth.full || self.adapter.train == Some(Train::Full)
    }
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// The model: a Hugging Face directory (config.json, safetensors, tokenizer.json), a GGUF file, or the name of a
    /// model in the Hugging Face cache, where `mesp pull` puts it; ORG/NAME/FILE.gguf is one of several files
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub(crate) model: Option<PathBuf>,
    /// The name that was given, where the model is in the cache.
    #[arg(skip)]
    pub(crate) named: Option<String>,
    /// Which revision of --model ORG/NAME: a branch, a tag or a commit [default: main]
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// How the frozen weights are held: auto, mapped (in their file, in their type), or copied into memory as
    /// f32, bf16 or f16 [default: auto, which is mapped]
    #[arg(long, value_name = "HOW", default_value = "auto", hide_default_value = true)]
    pub(crate) base: String,
}

impl ModelArgs {
    /// What documents call the model: the name or the path that was given.
    pub(crate) fn name(&self) -> Option<String> {
        self.named.clone().or_else(|| Some(self.model.as_ref()?.display().to_string()))
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PromptStyleArg {
    /// prompt and completion are joined as they stand; question and answer, instruction and output become turns
    /// where the model has a chat template, and stand under headings where it has none
    #[default]
    Auto,
    /// The two are joined as they stand, or under headings
    Raw,
    /// A turn of the user and one of the assistant, in the model's chat format
    Chat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TrainOnArg {
    /// Completions, and every turn of the assistant
    #[default]
    Assistant,
    /// Completions, and the assistant's last turn
    Last,
    /// Everything: prompts, and the turns of users, too
    All,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LongRowsArg {
    /// Their end is cut off
    #[default]
    Truncate,
    /// They are split into several rows, each beginning with the last token of the one before
    Split,
    /// They are an error
    Error,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct DataArgs {
    /// The rows: JSON lines, a JSON array, CSV, TSV or Parquet, with messages, conversations (ShareGPT), prompt and
    /// completion, instruction and output (Alpaca), question and answer, text, or input_ids and labels; a plain text;
    /// any of these as .gz or .zst; a file of `mesp data tokenize`; a directory with train.jsonl, train.csv,
    /// train.parquet or shards such as data/train-00000-of-00002.parquet; or a dataset in the Hugging Face cache, by
    /// its name or as ORG/NAME/FILE
    #[arg(long, value_name = "FILE|DIR|ORG/NAME")]
    pub(crate) data: Option<PathBuf>,
    /// The name that was given, where the rows are in the cache.
    #[arg(skip)]
    pub(crate) named: Option<String>,
    /// Columns of the file for the names that rows have: prompt=question,completion=answer [default: the names as they
    /// are]
    #[arg(long, value_name = "NAME=COLUMN,...")]
    pub(crate) columns: Option<Columns>,
    /// The most tokens of a row; a plain text is cut into windows of so many [default: in train and plan 512, or
    /// the longest the model was made for; in grads and eval rows stay whole]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_seq_len: Option<usize>,
    /// What is done with longer rows
    #[arg(long, value_enum, value_name = "HOW", default_value_t = LongRowsArg::Truncate)]
    pub(crate) long_rows: LongRowsArg,
    /// How a prompt and its answer become one text
    #[arg(long, value_enum, default_value_t = PromptStyleArg::Auto)]
    pub(crate) prompt_style: PromptStyleArg,
    /// Which tokens the loss covers
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = TrainOnArg::Assistant)]
    pub(crate) train_on: TrainOnArg,
    /// The same as --train-on all
    #[arg(long, conflicts_with = "train_on", hide = true)]
    pub(crate) train_on_prompt: bool,
    /// Do not append the end-of-text token to a text
    #[arg(long)]
    pub(crate) no_eos: bool,
}

impl DataArgs {
    /// What documents call the rows, which are in a file.
    pub(crate) fn name(&self, file: &Path) -> String {
        self.named.clone().unwrap_or_else(|| file.display().to_string())
    }
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Where results go: the run directory [default: mesp-out]; for grads the safetensors file
    #[arg(long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// Continue from a checkpoint directory; without a value from the latest one in --output
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "not given, given alone, given with a path")]
    pub(crate) resume: Option<Option<PathBuf>>,
    /// Replace the run that is in --output, which goes when the new one has its first checkpoint or ends well; never
    /// what the command reads
    #[arg(long, conflicts_with = "resume")]
    pub(crate) overwrite: bool,
}
