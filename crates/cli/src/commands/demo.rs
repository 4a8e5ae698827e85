//! `mesp train` without a model and without data: a small model that learns to talk like an old sea captain, or with
//! `--objective preference` to prefer friendly answers.
//! `assets/demo/README.md` says where model and rows come from.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use mesp::source::Base;
use mesp_formats::atomic::{create_dir_all, remove_leftovers_of, write_atomic};
use mesp_formats::regular;
use serde_json::Value;

use super::generation::{Language, Request, Spelling, greedy};
use super::train::job::{Job, train};
use crate::args::CommonArgs;
use crate::chart;
use crate::inputs::{self, Held};
use crate::memory;
use crate::run_dir::RunDir;
use crate::run_files;
use crate::run_json;
use crate::settings::setup;
use crate::ui;
use mesp::settings::{Numbers, threads};

/// The files, by their names in the demo's folder.
const FILES: [(&str, &[u8]); 9] = [
    ("model/config.json", include_bytes!("../../../../assets/demo/model/config.json")),
    ("model/generation_config.json", include_bytes!("../../../../assets/demo/model/generation_config.json")),
    ("model/model.safetensors", include_bytes!("../../../../assets/demo/model/model.safetensors")),
    ("model/tokenizer.json", include_bytes!("../../../../assets/demo/model/tokenizer.json")),
    ("model/tokenizer_config.json", include_bytes!("../../../../assets/demo/model/tokenizer_config.json")),
    ("train.jsonl", include_bytes!("../../../../assets/demo/train.jsonl")),
    ("eval.jsonl", include_bytes!("../../../../assets/demo/eval.jsonl")),
    ("preference_train.jsonl", include_bytes!("../../../../assets/demo/preference_train.jsonl")),
    ("preference_eval.jsonl", include_bytes!("../../../../assets/demo/preference_eval.jsonl")),
];

/// Where they are put in the run directory, so that the model can be used afterwards.
const FOLDER: &str = "demo";

/// Questions that the training rows do not contain.
const PROMPTS: [&str; 3] = ["What do you know about the wolf?", "How do I make tea?", "Who is Lina?"];

/// Tokens of an answer at most.
const ANSWER: usize = 80;

pub(crate) fn run(common: &CommonArgs, started: Instant) -> Result<()> {
    let args = with_defaults(common);
    let read = args.reads(None, None);
    let dir = RunDir::take(&args, &read, is_demo)?;
    let folder = dir.path.join(FOLDER);
    let model = folder.join("model");
    let (what, files) = if args.objective.is_preference() {
        ("learns to prefer friendly answers", ["preference_train.jsonl", "preference_eval.jsonl"])
    } else {
        ("learns to talk like an old sea captain", ["train.jsonl", "eval.jsonl"])
    };
    let [data, eval] = files.map(|name| folder.join(name));
    let mut settings = setup(&args)?;
    settings.run.base_model = Some(model.display().to_string());
    let output = dir.path.clone();

    ui::note(format!("the built-in demo: a model of 1.3 million parameters {what}"));
    write_files(&folder)?;
    let json = args.shared.json;
    let before = answers(&args, &model, None)?;
    let mut text = "before\n".to_owned();
    for (prompt, answer) in PROMPTS.iter().zip(&before) {
        let _ = writeln!(text, "  {prompt}\n    {answer}");
    }
    ui::result(json, &format!("{text}\n"))?;
    let eval = Held::File(eval);
    let done = train(Job {
        args: &args,
        settings,
        model: &model,
        data: &data,
        eval,
        dir,
        started,
        held: memory::in_use(),
    })?;
    if done.summary.interrupted {
        return done.end(&args);
    }
    let mut text = format!("\nloss by step\n{}\nafter\n", chart::curve(&done.losses, ui::unicode()));
    let after = answers(&args, &model, Some(&output))?;
    for (prompt, answer) in PROMPTS.iter().zip(&after) {
        let _ = writeln!(text, "  {prompt}\n    {answer}");
    }
    let _ = write!(text, "\n{}", done.closing());
    let _ = writeln!(
        text,
        "ask it yourself: mesp generate --model {} --adapter {} --prompt \"What is a candle for?\"",
        model.display(),
        output.display()
    );
    ui::result(json, &text)?;
    done.end(&args)
}

/// Writes the built-in model into `model` of a folder, and its rows beside it.
pub(crate) fn write_files(folder: &Path) -> Result<()> {
    create_dir_all(&folder.join("model"))?;
    for (name, content) in FILES {
        remove_leftovers_of(&folder.join(name));
        write_atomic(&folder.join(name), |out| std::io::Write::write_all(out, content))?;
    }
    Ok(())
}

/// What the demo chooses where nothing was chosen.
fn with_defaults(common: &CommonArgs) -> CommonArgs {
    let mut args = common.clone();
    let s = &mut args.schedule;
    s.batch_size.get_or_insert(8);
    let preference = args.objective.is_preference();
    s.learning_rate.get_or_insert(if preference { 1e-3 } else { 3e-3 });
    s.lr_schedule.get_or_insert_with(|| "linear".to_owned());
    s.warmup_ratio.get_or_insert(0.06);
    if s.epochs.is_none() {
        s.steps.get_or_insert(if preference { 40 } else { 80 });
    }
    // A share of the likelihood keeps so small a model from forgetting what it says.
    if preference && args.objective.loss_type.unwrap_or_default().takes_rpo_alpha() {
        args.objective.rpo_alpha.get_or_insert(0.2);
    }
    args
}

/// Whether the run in a directory is an earlier demo, which may go without asking.
fn is_demo(dir: &Path) -> bool {
    let model = dir.join(FOLDER).join("model");
    let trained_on = || -> Option<bool> {
        let run: Value =
            serde_json::from_slice(&regular::read(&dir.join(run_files::DOCUMENT), run_json::LIMIT).ok()?)
                .ok()?;
        Some(run["model"]["path"].as_str()? == model.display().to_string())
    };
    model.is_dir() && trained_on().unwrap_or(!dir.join(run_files::DOCUMENT).exists())
}

/// What the model answers.
fn answers(args: &CommonArgs, model: &Path, adapter: Option<&Path>) -> Result<Vec<String>> {
    let loaded = inputs::load_model(model, Base::Mapped)?;
    let language = Language::open(model, loaded.config().vocab_size)?;
    let prompts =
        PROMPTS.iter().map(|p| language.prompt(p, Spelling::Auto, None)).collect::<Result<Vec<_>>>()?;
    let capacity = prompts.iter().map(Vec::len).max().unwrap_or(0) + ANSWER;
    let pool = threads(args.shared.threads)?;
    let numbers = Numbers::single(args.method.compute, loaded.dtype())?;
    let mut generator = loaded.generator(adapter, 1.0, capacity, numbers, &pool)?;
    let stops = language.stops(loaded.end_tokens());
    let mut said = Vec::new();
    for prompt in &prompts {
        let request = Request { prompt, max_tokens: ANSWER, stops: &stops, texts: &[] };
        let answer = greedy(&mut generator, &language, &request)?;
        said.push(answer.text.trim().to_owned());
    }
    Ok(said)
}
