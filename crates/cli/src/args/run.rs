//! Options of a run as a whole: evaluation, checkpoints, what is written down.

#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::PathBuf;

use clap::Args;
use mesp::settings::RunSettings;

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Run")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) settings: RunSettings,
    /// Read every byte of the model's weights for the fingerprint that checkpoints hold, and with --resume compare all
    /// of them; without it, samples of each matrix are read and compared
    #[arg(long)]
    pub(crate) verify: bool,
    /// Write event files for TensorBoard into --output too
    #[arg(long)]
    pub(crate) tensorboard: bool,
    /// Rows whose tokens and mask are written to metrics.jsonl [default: 3; 0 with --memory-budget]
    #[arg(long, value_name = "ROWS")]
    pub(crate) samples: Option<usize>,
    /// Generate an answer to this before training, at evaluations and at the end, into metrics.jsonl; may be given
    /// several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) sample_prompt: Vec<String>,
    /// Most tokens of such an answer [default: 64]
    #[arg(long, value_name = "N")]
    pub(crate) sample_tokens: Option<usize>,
    /// Take options from a file, its keys named as on the command line, which wins; `mesp init-config` writes an
    /// example
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) config: Option<PathBuf>,
}
