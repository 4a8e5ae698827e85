//! The options of eval.

use std::path::PathBuf;

use clap::Args;
use mesp::settings::ObjectiveSettings;

use super::{Compute, DataArgs, ModelArgs, ReplaceArgs, SharedArgs};

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Adapter to put on the model: a directory in PEFT's or mlx-lm's layout, a GGUF adapter, or a name in the Hugging Face
    /// cache. Given several times, the model without an adapter and with each of them stand side by side
    /// [default: none]
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME", help_heading = "Evaluation")]
    pub(crate) adapter: Vec<PathBuf>,
    /// Put the model without an adapter beside a single --adapter too
    #[arg(long, help_heading = "Evaluation")]
    pub(crate) with_base: bool,
    /// Write what each row came to, a JSON object a line, for each of the models [default: none]
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    pub(crate) per_row: Option<PathBuf>,
    /// Rows that are evaluated at once [default: 1]
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 1,
        hide_default_value = true,
        help_heading = "Evaluation"
    )]
    pub(crate) batch_size: usize,
    /// Number type of the products with frozen weights; what is added is f32, with f64 everything is f64
    /// [default: auto]
    #[arg(long, value_enum, help_heading = "Evaluation")]
    pub(crate) compute: Option<Compute>,
    #[command(flatten)]
    pub(crate) objective: ObjectiveSettings,
    #[command(flatten)]
    pub(crate) task: TaskArgs,
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Questions (--task)")]
pub(crate) struct TaskArgs {
    /// Questions with known answers in place of --data: JSON lines or a JSON array of objects with prompt and answer.
    /// With choices too, the model picks the likeliest; without, its own text is compared
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub(crate) task: Option<PathBuf>,
    /// Format each prompt as a user turn with the model's chat template [default: a text to continue]
    #[arg(long, requires = "task")]
    pub(crate) chat: bool,
    /// Which part of a text is the answer, as a regular expression: its first match, or the first group of that; for
    /// rows without extract of their own [default: all of it]
    #[arg(long, value_name = "REGEX", requires = "task")]
    pub(crate) extract: Option<String>,
    /// Tokens of an answer at most [default: 256]
    #[arg(long, value_name = "N", requires = "task")]
    pub(crate) max_tokens: Option<usize>,
    /// End an answer before this text; may be given several times [default: only the model's own end tokens]
    #[arg(long, value_name = "TEXT", requires = "task")]
    pub(crate) stop: Vec<String>,
}
