//! The parser. Nothing is believed: a count is held against the bytes that are left before anything is made
//! for it, and every sum and product is checked.

use std::collections::BTreeSet;
use std::path::Path;

use super::tensor_type::foreign_name;
use super::value::{ARRAY_ID, Data, scalar};
use super::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, ElementType, Gguf, TensorInfo, TensorType, Value};
use crate::json::quoted;
use crate::{Error, ErrorKind, Result};

mod cursor;

use cursor::Reader;

const MAGIC: &[u8] = b"GGUF";
/// The most dimensions ggml has.
const MAX_DIMS: u32 = 4;
/// The longest key the specification allows.
const MAX_KEY: usize = 65_535;
/// Least bytes of a key with its value: length, kind, one byte.
const LEAST_PAIR: usize = 8 + 4 + 1;
/// Least bytes of a tensor's entry: name's length, dimensions, type, offset.
const LEAST_TENSOR: usize = 8 + 4 + 4 + 8;

/// Reads and checks a whole file; `path` is for error messages only.
///
/// Every tensor's range lies inside `bytes`, has the length that shape and type ask for, begins at a multiple
/// of the alignment and shares no byte with another.
///
/// # Errors
/// When the file is cut short, is something else, contradicts itself, or holds a type that is not read.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Gguf> {
    let mut r = Reader { path, bytes, at: 0 };
    let version = header(&mut r)?;
    let tensor_count = r.count("the number of tensors", LEAST_TENSOR)?;
    let pair_count = r.count("the number of metadata keys", LEAST_PAIR)?;

    let mut metadata: Vec<(String, Value)> = Vec::new();
    let mut seen = BTreeSet::new();
    for i in 0..pair_count {
        let key = r.string(&format!("metadata key {} of {pair_count}", i + 1))?;
        if key.is_empty() || key.len() > MAX_KEY {
            let found = key.len();
            return Err(r
                .damaged(ErrorKind::OutOfRange)
                .what(format!("key {}", i + 1))
                .expected(format!("1 to {MAX_KEY} bytes"))
                .found(found));
        }
        if !seen.insert(key) {
            return Err(r
                .damaged(ErrorKind::Conflict)
                .what(format!("key {}", quoted(key)))
                .expected("once")
                .found("twice"));
        }
        let value = r.value(key)?;
        metadata.push((key.to_string(), value));
    }
    let alignment = alignment(path, &metadata)?;

    let mut raw = Vec::new();
    let mut seen = BTreeSet::new();
    for i in 0..tensor_count {
        let tensor = r.tensor(i, tensor_count)?;
        if !seen.insert(tensor.name) {
            return Err(r.damaged(ErrorKind::Conflict).tensor(tensor.name).expected("once").found("twice"));
        }
        raw.push(tensor);
    }
    let start = r.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
    let tensors = raw.into_iter().map(|t| t.place(&r, start, alignment)).collect::<Result<Vec<_>>>()?;
    no_overlap(&r, &tensors)?;
    Ok(Gguf { path: path.to_path_buf(), version, metadata, tensors, alignment })
}

