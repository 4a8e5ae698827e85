//! The settings in groups, as they are given: a choice that was not made is `None`, since what it then means may depend
//! on others. The program's options, the keys of its configuration files and these fields are one list.

#![allow(clippy::doc_markdown, reason = "the program shows these texts as help")]

use std::path::PathBuf;
#[cfg(feature = "clap")]
use std::str::FromStr as _;

use mesp_device::Elem;
use serde::{Deserialize, Serialize};

use crate::ByteSize;
use crate::preference::LossType;
use crate::train::Action;

/// How values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "a text would be shown as help beside each value")]
pub enum Stored {
    F32,
    Bf16,
}

impl From<Stored> for Elem {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::F32 => Self::Full,
            Stored::Bf16 => Self::Bf16,
        }
    }
}

/// What is trained: an adapter, its place and size, or all weights.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args), command(next_help_heading = "Adapter"))]
#[serde(default)]
pub struct AdapterSettings {
    /// What is trained [default: lora]
    #[cfg_attr(feature = "clap", arg(long, value_enum, value_name = "WHAT"))]
    pub train: Option<Train>,
    /// Start from this adapter: a directory in PEFT's or mlx-lm's layout, a GGUF adapter, or a name in the Hugging Face
    /// cache [default: a new one, A random and B zero]
    #[cfg_attr(feature = "clap", arg(long, value_name = "DIR|FILE.gguf|ORG/NAME"))]
    pub adapter: Option<PathBuf>,
    /// Rank of the adapter's matrices [default: 8]
    #[cfg_attr(feature = "clap", arg(long, alias = "lora-r", value_name = "R"))]
    pub rank: Option<usize>,
    /// LoRA's alpha: what the adapter adds is scaled by ALPHA/R [default: twice the rank]
    #[cfg_attr(feature = "clap", arg(long, alias = "lora-alpha", value_name = "ALPHA"))]
    pub alpha: Option<f64>,
    /// Scale by ALPHA/√R instead (rsLoRA)
    #[cfg_attr(feature = "clap", arg(long))]
    pub rslora: bool,
    /// Train a magnitude for each output row of the adapted weights (DoRA): up to a third more time
    #[cfg_attr(feature = "clap", arg(long))]
    pub dora: bool,
    /// Dropout probability of the adapters' inputs, as PEFT's lora_dropout; in `mesp grads` only where given. Not with `dora`, nor with
    /// `method` mezo or forward [default: 0, or that of the adapter to start from; in `mesp grads` 0]
    #[cfg_attr(feature = "clap", arg(long, value_name = "P"))]
    pub lora_dropout: Option<f64>,
    /// Ranks of single modules, by name, end of a path or regular expression; the first match counts: q_proj=16,
    /// layers.0.mlp.down_proj=4 [default: all `rank`]
    #[cfg_attr(feature = "clap", arg(long, value_name = "LIST"))]
    pub rank_pattern: Option<String>,
    /// Alphas of single modules, likewise; the scale of a module is its own ALPHA/R [default: all `alpha`]
    #[cfg_attr(feature = "clap", arg(long, value_name = "LIST"))]
    pub alpha_pattern: Option<String>,
    /// Layers that get adapters, counted from 0: 0-3,7 [default: all]
    #[cfg_attr(feature = "clap", arg(long, value_name = "LIST"))]
    pub layers: Option<String>,
    /// Modules that get an adapter: all-linear, or a list of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj,
    /// down_proj; qkv_proj and gate_up_proj where a model has these; lm_head and embed_tokens, which are not part of
    /// all-linear [default: all-linear]
    #[cfg_attr(feature = "clap", arg(long, value_name = "LIST"))]
    pub target_modules: Option<String>,
    /// Train B only and freeze A (LoRA-FA): A has no gradient and no optimizer state
    #[cfg_attr(feature = "clap", arg(long))]
    pub freeze_a: bool,
    /// Learning rate of B, and of `dora`'s magnitudes, divided by that of A (LoRA+) [default: 1]
    #[cfg_attr(feature = "clap", arg(long, value_name = "RATIO"))]
    pub lora_plus_ratio: Option<f64>,
    /// Storage type of the adapter, in memory and in files; bf16 takes half the bytes, and steps are rounded
    /// stochastically so that small ones add up. Arithmetic, gradients and the optimizer's state are f32 [default: f32]
    #[cfg_attr(feature = "clap", arg(long, value_enum, value_name = "TYPE"))]
    pub adapter_type: Option<Stored>,
}

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Train {
    /// An adapter
    Lora,
    /// All weights of the model, and no adapter
    Full,
}

