//! Options that several commands share, in groups. They hold what was typed: a choice that was not made is
//! `None`, since what it then means may depend on others.

#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mesp::data::Columns;
use mesp_device::Elem;

use super::{RunArgs, SharedArgs, size};
use mesp::ByteSize;

/// The options of train, plan and grads.
#[derive(Debug, Clone, Args)]
pub(crate) struct CommonArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    #[command(flatten)]
    pub(crate) method: MethodArgs,
    #[command(flatten)]
    pub(crate) zeroth: ZerothArgs,
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
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
        self.zeroth.full || self.adapter.train == Some(TrainArg::Full)
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
    /// They lose their end
    #[default]
    Truncate,
    /// They become several rows, each beginning with the last token of the one before
    Split,
    /// They are refused
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
    /// Which columns of the file are meant by the names that rows have: prompt=question,completion=answer
    /// [default: the names as they are]
    #[arg(long, value_name = "NAME=COLUMN,...")]
    pub(crate) columns: Option<Columns>,
    /// The most tokens of a row; a plain text is cut into windows of so many [default: in train and plan 512, or
    /// the longest the model was made for; in grads and eval rows stay whole]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_seq_len: Option<usize>,
    /// What becomes of longer rows
    #[arg(long, value_enum, value_name = "HOW", default_value_t = LongRowsArg::Truncate)]
    pub(crate) long_rows: LongRowsArg,
    /// How rows that ask and answer become one text
    #[arg(long, value_enum, default_value_t = PromptStyleArg::Auto)]
    pub(crate) prompt_style: PromptStyleArg,
    /// Which tokens are trained
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = TrainOnArg::Assistant)]
    pub(crate) train_on: TrainOnArg,
    /// The same as --train-on all
    #[arg(long, conflicts_with = "train_on", hide = true)]
    pub(crate) train_on_prompt: bool,
    /// Leave out the end-of-text token after a text
    #[arg(long)]
    pub(crate) no_eos: bool,
}

impl DataArgs {
    /// What documents call the rows, which are in a file.
    pub(crate) fn name(&self, file: &Path) -> String {
        self.named.clone().unwrap_or_else(|| file.display().to_string())
    }
}

