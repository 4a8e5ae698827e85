//! Options of a run as a whole: evaluation, checkpoints, what is written down.

#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mesp::train::Action;

/// What is done about a step that went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReactionArg {
    /// Say it and use the step
    Report,
    /// Say it and leave the adapter as it was before the step
    Skip,
    /// Say it, write a checkpoint of the step before, and end the run
    Stop,
}

impl From<ReactionArg> for Action {
    fn from(arg: ReactionArg) -> Self {
        match arg {
            ReactionArg::Report => Self::Report,
            ReactionArg::Skip => Self::Skip,
            ReactionArg::Stop => Self::Stop,
        }
    }
}

/// What is done about a number that is none: it cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NonFiniteArg {
    /// Say it and leave the adapter as it was before the step; after 20 such steps in a row the run ends
    Skip,
    /// Say it, write a checkpoint of the step before, and end the run
    Stop,
}

impl From<NonFiniteArg> for Action {
    fn from(arg: NonFiniteArg) -> Self {
        match arg {
            NonFiniteArg::Skip => Self::Skip,
            NonFiniteArg::Stop => Self::Stop,
        }
    }
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Run")]
pub(crate) struct RunArgs {
    /// Evaluate every so many steps too [default: never]
    #[arg(long, value_name = "STEPS", alias = "eval-steps")]
    pub(crate) eval_every: Option<usize>,
    /// End the run after so many evaluations in a row without an improvement [default: never]
    #[arg(long, value_name = "N")]
    pub(crate) early_stopping_patience: Option<usize>,
    /// An improvement is a held-out loss that is lower by more than this [default: 0]
    #[arg(long, value_name = "LOSS", default_value_t = 0.0, hide_default_value = true)]
    pub(crate) early_stopping_min_delta: f64,
    /// At the end, the adapter in --output is that of the lowest held-out loss, not the last step's
    #[arg(long)]
    pub(crate) load_best_at_end: bool,
    /// Write a checkpoint every so many steps [default: only when interrupted, and with --eval-every at each
    /// evaluation that is the best so far]
    #[arg(long, value_name = "STEPS", alias = "save-steps")]
    pub(crate) save_every: Option<usize>,
    /// Keep so many checkpoints, the best and the newest in any case [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) save_total_limit: Option<usize>,
    /// What to do when a loss or a gradient is not a number [default: stop]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) on_nonfinite: Option<NonFiniteArg>,
    /// What to do when the norm of the gradients is --spike-factor times its running mean [default: report]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) on_spike: Option<ReactionArg>,
    /// How many times the running mean of the norms is a spike; 0 for none [default: 10]
    #[arg(long, value_name = "FACTOR")]
    pub(crate) spike_factor: Option<f64>,
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
    /// Let the model answer this before training, at evaluations, and at the end, into metrics.jsonl; may be
    /// given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) sample_prompt: Vec<String>,
    /// Tokens of such an answer at most [default: 64]
    #[arg(long, value_name = "N")]
    pub(crate) sample_tokens: Option<usize>,
    /// Take options from a file, its keys named as on the command line, which wins; `mesp init-config` writes an
    /// example
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) config: Option<PathBuf>,
}
