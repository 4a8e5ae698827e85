//! `mesp train --dry-run`: everything up to the first step, and nothing written.

use anyhow::Result;
use mesp::data::Batches;
use mesp::tape::SavedAs;
use serde_json::json;

use super::train::job::{Job, Ready, prepare, start};
use crate::sizes::{bytes, count};
use crate::ui;

pub(crate) fn run(job: Job<'_>) -> Result<()> {
    let Job { args, settings, model: dir, data, eval, dir: output, held, .. } = job;
    let ready = prepare(args, settings, (dir, data, &eval), (None, output.resume.as_deref()), held)?;
    let Ready { settings, pool, model, rows, work, mut footprint, numbers, about, counts, budget, .. } =
        ready;
    let (planned, anonymous) = (footprint.planned(), footprint.anonymous);
    let ledger = crate::run_json::ledger_json(&footprint);
    // A file of checkpoints would be written to; then nothing is allocated either.
    let spills = settings.options.policy.inputs() == SavedAs::File;
    let mut from = 0;
    if !spills {
        let plan = std::mem::take(&mut footprint.plan);
        let mut session = settings.session::<f32>(&model, &work, plan, numbers, (&pool, &output.path))?;
        let adapter = args.adapter.adapter.as_deref();
        from = start(&mut session, adapter, &settings, output.resume.as_deref())?.step;
    }
    let mut batches = Batches::new(&*rows.train, settings.run.micro_batch(), settings.run.seed)?;
    let (steps, _) = settings.run.steps(&mut batches)?;
    if args.shared.json {
        let mut document = about;
        document.insert("dry_run".to_owned(), true.into());
        document.insert("data_counts".to_owned(), counts);
        document.insert("from_step".to_owned(), from.into());
        document.insert("steps".to_owned(), steps.into());
        let memory = json!({
            "planned_bytes": planned,
            "anonymous_planned_bytes": anonymous,
            "budget_bytes": budget,
            "ledger": ledger,
        });
        document.insert("memory".to_owned(), memory);
        return ui::json(&document.into());
    }
    let number = |key: &str| count(counts[key].as_u64().unwrap_or(0));
    let held_out = match counts["eval_rows"].as_u64() {
        Some(0) | None => "none held out".to_owned(),
        Some(_) => format!("{} held out", number("eval_rows")),
    };
    ui::print(&format!(
        "rows: {}, {} tokens, {} of them trained; {held_out}\nsteps: {from} to {steps}\nmemory: {} planned\nthis was a dry run: nothing was trained or written\n",
        number("rows"),
        number("tokens"),
        number("target_tokens"),
        bytes(planned),
    ))
}
