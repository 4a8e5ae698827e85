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
    /// Scale what the adapter adds; 0 is the model without it [default: 1]
    #[arg(long, value_name = "SCALE", requires = "adapter", allow_negative_numbers = true)]
    pub(crate) adapter_scale: Option<f64>,
    /// System message before the first turn [default: what the chat template has]
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Stop before this text, which is not printed; may be given several times [default: only the model's own end
    /// tokens]
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Sampling temperature; 0 is greedy decoding [default: 0]
    #[arg(long, value_name = "T", default_value_t = 0.0, hide_default_value = true)]
    pub(crate) temperature: f64,
    /// Sample from the K likeliest tokens; 0 for all [default: 0]
    #[arg(long, value_name = "K", default_value_t = 0, hide_default_value = true)]
    pub(crate) top_k: usize,
    /// Sample from the likeliest tokens whose probabilities sum to this [default: 1]
    #[arg(long, value_name = "P", default_value_t = 1.0, hide_default_value = true)]
    pub(crate) top_p: f64,
    /// Sample from tokens with at least this share of the likeliest token's probability [default: 0]
    #[arg(long, value_name = "P", default_value_t = 0.0, hide_default_value = true)]
    pub(crate) min_p: f64,
    /// Divide positive logits of tokens that occurred by this, and multiply negative ones [default: 1]
    #[arg(long, value_name = "P", default_value_t = 1.0, hide_default_value = true)]
    pub(crate) repetition_penalty: f64,
    /// How many of the last tokens, the prompt's included, count as having occurred; 0 for all [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) repetition_window: usize,
    /// Seed of the sampling [default: 0]
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
    /// Format the prompt as a user turn with the model's chat template, or in ChatML where it has none
    #[arg(long, help_heading = "Text")]
    pub(crate) chat: bool,
    #[command(flatten)]
    pub(crate) options: SamplingArgs,
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
    /// Most tokens of the whole conversation; the memory of their keys and values is allocated at the start [default:
    /// 4096, or what the model was made for if that is less]
    #[arg(long, value_name = "TOKENS", help_heading = "Text")]
    pub(crate) context: Option<usize>,
    #[command(flatten)]
    pub(crate) options: SamplingArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}