/// What is minimized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The next-token loss of completions and texts
    Sft,
    /// A loss that prefers one completion of a prompt to another (DPO and its kin)
    Preference,
}

/// What is minimized.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args), command(next_help_heading = "Objective"))]
#[serde(default)]
pub struct ObjectiveSettings {
    /// What is minimized; preference takes rows with prompt, chosen and rejected, and for kto rows with prompt, completion
    /// and label [default: sft]
    #[cfg_attr(feature = "clap", arg(long, value_enum, value_name = "WHAT"))]
    pub objective: Option<Objective>,
    /// Preference loss [default: sigmoid]
    #[cfg_attr(feature = "clap", arg(long, value_enum, value_name = "NAME"))]
    pub loss_type: Option<LossType>,
    /// How strongly a preference loss weighs differences of log-probabilities [default: 0.1; with simpo 2]
    #[cfg_attr(feature = "clap", arg(long, value_name = "BETA"))]
    pub beta: Option<f64>,
    /// By how much simpo wants the chosen completion ahead [default: 0.5]
    #[cfg_attr(feature = "clap", arg(long, value_name = "GAMMA"))]
    pub simpo_gamma: Option<f64>,
    /// Share of pairs that sigmoid and simpo take to be labeled the wrong way round [default: 0]
    #[cfg_attr(feature = "clap", arg(long, value_name = "SHARE"))]
    pub label_smoothing: Option<f64>,
    /// Weight of the next-token loss of the chosen completions, which is added; not with orpo and kto [default: 0]
    #[cfg_attr(feature = "clap", arg(long, value_name = "ALPHA"))]
    pub rpo_alpha: Option<f64>,
    /// The reference of sigmoid, ipo, hinge and kto: base (the model without an adapter), start (what the run begins
    /// with, `adapter` included), an adapter, or none. Its log-probabilities are computed once, before the run [default:
    /// base]
    #[cfg_attr(feature = "clap", arg(long, value_name = "base|start|none|DIR"))]
    pub reference: Option<String>,
}

/// When the optimizer steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum UpdateWhen {
    /// Keep all gradients until the backward pass is complete
    Accumulate,
    /// Step each block as soon as its gradients are complete, and keep none
    PerBlock,
    /// Step each matrix of the model as soon as its gradient is complete; adapters, norms and biases by block
    PerMatrix,
}

/// The number type of products with frozen weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Compute {
    /// bf16 where the frozen weights are held in 16 bits or fewer and this processor multiplies that as fast, else f32; a
    /// resumed run keeps what it began with
    Auto,
    /// Single precision
    F32,
    /// Products with frozen weights and of attention multiply numbers rounded to bf16 and add in single precision
    Bf16,
    /// Double precision, the reference for grads and eval
    F64,
}

