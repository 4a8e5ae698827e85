//! The values of one column, a row at a time.

use parquet::column::reader::ColumnReader;
use parquet::data_type::{ByteArray, FixedLenByteArray, Int96};
use parquet::errors::Result;
use serde_json::Value;

use super::schema::Kind;
use crate::data::Date;

/// A column that is being read, and what it has for the row at hand.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    reader: ColumnReader,
    /// The level at which a value is there.
    highest: i16,
    levels: Vec<i16>,
    repeats: Vec<i16>,
    values: Values,
    /// The next entry, and the next value.
    at: usize,
    taken: usize,
    entries: usize,
}

#[derive(Default)]
struct Values {
    bools: Vec<bool>,
    ints: Vec<i32>,
    longs: Vec<i64>,
    int96s: Vec<Int96>,
    floats: Vec<f32>,
    doubles: Vec<f64>,
    bytes: Vec<ByteArray>,
    fixed: Vec<FixedLenByteArray>,
}

impl Column {
    pub(super) fn new(name: String, kind: Kind, reader: ColumnReader, highest: i16) -> Self {
        let (levels, repeats, values) = (Vec::new(), Vec::new(), Values::default());
        Self { name, kind, reader, highest, levels, repeats, values, at: 0, taken: 0, entries: 0 }
    }

    /// Reads what the next row has; `false` if the column has ended.
    pub(super) fn advance(&mut self) -> Result<bool> {
        self.levels.clear();
        self.repeats.clear();
        (self.at, self.taken) = (0, 0);
        let (l, r, v) = (Some(&mut self.levels), Some(&mut self.repeats), &mut self.values);
        macro_rules! read {
            ($reader:ident, $values:ident) => {{
                v.$values.clear();
                $reader.read_records(1, l, r, &mut v.$values)
            }};
        }
        let (rows, _, entries) = match &mut self.reader {
            ColumnReader::BoolColumnReader(reader) => read!(reader, bools),
            ColumnReader::Int32ColumnReader(reader) => read!(reader, ints),
            ColumnReader::Int64ColumnReader(reader) => read!(reader, longs),
            ColumnReader::Int96ColumnReader(reader) => read!(reader, int96s),
            ColumnReader::FloatColumnReader(reader) => read!(reader, floats),
            ColumnReader::DoubleColumnReader(reader) => read!(reader, doubles),
            ColumnReader::ByteArrayColumnReader(reader) => read!(reader, bytes),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => read!(reader, fixed),
        }?;
        self.entries = entries;
        Ok(rows == 1 && entries > 0)
    }

    /// The level and the repetition of the next entry of this row.
    pub(super) fn peek(&self) -> Option<(i16, i16)> {
        let level = self.levels.get(self.at).copied().unwrap_or(self.highest);
        (self.at < self.entries).then(|| (level, self.repeats.get(self.at).copied().unwrap_or(0)))
    }

    /// Takes the next entry: its value, or null. `None` if there is none, or if it is not what its type says.
    pub(super) fn take(&mut self) -> Option<Value> {
        let (level, _) = self.peek()?;
        self.at += 1;
        if level < self.highest {
            return Some(Value::Null);
        }
        let at = self.taken;
        self.taken += 1;
        match &self.reader {
            ColumnReader::BoolColumnReader(_) => self.values.bools.get(at).map(|b| (*b).into()),
            ColumnReader::Int32ColumnReader(_) => {
                let value = *self.values.ints.get(at)?;
                let unsigned = self.kind == Kind::Unsigned;
                Some(integer(self.kind, if unsigned { value.cast_unsigned().into() } else { value.into() }))
            }
            ColumnReader::Int64ColumnReader(_) => Some(integer(self.kind, *self.values.longs.get(at)?)),
            ColumnReader::Int96ColumnReader(_) => {
                let parts = self.values.int96s.get(at)?.data();
                let nanos = i64::from(parts[0]) | i64::from(parts[1]) << 32;
                // Counted from the Julian day of 1970-01-01.
                let seconds = (i64::from(parts[2]) - 2_440_588) * 86_400 + nanos.div_euclid(1_000_000_000);
                Some(moment(seconds, nanos.rem_euclid(1_000_000_000), false).into())
            }
            ColumnReader::FloatColumnReader(_) => Some((f64::from(*self.values.floats.get(at)?)).into()),
            ColumnReader::DoubleColumnReader(_) => Some((*self.values.doubles.get(at)?).into()),
            ColumnReader::ByteArrayColumnReader(_) => {
                let value = self.values.bytes.get(at).filter(|value| !value.is_empty());
                bytes(self.kind, value.map_or(&[], |value| value.data()))
            }
            ColumnReader::FixedLenByteArrayColumnReader(_) => {
                bytes(self.kind, self.values.fixed.get(at).filter(|value| !value.is_empty())?.data())
            }
        }
    }
}

