//! The options of pull.

use clap::Args;

use super::SharedArgs;

#[derive(Debug, Args)]
#[cfg_attr(
    not(feature = "pull"),
    allow(dead_code, reason = "the options are known where the command is not built")
)]
pub(crate) struct PullArgs {
    /// The repository, as in Qwen/Qwen2.5-0.5B-Instruct; ORG/NAME@REV is a revision of it, ORG/NAME/FILE a single file
    #[arg(value_name = "ORG/NAME")]
    pub(crate) id: String,
    /// A repository of rows in place of a model or an adapter
    #[arg(long)]
    pub(crate) dataset: bool,
    /// A branch, a tag or a commit [default: main]
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// Only this file, such as a GGUF file; may be given several times [default: of a model the files that mesp reads
    /// (config.json, *.safetensors, tokenizer, chat templates), of a dataset all files of rows]
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Vec<String>,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}
