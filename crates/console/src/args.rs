//! Options that several commands share, in groups: the model, its rows, and what every command takes. They hold what
//! was typed: a choice that was not made is `None`, since what it then means may depend on others.

#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mesp::arch::Config;
use mesp::data::{Columns, FileRows, LongRows, PromptStyle, ReadOptions, TrainOn};

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "General")]
pub struct SharedArgs {
    /// Print one JSON document to standard output, everything else to standard error
    #[arg(long)]
    pub json: bool,
    /// Threads to compute with [default: the processor cores available]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// What every command takes that writes a file or a folder.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct ReplaceArgs {
    /// Replace what is at the place of the output; never a file that the command reads
    #[arg(long, help_heading = "General")]
    pub overwrite: bool,
}

/// The model.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// The model: a Hugging Face directory (config.json, safetensors, tokenizer.json), a GGUF file, or the name of a
    /// model in the Hugging Face cache, where `mesp pull` puts it; ORG/NAME/FILE.gguf is one of several files
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub model: Option<PathBuf>,
    /// The name that was given, where the model is in the cache.
    #[arg(skip)]
    pub named: Option<String>,
    /// Which revision of --model ORG/NAME: a branch, a tag or a commit [default: main]
    #[arg(long, value_name = "REV")]
    pub revision: Option<String>,
    /// Storage of the frozen base weights: auto, mapped (in their file, in their type), or copied into memory as
    /// f32, bf16 or f16 [default: auto, which is mapped]
    #[arg(long, value_name = "HOW", default_value = "auto", hide_default_value = true)]
    pub base: String,
}

impl ModelArgs {
    /// What documents call the model: the name or the path that was given.
    pub fn name(&self) -> Option<String> {
        self.named.clone().or_else(|| Some(self.model.as_ref()?.display().to_string()))
    }
}

/// How rows that ask and answer become one text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum PromptStyleArg {
    /// prompt and completion are joined as they stand; question and answer, instruction and output become turns
    /// where the model has a chat template, and stand under headings where it has none
    #[default]
    Auto,
    /// The two are joined as they stand, or under headings
    Raw,
    /// A turn of the user and one of the assistant, in the model's chat format
    Chat,
}

/// Which tokens are trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum TrainOnArg {
    /// Completions, and every turn of the assistant
    #[default]
    Assistant,
    /// Completions, and the assistant's last turn
    Last,
    /// Everything: prompts, and the turns of users, too
    All,
}

/// What becomes of rows that are longer than the most tokens of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LongRowsArg {
    /// Their end is cut off
    #[default]
    Truncate,
    /// They are split into several rows, each beginning with the last token of the one before
    Split,
    /// They are an error
    Error,
}

/// The rows, and how they are read.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// The rows: JSON lines, a JSON array, CSV, TSV or Parquet, with messages, conversations (ShareGPT), prompt and
    /// completion, instruction and output (Alpaca), question and answer, text, or input_ids and labels; a plain text;
    /// any of these as .gz or .zst; a file of `mesp data tokenize`; a directory with train.jsonl, train.csv,
    /// train.parquet or shards such as data/train-00000-of-00002.parquet; or a dataset in the Hugging Face cache, by
    /// its name or as ORG/NAME/FILE
    #[arg(long, value_name = "FILE|DIR|ORG/NAME")]
    pub data: Option<PathBuf>,
    /// The name that was given, where the rows are in the cache.
    #[arg(skip)]
    pub named: Option<String>,
    /// Columns of the file for the names that rows have: prompt=question,completion=answer [default: the names as they
    /// are]
    #[arg(long, value_name = "NAME=COLUMN,...")]
    pub columns: Option<Columns>,
    /// The most tokens of a row; a plain text is cut into windows of so many [default: in train and plan 512, or
    /// the longest the model was made for; in `mesp grads` and `mesp eval` rows stay whole]
    #[arg(long, value_name = "TOKENS")]
    pub max_seq_len: Option<usize>,
    /// What is done with longer rows
    #[arg(long, value_enum, value_name = "HOW", default_value_t = LongRowsArg::Truncate)]
    pub long_rows: LongRowsArg,
    /// How a prompt and its answer become one text
    #[arg(long, value_enum, default_value_t = PromptStyleArg::Auto)]
    pub prompt_style: PromptStyleArg,
    /// Which tokens the loss covers
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = TrainOnArg::Assistant)]
    pub train_on: TrainOnArg,
    /// The same as --train-on all
    #[arg(long, conflicts_with = "train_on", hide = true)]
    pub train_on_prompt: bool,
    /// Do not append the end-of-text token to a text
    #[arg(long)]
    pub no_eos: bool,
}

impl DataArgs {
    /// What documents call the rows, which are in a file.
    pub fn name(&self, file: &Path) -> String {
        self.named.clone().unwrap_or_else(|| file.display().to_string())
    }

    /// How rows are read for a command.
    pub fn read_options(&self, config: &Config, training: bool) -> ReadOptions {
        let longest = ReadOptions::TRAINING_LENGTH.min(config.max_positions);
        // A plain text has to be cut somewhere; rows are cut only where memory asks for it.
        let cut = training || self.data.as_deref().is_some_and(FileRows::is_document);
        ReadOptions {
            max_seq_len: self.max_seq_len.or(cut.then_some(longest)),
            long_rows: match self.long_rows {
                LongRowsArg::Truncate => LongRows::Truncate,
                LongRowsArg::Split => LongRows::Split,
                LongRowsArg::Error => LongRows::Error,
            },
            train_on: match self.train_on {
                _ if self.train_on_prompt => TrainOn::All,
                TrainOnArg::Assistant => TrainOn::Assistant,
                TrainOnArg::Last => TrainOn::Last,
                TrainOnArg::All => TrainOn::All,
            },
            append_eos: !self.no_eos,
            prompt_style: self.prompt_style.into(),
            columns: self.columns.clone().unwrap_or_default(),
            ..ReadOptions::new(config.vocab_size)
        }
    }
}

impl From<PromptStyleArg> for PromptStyle {
    fn from(style: PromptStyleArg) -> Self {
        match style {
            PromptStyleArg::Auto => Self::Auto,
            PromptStyleArg::Raw => Self::Raw,
            PromptStyleArg::Chat => Self::Chat,
        }
    }
}
