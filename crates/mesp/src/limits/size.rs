//! Sizes in bytes: parsing and formatting.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes. Parses `128MB` (10⁶ bytes), `128MiB` (2²⁰ bytes) or `134217728`; its `Display` has decimal units
/// and three digits, `43.9 MB`.
///
/// ```
/// use mesp::ByteSize;
///
/// let budget: ByteSize = "100MB".parse()?;
/// assert_eq!(budget, ByteSize::mb(100));
/// assert_eq!(budget.to_string(), "100 MB");
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u64", try_from = "Written")]
pub struct ByteSize(pub u64);

/// A size in a document: a number of bytes, or a text with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Bytes(u64),
    Text(String),
}

impl From<ByteSize> for u64 {
    fn from(size: ByteSize) -> Self {
        size.0
    }
}

impl TryFrom<Written> for ByteSize {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl ByteSize {
    /// `n` megabytes of 10⁶ bytes.
    pub const fn mb(n: u64) -> Self {
        Self(n.saturating_mul(1_000_000))
    }

    /// `n` gigabytes of 10⁹ bytes.
    pub const fn gb(n: u64) -> Self {
        Self(n.saturating_mul(1_000_000_000))
    }
}

impl FromStr for ByteSize {
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

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0 as f64;
        // Half of the last digit below the unit is rounded up into it.
        let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
        let Some((unit, name)) = units.into_iter().find(|(unit, _)| n >= unit * 0.9995) else {
            return write!(f, "{} B", self.0);
        };
        let x = n / unit;
        let digits = if x < 9.995 { 2 } else { usize::from(x < 99.95) };
        write!(f, "{x:.digits$} {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let read = |s: &str| s.parse::<ByteSize>().map(|b| b.0);
        assert_eq!(read("128MB"), Ok(128_000_000));
        assert_eq!(read("128MiB"), Ok(134_217_728));
        assert_eq!(read("1.5 gb"), Ok(1_500_000_000));
        assert_eq!(read("42"), Ok(42));
        for wrong in ["", "MB", "12 parsecs", "-1MB", "0", "1.2.3kB", "1e999"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_written_as_bytes_and_read_with_units() {
        assert_eq!(serde_json::to_string(&ByteSize::mb(2)).expect("a number"), "2000000");
        let read = |text: &str| serde_json::from_str::<ByteSize>(text).map(|size| size.0).ok();
        assert_eq!(
            [read("2000000"), read("\"2MB\""), read("\"two\"")],
            [Some(2_000_000), Some(2_000_000), None]
        );
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            [0, 999, 1000, 43_949_000, 999_600].map(|n| ByteSize(n).to_string()),
            ["0 B", "999 B", "1.00 kB", "43.9 MB", "1.00 MB"]
        );
    }
}
