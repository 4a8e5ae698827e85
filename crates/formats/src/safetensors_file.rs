//! `*.safetensors`: the header parsed and checked, numbers converted, files written as a stream.
//!
//! A file is eight bytes with the header's length (little endian), a JSON header and the tensors' bytes,
//! back to back without holes. The header is read here rather than with the `safetensors` crate because
//! that one takes the last of two tensors with one name in silence, its sum of sizes can overflow, and its
//! errors do not name the tensor. Tests hold the two against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::json::quoted;
use crate::{Dtype, Error, ErrorKind, Result};

#[cfg(test)]
mod tests;
mod write;

pub use write::write;

/// Bytes of the header's length.
const LENGTH_BYTES: usize = 8;
/// The longest header the format allows.
const MAX_HEADER: usize = 100_000_000;
/// The header's key that is not a tensor.
const METADATA_KEY: &str = "__metadata__";

/// One tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its number type.
    pub dtype: Dtype,
    /// Its sizes, outermost first; empty for a single number.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<usize>,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The tensors, in the order of their bytes, of whatever type.
    pub tensors: Vec<TensorInfo>,
    /// The file's own notes, such as `format`.
    pub metadata: BTreeMap<String, String>,
}

/// Reads and checks the header of a whole file; `path` is for error messages only.
///
/// Every range lies inside `bytes` and has the length that shape and type ask for.
///
/// # Errors
/// When the file is cut short, is something else, or its header contradicts itself.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Header> {
    let (raw, data_start) = raw_header(path, bytes)?;
    let RawHeader { mut tensors, metadata } = raw;
    tensors.sort_by_key(|(_, t)| t.data_offsets);

    let data_len = bytes.len() - data_start;
    let mut header = Header { tensors: Vec::with_capacity(tensors.len()), metadata };
    let mut end = 0;
    for (name, raw) in tensors {
        let invalid = |kind| {
            Error::invalid(path, kind).tensor(&name).hint("The file is damaged: get it or make it again.")
        };
        let (from, to) = raw.data_offsets;
        if from != end {
            return Err(invalid(ErrorKind::Malformed)
                .expected(format!("its bytes to begin at offset {end}, where those before it end"))
                .found(from));
        }
        if to < from || to > data_len {
            return Err(invalid(ErrorKind::Malformed)
                .expected(format!(
                    "its bytes to end at an offset from {from} to {data_len}, the size of all data"
                ))
                .found(format!("{to}{}", if to > data_len { ": the file is cut short" } else { "" })));
        }
        let Some(dtype) = Dtype::from_name(&raw.dtype) else {
            return Err(
                invalid(ErrorKind::Unknown).what(format!("unknown number type {}", quoted(&raw.dtype)))
            );
        };
        let size = byte_size(&raw.shape, dtype.bits()).ok_or_else(|| {
            invalid(ErrorKind::Malformed)
                .what(format!("shape {:?} of {} is no whole number of bytes that fits", raw.shape, raw.dtype))
        })?;
        if size != to - from {
            return Err(invalid(ErrorKind::Mismatch)
                .expected(format!("{size} bytes for shape {:?} of {}", raw.shape, raw.dtype))
                .found(to - from));
        }
        end = to;
        let range = data_start + from..data_start + to;
        header.tensors.push(TensorInfo { name, dtype, shape: raw.shape, range });
    }
    if end != data_len {
        return Err(Error::invalid(path, ErrorKind::Malformed)
            .expected(format!("{end} bytes after the header, as the tensors say"))
            .found(data_len)
            .hint("The file is damaged: get it or make it again."));
    }
    Ok(header)
}

/// The types whose tensors are read, for messages.
const READ: &str = "F32, F16, BF16, F64, F8_E4M3 or F8_E5M2";

impl TensorInfo {
    /// The type that its numbers are computed with.
    ///
    /// # Errors
    /// When its own is one that is not read: integers, and numbers in blocks.
    pub fn held(&self, path: &Path) -> Result<Dtype> {
        self.dtype.held().ok_or_else(|| {
            let (name, dtype) = (&self.name, self.dtype.name());
            Error::invalid(path, ErrorKind::Unsupported)
                .tensor(name)
                .is(format!("stored as {dtype}"))
                .expected(READ)
                .hint("Use a file with these tensors in one of those types.")
        })
    }
}

