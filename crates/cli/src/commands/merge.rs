//! `mesp merge`.

use std::time::Instant;

use anyhow::Result;
use mesp::merge::{Options, merge};
use serde_json::json;

use crate::args::{FileType, MergeArgs};
use crate::inputs;
use crate::outputs::{self, Inputs};
use crate::progress::Counter;
use crate::sizes::{bytes, duration};
use crate::{made_with, memory, ui};

pub(crate) fn run(args: &MergeArgs) -> Result<()> {
    let started = Instant::now();
    let model = inputs::given_model(args.model.as_deref())?;
    let read = Inputs::default().model(model).adapter("--adapter", args.adapter.as_path());
    if args.output.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        outputs::file(&args.output, &read, args.replace.overwrite)?;
    } else {
        outputs::folder(&args.output, &read, args.replace.overwrite)?;
    }
    made_with::note_base_of(&args.adapter, model)?;
    let options = Options { ty: args.ty.map(FileType::tensor_type), max_shard: args.max_shard_size.0 };
    let pool = inputs::conversion_pool(args.shared.threads)?;
    let mut counter: Option<Counter> = None;
    let report = pool.install(|| {
        merge(model, &args.adapter, &args.output, options, &mut |done, total| {
            counter.get_or_insert_with(|| Counter::new("merging", total as u64)).at(done as u64);
        })
    })?;
    drop(counter);
    for note in &report.notes {
        ui::note(note);
    }
    let (shown, marks) = (args.output.display().to_string(), memory::marks());
    if args.shared.json {
        let errors = report.errors.iter().map(|e| {
            let ty = e.ty.name().to_lowercase();
            let (mean, max, lost) = (e.mean, e.max, e.of_change());
            json!({ "type": ty, "tensors": e.tensors, "mean": mean, "max": max, "worst": e.worst, "of_change": lost })
        });
        return ui::json(&json!({
            "output": shown,
            "tensors": report.tensors,
            "merged": report.merged,
            "bytes": report.bytes,
            "files": report.files,
            "relative_errors": errors.collect::<Vec<_>>(),
            "notes": report.notes,
            "memory": { "heap_peak_bytes": marks.heap, "rss_anon_peak_bytes": marks.rss_anonymous, "rss_peak_bytes": marks.rss },
        }));
    }
    let mut rows =
        vec![["", "merged", "rounding of weights", "largest", "of the change"].map(String::from).to_vec()];
    rows.extend(report.errors.iter().map(|e| {
        let percent = |x: f64| format!("{:.3}%", 100.0 * x);
        let lost = e.of_change().map_or_else(|| "-".to_owned(), percent);
        vec![e.ty.name().to_lowercase(), e.tensors.to_string(), percent(e.mean), percent(e.max), lost]
    }));
    let files = if report.files == 1 { String::new() } else { format!(" in {} files", report.files) };
    ui::print(&format!(
        "{shown}: {} tensors, {} of them merged, {}{files} ({})\n{}",
        report.tensors,
        report.merged,
        bytes(report.bytes),
        duration(started.elapsed().as_secs_f64()),
        ui::table(&rows)
    ))
}
