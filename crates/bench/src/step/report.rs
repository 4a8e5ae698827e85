//! The results as JSON and as tables, each figure with its definition.

use std::fmt::Write as _;

use mesp::settings::policy_json;
use mesp_console::memory::Marks;
use mesp_console::sizes::bytes;
use mesp_console::ui;
use mesp_device::OpCost;
use serde_json::{Value, json};

use super::engine::{Engine, Timing, median};
use super::peer::Beside;
use super::product::SIZE;
use super::{Measured, machine};
use crate::args::BenchStepArgs;

/// What each figure is.
const DEFINITIONS: [(&str, &str); 8] = [
    ("ms", "time of a step's calls on the clock, in thousandths of a second"),
    ("cpu ms", "processor time of the process during them; of several threads ms by their number"),
    ("share", "of the step's processor time"),
    ("GFLOP", "multiplications and additions of products, each counted"),
    ("of peak", "GFLOP a second of processor time, over the same of the measured product"),
    ("MB", "operands, each read or written once, and weights as they are stored"),
    ("other", "the step's time outside of operations"),
    ("ratio", "our median step over the peer's in the same turn; below 1 ours is faster"),
];

/// The document of a results file.
pub(super) fn json(
    args: &BenchStepArgs,
    engine: &Engine<'_>,
    arch: &str,
    measured: &Measured,
    marks: Marks,
) -> Value {
    let Measured { anatomy, sweep, beside } = measured;
    let (steps, peak, timing) = (anatomy.steps(), anatomy.peak, &anatomy.timing);
    let operations: Vec<Value> = anatomy.costs.iter().map(|c| operation(c, steps, peak.cpu)).collect();
    let frozen = anatomy.frozen_flop();
    let [m, n, k] = SIZE;
    machine::document(
        "step",
        json!({
            "settings": {
                "model": shape(args),
                "arch": arch,
                "compute": engine.numbers.name(),
                "rank": engine.setup.options.adapter.rank,
                "optimizer": engine.setup.options.optimizer.name(),
                "timed_steps": args.steps,
                "memory_budget": args.method.memory_budget.map(|b| b.0),
            },
            "definitions": machine::definitions(&DEFINITIONS),
            "product": {
                "size": [m, n, k],
                "gflops": peak.wall / 1e9,
                "gflops_per_cpu_second": peak.cpu / 1e9,
            },
            "multipliers": {
                "gflops_one_thread": anatomy.multipliers.one / 1e9,
                "gflops": anatomy.multipliers.all / 1e9,
            },
            "step": speed(timing),
            "frozen_gflop": frozen / 1e9,
            "share_of_peak": frozen / timing.median() / peak.wall,
            "share_of_peak_cpu": frozen / timing.cpu_median() / peak.cpu,
            "operations": operations,
            "speeds": sweep.iter().map(speed).collect::<Vec<_>>(),
            "peer": beside.as_ref().map(peer),
            "memory": {
                "planned_bytes": timing.planned_bytes,
                "heap_peak_bytes": marks.heap,
                "rss_anon_peak_bytes": timing.anonymous,
                "rss_peak_bytes": marks.rss,
            },
        }),
    )
}

/// The model, without this machine's folders.
fn shape(args: &BenchStepArgs) -> String {
    let named = args.model.model.as_ref().and_then(|path| path.file_name());
    let preset = args.preset.as_deref().unwrap_or("qwen2.5-0.5b");
    let ty = args.base_type.as_deref().unwrap_or("bf16");
    named.map_or_else(|| format!("{preset} in {ty}, random"), |name| name.to_string_lossy().into_owned())
}

fn operation(c: &OpCost, steps: f64, peak: f64) -> Value {
    let cpu = c.cpu.as_secs_f64();
    json!({
        "op": c.op,
        "weight": Some(c.weight).filter(|w| !w.is_empty()),
        "calls": c.calls as f64 / steps,
        "seconds": c.wall.as_secs_f64() / steps,
        "cpu_seconds": cpu / steps,
        "flop": c.flop as f64 / steps,
        "bytes": c.bytes as f64 / steps,
        "of_peak": (c.flop > 0 && cpu > 0.0).then(|| c.flop as f64 / cpu / peak),
    })
}

fn speed(t: &Timing) -> Value {
    json!({
        "tokens": t.tokens,
        "threads": t.threads,
        "step_seconds": t.seconds,
        "step_cpu_seconds": t.cpu_seconds,
        "median_seconds": t.median(),
        "tokens_per_second": t.tokens_per_second(),
        "planned_bytes": t.planned_bytes,
        "rss_anon_peak_bytes": t.anonymous,
        "method": t.options.method_name,
        "policy": policy_json(&t.options),
    })
}

fn peer(beside: &Beside) -> Value {
    let ratios = beside.ratios();
    let ours: Vec<&Vec<f64>> = beside.ours.iter().map(|t| &t.seconds).collect();
    json!({
        "command": beside.command,
        "ours_seconds": ours,
        "peer_seconds": beside.peer,
        "ratios": ratios,
        "ratio_median": median(&ratios),
        "ratio_least": ratios.iter().copied().reduce(f64::min),
        "ratio_greatest": ratios.iter().copied().reduce(f64::max),
        "documents": beside.documents,
    })
}

