//! Drawings by hand: elements in a text, readable on light and on dark ground.

use std::fmt::{Display, Write as _};

/// A drawing.
pub(super) struct Svg {
    body: String,
}

/// Colors of text and lines follow the reader's scheme; those of areas stand on both grounds.
const STYLE: &str = "<style>text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-weight:600;font-size:14px}\
.small{font-size:11px;fill:#57606a}.line{stroke:#8c959f;stroke-width:1;fill:none}.grid{stroke:#8c959f;stroke-width:1;opacity:.3}\
.mark{stroke:#24292f;stroke-width:2}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.mark{stroke:#e6edf3}}</style>";

impl Svg {
    pub(super) fn new() -> Self {
        Self { body: String::new() }
    }

    /// A text; `anchor` is start, middle or end.
    pub(super) fn text(&mut self, class: &str, anchor: &str, (x, y): (f64, f64), text: impl Display) {
        let text = text.to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
        );
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.body,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    pub(super) fn bar(&mut self, color: &str, opacity: f64, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let _ = writeln!(
            self.body,
            "<rect fill=\"{color}\" fill-opacity=\"{opacity}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        );
    }

    /// A line through points.
    pub(super) fn curve(&mut self, color: &str, points: &[(f64, f64)]) {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let path = path.join(" ");
        let _ = writeln!(
            self.body,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"1.8\" stroke-linejoin=\"round\" points=\"{path}\"/>"
        );
    }

    /// An area over a horizontal line, up to a height for each column of one unit's width.
    pub(super) fn area(&mut self, color: &str, (x, base): (f64, f64), heights: &[f64]) {
        if heights.is_empty() {
            return;
        }
        // Whole tenths, relative: half the size of absolute coordinates.
        let tenths = |v: f64| (v * 10.0).round() as i64;
        let _ = write!(self.body, "<path fill=\"{color}\" d=\"M{x:.1} {base:.1}");
        let (mut now, mut wide) = (0, 0);
        for height in heights {
            let next = tenths(*height);
            if next != now {
                if wide > 0 {
                    let _ = write!(self.body, "h{wide}");
                }
                let change = (now - next) as f64 / 10.0;
                let _ = write!(self.body, "v{change}");
                (now, wide) = (next, 0);
            }
            wide += 1;
        }
        let _ = writeln!(self.body, "h{wide}V{base:.1}z\"/>");
    }

    /// The file.
    pub(super) fn finish(self, title: &str, width: f64, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-label=\"{title}\">\n{STYLE}\n{}</svg>\n",
            self.body
        )
    }
}

/// The end of an axis from 0 that holds `most`, and the distance of its marks: 1, 2 or 5 of a power of ten, so
/// that there are three to six of them.
pub(super) fn axis(most: f64) -> (f64, f64) {
    if !(most.is_finite() && most > 0.0) {
        return (1.0, 0.5);
    }
    let power = 10f64.powf((most / 5.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|s| s * power);
    // The last of them is at least a fifth of the most, whatever rounding did to the power.
    let step = steps.into_iter().find(|s| s * 5.0 >= most * (1.0 - 1e-9)).unwrap_or(steps[3]);
    ((most / step * (1.0 - 1e-9)).ceil() * step, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_their_values() {
        let close =
            |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() < 1e-9 * b.0 && (a.1 - b.1).abs() < 1e-9 * b.1;
        for (most, expected) in [
            (1.0, (1.0, 0.2)),
            (43.9, (50.0, 10.0)),
            (100.0, (100.0, 20.0)),
            (101.0, (150.0, 50.0)),
            (1050.3, (1500.0, 500.0)),
            (0.03, (0.03, 0.01)),
        ] {
            assert!(close(axis(most), expected), "{most}: {:?}", axis(most));
        }
        for i in 1..2000 {
            let most = 0.37 * f64::from(i);
            let (end, step) = axis(most);
            assert!(end >= most * (1.0 - 1e-9) && end - step < most, "{most}: {end} {step}");
            assert!((1.0..=5.0).contains(&(end / step).round()), "{most}: {end} {step}");
        }
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(axis(odd), (1.0, 0.5));
        }
    }

    #[test]
    fn an_area_draws_its_steps() {
        let mut svg = Svg::new();
        svg.area("red", (10.0, 50.0), &[1.0, 1.0, 3.5, 0.0]);
        assert_eq!(svg.body, "<path fill=\"red\" d=\"M10.0 50.0v-1h2v-2.5h1v3.5h1V50.0z\"/>\n");
    }

    #[test]
    fn text_is_escaped() {
        let mut svg = Svg::new();
        svg.text("small", "end", (1.0, 2.0), "a < b & c");
        assert!(svg.finish("t", 10.0, 10.0).contains("a &lt; b &amp; c"));
    }
}
