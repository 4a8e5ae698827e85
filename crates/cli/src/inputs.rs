//! Files that commands read: models, tokenizers, rows.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use mesp::Model;
use mesp::arch::Config;
use mesp::data::{
    Examples, FileRows, Gathered, HELD_OUT, Part, ReadOptions, Rows, TEST, TextEncoder, files, refuse_stream,
    split, split_of, totals, unpacks, unused,
};
use mesp::settings::thread_count;
use mesp::source::{Base, text_encoder};
use rayon::ThreadPool;
use serde_json::{Value, json};

use crate::args::{DataArgs, ModelArgs, TrainingSettings};
use crate::failure::usage;
use crate::tokens::{self, no_tokenizer};
use crate::ui;

/// Threads to convert files with.
pub(crate) fn conversion_pool(threads: Option<usize>) -> Result<ThreadPool> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(thread_count(threads)?).build()?)
}

/// The directory or file of `--model`.
pub(crate) fn model_path(args: &ModelArgs) -> Result<&Path> {
    given_model(args.model.as_deref())
}

/// A model that was given.
pub(crate) fn given_model(model: Option<&Path>) -> Result<&Path> {
    model.ok_or_else(|| {
        usage(
            "no model was given",
            "give --model, a Hugging Face model directory, a GGUF file or the name of a model that `mesp pull` has fetched",
        )
    })
}

/// Opens a model, and says what is worth knowing of its files.
pub(crate) fn load_model(path: &Path, base: Base) -> Result<Model> {
    let model = Model::open_as(path, base)?;
    ui::note_once(model.notes());
    Ok(model)
}

/// Reads a model's tokenizer.
pub(crate) fn encoder(model: &Path) -> Result<TextEncoder> {
    text_encoder(model)?.ok_or_else(|| no_tokenizer(model))
}

/// How much there is of a run's rows.
pub(crate) fn counts(rows: &Rows) -> Result<Value> {
    let ((train, _), (eval, _)) = (totals(&*rows.train)?, totals(&*rows.eval)?);
    Ok(json!({
        "rows": rows.train.count(),
        "tokens": train.tokens,
        "target_tokens": train.targets,
        "eval_rows": rows.eval.count(),
        "eval_tokens": eval.tokens,
        "eval_target_tokens": eval.targets,
    }))
}

/// Refuses a data file that is not there.
pub(crate) fn is_there(data: &Path) -> Result<()> {
    refuse_stream(data)?;
    if data.exists() || files(data, ReadOptions::new(0).split)?.iter().all(|file| file.exists()) {
        return Ok(());
    }
    let problem = format!("{}: no such data file", data.display());
    Err(usage(problem, "check the path; see `mesp train --help` for the kinds of rows"))
}

/// Where held-out rows come from.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    None,
    /// A file of their own.
    File(PathBuf),
    /// A share of the data, chosen by a seed.
    Share(f64, u64),
}

impl Held {
    /// From what was typed, or from the held-out rows of a data directory.
    ///
    /// # Errors
    /// When the held-out rows of a data directory are several sets, or not whole.
    pub(crate) fn new(args: &TrainingSettings, data: &Path) -> Result<Self> {
        if let Some(share) = args.eval_split {
            return Ok(Self::Share(share, args.seed));
        }
        let file = match &args.eval_data {
            Some(file) => Some(file.clone()),
            None if data.is_dir() => split_of(data, HELD_OUT)?,
            None => None,
        };
        Ok(file.map_or(Self::None, Self::File))
    }
}

impl Held {
    /// The file, if it is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        if let Self::File(file) = self { Some(file) } else { None }
    }
}