/// Checks magic and version.
fn header(r: &mut Reader<'_>) -> Result<u32> {
    let found = &r.bytes[..r.bytes.len().min(4)];
    if found != MAGIC {
        if r.bytes.starts_with(b"version https://git-lfs") {
            return Err(Error::invalid(r.path, ErrorKind::WrongType)
                .expected("a GGUF file")
                .found("a Git LFS pointer to one")
                .hint("Fetch the file itself: run `git lfs pull` in that folder."));
        }
        let named = |end: &str| r.path.extension().is_some_and(|e| e.eq_ignore_ascii_case(end));
        // A header's length below 2^32, then JSON.
        let safetensors = r.bytes.get(4..9) == Some(b"\0\0\0\0{");
        if safetensors || named("safetensors") {
            return Err(Error::invalid(r.path, ErrorKind::WrongType)
                .expected("a GGUF file or a model folder")
                .found("a safetensors file")
                .hint("Name the folder that holds it beside config.json."));
        }
        if ["bin", "pt", "pth", "ckpt"].into_iter().any(named) {
            return Err(Error::invalid(r.path, ErrorKind::WrongType)
                .expected("a GGUF file or a model folder")
                .found("neither")
                .hint(
                "PyTorch's own files are not read: load the model in transformers, save it with save_pretrained, \
                 and name the folder.",
            ));
        }
        let old = [b"ggml", b"ggjt", b"ggla", b"lmgg", b"tjgg", b"algg"].iter().any(|m| found == *m);
        let hint = if old {
            "This is a format from before GGUF: convert the original model with a current llama.cpp."
        } else {
            "Not a GGUF file, or damaged: get it again."
        };
        let shown = String::from_utf8_lossy(found);
        return Err(Error::invalid(r.path, ErrorKind::Malformed)
            .expected("a file that begins with \"GGUF\"")
            .found(quoted(&shown))
            .hint(hint));
    }
    r.at = MAGIC.len();
    let version = r.u32("the version")?;
    match version {
        2 | 3 => Ok(version),
        // A small number whose bytes stand the other way round.
        big if big != 0 && big.trailing_zeros() >= 16 => Err(Error::invalid(r.path, ErrorKind::Unsupported)
            .expected("a little-endian file")
            .found(format!("a big-endian one, version {}", big.swap_bytes()))
            .hint("Get or make the file for little-endian machines.")),
        other => {
            let hint = if other > 3 {
                "A later version of mesp may read it; or convert the model with an earlier llama.cpp."
            } else {
                "Convert the original model with a current llama.cpp."
            };
            Err(Error::invalid(r.path, ErrorKind::Unsupported)
                .expected("GGUF version 2 or 3")
                .found(other)
                .hint(hint))
        }
    }
}

fn alignment(path: &Path, metadata: &[(String, Value)]) -> Result<usize> {
    let Some((_, value)) = metadata.iter().find(|(k, _)| k == ALIGNMENT_KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
    number.filter(|n| n.is_power_of_two() && *n <= 1 << 30).ok_or_else(|| {
        let found = value.describe();
        Error::invalid(path, ErrorKind::Malformed)
            .what(format!("key \"{ALIGNMENT_KEY}\""))
            .expected("a power of two up to 2^30")
            .found(found)
            .hint("The file is damaged: get it or make it again.")
    })
}

fn no_overlap(r: &Reader<'_>, tensors: &[TensorInfo]) -> Result<()> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| (t.range.start, t.range.end));
    for pair in order.windows(2) {
        if let [a, b] = pair
            && a.range.end > b.range.start
        {
            return Err(r
                .damaged(ErrorKind::Malformed)
                .tensor(&b.name)
                .expected(format!("bytes of its own from {}", b.range.start))
                .found(format!("those of tensor {} up to {}", quoted(&a.name), a.range.end)));
        }
    }
    Ok(())
}

/// A tensor's entry before it has a place in the file.
struct RawTensor<'a> {
    name: &'a str,
    shape: Vec<usize>,
    ty: TensorType,
    offset: u64,
    size: usize,
}

impl RawTensor<'_> {
    fn place(self, r: &Reader<'_>, start: usize, alignment: usize) -> Result<TensorInfo> {
        let name = self.name;
        if !self.offset.is_multiple_of(alignment as u64) {
            return Err(r
                .damaged(ErrorKind::Malformed)
                .tensor(name)
                .expected(format!("an offset that is a multiple of {alignment}"))
                .found(self.offset));
        }
        let from = usize::try_from(self.offset).ok().and_then(|offset| start.checked_add(offset));
        let range = from.and_then(|from| Some(from..from.checked_add(self.size)?));
        let range = range.filter(|range| range.end <= r.bytes.len()).ok_or_else(|| {
            r.damaged(ErrorKind::Malformed)
                .tensor(name)
                .expected(format!(
                    "{} bytes at offset {} of the data, which begins at {start}",
                    self.size, self.offset
                ))
                .found(format!("a file of {} bytes: it is cut short", r.bytes.len()))
        })?;
        Ok(TensorInfo { name: self.name.to_string(), shape: self.shape, ty: self.ty, range })
    }
}

