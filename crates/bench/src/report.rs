//! The results as JSON and as tables, each figure with its definition.

use std::fmt::Write as _;

use mesp_console::sizes::bytes;
use mesp_console::ui;
use serde_json::{Value, json};

use super::parts::{Setup, Table, label};
use super::runner::{Figures, Outcomes};
use super::{machine, published};
use crate::args::BenchMemoryArgs;

/// What each figure is.
const DEFINITIONS: [(&str, &str); 6] = [
    (
        "planned",
        "every byte the engine will allocate, known before the run: the arena, weights held in memory, rows of tokens, the program's own tables",
    ),
    ("heap", "high-water mark of the counting allocator, from the program's start to its end"),
    (
        "anonymous",
        "highest RssAnon of the process, read after every step: memory that the system cannot drop, which is what phys_footprint charges",
    ),
    (
        "resident",
        "VmHWM of the process: anonymous memory, the program's text, and those pages of mapped weights that the system has not dropped",
    ),
    (
        "published",
        "the paper's MB: phys_footprint of an app on an iPhone 17 Pro, 4-bit base, sampled every 0.5 s and between steps, so not a peak; beside our rows the published MeSP; for mezo, and for Gemma, those of the MeBP paper on an iPhone 15 Pro Max",
    ),
    ("share", "anonymous (planned, where nothing was run) over published"),
];

/// The document of a results file.
pub(super) fn json(args: &BenchMemoryArgs, tables: &[Table], outcomes: &Outcomes, steps: usize) -> Value {
    let configurations: Vec<Value> =
        outcomes.iter().map(|(setup, figures)| configuration(setup, figures)).collect();
    let place = |setup: &Setup| outcomes.iter().position(|(s, _)| s == setup);
    let tables: Vec<Value> = tables
        .iter()
        .map(|t| {
            let rows: Vec<Option<usize>> = t.rows.iter().map(place).collect();
            json!({ "name": t.name, "title": t.title, "configurations": rows })
        })
        .collect();
    machine::document(
        "memory",
        json!({
            "settings": {
                "base_type": args.base_type,
                "weights": "random",
                "optimizer": "sgd",
                "batch_size": 1,
                "targets": "all-linear",
                "steps": steps,
                "update": "per-block for the mesp rungs, accumulate for the others, as in the released code",
            },
            "definitions": machine::definitions(&DEFINITIONS),
            "configurations": configurations,
            "tables": tables,
        }),
    )
}

fn configuration(setup: &Setup, figures: &Result<Figures, String>) -> Value {
    let mut value = json!({
        "model": setup.model,
        "tokens": setup.tokens,
        "rank": setup.rank,
        "rung": setup.rung.name(),
        "options": setup.rung.options(),
        "published_mb": published::beside(setup).map(|f| f.megabytes),
        "published_step_seconds": published::beside(setup).and_then(|f| f.seconds),
    });
    let more = match figures {
        Ok(f) => json!({
            "measured": f.measured,
            "planned_bytes": f.planned,
            "heap_peak_bytes": f.heap,
            "rss_anon_peak_bytes": f.anonymous,
            "rss_peak_bytes": f.resident,
            "budget_bytes": f.budget,
            "step_seconds": f.step_seconds,
            "details": f.details,
        }),
        Err(why) => json!({ "measured": false, "error": why }),
    };
    if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
        value.extend(more);
    }
    value
}

/// Tables for people.
pub(super) fn text(tables: &[Table], outcomes: &Outcomes, steps: usize) -> String {
    let mut text = String::new();
    let mut planned_only = false;
    for table in tables {
        let mut failures = Vec::new();
        let mut rows = vec![
            ["", "published", "anonymous", "share", "heap", "planned", "resident", "s/step"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for setup in &table.rows {
            let Some(outcome) = outcomes.get(setup) else { continue };
            match outcome {
                Ok(f) => planned_only |= !f.measured,
                Err(why) => failures.push(format!("{} failed: {why}\n", label(table, setup))),
            }
            rows.push(row(&label(table, setup), setup, outcome));
        }
        let _ = writeln!(text, "{}\n{}{}", table.title, ui::table(&rows), failures.concat());
    }
    for (name, definition) in DEFINITIONS {
        let _ = writeln!(text, "{name}: {definition}");
    }
    let count = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
    let _ = writeln!(
        text,
        "Each row ran in a process of its own: batch 1, SGD, {count} (the first reaches the peak). The mesp rows step each block as its gradients are finished; the others keep all gradients until the step, as the released code does. MB are 10⁶ bytes."
    );
    if planned_only {
        text.push_str(
            "Rows with ~ were not run: their share is of the plan, for mesp-least of the least budget.\n",
        );
    }
    text
}

fn row(label: &str, setup: &Setup, outcome: &Result<Figures, String>) -> Vec<String> {
    let beside = published::beside(setup);
    let published = beside.map_or_else(|| "-".to_owned(), |f| format!("{:.1} MB", f.megabytes));
    let size = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), bytes);
    match outcome {
        Ok(f) => {
            let share = beside.map_or_else(
                || "-".to_owned(),
                |p| {
                    format!(
                        "{}{:.2}",
                        if f.measured { "" } else { "~" },
                        f.compared() as f64 / 1e6 / p.megabytes
                    )
                },
            );
            let seconds = f.step_seconds.map_or_else(|| "-".to_owned(), |s| format!("{s:.2}"));
            let sizes = [f.heap, Some(f.planned), f.resident].map(size);
            let mut row = vec![label.to_owned(), published, size(f.anonymous), share];
            row.extend(sizes);
            row.push(seconds);
            row
        }
        Err(_) => vec![label.to_owned(), published, "failed".to_owned()],
    }
}
