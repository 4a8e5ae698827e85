//! Losses of rows.

use std::path::Path;

use anyhow::{Result, bail};
use mesp::data::{BatchSize, Examples};
use mesp::preference::{Metrics, Preference};
use mesp::settings::Reference;
use mesp::source::Base;
use mesp::train::Score;
use mesp::{Evaluator, ReferenceModel};
use mesp_device::Real;
use serde_json::{Value, json};

use super::{Scorer, models, report, without_adapter};
use crate::args::EvalArgs;
use crate::failure::usage;
use crate::inputs::{self, Held};
use crate::outputs;
use crate::progress::reference_progress;
use crate::sizes::count;
use crate::{made_with, ui};
use mesp::settings::{Numbers, held, threads};

/// What the rows came to with one model.
struct Outcome<'a> {
    adapter: Option<&'a Path>,
    total: Score,
    rows: Vec<Score>,
}

pub(super) fn run<R: Real>(args: &EvalArgs) -> Result<()> {
    let dir = inputs::model_path(&args.model)?;
    let data = &inputs::held_out(inputs::data_file(&args.data)?)?;
    let pool = threads(args.shared.threads)?;
    let base = Base::parse(&args.model.base)?;
    let loaded = inputs::load_model(dir, base)?;
    let (model, dtype) = (loaded.weights(), loaded.dtype());
    let numbers = Numbers::new(args.compute, held(base, dtype));
    let (objective, reference) = args.objective.resolve()?;
    let options = args.objective.reading(args.data.read_options(&model.config, false));
    let rows = inputs::read_rows(dir, data, &Held::None, &options, None)?.train;
    objective.check_form(&*rows)?;
    inputs::warn_of_length(&*rows, &model.config)?;
    let adapter = match &reference {
        Reference::Start => {
            let problem = "--reference start is what a run began with, and nothing is trained here";
            return Err(usage(problem, "give --reference base, or the folder of that adapter"));
        }
        Reference::Adapter(path) => Some(path.as_path()),
        Reference::Base | Reference::None => None,
    };
    let rows = if objective.preference().is_some_and(Preference::has_reference) {
        let temporary = std::env::temp_dir();
        let size = BatchSize::rows(args.batch_size);
        let model = Evaluator { adapter, ..without_adapter(model, numbers, &pool) };
        let reference = ReferenceModel { model, size, cache: None, beside: &temporary };
        reference.rows::<R>(rows, None, &mut reference_progress())?
    } else {
        rows
    };

    let scorer =
        Scorer { base: without_adapter(model, numbers, &pool), batch_size: args.batch_size, objective };
    let mut outcomes = Vec::new();
    for adapter in models(args) {
        made_with::note_other_base(adapter, (model, dtype), dir);
        let (total, scores) = scorer.score::<R>(adapter, &*rows)?;
        if !total.loss().is_finite() {
            let with = adapter.map_or_else(String::new, |dir| format!(" with {}", dir.display()));
            bail!(
                "the loss{with} is {}: the model or the adapter holds values that are no numbers",
                total.loss()
            );
        }
        outcomes.push(Outcome { adapter, total, rows: scores });
    }
    if let Some(path) = &args.per_row {
        report::write_lines(path, outcomes.iter().flat_map(|outcome| lines(outcome, &*rows)))?;
    }
    if args.shared.json {
        return ui::json(&document(&outcomes));
    }
    ui::result(
        args.per_row.as_deref().is_some_and(outputs::is_standard),
        &ui::table(&table(&outcomes, rows.count())),
    )
}

/// A line a row for `--per-row`.
fn lines<'a>(outcome: &'a Outcome<'_>, rows: &'a dyn Examples) -> impl Iterator<Item = Result<Value>> + 'a {
    outcome.rows.iter().enumerate().map(|(index, score)| {
        let (row, some) = (rows.read(index)?, score.targets > 0);
        Ok(json!({
            "row": index,
            "file": row.origin.path.display().to_string(),
            "line": row.origin.line,
            "adapter": report::path(outcome.adapter),
            "loss": some.then(|| score.loss()),
            "accuracy": some.then(|| score.accuracy()),
            "target_tokens": score.targets,
            "tokens": row.tokens.len(),
            "preference": metrics(score),
        }))
    })
}

/// Rewards and log-probabilities; none of rows for the next-token loss.
fn metrics(score: &Score) -> Option<Metrics> {
    score.preferences.as_ref().map(mesp::preference::Score::metrics)
}

/// A value of the table, by its place among those of a preference loss.
fn shown(outcome: &Outcome<'_>, at: usize) -> String {
    let value = metrics(&outcome.total).and_then(|metrics| metrics.named()[at].1);
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

fn table(outcomes: &[Outcome<'_>], rows: usize) -> Vec<Vec<String>> {
    let mut table = Vec::new();
    if let [_, _, ..] = outcomes {
        let names = report::names(&outcomes.iter().map(|o| o.adapter).collect::<Vec<_>>());
        table.push(report::line("", &names, String::clone));
    }
    table.push(report::line("loss", outcomes, |o| format!("{:.4}", o.total.loss())));
    if outcomes.iter().all(|o| o.total.preferences.is_some()) {
        for (at, (name, _)) in Metrics::default().named().into_iter().enumerate() {
            table.push(report::line(name, outcomes, |o| shown(o, at)));
        }
    } else {
        table.push(report::line("perplexity", outcomes, |o| format!("{:.3}", o.total.loss().exp())));
    }
    table.push(report::line("accuracy", outcomes, |o| format!("{:.2}%", 100.0 * o.total.accuracy())));
    table.push(report::line("target tokens", outcomes, |o| count(o.total.targets as u64)));
    table.push(report::line("rows", outcomes, |_| rows.to_string()));
    table
}

/// One model as it stands, several as a list.
fn document(outcomes: &[Outcome<'_>]) -> Value {
    let row = |s: &Score| json!({ "loss": (s.targets > 0).then(|| s.loss()), "target_tokens": s.targets });
    let one = |o: &Outcome<'_>| {
        let preference = metrics(&o.total);
        json!({
            "loss": o.total.loss(),
            "perplexity": preference.is_none().then(|| o.total.loss().exp()),
            "preference": preference,
            "accuracy": o.total.accuracy(),
            "target_tokens": o.total.targets,
            "rows": o.rows.iter().map(row).collect::<Vec<_>>(),
        })
    };
    if let [outcome] = outcomes {
        return one(outcome);
    }
    let named = |o: &Outcome<'_>| {
        let mut document = json!({ "adapter": report::path(o.adapter) });
        if let (Value::Object(named), Value::Object(fields)) = (&mut document, one(o)) {
            named.extend(fields);
        }
        document
    };
    json!({ "models": outcomes.iter().map(named).collect::<Vec<_>>() })
}
