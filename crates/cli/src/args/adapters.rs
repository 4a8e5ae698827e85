//! The options of merge and export.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{FileType, ReplaceArgs, SharedArgs, size};
use mesp::ByteSize;

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// The model: a Hugging Face directory, a GGUF file, or the name of a model in the Hugging Face cache
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub(crate) model: Option<PathBuf>,
    /// Which revision of --model ORG/NAME: a branch, a tag or a commit [default: main]
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// The adapter: a directory in PEFT's or mlx-lm's layout, a GGUF adapter, or a name in the Hugging Face cache
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub(crate) adapter: PathBuf,
    /// The model directory to write, or with a name that ends in .gguf the file
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub(crate) output: PathBuf,
    /// How merged matrices are stored; what this loses of the change is said [default: as the model's, where that
    /// is quantized in 16 bits]
    #[arg(long = "type", value_enum)]
    pub(crate) ty: Option<FileType>,
    /// Size of a weight file of a directory at most; a larger model is written as several [default: 5GB]
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "5GB", hide_default_value = true)]
    pub(crate) max_shard_size: ByteSize,
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

/// How an adapter lies in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayoutArg {
    /// A directory for PEFT and mesp
    Peft,
    /// A file for llama.cpp
    Gguf,
    /// A directory for mlx-lm
    Mlx,
    /// A directory for `ollama create`: the model with the adapter folded in, and a Modelfile with its template and
    /// stops
    Ollama,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The adapter: a directory in PEFT's or mlx-lm's layout, a GGUF adapter, or a name in the Hugging Face cache
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub(crate) adapter: PathBuf,
    /// The layout to write [default: gguf where the output ends in .gguf]
    #[arg(long, value_enum)]
    pub(crate) to: Option<LayoutArg>,
    /// The model it is for, needed for Ollama and to and from GGUF: a Hugging Face directory or a GGUF file [default: the
    /// one that the adapter names, where it is here or in the Hugging Face cache]
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub(crate) model: Option<PathBuf>,
    /// Which revision of --model ORG/NAME: a branch, a tag or a commit [default: main]
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// The directory to write, or with a name that ends in .gguf the file
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub(crate) output: PathBuf,
    /// With --to ollama: how merged matrices are stored [default: as the model's, where that is quantized in 16 bits]
    #[arg(long = "type", value_enum)]
    pub(crate) ty: Option<FileType>,
    /// With --to ollama: write the adapter alone, for the model where it is, as Ollama before 0.34.1 takes it
    #[arg(long, conflicts_with = "ty")]
    pub(crate) unmerged: bool,
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}
