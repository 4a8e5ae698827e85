//! A row of tokens in a line that is too long to be held in memory: its numbers are taken as they come.

use std::fmt;
use std::io::{BufRead, Read, Seek, SeekFrom, Write};

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::rows::{LABELS, aligned, integer, unpadded};
use super::turns::type_of;
use super::{LongRows, ReadOptions};
use crate::{Error, ErrorKind, Result};

/// Bytes of a line from which on this way is looked at.
pub(super) const LONG: usize = 1 << 20;
/// Bytes of numbers that are kept in memory where all are wanted; more go to a temporary file.
const SPOOL: usize = 1 << 20;

/// Whether the beginning of a line ends inside a list of numbers that is a value of an object: a row of tokens.
pub(super) fn is_of_tokens(start: &[u8]) -> bool {
    let (mut depth, mut lists, mut quoted, mut escaped, mut numbers) = (0, 0, false, false, false);
    for byte in start {
        if quoted {
            (quoted, escaped) = (escaped || *byte != b'"', !escaped && *byte == b'\\');
            continue;
        }
        match byte {
            b'"' => (quoted, numbers) = (true, false),
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b'[' => (lists, numbers) = (lists + 1, true),
            b']' => lists -= 1,
            _ => {}
        }
    }
    (depth, lists, quoted, numbers) == (1, 1, false, true)
}

/// The rest of a line, after what of it was read.
pub(super) struct Line<'a, R> {
    start: &'a [u8],
    rest: &'a mut R,
    ended: bool,
}

impl<'a, R: BufRead> Line<'a, R> {
    pub(super) fn new(start: &'a [u8], rest: &'a mut R) -> Self {
        Self { start, rest, ended: false }
    }

    /// Reads to the line's end.
    pub(super) fn pass(&mut self) -> std::io::Result<()> {
        std::io::copy(self, &mut std::io::sink()).map(|_| ())
    }
}

impl<R: BufRead> Read for Line<'_, R> {
    fn read(&mut self, part: &mut [u8]) -> std::io::Result<usize> {
        if !self.start.is_empty() {
            return self.start.read(part);
        }
        if self.ended {
            return Ok(0);
        }
        let there = self.rest.fill_buf()?;
        let there = &there[..there.len().min(part.len())];
        let line = there.iter().position(|byte| *byte == b'\n');
        let n = line.unwrap_or(there.len());
        part[..n].copy_from_slice(&there[..n]);
        self.ended = line.is_some() || there.is_empty();
        self.rest.consume(n + usize::from(line.is_some()));
        Ok(n)
    }
}

/// A row of tokens, with as much of it as its reader asked for.
#[derive(Debug)]
pub(super) struct LongRow {
    /// Its tokens, and its labels where it has them.
    pub(super) tokens: Numbers,
    pub(super) labels: Option<Numbers>,
    /// Its other keys; what they hold is not kept.
    pub(super) others: Map<String, Value>,
}

/// Numbers of a list: how many there are, and the first of them or all.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) count: usize,
    most: usize,
    kept: tempfile::SpooledTempFile,
}

impl LongRow {
    /// Tokens and labels of the next `count` places.
    pub(super) fn next(&mut self, count: usize) -> Result<(Vec<u32>, Vec<i32>)> {
        let tokens = self.tokens.take(count)?;
        let labels = match &mut self.labels {
            Some(labels) => labels.take(count)?,
            None => tokens.clone(),
        };
        Ok((tokens.into_iter().map(i32::cast_unsigned).collect(), labels))
    }
}

impl Numbers {
    /// Reads `count` numbers from the place that was reached.
    fn take(&mut self, count: usize) -> Result<Vec<i32>> {
        let mut bytes = vec![0; 4 * count];
        self.kept.read_exact(&mut bytes).map_err(spool)?;
        Ok(bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect())
    }

    fn rewind(mut self) -> Result<Self> {
        self.kept.seek(SeekFrom::Start(0)).map_err(spool)?;
        Ok(self)
    }
}

fn spool(error: std::io::Error) -> Error {
    mesp_formats::Error::io("keep a long row in", std::env::temp_dir(), error).into()
}

