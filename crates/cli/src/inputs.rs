//! Files that commands read: models, tokenizers, rows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use mesp::data::{Dataset, Example, PromptStyle, ReadOptions, TextEncoder, TokenizerInfo};
use mesp::model::{Config, Model};
use mesp::source::{Base, HfSource};
use mesp_device::Dtype;
use mesp_formats::{ModelConfig, ModelDir, TokenizerConfig};
use rayon::ThreadPool;

use crate::args::{DataArgs, ModelArgs, PromptStyleArg};
use crate::ui;

/// The longest rows of a training run, unless told otherwise.
const DEFAULT_LENGTH: usize = 512;

/// An error of usage with advice.
pub(crate) fn usage(problem: impl Into<String>, advice: impl Into<String>) -> anyhow::Error {
    mesp::Error::usage(problem).hint(advice).into()
}

/// A pool of threads: as many as asked for, or as there are cores.
pub(crate) fn pool(threads: Option<usize>) -> Result<Arc<ThreadPool>> {
    let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = threads.unwrap_or_else(available);
    if threads == 0 {
        return Err(usage("--threads is 0, expected 1 or more", "leave it out to use all cores"));
    }
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("mesp-{i}")).build()?;
    Ok(Arc::new(pool))
}

/// The directory of `--model`.
pub(crate) fn model_dir(args: &ModelArgs) -> Result<&Path> {
    let Some(dir) = &args.model else {
        return Err(usage("no model was given", "give --model DIR, a Hugging Face model directory"));
    };
    if dir.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        let problem = format!("{}: this build reads no GGUF files", dir.display());
        return Err(usage(problem, "give the Hugging Face directory of the model"));
    }
    Ok(dir)
}

/// Reads a model's configuration; touches no weights.
pub(crate) fn read_config(dir: &Path) -> Result<(ModelConfig, Config)> {
    if !dir.join("config.json").is_file() {
        // Says what is there instead.
        ModelDir::open(dir)?;
    }
    let file = ModelConfig::read(dir)?;
    let config = Config::new(&file).map_err(|e| match e {
        mesp::Error::Usage { problem, hint: None } => {
            mesp::Error::usage(format!("{}: {problem}", dir.display()))
        }
        mesp::Error::Usage { problem, hint: Some(h) } => {
            mesp::Error::usage(format!("{}: {problem}", dir.display())).hint(h)
        }
        other => other,
    })?;
    Ok((file, config))
}

/// A model with its weights.
pub(crate) struct Loaded {
    pub(crate) model: Arc<Model>,
    /// As it is stored.
    pub(crate) dtype: Dtype,
    /// The tokens that end a text, by the model's configuration.
    pub(crate) eos: Vec<u32>,
}

/// Maps a model's weights, or copies them into memory.
pub(crate) fn load_model(dir: &Path, base: Base) -> Result<Loaded> {
    let (file, config) = read_config(dir)?;
    let source = HfSource::open(dir, base)?;
    let dtype = source.dtype();
    Ok(Loaded { model: Arc::new(Model::load(config, &source)?), dtype, eos: file.eos_token_ids })
}

/// Reads a model's tokenizer.
pub(crate) fn encoder(dir: &Path) -> Result<TextEncoder> {
    let path = dir.join("tokenizer.json");
    if !path.is_file() {
        let problem = format!("{}: expected the model's tokenizer.json, found none", dir.display());
        return Err(usage(
            problem,
            "put the model's tokenizer.json there, or use rows with input_ids and labels",
        ));
    }
    let TokenizerConfig { add_bos_token, bos_token, eos_token, chat_template } = TokenizerConfig::read(dir)?;
    let info = TokenizerInfo { bos_token, eos_token, chat_template, add_bos_token };
    Ok(TextEncoder::from_file(&path, info)?)
}

/// How rows are read for a command.
pub(crate) fn read_options(args: &DataArgs, config: &Config, training: bool) -> ReadOptions {
    let longest = DEFAULT_LENGTH.min(config.max_positions);
    let text = |p: &Path| {
        p.extension().is_some_and(|e| ["txt", "text", "md"].iter().any(|t| e.eq_ignore_ascii_case(t)))
    };
    // A plain text has to be cut somewhere; rows are cut only where memory asks for it.
    let cut = training || args.data.as_deref().is_some_and(text);
    ReadOptions {
        max_seq_len: args.max_seq_len.or(cut.then_some(longest)),
        train_on_prompt: args.train_on_prompt,
        append_eos: !args.no_eos,
        prompt_style: args.prompt_style.into(),
        ..ReadOptions::new(config.vocab_size)
    }
}

impl From<PromptStyleArg> for PromptStyle {
    fn from(style: PromptStyleArg) -> Self {
        match style {
            PromptStyleArg::Raw => Self::Raw,
            PromptStyleArg::Chat => Self::Chat,
        }
    }
}

/// Rows in memory.
pub(crate) struct Rows {
    pub(crate) train: Vec<Example>,
    /// Held out; none where there is no such file.
    pub(crate) eval: Vec<Example>,
    /// Whether they were text, so that a tokenizer was there.
    pub(crate) text: bool,
}

/// Reads rows, and rows to hold out. A tokenizer is loaded only for rows that are text, once for both files,
/// and is gone when this returns: it may hold more memory than training does.
pub(crate) fn read_rows(
    model: &Path,
    data: &Path,
    eval: Option<&Path>,
    options: &ReadOptions,
) -> Result<Rows> {
    let mut text = false;
    for file in [data].into_iter().chain(eval) {
        if !file.exists() {
            let problem = format!("{}: no such data file", file.display());
            return Err(usage(problem, "check the path; see `mesp train --help` for the kinds of rows"));
        }
        text |= Dataset::needs_tokenizer(file, options)?;
    }
    let encoder = if text { Some(encoder(model)?) } else { None };
    let read = |file: &Path| -> Result<Vec<Example>> {
        let data = Dataset::read(file, encoder.as_ref(), options)?;
        for line in &data.notes {
            ui::note(format!("{}: {line}", data.path.display()));
        }
        Ok(data.examples)
    };
    let train = read(data)?;
    let eval = eval.map(read).transpose()?.unwrap_or_default();
    Ok(Rows { train, eval, text })
}

/// The file of held-out rows: the one named, or one that lies beside `train.jsonl` in a data directory.
pub(crate) fn eval_file(named: Option<&PathBuf>, data: &Path) -> Option<PathBuf> {
    let beside =
        || ["eval.jsonl", "valid.jsonl"].map(|name| data.join(name)).into_iter().find(|p| p.is_file());
    named.cloned().or_else(|| data.is_dir().then(beside).flatten())
}

/// Says how long rows are when the model was made for shorter ones.
pub(crate) fn warn_of_length(longest: usize, config: &Config) {
    if longest > config.max_positions {
        let made = config.max_positions;
        ui::note(format!(
            "rows of up to {longest} tokens; the model was made for {made}: expect higher losses beyond"
        ));
    }
}

/// Tokens of the longest row.
pub(crate) fn longest(rows: &[Example]) -> usize {
    rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0)
}

/// The file of `--data`.
pub(crate) fn data_file(args: &DataArgs) -> Result<&Path> {
    match &args.data {
        Some(path) => Ok(path),
        None => bail!(usage("no data was given", "give --data FILE, rows as JSON lines or a plain text")),
    }
}
