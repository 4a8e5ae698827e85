//! What a run is made with, for its checkpoints and documents; of a run that goes on, what it began with.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Result;
use mesp::data::{FileRows, ReadOptions, token_file};
use mesp::model::ModelWeights;
use mesp::source::Base;
use mesp::source::fingerprint::{self, Extent};
use mesp::train::{MadeWith, Mark, RunConfig, checkpoint};
use mesp_device::Dtype;
use mesp_formats::Error as FileError;
use serde_json::{Value, json};

use crate::args::{CommonArgs, DataArgs};
use crate::inputs::{self, Held};
use crate::{run_files, ui};

/// Fingerprints of a model in `dir` and of rows. With `--verify` every byte of the weights is read, else samples of each matrix.
pub(crate) fn of(
    args: &CommonArgs,
    (model, dir): (&ModelWeights, &Path),
    (data, eval): (&Path, &Held),
    options: &ReadOptions,
    resume: Option<&Path>,
) -> Result<MadeWith> {
    let named = args.model.name().unwrap_or_else(|| dir.display().to_string());
    let named = match mesp::hub::commit_of(dir).filter(|_| args.model.named.is_some()) {
        Some(commit) => format!("{named}@{}", &commit[..7.min(commit.len())]),
        None => named,
    };
    let mark = |print: String, of: &Path| Some(Mark { print, of: of.display().to_string() });
    // Rows that are tokens need none: what is wrong with it is said where it is used.
    let tokenizer = fingerprint::tokenizer(dir).unwrap_or_default();
    let of = |mark: &dyn Fn(fingerprint::Tokenizer) -> Option<Mark>| tokenizer.clone().and_then(mark);
    let mut made = MadeWith {
        weights: mark(fingerprint::weights(model, Extent::Samples), Path::new(&named)),
        shape: mark(fingerprint::shape(&model.config), Path::new(&named)),
        tokenizer: of(&|t| mark(t.vocabulary, &t.file)),
        special_tokens: of(&|t| mark(t.special_tokens, &t.special_file)),
        chat_template: of(&|t| mark(t.chat_template?, &t.template_file)),
        end_tokens: of(&|t| mark(t.end_tokens?, &t.end_file)),
        rows: args.data.name(data),
        eval_rows: match eval {
            Held::None => "none".to_owned(),
            Held::File(file) => file.display().to_string(),
            Held::Share(share, _) => format!("--eval-split {share} of {}", args.data.name(data)),
        },
        reading: reading(&args.data, options, eval),
        ..MadeWith::default()
    };
    let was = resume.map(checkpoint::made_with).transpose()?.flatten();
    if args.run.verify {
        let print = fingerprint::weights(model, Extent::All);
        ui::note(format!("{named}: every byte of the weights read, fingerprint {print}"));
        made.all_weights = mark(print, Path::new(&named));
    } else if let Some(was) = &was {
        // Later checkpoints have it too.
        made.all_weights.clone_from(&was.all_weights);
    }
    if was.is_some_and(|was| !was.same_tokenizer(&made)) {
        for file in [Some(data), eval.file()].into_iter().flatten() {
            made.from_text |= is_text(file, options)?;
        }
    }
    Ok(made)
}

/// Options that say which tokens rows become, as they are typed.
fn reading(args: &DataArgs, options: &ReadOptions, eval: &Held) -> Vec<(String, String)> {
    let length = options.max_seq_len.map_or_else(|| "none".to_owned(), |n| n.to_string());
    let share = if let Held::Share(share, _) = eval { share.to_string() } else { "none".to_owned() };
    let columns = if options.columns.is_empty() { "none".to_owned() } else { options.columns.to_string() };
    let list = [
        ("--max-seq-len", length),
        ("--long-rows", value_name(args.long_rows)),
        ("--prompt-style", value_name(args.prompt_style)),
        ("--train-on", if args.train_on_prompt { "all".to_owned() } else { value_name(args.train_on) }),
        ("--no-eos", (!options.append_eos).to_string()),
        ("--columns", columns),
        ("--eval-split", share),
    ];
    list.map(|(name, value)| (name.to_owned(), value)).into()
}

/// A choice as it is typed.
fn value_name(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

/// Whether rows are made into tokens with a tokenizer.
fn is_text(data: &Path, options: &ReadOptions) -> Result<bool> {
    if data.is_file() {
        let mut start = Vec::new();
        let file = File::open(data).map_err(|e| FileError::io("open", data, e))?;
        file.take(8).read_to_end(&mut start).map_err(|e| FileError::io("read", data, e))?;
        if token_file::is_token_file(&start) {
            return Ok(false);
        }
    }
    Ok(FileRows::needs_tokenizer(data, options)?)
}

/// What the run that made an adapter says of its base, if a run of this program did and its folder is whole.
fn trained_on(adapter: &Path) -> Option<Value> {
    let run: Value = serde_json::from_slice(&std::fs::read(adapter.join(run_files::DOCUMENT)).ok()?).ok()?;
    run["model"]["fingerprint"]["weights"].is_string().then(|| run["model"].clone())
}

/// Says where an adapter is used on another base than it was trained on. A base that is stored in another type is
/// another on purpose, and one that is held in another cannot be compared.
pub(crate) fn note_other_base(adapter: Option<&Path>, (model, stored): (&ModelWeights, Dtype), dir: &Path) {
    let Some((adapter, base)) = adapter.and_then(|adapter| Some((adapter, trained_on(adapter)?))) else {
        return;
    };
    let held = model.blocks.iter().flat_map(|b| &b.linears).any(|linear| linear.weight.dtype() == stored);
    if !held || base["stored"].as_str() != Some(stored.name()) {
        return;
    }
    let (was, is) = (base["fingerprint"]["weights"].as_str(), fingerprint::weights(model, Extent::Samples));
    if let Some(was) = was.filter(|was| *was != is) {
        ui::note(format!(
            "{}: the adapter was trained on base weights {was} ({}), and those of {} are {is}: it is made for others",
            adapter.display(),
            base["path"].as_str().unwrap_or("unknown"),
            dir.display()
        ));
    }
}

/// The same for a model that is not opened otherwise.
pub(crate) fn note_base_of(adapter: &Path, dir: &Path) -> Result<()> {
    if trained_on(adapter).is_some() {
        let loaded = inputs::load_model(dir, Base::Mapped)?;
        note_other_base(Some(adapter), (loaded.weights(), loaded.dtype()), dir);
    }
    Ok(())
}

/// The fingerprints of a run's model and rows, for its documents.
pub(crate) fn json(run: &RunConfig) -> (Value, Value) {
    let made = &run.made_with;
    let print = |mark: &Option<Mark>| mark.as_ref().map(|mark| mark.print.clone());
    let model = json!({
        "weights": print(&made.weights),
        "all_weights": print(&made.all_weights),
        "shape": print(&made.shape),
        "tokenizer": print(&made.tokenizer),
        "special_tokens": print(&made.special_tokens),
        "chat_template": print(&made.chat_template),
        "end_tokens": print(&made.end_tokens),
    });
    let rows = json!({
        "data": run.identity.get(checkpoint::DATA),
        "eval_data": run.identity.get(checkpoint::EVAL_DATA),
    });
    (model, rows)
}
