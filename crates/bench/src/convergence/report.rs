//! The contest as JSON and as tables.

use std::fmt::Write as _;

use mesp_console::sizes::{bytes, count, duration};
use mesp_console::ui;
use serde_json::{Value, json};

use super::super::machine;
use super::trial::{Point, Trial};
use super::{Contest, Entry};
use crate::args::BenchConvergenceArgs;

const DEFINITIONS: [(&str, &str); 6] = [
    ("loss", "mean of the held-out rows' target tokens, in nats"),
    (
        "tokens",
        "tokens of the rows of all steps until then, each counted once however often a step computes with it",
    ),
    ("seconds", "sum of the steps' times until then; evaluations are not counted"),
    ("multiply-adds", "steps times the work of a step of the largest batch"),
    (
        "rate",
        "the learning rate, constant after 3% of the steps: the one with the lowest held-out loss of those tried; for estimates that after a tenth of their steps or the next lower one, whichever ends lower",
    ),
    (
        "reaches",
        "the first evaluation whose loss is at or below a share of the first method's fall; >N: not within N steps",
    ),
];

/// The document of a results file.
pub(super) fn json(args: &BenchConvergenceArgs, contest: &Contest) -> Value {
    machine::document(
        "convergence",
        json!({
            "settings": {
                "model": machine::file_name(args.model.as_deref()).unwrap_or_else(|| "built-in".to_owned()),
                "data": machine::file_name(args.data.as_deref()).unwrap_or_else(|| "built-in".to_owned()),
                "eval_split": args.eval_split,
                "batch_size": args.batch_size,
                "max_seq_len": args.max_seq_len,
                "rank": args.rank,
                "seed": args.seed,
                "steps": args.steps,
                "factor": args.factor,
                "lr_schedule": "constant",
            },
            "definitions": machine::definitions(&DEFINITIONS),
            "levels": contest.levels.iter().map(|l| json!({ "share": l.share, "loss": l.loss })).collect::<Vec<_>>(),
            "methods": contest.entries.iter().map(|e| entry(e, contest)).collect::<Vec<_>>(),
        }),
    )
}

fn entry(entry: &Entry, contest: &Contest) -> Value {
    let Entry { who, best, tried, .. } = entry;
    let reached = contest.levels.iter().map(|l| best.reaches(l.loss).map(|p| point(best, p)));
    json!({
        "name": who.name,
        "options": who.options,
        "estimate": who.estimate,
        "learning_rate": best.rate,
        "tried": tried
            .iter()
            .map(|t| json!({ "learning_rate": t.rate, "steps": t.steps, "loss": t.lowest, "last_loss": t.last }))
            .collect::<Vec<_>>(),
        "parameters": best.parameters,
        "steps": best.steps,
        "step_seconds": best.step_seconds,
        "multiply_adds_per_step": best.multiply_adds,
        "planned_bytes": best.planned,
        "rss_anon_peak_bytes": best.anonymous,
        "best_loss": best.best(),
        "points": best.points.iter().map(|p| point(best, *p)).collect::<Vec<_>>(),
        "reached": reached.collect::<Vec<_>>(),
    })
}

fn point(trial: &Trial, p: Point) -> Value {
    json!({
        "step": p.step,
        "loss": p.loss,
        "tokens": p.tokens,
        "seconds": (p.seconds * 1e3).round() / 1e3,
        "multiply_adds": p.step as u64 * trial.multiply_adds,
    })
}

/// Tables for people.
pub(super) fn text(contest: &Contest) -> String {
    let mut text = String::from("Runs\n");
    text.push_str(&ui::table(&runs(contest)));
    for level in &contest.levels {
        let _ = writeln!(
            text,
            "\nA held-out loss of {:.4}, {:.0}% of the fall of {}",
            level.loss,
            100.0 * level.share,
            contest.entries[0].who.name
        );
        text.push_str(&ui::table(&reached(contest, level.loss)));
    }
    text.push('\n');
    for (name, definition) in DEFINITIONS {
        let _ = writeln!(text, "{name}: {definition}");
    }
    text
}

fn runs(contest: &Contest) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["", "rate", "steps", "loss before", "lowest", "last", "s/step", "multiply-adds/step", "anonymous"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let runs = contest.entries.iter().flat_map(|e| {
        let other = e.other.iter().map(|other| (format!("{}, also", e.who.name), other));
        std::iter::once((e.who.name.clone(), &e.best)).chain(other)
    });
    let loss = |loss: Option<f64>| loss.map_or_else(String::new, |l| format!("{l:.4}"));
    for (name, run) in runs {
        rows.push(vec![
            name,
            run.rate.to_string(),
            run.steps.to_string(),
            loss(run.points.first().map(|p| p.loss)),
            loss(Some(run.best())),
            loss(run.points.last().map(|p| p.loss)),
            format!("{:.4}", run.step_seconds),
            count(run.multiply_adds),
            run.anonymous.map_or_else(|| "-".to_owned(), bytes),
        ]);
    }
    rows
}

/// What it took each to reach a loss, and the multiple of what it took the first.
fn reached(contest: &Contest, loss: f64) -> Vec<Vec<String>> {
    let mut rows = vec![["", "steps", "tokens", "time", "multiply-adds"].map(str::to_owned).to_vec()];
    let costs = |trial: &Trial, p: Point| {
        [p.step as f64, p.tokens as f64, p.seconds, p.step as f64 * trial.multiply_adds as f64]
    };
    let first = &contest.entries[0].best;
    let reference = first.reaches(loss).map(|p| costs(first, p));
    for Entry { who, best, .. } in &contest.entries {
        let Some(p) = best.reaches(loss) else {
            rows.push(vec![who.name.clone(), format!(">{}", best.steps)]);
            continue;
        };
        let mine = costs(best, p);
        let times = |i: usize| match reference {
            Some(r) if r[i] > 0.0 && best.points != first.points => format!(" ({:.1}x)", mine[i] / r[i]),
            _ => String::new(),
        };
        rows.push(vec![
            who.name.clone(),
            format!("{}{}", p.step, times(0)),
            format!("{}{}", count(p.tokens), times(1)),
            format!("{}{}", duration(p.seconds), times(2)),
            format!("{}{}", count(mine[3] as u64), times(3)),
        ]);
    }
    rows
}