/// How values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stored {
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

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Adapter")]
pub(crate) struct AdapterArgs {
    /// What is trained [default: lora]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) train: Option<TrainArg>,
    /// Start from this adapter: a directory in PEFT's or mlx-lm's layout, a GGUF adapter, or a name in the Hugging Face
    /// cache [default: a new one, A random and B zero]
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub(crate) adapter: Option<PathBuf>,
    /// Rank of the adapter's matrices [default: 8]
    #[arg(long, value_name = "R")]
    pub(crate) rank: Option<usize>,
    /// The adapter's output is multiplied by ALPHA/R [default: twice the rank]
    #[arg(long, value_name = "ALPHA")]
    pub(crate) alpha: Option<f64>,
    /// Multiply by ALPHA/√R instead (rsLoRA)
    #[arg(long)]
    pub(crate) rslora: bool,
    /// Train a magnitude for each row of the adapted weights beside its direction (DoRA): up to a third more time
    #[arg(long)]
    pub(crate) dora: bool,
    /// Hide each value of a layer's input from its adapter with this probability, anew in each step, as PEFT's
    /// lora_dropout; in grads too. Not with --dora, nor with --method mezo or forward [default: 0, or what the adapter to
    /// start from says; in grads 0]
    #[arg(long, value_name = "P")]
    pub(crate) lora_dropout: Option<f64>,
    /// Ranks of single modules, by name, end of a path or regular expression, the first that fits: q_proj=16,
    /// layers.0.mlp.down_proj=4 [default: all --rank]
    #[arg(long, value_name = "LIST")]
    pub(crate) rank_pattern: Option<String>,
    /// The same for ALPHA; the scale of a module is its own ALPHA/R [default: all --alpha]
    #[arg(long, value_name = "LIST")]
    pub(crate) alpha_pattern: Option<String>,
    /// Layers that get adapters, counted from 0: 0-3,7 [default: all]
    #[arg(long, value_name = "LIST")]
    pub(crate) layers: Option<String>,
    /// Modules that get an adapter: all-linear, or a list of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj,
    /// down_proj; qkv_proj and gate_up_proj where a model has these; lm_head and embed_tokens, which are not part of
    /// all-linear [default: all-linear]
    #[arg(long, value_name = "LIST")]
    pub(crate) target_modules: Option<String>,
    /// Train B alone and leave A as it is (LoRA-FA): no gradient and no optimizer state of A
    #[arg(long)]
    pub(crate) freeze_a: bool,
    /// The learning rate of B, and of --dora's magnitudes, over that of A (LoRA+) [default: 1]
    #[arg(long, value_name = "RATIO")]
    pub(crate) lora_plus_ratio: Option<f64>,
    /// How the adapter is stored, in memory and in files; with bf16, half the bytes, steps are rounded at random so
    /// that small ones add up. Arithmetic, gradients and the optimizer's state are f32 [default: f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) adapter_type: Option<Stored>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TrainArg {
    /// An adapter
    Lora,
    /// All weights of the model, and no adapter: with --method mezo from losses; `mesp grads` makes their exact gradients
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum UpdateArg {
    /// Keep all gradients until the backward pass is done
    Accumulate,
    /// Step each block as soon as its gradients are finished, and keep none
    PerBlock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compute {
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

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Method and memory")]
pub(crate) struct MethodArgs {
    /// What is kept for the backward pass: mesp, mesp-paper, mesp-paper-store-h, mebp, store-all or auto; all
    /// give the same gradients. Or an estimate along random directions, without a backward pass: mezo (from losses)
    /// or forward (exact slopes from one forward pass with tangents). Or lcsb: a surrogate gradient, no estimate of the
    /// real one, which goes back through a part of the blocks and takes the others for constants [default: auto, the
    /// fastest that fits --memory-budget; without one mesp]
    #[arg(long, value_name = "NAME")]
    pub(crate) method: Option<String>,
    /// Rows of the MLP that are computed at once [default: the method's own; auto chooses]
    #[arg(long, value_name = "ROWS")]
    pub(crate) mlp_rows: Option<usize>,
    /// Rows whose logits are computed at once [default: the method's own; auto chooses]
    #[arg(long, value_name = "ROWS")]
    pub(crate) head_rows: Option<usize>,
    /// When adapters are stepped [default: accumulate]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) update: Option<UpdateArg>,
    /// Number type of the products with frozen weights; what is added, kept and stepped is f32 in any case
    /// [default: auto; in grads f32]
    #[arg(long, value_enum)]
    pub(crate) compute: Option<Compute>,
    /// How the blocks' inputs wait for the backward pass: f32, bf16 (half the memory; gradients are those of
    /// rounded inputs) or file (written below --output, the same gradients as f32) [default: f32; auto may
    /// choose file]
    #[arg(long, value_name = "HOW")]
    pub(crate) checkpoints: Option<String>,
    /// How normed inputs, gate, up and their product are stored while a block's gradients are made: f32 or bf16 (half
    /// the memory; gradients are those of rounded ones) [default: f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) activations: Option<Stored>,
    /// The most anonymous memory of the whole process: 128MB, 128MiB or bytes. What cannot be done in it ends
    /// with status 3 before it begins [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory_budget: Option<ByteSize>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Directions and blocks (--method mezo, forward, lcsb)")]
pub(crate) struct ZerothArgs {
    /// The same as --train full. Mezo then trains all weights of the model in place of an adapter: held in memory in f32
    /// or bf16, as --base says or as they are stored, and written as a model to OUTPUT/model
    #[arg(long)]
    pub(crate) full: bool,
    /// How far along a direction mezo takes losses [default: 0.01, with --full 0.001]
    #[arg(long, value_name = "EPS")]
    pub(crate) eps: Option<f64>,
    /// Random directions of a step, each two forward passes of mezo or one of forward [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) directions: Option<usize>,
    /// How directions are drawn: gaussian or rademacher [default: gaussian]
    #[arg(long, value_name = "NAME")]
    pub(crate) noise: Option<String>,
    /// Let mezo take one loss at the adapters themselves: one forward pass for each direction, and one more
    #[arg(long)]
    pub(crate) one_sided: bool,
    /// Let this share of each adapter matrix stay, its values largest in size at the start; a matrix that is zero then
    /// moves as a whole [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub(crate) sparsity: Option<f64>,
    /// Share of the blocks that lcsb goes back through, drawn anew each step by --seed [default: 0.5]
    #[arg(long, value_name = "SHARE", conflicts_with = "blocks")]
    pub(crate) block_share: Option<f64>,
    /// Blocks whose adapters move, such as 0-3, as on a federated client that has a part of the work; forward then
    /// carries tangents from the first of them on [default: all]
    #[arg(long, value_name = "FIRST-LAST")]
    pub(crate) blocks: Option<String>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Training")]
pub(crate) struct ScheduleArgs {
    /// Rows of a micro-batch [default: 1, with --batch-tokens as many as fit; in grads all]
    #[arg(long, value_name = "ROWS")]
    pub(crate) batch_size: Option<usize>,
    /// Fill a micro-batch with rows up to so many tokens; they lie end to end, without padding, and do not see
    /// each other. A longer row is a micro-batch of its own [default: no limit]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) batch_tokens: Option<usize>,
    /// Micro-batches of an optimizer step [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) grad_accum: Option<usize>,
    /// Optimizer steps [default: see --epochs]
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    pub(crate) steps: Option<usize>,
    /// Passes over the data [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) epochs: Option<f64>,
    /// Highest learning rate of the schedule [default: 2e-4; with --method mezo or
    /// forward 5e-5, with --full 1e-6]
    #[arg(long, value_name = "RATE")]
    pub(crate) learning_rate: Option<f64>,
    /// The learning rate after the warmup: constant, linear or cosine [default: cosine; with
    /// --method mezo or forward constant]
    #[arg(long, value_name = "SHAPE")]
    pub(crate) lr_schedule: Option<String>,
    /// Share of the steps over which the learning rate rises [default: 0.03]
    #[arg(long, value_name = "SHARE")]
    pub(crate) warmup_ratio: Option<f64>,
    /// sgd or adamw [default: adamw; with --method mezo or forward sgd, which needs no state]
    #[arg(long, value_name = "NAME")]
    pub(crate) optimizer: Option<String>,
    /// Momentum of sgd [default: 0]
    #[arg(long, value_name = "MU", default_value_t = 0.0, hide_default_value = true)]
    pub(crate) momentum: f64,
    /// Weight decay [default: 0]
    #[arg(long, value_name = "LAMBDA", default_value_t = 0.0, hide_default_value = true)]
    pub(crate) weight_decay: f64,
    /// Scale gradients down to this norm; 0 never [default: 1, with --update per-block 0]
    #[arg(long, value_name = "NORM")]
    pub(crate) max_grad_norm: Option<f64>,
    /// Seed of the adapter's start and of the order of rows [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) seed: u64,
    /// Rows that are never trained, to evaluate before and after, of any kind that --data takes [default: of a
    /// directory given as --data the rows named eval, valid, validation, val or dev]
    #[arg(long, value_name = "FILE")]
    pub(crate) eval_data: Option<PathBuf>,
    /// Hold out this share of --data, such as 0.05, chosen by --seed; equal rows stay on one side, and of a plain
    /// text the end is held out [default: none]
    #[arg(long, value_name = "SHARE", conflicts_with = "eval_data")]
    pub(crate) eval_split: Option<f64>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Where results go: the run directory [default: mesp-out]; for grads the safetensors file
    #[arg(long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// Go on from a checkpoint directory, without a name from the latest of --output
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "not given, given alone, given with a path")]
    pub(crate) resume: Option<Option<PathBuf>>,
    /// Replace the run that is in --output, which goes when the new one has its first checkpoint or ends well; never
    /// what the command reads
    #[arg(long, conflicts_with = "resume")]
    pub(crate) overwrite: bool,
}
