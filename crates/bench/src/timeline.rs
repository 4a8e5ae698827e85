//! The memory of one training step over time, from the plan itself: every buffer from its birth to its death.
//!
//! Time is counted in allocations and frees, as the plan has it; of a loop over tiles the first turn is drawn,
//! since the others use its buffers.

use std::fs;
use std::sync::Arc;

use anyhow::Result;
use mesp::adapter::AdapterConfig;
use mesp::arch::Config;
use mesp::init_model::preset;
use mesp::method::Method;
use mesp::model::{Batch, ModelWeights, ShapeSource};
use mesp::settings::thread_count;
use mesp::train::{Options, Shapes, Update, plan};
use mesp_console::outputs::{self, Inputs};
use mesp_console::ui;
use mesp_device::{Class, Dtype, Plan};
use mesp_formats::Error as FileError;
use mesp_formats::atomic::create_dir_all;

use super::svg::{Svg, axis};
use crate::args::BenchMemoryArgs;

/// Layers of the drawing, from the ground up.
const LAYERS: [(Class, &str, &str); 6] = [
    (Class::Adapter, "adapter", "#4e79a7"),
    (Class::Gradient, "its gradients", "#b07aa1"),
    (Class::Scratch, "kernel scratch", "#9aa0a6"),
    (Class::Checkpoint, "kept for the backward pass", "#edb240"),
    (Class::WithinBlock, "within a block", "#59a14f"),
    (Class::Head, "head: logits and their gradient", "#e15759"),
];

/// The last of them.
const HEAD: usize = LAYERS.len() - 1;

/// Columns of a drawing; each shows the fullest moment of its part of the step.
const COLUMNS: usize = 700;
const LEFT: f64 = 64.0;
const WIDTH: f64 = 790.0;
const PANEL: f64 = 170.0;

/// A step's memory.
struct Timeline {
    name: String,
    /// Bytes by layer, column by column.
    columns: Vec<[f64; LAYERS.len()]>,
    /// The columns in which the head works.
    head: (usize, usize),
    /// The most that is alive at once.
    peak: f64,
    /// The most while the head does not work.
    blocks: f64,
}

/// Draws the three methods, and ours alone with a scale of its own.
pub(super) fn run(args: &BenchMemoryArgs) -> Result<()> {
    let model = args.models.first().map_or("qwen2.5-0.5b", String::as_str);
    let tokens = args.tokens.first().copied().unwrap_or(256);
    let rank = args.ranks.first().copied().unwrap_or(8);
    let threads = thread_count(args.shared.threads)?;
    let methods = [
        (Method::Mebp, Update::Accumulate, "MeBP"),
        (Method::MespPaper, Update::Accumulate, "MeSP as published"),
        (Method::Mesp, Update::PerBlock, "mesp"),
    ];
    let names = ["memory-timeline.svg", "memory-timeline-mesp.svg"];
    outputs::files(&args.results.output, &names, &Inputs::default(), args.results.replace.overwrite)?;
    let mut all = Vec::new();
    for (method, update, name) in methods {
        all.push(Timeline::of(name, &planned(model, (tokens, rank), method, update, threads)?));
    }
    create_dir_all(&args.results.output)?;
    let about = format!("{model}, {tokens} tokens, rank {rank}, batch 1, SGD");
    let write = |name: &str, text: String| -> Result<()> {
        let path = args.results.output.join(name);
        fs::write(&path, text).map_err(|e| FileError::io("write", &path, e))?;
        ui::note(format!("drawn: {}", path.display()));
        Ok(())
    };
    write(names[0], draw(&all, &format!("The memory of one step: {about}")))?;
    write(names[1], draw(&all[2..], &format!("The memory of one step, larger: {about}")))
}

/// The plan of a training step.
fn planned(
    name: &str,
    (tokens, rank): (usize, usize),
    method: Method,
    update: Update,
    threads: usize,
) -> Result<Plan> {
    let config = Config::new(&preset(name)?)?;
    let model = Arc::new(ModelWeights::load(config, &ShapeSource(Dtype::Bf16))?);
    let targets = AdapterConfig::parse_targets("all-linear")?;
    let adapter = AdapterConfig::new(rank, 2.0 * rank as f64, false, targets);
    let options =
        Options { method_name: method.name().to_owned(), update, ..Options::new(adapter, method.policy()) };
    let batch = Batch::for_plan(tokens, tokens.saturating_sub(1), tokens * tokens, &[0, tokens]);
    let shapes = Shapes { train: Some(batch), eval: None };
    Ok(plan(&model, &options, &shapes, size_of::<f32>(), threads)?)
}

