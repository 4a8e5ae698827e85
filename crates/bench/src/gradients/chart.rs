//! The cosine of every tensor's estimate against its number of values, with the line that theory draws.

use super::super::svg::Svg;
use super::Measured;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 730.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 420.0;

const COLORS: [&str; 7] = ["#2f81f7", "#d29922", "#3fb950", "#f85149", "#a371f7", "#db61a2", "#39c5cf"];

pub(super) fn cosines(measured: &Measured) -> String {
    let mut svg = Svg::new();
    svg.text(
        "title",
        "start",
        (16.0, 22.0),
        "Cosine of an estimate with the exact gradient, by number of values",
    );
    let random: Vec<_> = measured.entries.iter().filter(|e| e.compared.expected_cos(1).is_some()).collect();
    let all = measured.reference.values() as f64;
    let smallest = random.iter().flat_map(|e| &e.compared.sizes).copied().min().unwrap_or(1) as f64;
    let lowest = random
        .iter()
        .flat_map(|e| e.compared.tensors.iter().chain([&e.compared.all]).map(super::compare::Sums::cos_rms));
    let lowest = lowest.filter(|c| *c > 0.0).fold(1.0 / all.sqrt(), f64::min);
    let (from, to) = (smallest.log10().floor(), all.log10().ceil());
    let floor = lowest.log10().floor();
    let x = |values: f64| LEFT + (RIGHT - LEFT) * (values.log10() - from) / (to - from);
    let y = |cos: f64| TOP + (BOTTOM - TOP) * (cos.max(1e-12).log10() / floor).clamp(0.0, 1.0);
    let mut power = from;
    while power <= to {
        let at = x(10f64.powf(power));
        svg.line("grid", (at, TOP), (at, BOTTOM));
        svg.text("small", "middle", (at, BOTTOM + 16.0), format!("1e{power}"));
        power += 1.0;
    }
    let mut power = 0.0;
    while power >= floor {
        let at = y(10f64.powf(power));
        svg.line("grid", (LEFT, at), (RIGHT, at));
        svg.text("small", "end", (LEFT - 6.0, at + 4.0), format!("1e{power}"));
        power -= 1.0;
    }
    svg.text(
        "",
        "middle",
        (f64::midpoint(LEFT, RIGHT), BOTTOM + 36.0),
        "values of a tensor; the large marks: of all",
    );
    let line = |values: f64| (x(values), y(1.0 / values.sqrt()));
    svg.line("mark", line(10f64.powf(from)), line(10f64.powf(to)));
    let mut at = 16.0;
    svg.text("small", "start", (at, 44.0), "line: 1/√d, one direction");
    at += 170.0;
    for (entry, color) in random.iter().zip(COLORS.iter().cycle()) {
        svg.bar(color, 1.0, (at, 36.0), (9.0, 9.0));
        svg.text("small", "start", (at + 14.0, 44.0), &entry.way.name);
        at += 30.0 + 6.2 * entry.way.name.len() as f64;
        let c = &entry.compared;
        for (sums, values) in c.tensors.iter().zip(&c.sizes).filter(|(s, _)| s.cos_rms() > 0.0) {
            svg.bar(color, 0.6, (x(*values as f64) - 1.5, y(sums.cos_rms()) - 1.5), (3.0, 3.0));
        }
        svg.bar(color, 1.0, (x(all) - 4.5, y(c.all.cos_rms()) - 4.5), (9.0, 9.0));
    }
    svg.finish("Cosine of estimates", WIDTH, BOTTOM + 50.0)
}