/// Reads rows, and rows to hold out. Rows that are text become tokens in a process of their own, and are kept in
/// the folder `cache` if there is one.
pub(crate) fn read_rows(
    model: &Path,
    data: &Path,
    held: &Held,
    options: &ReadOptions,
    cache: Option<&Path>,
) -> Result<Rows> {
    for file in [data].into_iter().chain(held.file()) {
        is_there(file)?;
    }
    // What unpacking takes is kept out of this process, which a preset without a directory cannot do.
    let unpacked = model.exists();
    let beside = cache.and_then(Path::parent).map_or_else(std::env::temp_dir, Path::to_path_buf);
    let read = |file: &Path| -> Result<Gathered> {
        let data = if let Some(rows) = tokens::given(file, options.vocab_size)? {
            rows
        } else if (unpacked && files(file, options.split)?.iter().any(|file| unpacks(file)))
            || FileRows::needs_tokenizer(file, options)?
        {
            tokens::rows(model, file, options, cache)?
        } else {
            Gathered::read(file, None, options, &beside)?
        };
        for line in &data.about.notes {
            ui::note(format!("{}: {line}", data.about.path.display()));
        }
        Ok(data)
    };
    let train = read(data)?;
    if data.is_dir() {
        tell_files(data, data, held.file())?;
    }
    let mut heap = train.rows.heap_bytes();
    let (train, eval): (Arc<dyn Examples>, Arc<dyn Examples>) = match held {
        Held::None => (train.rows, Arc::new(Vec::new())),
        Held::File(file) => {
            let eval = read(file)?.rows;
            heap += eval.heap_bytes();
            (train.rows, eval)
        }
        Held::Share(share, seed) => {
            let Gathered { about, rows } = train;
            let chosen = split(&*rows, about.document, *share, *seed)?;
            let mut others = chosen.clone();
            others.invert();
            let held = Part { all: Arc::clone(&rows), chosen };
            let left = Part { all: rows, chosen: others };
            ui::note(format!(
                "{}: {} rows held out to evaluate, {} left to train",
                about.path.display(),
                held.count(),
                left.count()
            ));
            heap += held.heap_bytes() + left.heap_bytes();
            (Arc::new(left), Arc::new(held))
        }
    };
    Ok(Rows { train, eval, heap })
}

/// Says what the files of a data directory are used for: those of `read`, which lie in it, and those held out.
pub(crate) fn tell_files(directory: &Path, read: &Path, held: Option<&Path>) -> Result<()> {
    let split = ReadOptions::new(0).split;
    let read = files(read, split)?;
    let held = held.map(|held| files(held, split)).transpose()?.unwrap_or_default();
    let unused = unused(directory, &[read.as_slice(), &held].concat())?;
    let inside = |path: &Path| path.strip_prefix(directory).unwrap_or(path).display().to_string();
    let named = |files: &[PathBuf]| match files {
        [first, .., last] => {
            format!("{} to {} ({} files) are", inside(first), inside(last), files.len())
        }
        files => files.iter().map(|file| inside(file) + " is").collect(),
    };
    let mut said = format!("{}: {} read", directory.display(), named(&read));
    if !held.is_empty() {
        let _ = write!(said, ", {} held out to evaluate", named(&held));
    }
    if !unused.is_empty() {
        let _ = write!(said, "; not used: {}", listed(&unused));
    }
    if read.len() > 1 || !held.is_empty() || !unused.is_empty() {
        ui::note(said);
    }
    Ok(())
}

/// Names, of many the first.
pub(crate) fn listed(names: &[String]) -> String {
    const NAMED: usize = 20;
    let mut list = names[..names.len().min(NAMED)].join(", ");
    if names.len() > NAMED {
        let _ = write!(list, " and {} more", names.len() - NAMED);
    }
    list
}

/// The rows that are evaluated: of a data directory those that were not trained on, if there are some.
pub(crate) fn held_out(data: &Path) -> Result<PathBuf> {
    if !data.is_dir() {
        return Ok(data.to_path_buf());
    }
    let found = match split_of(data, TEST)? {
        Some(test) => Some(test),
        None => split_of(data, HELD_OUT)?,
    };
    let Some(rows) = found else { return Ok(data.to_path_buf()) };
    tell_files(data, &rows, None)?;
    Ok(rows)
}

/// Says how long rows are when the model was made for shorter ones.
pub(crate) fn warn_of_length(rows: &dyn Examples, config: &Config) -> Result<()> {
    let (_, longest) = totals(rows)?;
    if longest > config.max_positions {
        let made = config.max_positions;
        ui::note(format!(
            "rows of up to {longest} tokens; the model was made for {made}: expect higher losses beyond"
        ));
    }
    Ok(())
}

/// The file of `--data`.
pub(crate) fn data_file(args: &DataArgs) -> Result<&Path> {
    match &args.data {
        Some(path) => Ok(path),
        None => bail!(usage("no data was given", "give --data FILE, rows as JSON lines or a plain text")),
    }
}
