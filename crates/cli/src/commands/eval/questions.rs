//! Answers to questions: choices by likelihood, texts by comparison.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use mesp::Model;
use mesp::data::{ChatFormat, Example};
use mesp::source::Base;
use mesp::task::choice::{Picks, Spelling as Choices};
use mesp::task::exact::judge;
use mesp::task::{Answer, Item, Task, standard_error};
use mesp::train::ObjectiveKind;
use mesp_device::{Real, Threads};
use serde_json::{Map, Value, json};

use super::{Scorer, models, report, without_adapter};
use crate::args::EvalArgs;
use crate::commands::generation::{Language, Request, Spelling, greedy, note_of_context, room};
use crate::failure::usage;
use crate::inputs;
use crate::outputs;
use crate::progress::Counter;
use crate::{made_with, ui};
use mesp::settings::{Numbers, held, threads};

/// Tokens of an answer, unless told otherwise.
const ANSWER: usize = 256;

/// What one model said to all questions: a line for each, and shares by their names.
struct Outcome<'a> {
    adapter: Option<&'a Path>,
    lines: Vec<Value>,
    shares: Vec<Share>,
}

/// How many of some questions were answered rightly.
struct Share {
    name: &'static str,
    right: usize,
    of: usize,
}

impl Share {
    fn value(&self) -> f64 {
        self.right as f64 / self.of as f64
    }
}

pub(super) fn run<R: Real>(args: &EvalArgs, file: &Path) -> Result<()> {
    let task = Task::read(file, args.task.extract.as_deref())?;
    if args.task.max_tokens == Some(0) {
        return Err(usage("--max-tokens is 0, expected 1 or more", "leave it out for 256"));
    }
    let dir = inputs::model_path(&args.model)?;
    let pool = threads(args.shared.threads)?;
    let base = Base::parse(&args.model.base)?;
    let loaded = inputs::load_model(dir, base)?;
    let numbers = Numbers::new(args.compute, held(base, loaded.dtype()));
    let language = Language::open(dir, loaded.config().vocab_size)?;
    let choices = choice_rows(&task, &language, args.task.chat, loaded.config().vocab_size)?;
    inputs::warn_of_length(&choices, loaded.config())?;
    let objective = ObjectiveKind::Sft;
    let scorer = Scorer {
        base: without_adapter(loaded.weights(), numbers, &pool),
        batch_size: args.batch_size,
        objective,
    };
    let mut outcomes = Vec::new();
    for adapter in models(args) {
        made_with::note_other_base(adapter, (loaded.weights(), loaded.dtype()), dir);
        let likelihoods = if choices.is_empty() {
            Vec::new()
        } else {
            let (total, scores) = scorer.score::<R>(adapter, &choices)?;
            if !total.nats.is_finite() {
                bail!("a likelihood is no number: the model or the adapter holds values that are no numbers");
            }
            scores.iter().map(|score| -score.nats).collect()
        };
        let texts = answers(args, &task, &loaded, &language, adapter, &pool)?;
        outcomes.push(outcome(adapter, &task, &likelihoods, &texts));
    }
    if let Some(path) = &args.per_row {
        report::write_lines(path, outcomes.iter().flat_map(|outcome| outcome.lines.iter().cloned().map(Ok)))?;
    }
    if args.shared.json {
        return ui::json(&document(&task, &outcomes));
    }
    ui::result(
        args.per_row.as_deref().is_some_and(outputs::is_standard),
        &ui::table(&table(&task, &outcomes)),
    )
}

/// A row for each choice of each question.
fn choice_rows(task: &Task, language: &Language, chat: bool, vocab_size: usize) -> Result<Vec<Example>> {
    let format: Option<&ChatFormat> = chat.then(|| language.chat());
    let spelling = Choices { encoder: &language.encoder, chat: format, vocab_size };
    let mut rows = Vec::new();
    for item in &task.items {
        if let Answer::Choice { choices, .. } = &item.answer {
            for choice in choices {
                let row = spelling.row(&item.prompt, choice, &task.path, item.line);
                rows.push(row.map_err(|e| task.error(item, e))?);
            }
        }
    }
    Ok(rows)
}

