//! Numbers for people: sizes, durations, counts.

use std::str::FromStr;

/// A size as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a size such as 128MB, 128MiB or 134217728, found {text:?}");
        let text = text.trim();
        let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * factor as f64;
        if bytes >= 1.0 && bytes < u64::MAX as f64 { Ok(Self(bytes as u64)) } else { Err(wrong()) }
    }
}

/// `43.9 MB`: decimal units, three digits.
pub(crate) fn bytes(n: u64) -> String {
    scaled(n as f64, &[(1e9, " GB"), (1e6, " MB"), (1e3, " kB")], || format!("{n} B"))
}

/// `4.40 M`: a count, three digits.
pub(crate) fn count(n: u64) -> String {
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
pub(crate) fn duration(seconds: f64) -> String {
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
    fn sizes_are_read() {
        let read = |s: &str| s.parse::<Bytes>().map(|b| b.0);
        assert_eq!(read("128MB"), Ok(128_000_000));
        assert_eq!(read("128MiB"), Ok(134_217_728));
        assert_eq!(read("1.5 gb"), Ok(1_500_000_000));
        assert_eq!(read("42"), Ok(42));
        for wrong in ["", "MB", "12 parsecs", "-1MB", "0", "1.2.3kB", "1e999"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0, 999, 1000, 43_949_000, 999_600].map(bytes),
            ["0 B", "999 B", "1.00 kB", "43.9 MB", "1.00 MB"]
        );
        assert_eq!([12, 4_399_104].map(count), ["12", "4.40 M"]);
        assert_eq!([0.416, 9.14, 185.0, 8040.0].map(duration), ["0.42s", "9.1s", "3m 05s", "2h 14m"]);
    }
}
