//! A curve in text.

use std::fmt::Write as _;

/// The size of a chart, in characters, without its labels.
const WIDTH: usize = 60;
const HEIGHT: usize = 12;

/// Dots per character, across and down.
const BRAILLE: (usize, usize) = (2, 4);

/// A curve over steps: `values[i]` belongs to step i + 1. In braille dots, or in ASCII.
pub(crate) fn curve(values: &[f64], unicode: bool) -> String {
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if values.len() < 2 || low > high {
        return String::new();
    }
    let (across, down) = if unicode { BRAILLE } else { (1, 1) };
    let (columns, rows) = (WIDTH * across, HEIGHT * down);
    let span = if high > low { high - low } else { 1.0 };
    let row = |v: f64| ((high - v) / span * (rows - 1) as f64).round() as usize;
    let mut dots = vec![false; columns * rows];
    let mut before = None;
    for column in 0..columns {
        let Some(value) = at(values, column, columns) else { continue };
        let here = row(value);
        // Neighbouring columns are joined, so that the curve has no gaps where it is steep.
        let from = before.unwrap_or(here);
        for r in from.min(here)..=from.max(here) {
            dots[r * columns + column] = true;
        }
        before = Some(here);
    }
    let mut text = String::new();
    for line in 0..HEIGHT {
        let label = match line {
            0 => format!("{high:.3}"),
            l if l == HEIGHT - 1 => format!("{low:.3}"),
            _ => String::new(),
        };
        let cells: String = (0..WIDTH).map(|c| cell(&dots, columns, line, c, unicode)).collect();
        let edge = if unicode { '│' } else { '|' };
        text.push_str(format!("{label:>8} {edge}{cells}").trim_end());
        text.push('\n');
    }
    let (corner, edge) = if unicode { ('└', "─") } else { ('+', "-") };
    let last = format!("step {}", values.len());
    let _ = writeln!(text, "{:>8} {corner}{}", "", edge.repeat(WIDTH));
    let _ = writeln!(text, "{:>8}  {:<w$}{last}", "", "step 1", w = WIDTH - last.len());
    text
}

/// The curve's height over a column: the mean of its steps, or between two steps their blend.
fn at(values: &[f64], column: usize, columns: usize) -> Option<f64> {
    let n = values.len();
    let mean = |part: &[f64]| {
        let part = part.iter().filter(|v| v.is_finite());
        let (sum, count) = part.fold((0.0, 0), |(s, c), v| (s + v, c + 1));
        (count > 0).then(|| sum / f64::from(count))
    };
    if n > columns {
        return mean(&values[column * n / columns..(column + 1) * n / columns]);
    }
    let place = column as f64 * (n - 1) as f64 / (columns - 1) as f64;
    let (i, part) = (place as usize, place.fract());
    let blend = values[i] * (1.0 - part) + values[(i + 1).min(n - 1)] * part;
    blend.is_finite().then_some(blend)
}

/// The bits of Unicode's braille patterns, by row and column of the cell.
const BITS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

fn cell(dots: &[bool], columns: usize, line: usize, c: usize, unicode: bool) -> char {
    if !unicode {
        return if dots[line * columns + c] { '*' } else { ' ' };
    }
    let mut bits = 0;
    for (y, bits_of_row) in BITS.iter().enumerate() {
        for (x, bit) in bits_of_row.iter().enumerate() {
            if dots[(line * 4 + y) * columns + c * 2 + x] {
                bits |= bit;
            }
        }
    }
    match bits {
        0 => ' ',
        _ => char::from_u32(0x2800 + bits).unwrap_or(' '),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves() {
        let falling: Vec<f64> = (0..80).map(|i| 3.0 * (-f64::from(i) / 20.0).exp() + 0.5).collect();
        insta::assert_snapshot!("ascii", curve(&falling, false));
        insta::assert_snapshot!("braille", curve(&falling, true));
    }

    #[test]
    fn odd_values_make_no_panic() {
        assert_eq!(curve(&[], true), "");
        assert_eq!(curve(&[1.0], true), "");
        assert_eq!(curve(&[f64::NAN, f64::NAN], true), "");
        assert!(curve(&[1.0, 1.0], true).contains("1.000"));
        assert!(curve(&[1.0, f64::INFINITY, 2.0], false).contains("2.000"));
        assert_eq!(curve(&vec![2.0; 1000], false).lines().count(), HEIGHT + 2);
    }
}
