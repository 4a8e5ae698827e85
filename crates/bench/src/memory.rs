//! `mesp bench memory`.

use std::fs;
use std::io::Write;

use anyhow::{Result, bail};
use mesp_console::failure::usage;
use mesp_console::outputs::{self, Inputs};
use mesp_console::sizes::{bytes, duration};
use mesp_console::ui;
use mesp_formats::Error as FileError;
use mesp_formats::atomic::{create_dir_all, write_atomic};

use super::parts::{self, Setup, Table};
use super::runner::{Outcomes, Runner};
use super::{chart, machine, report};
use crate::args::BenchMemoryArgs;

pub(super) fn run(args: &BenchMemoryArgs) -> Result<()> {
    let tables = parts::tables(args)?;
    let steps = args.steps.unwrap_or(if args.quick { 1 } else { 4 });
    if steps == 0 {
        return Err(usage("--steps is 0, expected 1 or more", "with --plan-only nothing is run"));
    }
    let name = machine::name(args.results.name.as_deref())?;
    outputs::files(
        &args.results.output,
        &[&format!("memory-{name}.json"), &format!("memory-{name}.svg")],
        &Inputs::default(),
        args.results.replace.overwrite,
    )?;
    create_dir_all(&args.results.output)?;
    let outcomes = measure(args, &tables, steps)?;

    let document = report::json(args, &tables, &outcomes, steps);
    let results = args.results.output.join(format!("memory-{name}.json"));
    write_atomic(&results, |out| writeln!(out, "{document:#}"))?;
    let picture = args.results.output.join(format!("memory-{name}.svg"));
    fs::write(&picture, chart::bars(&tables, &outcomes)).map_err(|e| FileError::io("write", &picture, e))?;
    ui::result(args.shared.json, &report::text(&tables, &outcomes, steps))?;
    if args.shared.json {
        ui::json(&document)?;
    }
    ui::note(format!("results: {} and {}", results.display(), picture.display()));
    let failed = outcomes.iter().filter(|(_, figures)| figures.is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} configurations failed; the results say why", outcomes.0.len());
    }
    Ok(())
}

/// Every configuration once.
fn measure(args: &BenchMemoryArgs, tables: &[Table], steps: usize) -> Result<Outcomes> {
    let mut runner = Runner::new(args, steps)?;
    let mut outcomes = Outcomes(Vec::new());
    for setup in tables.iter().flat_map(|t| &t.rows) {
        if outcomes.get(setup).is_some() {
            continue;
        }
        let figures = runner.figures(setup).map_err(|e| format!("{e:#}"));
        let Setup { model, tokens, rank, rung } = setup;
        let said = match &figures {
            Ok(f) if f.measured => {
                let step = f.step_seconds.map(|s| format!(", {} a step", duration(s))).unwrap_or_default();
                format!("anonymous {}, planned {}{step}", bytes(f.compared()), bytes(f.planned))
            }
            Ok(f) => format!("planned {}", bytes(f.planned)),
            Err(why) => why.clone(),
        };
        ui::note(format!("{model}, {tokens} tokens, rank {rank}, {}: {said}", rung.name()));
        outcomes.0.push((setup.clone(), figures));
    }
    Ok(outcomes)
}
