//! The options of generate and chat.

use std::path::PathBuf;

use clap::Args;
use mesp::generate::Sampling;

use super::{Compute, ModelArgs, SharedArgs};

/// The options that both have.
#[derive(Debug, Args)]
#[command(next_help_heading = "Text")]
pub(crate) struct SamplingArgs {
    /// Adapter to put on the model: a directory in PEFT's or mlx-lm's layout, a GGUF adapter, or a name in the Hugging Face
    /// cache [default: none]
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub(crate) adapter: Option<PathBuf>,
    /// Multiply what the adapter adds; 0 is the model without it [default: 1]
    #[arg(long, value_name = "SCALE", requires = "adapter", allow_negative_numbers = true)]
    pub(crate) adapter_scale: Option<f64>,
    /// What the model is told before the first turn [default: what its template has]
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// End before this text, which is not printed; may be given several times [default: only the model's own ends]
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Temperature of the choice; 0 always takes the likeliest token [default: 0]
    #[arg(long, value_name = "T", default_value_t = 0.0, hide_default_value = true)]
    pub(crate) temperature: f64,
    /// Choose among the likeliest so many tokens; 0 for all [default: 0]
    #[arg(long, value_name = "K", default_value_t = 0, hide_default_value = true)]
    pub(crate) top_k: usize,
    /// Choose among the likeliest tokens that together have this probability [default: 1]
    #[arg(long, value_name = "P", default_value_t = 1.0, hide_default_value = true)]
    pub(crate) top_p: f64,
    /// Choose among the tokens with this share of the likeliest's probability [default: 0]
    #[arg(long, value_name = "P", default_value_t = 0.0, hide_default_value = true)]
    pub(crate) min_p: f64,
    /// Divide the logits of tokens that occurred by this where they are positive, else multiply them [default: 1]
    #[arg(long, value_name = "P", default_value_t = 1.0, hide_default_value = true)]
    pub(crate) repetition_penalty: f64,
    /// How many of the last tokens, the prompt's included, count as having occurred; 0 for all [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) repetition_window: usize,
    /// Seed of the choices [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) seed: u64,
    /// Number type of the products with frozen weights: auto, f32 or bf16 [default: auto]
    #[arg(long, value_enum)]
    pub(crate) compute: Option<Compute>,
}

impl SamplingArgs {
    /// How tokens are chosen.
    pub(crate) fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            repetition_window: self.repetition_window,
            seed: self.seed,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The text to answer or to continue
    #[arg(long, value_name = "TEXT", help_heading = "Text")]
    pub(crate) prompt: String,
    /// Tokens to generate at most [default: 128]
    #[arg(long, value_name = "N", default_value_t = 128, hide_default_value = true, help_heading = "Text")]
    pub(crate) max_tokens: usize,
    /// Continue the prompt as it stands, also when the model has a chat template
    #[arg(long, conflicts_with_all = ["chat", "system"], help_heading = "Text")]
    pub(crate) raw: bool,
    /// Make the prompt a turn of the user, in ChatML when the model has no chat template
    #[arg(long, help_heading = "Text")]
    pub(crate) chat: bool,
    #[command(flatten)]
    pub(crate) speak: SamplingArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Tokens of an answer at most [default: 512]
    #[arg(long, value_name = "N", default_value_t = 512, hide_default_value = true, help_heading = "Text")]
    pub(crate) max_tokens: usize,
    /// Tokens of the whole conversation at most; their keys and values have their memory from the start [default:
    /// 4096, or what the model was made for if that is less]
    #[arg(long, value_name = "TOKENS", help_heading = "Text")]
    pub(crate) context: Option<usize>,
    #[command(flatten)]
    pub(crate) speak: SamplingArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}
