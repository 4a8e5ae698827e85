//! `mesp report`: the page with its data inside, one file that needs nothing else.

use std::time::Duration;

use anyhow::Result;
use mesp_formats::atomic::write_atomic;
use serde_json::json;

use super::store::{Cursor, Store};
use super::{page, roots, runs_json};
use crate::args::ReportArgs;
use crate::failure::usage;
use crate::outputs::{self, Inputs};
use crate::sizes::bytes;
use crate::{metrics, run_files, ui};

/// The file's name in the first folder, unless told otherwise.
const FILE: &str = "report.html";

pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    let roots = roots(&args.runs)?;
    let output = args.output.clone().unwrap_or_else(|| roots[0].join(FILE));
    let looked: Vec<String> = roots.iter().map(|r| r.display().to_string()).collect();
    let mut read = Inputs::default();
    for root in &roots {
        read = read.adapter("RUN", root.as_path()).file("RUN", root.join(run_files::DOCUMENT).as_path());
        read = read.file("RUN", root.join(metrics::FILE).as_path());
    }
    outputs::file(&output, &read, args.replace.overwrite)?;
    let store = Store::new(roots);
    let watches = store.scan();
    let runs = store.runs();
    if runs.is_empty() {
        let problem = format!("{}: expected a run with its metrics.jsonl, found none", looked.join(", "));
        return Err(usage(problem, "give the folder that `mesp train --output` named"));
    }
    for mut watch in watches {
        watch.finish(&store);
        if let Some(trouble) = watch.run().trouble() {
            ui::note(format!("left out of the report: {trouble}"));
        }
    }
    let news = store.news(&mut Cursor::default(), Duration::ZERO, usize::MAX);
    let data = news.unwrap_or_else(|| "null".to_owned());
    let document = page::report(&page::nonce(), &data);
    write_atomic(&output, |out| std::io::Write::write_all(out, document.as_bytes()))?;
    let shown = output.display().to_string();
    let size = document.len() as u64;
    if args.shared.json {
        return ui::json(&json!({ "output": shown, "bytes": size, "runs": runs_json(&runs) }));
    }
    let several = if runs.len() == 1 { "run" } else { "runs" };
    ui::result(
        outputs::is_standard(&output),
        &format!("{shown}: {} {several}, {}\n", runs.len(), bytes(size)),
    )
}
