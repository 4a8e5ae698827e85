//! Gradients as JSON and as a table.

use std::fmt::Write as _;

use mesp_console::sizes::count;
use mesp_console::ui;
use serde_json::{Value, json};

use super::super::machine;
use super::{Entry, Measured};
use crate::args::BenchGradientsArgs;

const DEFINITIONS: [(&str, &str); 7] = [
    (
        "cosine",
        "between a method's gradient and the exact one, all adapters together; root mean square over seeds",
    ),
    ("theory", "√(1/d) for one direction of d values, about √(n/(d + n − 1)) for n of them"),
    ("mean cosine", "with its sign, the mean over seeds"),
    ("cosine of the mean", "of the mean of all seeds' estimates: what averaging so many of them gives"),
    (
        "error",
        "‖ĝ − g‖/‖g‖, root mean square over seeds; theory: √((d + 1)/n) for gaussian directions, √((d − 1)/n) for signs",
    ),
    ("length", "‖ĝ‖/‖g‖, root mean square over seeds"),
    (
        "gain",
        "what the loss falls by after a step of one length against each gradient, the mean over some seeds, as a share of what the exact one gains",
    ),
];

pub(super) fn json(args: &BenchGradientsArgs, measured: &Measured) -> Value {
    let model = args
        .preset
        .clone()
        .map(|p| format!("{p}, random weights"))
        .or_else(|| machine::file_name(args.model.as_deref()));
    let reference = &measured.reference;
    machine::document(
        "gradients",
        json!({
            "settings": {
                "model": model.unwrap_or_else(|| "built-in".to_owned()),
                "data": machine::file_name(args.data.as_deref()),
                "rows": args.rows,
                "tokens": args.tokens,
                "adapter": machine::file_name(args.adapter.as_deref()),
                "moved": args.moved,
                "rank": args.rank,
                "seed": args.seed,
                "reference": if args.reference == mesp::settings::Compute::F64 { "f64" } else { "f32" },
            },
            "definitions": machine::definitions(&DEFINITIONS),
            "reference": {
                "loss": reference.loss,
                "values": reference.values(),
                "gradient_norm": reference.norm,
                "adapter_norm": reference.theta_norm,
                "step_length": measured.step,
            },
            "methods": measured.entries.iter().map(|e| entry(e, measured)).collect::<Vec<_>>(),
        }),
    )
}

fn entry(entry: &Entry, measured: &Measured) -> Value {
    let (c, reference) = (&entry.compared, &measured.reference);
    let tensors: Vec<Value> = reference
        .names
        .iter()
        .zip(&c.tensors)
        .zip(&c.sizes)
        .map(|((name, sums), values)| {
            json!({
                "name": name,
                "values": values,
                "cosine_rms": sums.cos_rms(),
                "cosine_mean": sums.cos_mean(),
                "relative_error": sums.error(),
            })
        })
        .collect();
    json!({
        "name": entry.way.name,
        "options": entry.way.options,
        "seeds": c.seeds(),
        "cosine_rms": c.all.cos_rms(),
        "cosine_rms_theory": c.expected_cos(reference.values()),
        "cosine_mean": c.all.cos_mean(),
        "cosine_of_mean": c.cos_of_mean,
        "relative_error": c.all.error(),
        "relative_error_theory": c.expected_error(),
        "relative_length": c.all.length(),
        "gains": c.gains,
        "tensors": tensors,
    })
}

pub(super) fn text(measured: &Measured) -> String {
    let reference = &measured.reference;
    let mut text = format!(
        "{} values of adapters; loss {:.6}, norm of the exact gradient {:.4e}, of the adapters {:.4e}; steps of length {:.2e}\n",
        count(reference.values() as u64),
        reference.loss,
        reference.norm,
        reference.theta_norm,
        measured.step
    );
    text.push_str(&ui::table(&rows(measured)));
    text.push('\n');
    for (name, definition) in DEFINITIONS {
        let _ = writeln!(text, "{name}: {definition}");
    }
    text
}

fn rows(measured: &Measured) -> Vec<Vec<String>> {
    let mut rows = vec![
        [
            "",
            "seeds",
            "cosine",
            "theory",
            "mean cosine",
            "cosine of the mean",
            "error",
            "theory",
            "length",
            "gain",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    // What a step along the exact gradient gains to first order.
    let exact = measured.entries.iter().find(|e| !e.way.random).and_then(|e| e.compared.gain());
    let best = exact.unwrap_or(measured.step * measured.reference.norm);
    for Entry { way, compared: c } in &measured.entries {
        let or_none = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), short);
        rows.push(vec![
            way.name.clone(),
            c.seeds().to_string(),
            short(c.all.cos_rms()),
            or_none(c.expected_cos(measured.reference.values())),
            short(c.all.cos_mean()),
            short(c.cos_of_mean),
            short(c.all.error()),
            or_none(c.expected_error()),
            short(c.all.length()),
            or_none(c.gain().map(|g| g / best)),
        ]);
    }
    rows
}

/// Three digits, whatever the size.
fn short(x: f64) -> String {
    let size = x.abs();
    if size == 0.0 || (0.01..1000.0).contains(&size) { format!("{x:.3}") } else { format!("{x:.2e}") }
}