fn integer(kind: Kind, value: i64) -> Value {
    match kind {
        Kind::Unsigned => value.cast_unsigned().into(),
        Kind::Date => Date::from_unix(value.saturating_mul(86_400)).iso_day().into(),
        Kind::Timestamp { per_second, utc } => {
            let nanos = value.rem_euclid(per_second) * (1_000_000_000 / per_second);
            moment(value.div_euclid(per_second), nanos, utc).into()
        }
        Kind::Time { per_second } => {
            let nanos = value.rem_euclid(per_second) * (1_000_000_000 / per_second);
            let text = moment(value.div_euclid(per_second), nanos, false);
            text.split_once('T').map_or(text.as_str(), |(_, time)| time).into()
        }
        Kind::Decimal { scale } => decimal(i128::from(value), scale).into(),
        _ => value.into(),
    }
}

/// Bytes as what they are; `None` where a text is no UTF-8.
fn bytes(kind: Kind, bytes: &[u8]) -> Option<Value> {
    match kind {
        Kind::Half => {
            let bits = u16::from_le_bytes(bytes.try_into().ok()?);
            Some(f64::from(half::f16::from_bits(bits)).into())
        }
        Kind::Uuid => {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let parts = [0..4, 4..6, 6..8, 8..10, 10..16].map(|part| hex.get(part).map(<[String]>::concat));
            Some(parts.into_iter().collect::<Option<Vec<_>>>()?.join("-").into())
        }
        Kind::Decimal { scale } if (1..=16).contains(&bytes.len()) => {
            let negative = bytes[0] & 0x80 != 0;
            let start = if negative { -1i128 } else { 0 };
            let value = bytes.iter().fold(start, |value, byte| value << 8 | i128::from(*byte));
            Some(decimal(value, scale).into())
        }
        _ => std::str::from_utf8(bytes).ok().map(Into::into),
    }
}

/// A moment as Python's `isoformat` writes it.
fn moment(seconds: i64, nanos: i64, utc: bool) -> String {
    let mut text = Date::from_unix(seconds).iso();
    if nanos > 0 {
        let digits = format!("{nanos:09}");
        text += ".";
        text += digits.strip_suffix("000").unwrap_or(&digits);
    }
    text + if utc { "+00:00" } else { "" }
}

/// A whole number with so many digits after the point.
fn decimal(value: i128, scale: u32) -> String {
    let scale = scale.min(64) as usize;
    let digits = format!("{:0width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    let sign = if value < 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are Python's: `datetime.isoformat`, `str(Decimal)`, `str(UUID)`.
    #[test]
    fn values_without_json_are_texts() {
        assert_eq!(moment(1_700_000_000, 0, true), "2023-11-14T22:13:20+00:00");
        assert_eq!(moment(-1, 500_000_000, false), "1969-12-31T23:59:59.500000");
        assert_eq!(integer(Kind::Date, 19_782), "2024-02-29");
        assert_eq!(integer(Kind::Time { per_second: 1_000 }, 3_661_250), "01:01:01.250000");
        for (value, scale, text) in
            [(12_345, 2, "123.45"), (-5, 3, "-0.005"), (0, 1, "0.0"), (7, 0, "7"), (-120, 1, "-12.0")]
        {
            assert_eq!(decimal(value, scale), text);
        }
        assert_eq!(bytes(Kind::Decimal { scale: 2 }, &[0xFF, 0x38]), Some("-2.00".into()));
        let uuid: Vec<u8> = (0..16).collect();
        assert_eq!(bytes(Kind::Uuid, &uuid), Some("00010203-0405-0607-0809-0a0b0c0d0e0f".into()));
        assert_eq!(bytes(Kind::Text, &[0xFF]), None);
    }
}