/// How gradients are made, and in which memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args), command(next_help_heading = "Method and memory"))]
#[serde(default)]
pub struct MethodSettings {
    /// What is kept for the backward pass: mesp, mesp-paper, mesp-paper-store-h, mebp, store-all or auto; all give the
    /// same gradients. Or an estimator without a backward pass: mezo (differences of losses along random directions) or
    /// forward (exact directional derivatives from one forward pass with tangents). Or lcsb, a surrogate gradient: it
    /// backpropagates through a part of the blocks and treats the others as constants [default: auto, the fastest that
    /// fits `memory_budget`; without one mesp]
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME"))]
    pub method: Option<String>,
    /// Rows of the MLP that are computed at once [default: the method's own; auto chooses]
    #[cfg_attr(feature = "clap", arg(long, value_name = "ROWS"))]
    pub mlp_rows: Option<usize>,
    /// Rows whose logits are computed at once [default: the method's own; auto chooses]
    #[cfg_attr(feature = "clap", arg(long, value_name = "ROWS"))]
    pub head_rows: Option<usize>,
    /// When the optimizer steps [default: accumulate; with `optimizer` lomo and adalomo per-matrix]
    #[cfg_attr(feature = "clap", arg(long, value_enum, value_name = "WHEN"))]
    pub update: Option<UpdateWhen>,
    /// Number type of products with frozen weights; sums, gradients and the optimizer's state are f32 in any case
    /// [default: auto; in `mesp grads` f32]
    #[cfg_attr(feature = "clap", arg(long, value_enum))]
    pub compute: Option<Compute>,
    /// How block inputs (activation checkpoints) are stored until the backward pass: f32, bf16 (half the memory;
    /// gradients are those of rounded inputs) or file (written below `output`, the same gradients as f32) [default:
    /// f32; auto may choose file]
    #[cfg_attr(feature = "clap", arg(long, value_name = "HOW"))]
    pub checkpoints: Option<String>,
    /// Storage type of normed inputs, gate, up and their product while a block's gradients are computed: f32 or bf16
    /// (half the memory; gradients are those of rounded values) [default: f32]
    #[cfg_attr(feature = "clap", arg(long, value_enum, value_name = "TYPE"))]
    pub activations: Option<Stored>,
    /// Limit on the anonymous memory of the whole process: 128MB, 128MiB or bytes. A run that cannot keep it is refused
    /// with status 3 before it begins [default: no limit]
    #[cfg_attr(feature = "clap", arg(long, value_name = "SIZE", value_parser = ByteSize::from_str))]
    pub memory_budget: Option<ByteSize>,
}

/// Random directions, and blocks that are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "clap",
    derive(clap::Args),
    command(next_help_heading = "Directions and blocks (--method mezo, forward, lcsb)")
)]
#[serde(default)]
pub struct DirectionSettings {
    /// The same as `train` full. Mezo then trains all weights of the model in place of an adapter: held in memory in f32
    /// or bf16, as `base` says or as they are stored, and written as a model to OUTPUT/model
    #[cfg_attr(feature = "clap", arg(long))]
    pub full: bool,
    /// Step size of mezo's finite differences [default: 0.01, with `full` 0.001]
    #[cfg_attr(feature = "clap", arg(long, value_name = "EPS"))]
    pub eps: Option<f64>,
    /// Random directions per step: two forward passes each with mezo, one with forward [default: 1]
    #[cfg_attr(feature = "clap", arg(long, value_name = "N"))]
    pub directions: Option<usize>,
    /// Distribution of the directions: gaussian or rademacher [default: gaussian]
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME"))]
    pub noise: Option<String>,
    /// One-sided differences: mezo takes the loss at the parameters once a step, and one loss per direction
    #[cfg_attr(feature = "clap", arg(long))]
    pub one_sided: bool,
    /// Share of each adapter matrix that is frozen, its values largest in magnitude at the start (Sparse MeZO); a
    /// matrix of zeros is trained as a whole [default: 0]
    #[cfg_attr(feature = "clap", arg(long, value_name = "SHARE"))]
    pub sparsity: Option<f64>,
    /// Share of the blocks that lcsb backpropagates through, drawn anew each step by `seed` [default: 0.5]
    #[cfg_attr(feature = "clap", arg(long, value_name = "SHARE", conflicts_with = "blocks"))]
    pub block_share: Option<f64>,
    /// Blocks whose adapters are trained, such as 0-3, as on a federated client that has a part of the work; with
    /// forward, tangents start at the first of them [default: all]
    #[cfg_attr(feature = "clap", arg(long, value_name = "FIRST-LAST"))]
    pub blocks: Option<String>,
}

/// What foam's second moment averages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "a text would be shown as help beside each value")]
pub enum FoamMoment {
    MeanOfSquares,
    SquareOfMean,
}

/// How updates of weights in bf16 are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "as above")]
pub enum Rounding {
    Stochastic,
    Kahan,
}

