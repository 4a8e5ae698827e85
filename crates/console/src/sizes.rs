//! Numbers for people: sizes, durations, counts.

use mesp::ByteSize;

/// `43.9 MB`: decimal units, three digits.
pub fn bytes(n: u64) -> String {
    ByteSize(n).to_string()
}

/// `4.40 M`: a count, three digits.
pub fn count(n: u64) -> String {
    scaled(n as f64, &[(1e12, " T"), (1e9, " G"), (1e6, " M")], || n.to_string())
}

fn scaled(n: f64, units: &[(f64, &str)], small: impl FnOnce() -> String) -> String {
    // Half of the last digit below the unit is rounded up into it.
    let Some((unit, name)) = units.iter().find(|(unit, _)| n >= unit * 0.9995) else { return small() };
    let x = n / unit;
    let digits = if x < 9.995 { 2 } else { usize::from(x < 99.95) };
    format!("{x:.digits$}{name}")
}

/// `0.42s`, `9.1s`, `3m 05s`, `2h 14m`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 0.995 => format!("{seconds:.2}s"),
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([12, 4_399_104].map(count), ["12", "4.40 M"]);
        assert_eq!([0.416, 9.14, 185.0, 8040.0].map(duration), ["0.42s", "9.1s", "3m 05s", "2h 14m"]);
    }
}
