//! Text to tokens outside this process: a tokenizer may hold more memory than training does, and what it has
//! allocated does not all go back. The program runs itself as `mesp data tokenize`, and reads the tokens from a
//! file in the run directory, which a later run with the same data, tokenizer and options finds again, or from
//! a temporary one.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mesp::data::token_file::{self, TokenFile, TokenKey};
use mesp::data::{Gathered, LongRows, PromptStyle, ReadOptions, TrainOn, files, unpacks};
use mesp::source::{Base, GgufSource, Kind};
use mesp_device::Mapping;
use mesp_formats::atomic::create_dir_all;
use mesp_formats::regular;
use mesp_formats::{Error as FileError, TokenizerConfig};

use crate::child::{self, Bound};
use crate::failure::{Elsewhere, OverBudget, usage};
use crate::memory::Child as For;
use crate::sizes::bytes;
use crate::{memory, ui};

/// The folder of token files in a run directory.
pub(crate) const FOLDER: &str = "tokens";

/// Reads a text file's rows as tokens; `cache` is a folder to keep them in.
pub(crate) fn rows(
    model: &Path,
    data: &Path,
    options: &ReadOptions,
    cache: Option<&Path>,
) -> Result<Gathered> {
    let Some(folder) = cache else {
        // Opened before it is removed.
        let folder = tempfile::tempdir().context("cannot make a folder for temporary files")?;
        return made(model, data, options, &folder.path().join("rows.tokens"));
    };
    let key = key(model, data, options)?;
    let file = folder.join(format!("{:032x}.tokens", key.0));
    if let Ok(found) = open(&file, options.vocab_size)
        && found.key() == key
    {
        ui::note(format!("{}: tokens of an earlier run, {}", data.display(), file.display()));
        return Ok(found.try_into()?);
    }
    create_dir_all(folder)?;
    made(model, data, options, &file)
}

/// Has a file of tokens made by a process of its own.
fn made(model: &Path, data: &Path, options: &ReadOptions, file: &Path) -> Result<Gathered> {
    wait(spawn(model, data, options, file)?, data)?;
    Ok(open(file, options.vocab_size)?.try_into()?)
}

fn open(path: &Path, vocab_size: usize) -> mesp::Result<TokenFile> {
    TokenFile::open(path, regular::open(path)?, vocab_size)
}

/// Reads a token file that was given as data; `None` when it is something else.
pub(crate) fn given(data: &Path, vocab_size: usize) -> Result<Option<Gathered>> {
    if !data.is_file() {
        return Ok(None);
    }
    let mut start = Vec::new();
    let file = regular::open(data)?;
    file.take(8).read_to_end(&mut start).map_err(|e| FileError::io("read", data, e))?;
    if !token_file::is_token_file(&start) {
        return Ok(None);
    }
    Ok(Some(open(data, vocab_size)?.try_into()?))
}

/// What the tokens of data depend on: its files, the tokenizer and its settings, the options.
pub(crate) fn key(model: &Path, data: &Path, options: &ReadOptions) -> Result<TokenKey> {
    let mut paths = files(data, options.split)?;
    let rows = paths.len();
    let mut header = None;
    let mut folder = Some(model);
    if Kind::of(model) == Kind::Gguf {
        let source = GgufSource::open(model, Base::Mapped)?;
        let end = source.header().tensors.iter().map(|t| t.range.start).min().unwrap_or(0);
        let map = Mapping::open(model).map_err(|e| FileError::io("map", model, e))?;
        folder = model.parent().filter(|_| !source.has_tokenizer());
        header = Some((map, end));
    }
    if let Some(folder) = folder {
        // Where text is read without one the child says so.
        if !folder.join("tokenizer.json").is_file() && !paths.iter().any(|file| unpacks(file)) {
            return Err(no_tokenizer(model));
        }
        let names = ["tokenizer.json"].into_iter().chain(TokenizerConfig::FILES);
        paths.extend(names.map(|name| folder.join(name)).filter(|p| p.is_file()));
    }
    // All of a file goes into the key: of those beside the rows no more than is read of them.
    let limit = |at: usize| if at < rows { u64::MAX } else { regular::VOCABULARY_LIMIT };
    let open = |(at, path)| regular::open_within(path, limit(at));
    let mut files =
        paths.iter().map(PathBuf::as_path).enumerate().map(open).collect::<Result<Vec<_>, _>>()?;
    let mut head = header.as_ref().map(|(map, end)| map.bytes().get(..*end).unwrap_or_default());
    let listed = paths.iter().zip(&mut files).map(|(path, file)| (path.as_path(), file as &mut dyn Read));
    let headed = head.iter_mut().map(|head| (model, head as &mut dyn Read));
    Ok(TokenKey::new(listed.chain(headed), options)?)
}

