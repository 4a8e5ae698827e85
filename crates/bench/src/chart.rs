//! The bar chart: ours as bars, the published figures as marks.

use super::parts::{Table, label};
use super::published;
use super::runner::Outcomes;
use super::svg::{Svg, axis};

const WIDTH: f64 = 820.0;
/// Where bars begin and end.
const LEFT: f64 = 210.0;
const RIGHT: f64 = 740.0;
const ROW: f64 = 20.0;
const BAR: f64 = 13.0;

const THEIRS: &str = "#9aa0a6";
const OURS: &str = "#2f81f7";

/// All tables, each with a scale of its own.
pub(super) fn bars(tables: &[Table], outcomes: &Outcomes) -> String {
    let mut svg = Svg::new();
    let mut y = 28.0;
    legend(&mut svg, y - 8.0);
    y += 26.0;
    for table in tables {
        y = section(&mut svg, y, table, outcomes);
    }
    svg.finish("Peak memory of training", WIDTH, y)
}

fn legend(svg: &mut Svg, y: f64) {
    let mut x = 16.0;
    let entries = [
        ("anonymous memory, published methods", Some((THEIRS, 1.0))),
        ("ours", Some((OURS, 1.0))),
        ("planned, not run", Some((OURS, 0.4))),
        ("published figure", None),
    ];
    for (name, color) in entries {
        match color {
            Some((color, opacity)) => svg.bar(color, opacity, (x, y - 9.0), (12.0, 10.0)),
            None => svg.line("mark", (x + 6.0, y - 11.0), (x + 6.0, y + 3.0)),
        }
        svg.text("small", "start", (x + 18.0, y), name);
        x += 40.0 + 6.2 * name.len() as f64;
    }
}

/// Draws a table from `y` on; gives where the next one begins.
fn section(svg: &mut Svg, y: f64, table: &Table, outcomes: &Outcomes) -> f64 {
    let rows: Vec<_> = table
        .rows
        .iter()
        .map(|setup| {
            let figures = outcomes.get(setup).and_then(|f| f.as_ref().ok());
            (setup, figures, published::beside(setup).map(|f| f.megabytes))
        })
        .collect();
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let values = rows.iter().flat_map(|(_, f, p)| [f.map(|f| megabytes(f.compared())), *p]).flatten();
    let (end, step) = axis(values.fold(0.0, f64::max));
    let at = |value: f64| LEFT + value / end * (RIGHT - LEFT);
    let height = ROW * rows.len() as f64;
    svg.text("title", "start", (16.0, y), &table.title);
    let top = y + 12.0;
    for i in 0..=(end / step).round() as usize {
        let value = step * i as f64;
        svg.line("grid", (at(value), top), (at(value), top + height));
        svg.text("small", "middle", (at(value), top + height + 14.0), format!("{value} MB"));
    }
    for (i, (setup, figures, published)) in rows.iter().enumerate() {
        let middle = top + ROW * (i as f64 + 0.5);
        svg.text("", "end", (LEFT - 8.0, middle + 4.0), label(table, setup));
        let mut after = LEFT;
        let said = match figures {
            Some(f) => {
                let value = megabytes(f.compared());
                let (color, opacity) =
                    (if setup.rung.ours() { OURS } else { THEIRS }, if f.measured { 1.0 } else { 0.4 });
                svg.bar(color, opacity, (LEFT, middle - BAR / 2.0), (at(value) - LEFT, BAR));
                after = at(value);
                format!("{value:.1}")
            }
            None => "failed".to_owned(),
        };
        if let Some(value) = published {
            let x = at(*value);
            svg.line("mark", (x, middle - 8.0), (x, middle + 8.0));
            // The bar's number goes beyond the mark where they would meet.
            if x > after - 2.0 && x < after + 44.0 {
                after = x;
            }
        }
        svg.text("small", "start", (after + 5.0, middle + 4.0), said);
    }
    top + height + 46.0
}
