//! The held-out loss of every method against steps, tokens, seconds and multiply-adds, on logarithmic axes.

use super::super::svg::{Svg, axis};
use super::Contest;
use super::trial::{Point, Trial};

const WIDTH: f64 = 860.0;
/// The size of a panel's field.
const FIELD: (f64, f64) = (350.0, 210.0);
const LEFT: f64 = 52.0;
const TOP: f64 = 64.0;
/// From one panel to the next.
const STRIDE: (f64, f64) = (420.0, 286.0);

/// One for each method, readable on both grounds.
const COLORS: [&str; 8] =
    ["#2f81f7", "#d29922", "#3fb950", "#f85149", "#a371f7", "#db61a2", "#39c5cf", "#9aa0a6"];

/// What an axis measures, and how it is read from a point.
type Measure = (&'static str, fn(&Trial, &Point) -> f64);

const MEASURES: [Measure; 4] = [
    ("steps", |_, p| p.step as f64),
    ("tokens", |_, p| p.tokens as f64),
    ("seconds", |_, p| p.seconds),
    ("multiply-adds", |t, p| p.step as f64 * t.multiply_adds as f64),
];

pub(super) fn curves(contest: &Contest) -> String {
    let mut svg = Svg::new();
    legend(&mut svg, contest);
    let losses =
        contest.entries.iter().flat_map(|e| &e.best.points).map(|p| p.loss).filter(|l| l.is_finite());
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for loss in losses {
        low = low.min(loss);
        high = high.max(loss);
    }
    // A run that went astray is cut off rather than flattening the others.
    let before = contest.entries[0].best.points.first().map_or(high, |p| p.loss);
    high = high.min(before + 0.25 * (before - low));
    for (i, measure) in MEASURES.iter().enumerate() {
        let corner = (LEFT + STRIDE.0 * (i % 2) as f64, TOP + STRIDE.1 * (i / 2) as f64);
        panel(&mut svg, contest, *measure, corner, (low, high));
    }
    svg.finish("Held-out loss by method", WIDTH, TOP + 2.0 * STRIDE.1)
}

fn legend(svg: &mut Svg, contest: &Contest) {
    svg.text("title", "start", (16.0, 22.0), "Held-out loss, nats a token");
    let mut x = 16.0;
    for (entry, color) in contest.entries.iter().zip(COLORS.iter().cycle()) {
        svg.bar(color, 1.0, (x, 36.0), (12.0, 4.0));
        let name = format!("{} (rate {})", entry.who.name, entry.best.rate);
        svg.text("small", "start", (x + 17.0, 42.0), &name);
        x += 34.0 + 6.2 * name.len() as f64;
    }
}

fn panel(
    svg: &mut Svg,
    contest: &Contest,
    (name, measure): Measure,
    (left, top): (f64, f64),
    (low, high): (f64, f64),
) {
    let values = || {
        let all = contest.entries.iter().flat_map(|e| e.best.points.iter().map(|p| measure(&e.best, p)));
        all.filter(|v| *v > 0.0)
    };
    let first = values().fold(f64::INFINITY, f64::min);
    let last = values().fold(0.0, f64::max);
    if !(first.is_finite() && last > 0.0) {
        return;
    }
    // Before the first step every cost is 0, which has no logarithm: it stands at the left edge.
    let from = (first / 2.0).log10();
    let to = last.log10().max(from + 1.0);
    let x = |v: f64| left + FIELD.0 * ((v.log10() - from) / (to - from)).clamp(0.0, 1.0);
    let y = |loss: f64| top + FIELD.1 * (1.0 - ((loss - low) / (high - low)).clamp(0.0, 1.0));
    let bottom = top + FIELD.1;
    let mut power = from.ceil();
    while power <= to {
        let at = x(10f64.powf(power));
        svg.line("grid", (at, top), (at, bottom));
        svg.text("small", "middle", (at, bottom + 14.0), format!("1e{power}"));
        power += 1.0;
    }
    let (_, step) = axis(high - low);
    let mut value = (low / step).ceil() * step;
    while value <= high {
        svg.line("grid", (left, y(value)), (left + FIELD.0, y(value)));
        svg.text("small", "end", (left - 6.0, y(value) + 4.0), format!("{value:.2}"));
        value += step;
    }
    svg.text("", "middle", (left + FIELD.0 / 2.0, bottom + 32.0), name);
    for (entry, color) in contest.entries.iter().zip(COLORS.iter().cycle()) {
        let points = entry.best.points.iter().filter(|p| p.loss.is_finite());
        let points: Vec<(f64, f64)> = points.map(|p| (x(measure(&entry.best, p)), y(p.loss))).collect();
        svg.curve(color, &points);
    }
}