/// Batches, steps, learning rate, optimizer, held-out rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args), command(next_help_heading = "Training"))]
#[serde(default)]
pub struct TrainingSettings {
    /// Rows per micro-batch [default: 1, with `batch_tokens` as many as fit; in `mesp grads` all]
    #[cfg_attr(feature = "clap", arg(long, alias = "per-device-train-batch-size", value_name = "ROWS"))]
    pub batch_size: Option<usize>,
    /// Pack rows into a micro-batch up to so many tokens; there is no padding, and rows do not attend to each other. A
    /// longer row is a micro-batch of its own [default: no limit]
    #[cfg_attr(feature = "clap", arg(long, value_name = "TOKENS"))]
    pub batch_tokens: Option<usize>,
    /// Micro-batches per optimizer step (gradient accumulation) [default: 1]
    #[cfg_attr(feature = "clap", arg(long, alias = "gradient-accumulation-steps", value_name = "N"))]
    pub grad_accum: Option<usize>,
    /// Optimizer steps [default: see `epochs`]
    #[cfg_attr(
        feature = "clap",
        arg(long, alias = "max-steps", value_name = "N", conflicts_with = "epochs")
    )]
    pub steps: Option<usize>,
    /// Passes over the data [default: 1]
    #[cfg_attr(feature = "clap", arg(long, alias = "num-train-epochs", value_name = "N"))]
    pub epochs: Option<f64>,
    /// Peak learning rate [default: 2e-4; with `method` mezo or forward 5e-5, with `full` 1e-6]
    #[cfg_attr(feature = "clap", arg(long, value_name = "RATE"))]
    pub learning_rate: Option<f64>,
    /// Learning rate after the warmup: constant, linear or cosine [default: cosine; with `method` mezo or forward
    /// constant]
    #[cfg_attr(feature = "clap", arg(long, alias = "lr-scheduler-type", value_name = "SHAPE"))]
    pub lr_schedule: Option<String>,
    /// Share of the steps over which the learning rate warms up [default: 0.03]
    #[cfg_attr(feature = "clap", arg(long, value_name = "SHARE"))]
    pub warmup_ratio: Option<f64>,
    /// sgd, adamw, adamw-bf16, adamw-8bit, adafactor, lion, muon, foam, lomo or adalomo [default: adamw; with `train` full
    /// adalomo; with `method` mezo or forward sgd, which needs no state]
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME"))]
    pub optimizer: Option<String>,
    /// Values of a row that share a moment under foam: 2^LEVEL; 0 is Adam [default: 2]
    #[cfg_attr(feature = "clap", arg(long, value_name = "LEVEL"))]
    pub foam_level: Option<u32>,
    /// By what foam multiplies updates of matrices with shared moments [default: 0.25]
    #[cfg_attr(feature = "clap", arg(long, value_name = "ALPHA"))]
    pub foam_scale: Option<f64>,
    /// What foam's second moment averages over a block: the mean-of-squares of gradients or the square-of-mean [default:
    /// mean-of-squares]
    #[cfg_attr(feature = "clap", arg(long, value_enum, value_name = "NAME"))]
    pub foam_second_moment: Option<FoamMoment>,
    /// By what foam multiplies a gradient's deviation from its block's mean [default: 1]
    #[cfg_attr(feature = "clap", arg(long, value_name = "RHO"))]
    pub foam_residual: Option<f64>,
    /// How updates of bf16 weights of the model are rounded: stochastic, right on average; or kahan, to the nearest with
    /// what is cut off kept in as many bytes again [default: stochastic]
    #[cfg_attr(feature = "clap", arg(long, value_enum, value_name = "HOW"))]
    pub rounding: Option<Rounding>,
    /// Momentum of sgd [default: 0]
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "MU", default_value_t = 0.0, hide_default_value = true)
    )]
    pub momentum: f64,
    /// Weight decay [default: 0]
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "LAMBDA", default_value_t = 0.0, hide_default_value = true)
    )]
    pub weight_decay: f64,
    /// Clip the norm of the gradients to this; 0 switches clipping off. With `update` per-block and per-matrix a backward
    /// before each step measures the norm, which doubles the time [default: 1, with `update` per-block and per-matrix 0]
    #[cfg_attr(feature = "clap", arg(long, value_name = "NORM"))]
    pub max_grad_norm: Option<f64>,
    /// Seed of the adapter's start and of the order of rows [default: 0]
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)
    )]
    pub seed: u64,
    /// Held-out rows, of any kind that `data` takes: evaluated before and after training, never trained [default: of a
    /// directory given as `data` the rows named eval, valid, validation, val or dev]
    #[cfg_attr(feature = "clap", arg(long, value_name = "FILE"))]
    pub eval_data: Option<PathBuf>,
    /// Hold out this share of `data`, such as 0.05, chosen by `seed`; equal rows stay on one side, and of a plain
    /// text the end is held out [default: none]
    #[cfg_attr(feature = "clap", arg(long, value_name = "SHARE", conflicts_with = "eval_data"))]
    pub eval_split: Option<f64>,
}