impl Timeline {
    fn of(name: &str, plan: &Plan) -> Self {
        let layer = |class| LAYERS.iter().position(|(c, _, _)| *c == class).unwrap_or(HEAD - 1);
        let mut ground = [0.0; LAYERS.len()];
        ground[layer(Class::Scratch)] = plan.scratch_bytes as f64;
        for entry in &plan.persistent {
            ground[layer(entry.label.class)] += entry.bytes as f64;
        }
        let entries = plan.programs.first().map_or(&[][..], |p| &p.entries);
        // Births and deaths in order; a buffer that is not freed ends with the step.
        let mut changes: Vec<(u32, usize, f64)> = Vec::with_capacity(2 * entries.len());
        for e in entries {
            changes.push((e.birth, layer(e.label.class), e.bytes as f64));
            if e.death != u32::MAX {
                changes.push((e.death, layer(e.label.class), -(e.bytes as f64)));
            }
        }
        changes.sort_unstable_by_key(|c| c.0);
        let end = changes.last().map_or(1, |c| c.0 as usize + 1);
        let column = |time: u32| time as usize * COLUMNS / end;
        let sum = |at: &[f64; LAYERS.len()]| at.iter().sum::<f64>();
        let (mut columns, mut now) = (vec![[0.0; LAYERS.len()]; COLUMNS], ground);
        let (mut peak, mut blocks) = (0.0, 0.0);
        let mut next = 0;
        for (i, fullest) in columns.iter_mut().enumerate() {
            // What is alive when the column begins counts in it too.
            *fullest = now;
            while let Some((time, layer, bytes)) = changes.get(next).filter(|c| column(c.0) <= i) {
                now[*layer] += bytes;
                let settled = changes.get(next + 1).is_none_or(|c| c.0 != *time);
                if settled {
                    if sum(&now) > sum(fullest) {
                        *fullest = now;
                    }
                    if now[HEAD] == 0.0 {
                        blocks = f64::max(blocks, sum(&now));
                    }
                }
                next += 1;
            }
            peak = f64::max(peak, sum(fullest));
        }
        let head = || entries.iter().filter(|e| e.label.class == Class::Head);
        let from = head().map(|e| column(e.birth)).min().unwrap_or(0);
        let to = head().filter(|e| e.death != u32::MAX).map(|e| column(e.death)).max().unwrap_or(from);
        Self { name: name.to_owned(), columns, head: (from, to), peak, blocks }
    }
}

/// Panels under each other, with one scale.
fn draw(timelines: &[Timeline], title: &str) -> String {
    let most = timelines.iter().map(|t| t.peak).fold(0.0, f64::max) / 1e6;
    let (end, step) = axis(most);
    let mut svg = Svg::new();
    svg.text("title", "start", (16.0, 24.0), title);
    let mut x = 16.0;
    for (_, name, color) in LAYERS {
        svg.bar(color, 1.0, (x, 37.0), (11.0, 10.0));
        svg.text("small", "start", (x + 15.0, 46.0), name);
        x += 32.0 + 5.7 * name.len() as f64;
    }
    let mut top = 76.0;
    for timeline in timelines {
        panel(&mut svg, top, timeline, end, step);
        top += PANEL + 58.0;
    }
    svg.finish(title, WIDTH, top - 18.0)
}

fn panel(svg: &mut Svg, top: f64, timeline: &Timeline, end: f64, step: f64) {
    let bottom = top + PANEL;
    let right = LEFT + COLUMNS as f64;
    let height = |bytes: f64| bytes / 1e6 / end * PANEL;
    for i in 0..=(end / step).round() as usize {
        let value = step * i as f64;
        let y = bottom - height(value * 1e6);
        svg.line("grid", (LEFT, y), (right, y));
        svg.text("small", "end", (LEFT - 6.0, y + 4.0), format!("{value} MB"));
    }
    // From the highest sum to the lowest, each in front of the one before.
    for (layer, (_, _, color)) in LAYERS.iter().enumerate().rev() {
        let heights: Vec<f64> = timeline.columns.iter().map(|c| height(c[..=layer].iter().sum())).collect();
        if timeline.columns.iter().any(|c| c[layer] > 0.0) {
            svg.area(color, (LEFT, bottom), &heights);
        }
    }
    let y = bottom - height(timeline.peak);
    svg.line("line", (LEFT, y), (right, y));
    let (peak, blocks) = (timeline.peak / 1e6, timeline.blocks / 1e6);
    let apart = if blocks < peak { format!("; outside the head {blocks:.1} MB") } else { String::new() };
    let name = &timeline.name;
    svg.text("", "start", (LEFT, top - 8.0), format!("{name}: {peak:.1} MB at the peak{apart}"));
    let (from, to) = (LEFT + timeline.head.0 as f64, LEFT + timeline.head.1 as f64);
    for x in [from, to] {
        svg.line("line", (x, bottom), (x, bottom + 6.0));
    }
    svg.text("small", "middle", (f64::midpoint(LEFT, from), bottom + 16.0), "forward");
    svg.text("small", "middle", (f64::midpoint(from, to), bottom + 16.0), "head");
    svg.text("small", "middle", (f64::midpoint(to, right), bottom + 16.0), "backward, block by block");
}