/// A tensor's numbers as `f32`, which holds every number of the types that are read, but for some of `F64`: these
/// are rounded.
///
/// # Errors
/// When its type is not read; when a number of it is finite and none that `f32` holds; when `info` is not of this
/// file: its range lies outside `bytes` or is not whole numbers.
pub fn read_f32(path: &Path, bytes: &[u8], info: &TensorInfo) -> Result<Vec<f32>> {
    info.held(path)?;
    let data = bytes.get(info.range.clone()).unwrap_or_default();
    let mut values = vec![0.0; data.len() / info.dtype.size()];
    if data.len() != info.range.len() || info.dtype.read(data, &mut values).is_none() {
        let (name, range, len) = (&info.name, &info.range, bytes.len());
        let dtype = info.dtype.name();
        return Err(Error::invalid(path, ErrorKind::Mismatch)
            .tensor(name)
            .expected(format!("bytes {range:?} of {dtype}"))
            .found(format!("a file of {len}"))
            .hint("The file changed while it was read: start again."));
    }
    if info.dtype == Dtype::F64 {
        let wide = data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b));
        if let Some((x, _)) = wide.zip(&values).find(|(x, v)| x.is_finite() && v.is_infinite()) {
            let name = &info.name;
            return Err(Error::invalid(path, ErrorKind::OutOfRange)
                .tensor(name)
                .expected("numbers that F32 holds")
                .found(format!("{x} of F64"))
                .hint("The weights are damaged: get them again."));
        }
    }
    Ok(values)
}

/// The header as it stands, and where the data begins.
fn raw_header(path: &Path, bytes: &[u8]) -> Result<(RawHeader, usize)> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(Error::invalid(path, ErrorKind::WrongType)
            .expected("a safetensors file")
            .found("a Git LFS pointer to one")
            .hint("Fetch the file itself: run `git lfs pull` in that folder."));
    }
    let found = bytes.len();
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(Error::invalid(path, ErrorKind::Malformed)
            .expected(format!("at least {LENGTH_BYTES} bytes"))
            .found(found)
            .hint("The file is cut short: get it again."));
    };
    let length = u64::from_le_bytes(*length);
    let text = usize::try_from(length).ok().filter(|n| *n <= MAX_HEADER).and_then(|n| rest.get(..n));
    let Some(text) = text else {
        let error = Error::invalid(path, ErrorKind::Malformed);
        let error = if length > MAX_HEADER as u64 {
            let most = format!("a header of at most {MAX_HEADER} bytes");
            error.expected(most).found(format!("a length of {length}"))
        } else {
            let found = format!("{} bytes: the file is cut short", rest.len());
            error.expected(format!("a header of {length} bytes")).found(found)
        };
        return Err(error.hint("Not a safetensors file, or damaged: get it again."));
    };
    let damaged = |kind| {
        Error::invalid(path, kind).hint("The file is damaged or not a safetensors file: get it again.")
    };
    let text_str = std::str::from_utf8(text).map_err(|e| {
        damaged(ErrorKind::Malformed)
            .expected("a header in UTF-8")
            .found(format!("another byte at {}", e.valid_up_to()))
    })?;
    let raw = serde_json::from_str(text_str).map_err(|e| {
        damaged(ErrorKind::Malformed)
            .expected("a JSON header of tensors")
            .found(format!("something else: {e}"))
    })?;
    Ok((raw, LENGTH_BYTES + text.len()))
}

/// Bytes of a tensor; none where they overflow or are no whole number.
fn byte_size(shape: &[usize], bits: usize) -> Option<usize> {
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let total = count.checked_mul(bits)?;
    total.is_multiple_of(8).then_some(total / 8)
}

/// The JSON header; a list, so that a name given twice is seen.
struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
        let mut header = RawHeader { tensors: Vec::new(), metadata: BTreeMap::new() };
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("the name {} twice", quoted(&key))));
            }
            let in_key = |e: A::Error| A::Error::custom(format!("in {}: {e}", quoted(&key)));
            if key == METADATA_KEY {
                header.metadata = map.next_value::<Option<_>>().map_err(in_key)?.unwrap_or_default();
            } else {
                let tensor = map.next_value().map_err(in_key)?;
                header.tensors.push((key, tensor));
            }
        }
        Ok(header)
    }
}