/// Tables for people.
pub(super) fn text(engine: &Engine<'_>, measured: &Measured) -> String {
    let Measured { anatomy, sweep, beside } = measured;
    let (t, peak) = (&anatomy.timing, anatomy.peak);
    let ([m, n, k], numbers) = (SIZE, engine.numbers.name());
    let anonymous = t.anonymous.map_or_else(String::new, |held| format!(", anonymous {}", bytes(held)));
    let mut text = format!(
        "A step of {} tokens, {} threads, {} in {numbers}: {:.3} s, {:.3} s of processor time, planned {}{anonymous}\n",
        t.tokens,
        t.threads,
        t.options.method_name,
        t.median(),
        t.cpu_median(),
        bytes(t.planned_bytes)
    );
    let frozen = anatomy.frozen_flop();
    let _ = writeln!(
        text,
        "A product {m}×{n}×{k} in {numbers} reaches {:.0} GFLOP/s, {:.0} a second of processor time. The step's {:.0} GFLOP with frozen weights are {:.1}% of that, {:.1}% by processor time.",
        peak.wall / 1e9,
        peak.cpu / 1e9,
        frozen / 1e9,
        100.0 * frozen / t.median() / peak.wall,
        100.0 * frozen / t.cpu_median() / peak.cpu,
    );
    let multipliers = anatomy.multipliers;
    let _ = writeln!(
        text,
        "The multipliers alone reach {:.0} GFLOP/s, {:.2} times those of one thread.\n",
        multipliers.all / 1e9,
        multipliers.all / multipliers.one,
    );
    text.push_str(&ui::table(&operations(measured)));
    if !sweep.is_empty() {
        text.push('\n');
        text.push_str(&ui::table(&speeds(sweep)));
    }
    if let Some(beside) = beside {
        let ratios = beside.ratios();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        let _ = writeln!(
            text,
            "\nBeside {}: ratio {:.3} ({least:.3} to {most:.3} over {} turns)",
            beside.command,
            median(&ratios),
            ratios.len()
        );
    }
    text.push('\n');
    for (name, definition) in DEFINITIONS {
        let _ = writeln!(text, "{name}: {definition}");
    }
    text
}

/// Operations by their processor time, or by the clock where there is none.
fn operations(measured: &Measured) -> Vec<Vec<String>> {
    let anatomy = &measured.anatomy;
    let steps = anatomy.steps();
    let counted = anatomy.timing.cpu_seconds.iter().sum::<f64>() > 0.0;
    let time = |c: &OpCost| if counted { c.cpu } else { c.wall };
    let whole: f64 = if counted { &anatomy.timing.cpu_seconds } else { &anatomy.timing.seconds }.iter().sum();
    let mut costs: Vec<&OpCost> = anatomy.costs.iter().collect();
    costs.sort_by_key(|c| std::cmp::Reverse(time(c)));
    let mut rows =
        vec![["", "calls", "ms", "cpu ms", "share", "GFLOP", "of peak", "MB"].map(str::to_owned).to_vec()];
    for c in &costs {
        let cpu = c.cpu.as_secs_f64();
        let flop = c.flop as f64;
        let of_peak = flop / cpu / anatomy.peak.cpu;
        let products = c.flop > 0;
        rows.push(vec![
            [c.op, c.weight].join(" ").trim_end().to_owned(),
            format!("{:.0}", c.calls as f64 / steps),
            milliseconds(c.wall.as_secs_f64() / steps),
            milliseconds(cpu / steps),
            format!("{:.1}%", 100.0 * time(c).as_secs_f64() / whole),
            if products { format!("{:.2}", flop / 1e9 / steps) } else { String::new() },
            if products && of_peak.is_finite() { format!("{:.0}%", 100.0 * of_peak) } else { String::new() },
            format!("{:.1}", c.bytes as f64 / 1e6 / steps),
        ]);
    }
    let sum = |of: &dyn Fn(&OpCost) -> f64| costs.iter().map(|c| of(c)).sum::<f64>();
    let wall = anatomy.timing.seconds.iter().sum::<f64>() - sum(&|c| c.wall.as_secs_f64());
    let cpu = anatomy.timing.cpu_seconds.iter().sum::<f64>() - sum(&|c| c.cpu.as_secs_f64());
    let rest = if counted { cpu } else { wall };
    rows.push(vec![
        "other".to_owned(),
        String::new(),
        milliseconds(wall / steps),
        milliseconds(cpu / steps),
        format!("{:.1}%", 100.0 * rest / whole),
    ]);
    rows
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1}", 1e3 * seconds.max(0.0))
}

/// Tokens per second: a row for each length, a column for each number of threads.
fn speeds(sweep: &[Timing]) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["tokens", "threads", "s/step", "cpu s/step", "tokens/s", "planned"].map(str::to_owned).to_vec(),
    ];
    rows.extend(sweep.iter().map(|t| {
        vec![
            t.tokens.to_string(),
            t.threads.to_string(),
            format!("{:.3}", t.median()),
            format!("{:.3}", t.cpu_median()),
            format!("{:.1}", t.tokens_per_second()),
            bytes(t.planned_bytes),
        ]
    }));
    rows
}