/// The likeliest answers to the questions without choices.
fn answers(
    args: &EvalArgs,
    task: &Task,
    loaded: &Model,
    language: &Language,
    adapter: Option<&Path>,
    pool: &Arc<Threads>,
) -> Result<Vec<String>> {
    let asked: Vec<&Item> =
        task.items.iter().filter(|item| matches!(item.answer, Answer::Text { .. })).collect();
    let spelling = if args.task.chat { Spelling::Chat } else { Spelling::Raw };
    let prompt = |item: &&Item| language.prompt(&item.prompt, spelling, None);
    let prompts = asked.iter().map(prompt).collect::<Result<Vec<_>>>()?;
    let Some(longest) = prompts.iter().map(Vec::len).max() else { return Ok(Vec::new()) };
    let max_tokens = args.task.max_tokens.unwrap_or(ANSWER);
    note_of_context(longest, max_tokens, loaded.config());
    let numbers = Numbers::single(args.compute, held(Base::parse(&args.model.base)?, loaded.dtype()))?;
    let mut generator =
        loaded.generator(adapter, 1.0, room(longest, max_tokens, loaded.config()), numbers, pool)?;
    let stops = language.stops(loaded.end_tokens());
    let mut counter = Counter::new("answering", prompts.len() as u64);
    let mut texts = Vec::new();
    for prompt in &prompts {
        let request = Request { prompt, max_tokens, stops: &stops, texts: &args.task.stop };
        texts.push(greedy(&mut generator, language, &request)?.text);
        counter.at(texts.len() as u64);
    }
    Ok(texts)
}

/// Judges likelihoods and texts, both in the questions' order.
fn outcome<'a>(
    adapter: Option<&'a Path>,
    task: &Task,
    mut likelihoods: &[f64],
    mut texts: &[String],
) -> Outcome<'a> {
    let names = ["acc", "acc_norm", "acc_bytes", "exact_match"];
    let mut shares = names.map(|name| Share { name, right: 0, of: 0 });
    let mut lines = Vec::new();
    for (row, item) in task.items.iter().enumerate() {
        let mut line = json!({
            "row": row,
            "file": task.path.display().to_string(),
            "line": item.line,
            "adapter": report::path(adapter),
        });
        match &item.answer {
            Answer::Choice { choices, right } => {
                let (these, rest) = likelihoods.split_at(choices.len());
                likelihoods = rest;
                let picks = Picks::new(choices, these);
                for (share, pick) in shares.iter_mut().zip([picks.sum, picks.characters, picks.bytes]) {
                    share.of += 1;
                    share.right += usize::from(pick == *right);
                }
                line["loglikelihoods"] = json!(these);
                line["answer"] = json!(right);
                line["acc"] = json!(picks.sum == *right);
                line["acc_norm"] = json!(picks.characters == *right);
                line["acc_bytes"] = json!(picks.bytes == *right);
            }
            Answer::Text { texts: right, extract } => {
                let Some((text, rest)) = texts.split_first() else { continue };
                texts = rest;
                let (part, agrees) = judge(text, right, extract.as_ref());
                shares[3].of += 1;
                shares[3].right += usize::from(agrees);
                line["text"] = json!(text);
                line["extracted"] = json!(part);
                line["answer"] = json!(right);
                line["exact_match"] = json!(agrees);
            }
        }
        lines.push(line);
    }
    Outcome { adapter, lines, shares: shares.into_iter().filter(|share| share.of > 0).collect() }
}

fn table(task: &Task, outcomes: &[Outcome<'_>]) -> Vec<Vec<String>> {
    let mut table = Vec::new();
    if let [_, _, ..] = outcomes {
        let names = report::names(&outcomes.iter().map(|o| o.adapter).collect::<Vec<_>>());
        table.push(report::line("", &names, String::clone));
    }
    for (at, share) in
        outcomes.iter().flat_map(|o| o.shares.iter().enumerate()).take(outcomes[0].shares.len())
    {
        table.push(report::line(share.name, outcomes, |o| {
            let share = &o.shares[at];
            let error = standard_error(share.value(), share.of);
            let error = error.map_or_else(String::new, |e| format!(" ±{:.2}", 100.0 * e));
            format!("{:.2}%{error}", 100.0 * share.value())
        }));
    }
    table.push(report::line("questions", outcomes, |_| task.items.len().to_string()));
    table
}

fn document(task: &Task, outcomes: &[Outcome<'_>]) -> Value {
    let one = |o: &Outcome<'_>| {
        let mut fields = Map::new();
        fields.insert("adapter".to_owned(), report::path(o.adapter));
        for share in &o.shares {
            fields.insert(share.name.to_owned(), json!(share.value()));
            fields.insert(format!("{}_stderr", share.name), json!(standard_error(share.value(), share.of)));
        }
        fields.insert("rows".to_owned(), json!(o.lines));
        Value::Object(fields)
    };
    json!({
        "task": task.path.display().to_string(),
        "questions": task.items.len(),
        "models": outcomes.iter().map(one).collect::<Vec<_>>(),
    })
}