/// What is done about a step that went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum OnSpike {
    /// Report it and take the step
    Report,
    /// Report it and skip the step
    Skip,
    /// Report it, write a checkpoint of the step before, and end the run
    Stop,
}

impl From<OnSpike> for Action {
    fn from(arg: OnSpike) -> Self {
        match arg {
            OnSpike::Report => Self::Report,
            OnSpike::Skip => Self::Skip,
            OnSpike::Stop => Self::Stop,
        }
    }
}

/// What is done about a number that is none: it cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum OnNonFinite {
    /// Report it and skip the step; after 20 such steps in a row the run ends
    Skip,
    /// Report it, write a checkpoint of the step before, and end the run
    Stop,
}

impl From<OnNonFinite> for Action {
    fn from(arg: OnNonFinite) -> Self {
        match arg {
            OnNonFinite::Skip => Self::Skip,
            OnNonFinite::Stop => Self::Stop,
        }
    }
}

/// Evaluations and checkpoints on the way, and what is done when a step goes wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args), command(next_help_heading = "Run"))]
#[serde(default)]
pub struct RunSettings {
    /// Evaluate every so many steps, too [default: before and after training only]
    #[cfg_attr(feature = "clap", arg(long, value_name = "STEPS", alias = "eval-steps"))]
    pub eval_every: Option<usize>,
    /// Stop after so many evaluations in a row without an improvement [default: never]
    #[cfg_attr(feature = "clap", arg(long, value_name = "N"))]
    pub early_stopping_patience: Option<usize>,
    /// An improvement is a held-out loss that is lower by more than this [default: 0]
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "LOSS", default_value_t = 0.0, hide_default_value = true)
    )]
    pub early_stopping_min_delta: f64,
    /// Save the adapter of the lowest held-out loss at the end, not the last step's
    #[cfg_attr(feature = "clap", arg(long))]
    pub load_best_at_end: bool,
    /// Write a checkpoint every so many steps [default: only when interrupted, and with `eval_every` at each
    /// evaluation that is the best so far]
    #[cfg_attr(feature = "clap", arg(long, value_name = "STEPS", alias = "save-steps"))]
    pub save_every: Option<usize>,
    /// Keep so many checkpoints, the best and the newest in any case [default: all]
    #[cfg_attr(feature = "clap", arg(long, value_name = "N"))]
    pub save_total_limit: Option<usize>,
    /// What to do when a loss or a gradient is NaN or infinite [default: stop]
    #[cfg_attr(feature = "clap", arg(long, value_enum, value_name = "WHAT"))]
    pub on_nonfinite: Option<OnNonFinite>,
    /// What to do when the norm of the gradients is `spike_factor` times its running mean [default: report]
    #[cfg_attr(feature = "clap", arg(long, value_enum, value_name = "WHAT"))]
    pub on_spike: Option<OnSpike>,
    /// How many times the running mean of the norms is a spike; 0 for none [default: 10]
    #[cfg_attr(feature = "clap", arg(long, value_name = "FACTOR"))]
    pub spike_factor: Option<f64>,
}
