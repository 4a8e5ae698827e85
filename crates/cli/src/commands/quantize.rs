//! `mesp quantize`.

use std::time::Instant;

use anyhow::Result;
use mesp::quantize::quantize;
use mesp::source::Kind;
use serde_json::json;

use crate::args::QuantizeArgs;
use crate::failure::usage;
use crate::inputs;
use crate::outputs::{self, Inputs};
use crate::progress::Counter;
use crate::sizes::{bytes, duration};
use crate::ui;

pub(crate) fn run(args: &QuantizeArgs) -> Result<()> {
    let started = Instant::now();
    let model = inputs::given_model(args.model.as_deref())?;
    if Kind::of(model) == Kind::Gguf {
        let problem = format!("{}: expected a Hugging Face directory, found a file", model.display());
        return Err(usage(problem, "quantize from the directory that the file was made of"));
    }
    let output = &args.output;
    outputs::file(output, &Inputs::default().model(model), args.replace.overwrite)?;
    let pool = inputs::conversion_pool(args.shared.threads)?;
    let mut counter: Option<Counter> = None;
    let report = pool.install(|| {
        quantize(model, output, args.ty.tensor_type(), &mut |done, total| {
            counter.get_or_insert_with(|| Counter::new("quantizing", total as u64)).at(done as u64);
        })
    })?;
    drop(counter);
    for note in &report.notes {
        ui::note(note);
    }
    let shown = output.display().to_string();
    if args.shared.json {
        let errors = report.errors.iter().map(|e| {
            let ty = e.ty.name().to_lowercase();
            json!({ "type": ty, "tensors": e.tensors, "mean": e.mean, "max": e.max, "worst": e.worst })
        });
        return ui::json(&json!({
            "output": shown,
            "bytes": report.bytes,
            "tensors": report.tensors,
            "relative_errors": errors.collect::<Vec<_>>(),
            "notes": report.notes,
        }));
    }
    let mut rows = vec![vec![String::new(), "matrices".into(), "relative error".into(), "largest".into()]];
    rows.extend(report.errors.iter().map(|e| {
        let (mean, max) = (format!("{:.3}%", 100.0 * e.mean), format!("{:.3}%", 100.0 * e.max));
        vec![e.ty.name().to_lowercase(), e.tensors.to_string(), mean, max]
    }));
    ui::print(&format!(
        "{shown}: {} tensors, {} ({})\n{}",
        report.tensors,
        bytes(report.bytes),
        duration(started.elapsed().as_secs_f64()),
        ui::table(&rows)
    ))
}