/// Reads a row; `options` say how much of it is kept, and which tokens there are.
pub(super) fn read(line: impl Read, options: &ReadOptions) -> Result<LongRow> {
    let most = match (options.max_seq_len, options.long_rows) {
        (Some(limit), LongRows::Truncate | LongRows::Error) => limit,
        _ => usize::MAX,
    };
    let mut found = Found { most, vocab_size: options.vocab_size, ..Found::default() };
    let mut json = serde_json::Deserializer::from_reader(std::io::BufReader::new(line));
    let read = found.deserialize(&mut json).and_then(|()| json.end());
    if let Some(problem) = found.problem {
        return Err(problem);
    }
    read.map_err(|e| Error::usage(ErrorKind::Malformed, format!("not valid JSON: {e}")))?;
    let Some(tokens) = found.tokens else {
        return Err(Error::usage(
            ErrorKind::OutOfRange,
            format!("a row of more than {} MB without `input_ids`", LONG >> 20),
        )
        .hint("divide it into several rows"));
    };
    aligned(tokens.count, found.labels.as_ref().map(|labels| labels.count))?;
    unpadded(found.padded)?;
    let labels = found.labels.map(Numbers::rewind).transpose()?;
    Ok(LongRow { tokens: tokens.rewind()?, labels, others: found.others })
}

#[derive(Default)]
struct Found {
    most: usize,
    vocab_size: usize,
    tokens: Option<Numbers>,
    labels: Option<Numbers>,
    padded: Option<usize>,
    others: Map<String, Value>,
    /// Why the row is refused, in words of ours.
    problem: Option<Error>,
}

impl<'de> DeserializeSeed<'de> for &mut Found {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> std::result::Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Found {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if !["input_ids", LABELS, "attention_mask"].contains(&key.as_str()) {
                let some = map.next_value::<Option<IgnoredAny>>()?;
                self.others.insert(key, some.map_or(Value::Null, |_| Value::from("...")));
                continue;
            }
            map.next_value_seed(List { key, found: self })?;
        }
        Ok(())
    }
}

/// A list of numbers under a key.
struct List<'a> {
    key: String,
    found: &'a mut Found,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> std::result::Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl List<'_> {
    fn other<E: serde::de::Error>(self, found: &Value) -> std::result::Result<(), E> {
        self.found.problem = Some(
            Error::usage(ErrorKind::WrongType, format!("`{}`", self.key))
                .is(type_of(found))
                .expected("a list of integers"),
        );
        Err(E::custom("refused"))
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of integers")
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<(), E> {
        // Null is as good as absent.
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<(), E> {
        self.other(&text.into())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> std::result::Result<(), E> {
        self.other(&value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<(), E> {
        self.other(&value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<(), E> {
        self.other(&value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<(), E> {
        self.other(&value.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> std::result::Result<(), A::Error> {
        self.other(&Value::Object(Map::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        let Self { key, found } = self;
        if key == "attention_mask" {
            let mut at = 0;
            while let Some(value) = list.next_element::<Value>()? {
                if found.padded.is_none() && value.as_i64() == Some(0) {
                    found.padded = Some(at);
                }
                at += 1;
            }
            return Ok(());
        }
        let kept = tempfile::spooled_tempfile(SPOOL);
        let mut numbers = Numbers { count: 0, most: found.most, kept };
        let mut written = std::io::BufWriter::new(&mut numbers.kept);
        while let Some(value) = list.next_element::<Value>()? {
            match integer(&key, numbers.count, &value, found.vocab_size) {
                Ok(number) if numbers.count < numbers.most => {
                    if let Err(e) = written.write_all(&(number as i32).to_le_bytes()) {
                        found.problem = Some(spool(e));
                        return Err(A::Error::custom("refused"));
                    }
                }
                Ok(_) => {}
                Err(e) => {
                    found.problem = Some(e);
                    return Err(A::Error::custom("refused"));
                }
            }
            numbers.count += 1;
        }
        if let Err(e) = written.flush() {
            found.problem = Some(spool(e));
            return Err(A::Error::custom("refused"));
        }
        drop(written);
        if key == LABELS {
            found.labels = Some(numbers);
        } else {
            found.tokens = Some(numbers);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