impl<'a> Reader<'a> {
    fn value(&mut self, key: &str) -> Result<Value> {
        let what = format!("key {}", quoted(key));
        let id = self.u32(&what)?;
        if id == ARRAY_ID {
            return self.array(&what).map(Value::Array);
        }
        match self.kind(&what, id)? {
            ElementType::String => Ok(Value::String(self.string(&what)?.to_string())),
            ty => self.scalar(&what, ty),
        }
    }

    fn kind(&self, what: &str, id: u32) -> Result<ElementType> {
        ElementType::from_id(id).ok_or_else(|| {
            self.damaged(ErrorKind::Malformed).what(what).expected("a kind of value from 0 to 12").found(id)
        })
    }

    fn scalar(&mut self, what: &str, ty: ElementType) -> Result<Value> {
        let rest = self.rest();
        if let Some((value, left)) = scalar(ty, rest) {
            self.at += rest.len() - left.len();
            return Ok(value);
        }
        match (ty, rest.first()) {
            (ElementType::Bool, Some(b)) => Err(self
                .damaged(ErrorKind::Malformed)
                .what(what)
                .expected("0 or 1 for a truth value")
                .found(b)),
            _ => Err(self.short(what, ty.bytes())),
        }
    }

    /// An array: walked through so that iterating it later cannot fail, and left where it is.
    fn array(&mut self, what: &str) -> Result<Array> {
        let id = self.u32(what)?;
        if id == ARRAY_ID {
            return Err(self
                .damaged(ErrorKind::Unsupported)
                .what(what)
                .expected("an array of values")
                .found("one of arrays"));
        }
        let ty = self.kind(what, id)?;
        let len = self.count(&format!("{what}: the number of elements"), ty.bytes())?;
        let start = self.at;
        match ty {
            ElementType::String => {
                for _ in 0..len {
                    self.string(what)?;
                }
            }
            ElementType::Bool => {
                for _ in 0..len {
                    self.scalar(what, ty)?;
                }
            }
            // The count fits into what is left, so this product does not overflow.
            _ => self.at += len * ty.bytes(),
        }
        Ok(Array { ty, len, data: Data::InFile(start..self.at) })
    }

    fn tensor(&mut self, i: usize, count: usize) -> Result<RawTensor<'a>> {
        let name = self.string(&format!("name of tensor {} of {count}", i + 1))?;
        let what = format!("tensor {}", quoted(name));
        let dims = self.u32(&what)?;
        if dims > MAX_DIMS {
            return Err(self
                .damaged(ErrorKind::OutOfRange)
                .tensor(name)
                .expected(format!("at most {MAX_DIMS} dimensions"))
                .found(dims));
        }
        let mut shape = Vec::with_capacity(dims as usize);
        for _ in 0..dims {
            let size = self.u64(&what)?;
            let size = usize::try_from(size).ok().filter(|s| *s > 0).ok_or_else(|| {
                self.damaged(ErrorKind::Malformed)
                    .tensor(name)
                    .expected("sizes of 1 or more that fit")
                    .found(size)
            })?;
            shape.push(size);
        }
        shape.reverse();
        let id = self.u32(&what)?;
        let ty = TensorType::from_id(id).ok_or_else(|| {
            let known = TensorType::ALL.map(TensorType::name).join(", ");
            Error::invalid(self.path, ErrorKind::Unsupported)
                .tensor(name)
                .expected(format!("type {known}"))
                .found(format!("type {id} ({})", foreign_name(id)))
                .hint("Use a file quantized to one of these types; Q4_0, Q4_K_M and Q8_0 downloads are.")
        })?;
        let offset = self.u64(&what)?;
        let size = ty.tensor_bytes(&shape).ok_or_else(|| {
            self.damaged(ErrorKind::Malformed)
                .tensor(name)
                .expected(format!("rows of whole blocks of {} numbers and a size that fits", ty.block_len()))
                .found(format!("shape {shape:?} of {}", ty.name()))
        })?;
        Ok(RawTensor { name, shape, ty, offset, size })
    }
}