/// Starts the program again for one file.
fn spawn(model: &Path, data: &Path, options: &ReadOptions, output: &Path) -> Result<Bound> {
    // Its standard input is another than ours.
    let ours = ["/dev", "/proc"].iter().any(|folder| data.starts_with(folder));
    let data = &if ours { std::fs::canonicalize(data).unwrap_or_else(|_| data.into()) } else { data.into() };
    let mut args: Vec<OsString> =
        ["data", "tokenize", "--quiet", "--overwrite", "--model"].map(Into::into).into();
    args.extend([model.into(), "--data".into(), data.into(), "--output".into(), output.into()]);
    match options.max_seq_len {
        Some(length) => args.extend(["--max-seq-len".into(), length.to_string().into()]),
        None => args.push("--whole".into()),
    }
    let style = match options.prompt_style {
        PromptStyle::Auto => "auto",
        PromptStyle::Raw => "raw",
        PromptStyle::Chat => "chat",
    };
    let trained = match options.train_on {
        TrainOn::Assistant => "assistant",
        TrainOn::Last => "last",
        TrainOn::All => "all",
    };
    let long = match options.long_rows {
        LongRows::Truncate => "truncate",
        LongRows::Split => "split",
        LongRows::Error => "error",
    };
    args.extend(["--prompt-style", style, "--train-on", trained, "--long-rows", long].map(Into::into));
    if options.preferences {
        args.extend(["--objective", "preference"].map(Into::into));
    }
    if options.unpair {
        args.push("--unpair".into());
    }
    if !options.append_eos {
        args.push("--no-eos".into());
    }
    if !options.columns.is_empty() {
        args.push(format!("--columns={}", options.columns).into());
    }
    ui::note(format!("{}: turning text into tokens", data.display()));
    let mut command = child::program();
    command.args(args);
    Bound::start(command).map_err(|e| {
        let problem = format!("this program could not be started again to turn text into tokens: {e}");
        usage(problem, "give a file that `mesp data tokenize` has made")
    })
}

/// Waits for a child's end; its error is ours.
fn wait(child: Bound, data: &Path) -> Result<()> {
    let (output, over) = child.wait(For::Tokens)?;
    if over {
        let (data, took) = (data.display(), bytes(memory::with_child(For::Tokens)));
        return Err(OverBudget(format!(
            "{data}: turning text into tokens was stopped at {took} of anonymous memory, which is more than the memory \
             budget\n  make the tokens beforehand, without a budget: `mesp data tokenize`; then give its file as --data"
        ))
        .into());
    }
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message = match said.trim().strip_prefix("error: ") {
        Some(message) => message.to_owned(),
        None => {
            format!("the process that turns text into tokens ended with {}: {}", output.status, said.trim())
        }
    };
    let status = output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Err(Elsewhere { message, status }.into())
}

/// What text without a tokenizer is answered.
pub(crate) fn no_tokenizer(model: &Path) -> anyhow::Error {
    let error = mesp::source::no_tokenizer(model);
    match mesp::hub::fetching(model) {
        Some(get) => error.hint(format!("{get}, or use rows with input_ids and labels")).into(),
        None => error.into(),
    }
}
