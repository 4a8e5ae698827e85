//! The streaming writer.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use super::value::{ARRAY_ID, Data};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, ElementType, TensorType, Value};
use crate::atomic::write_atomic_with;
use crate::json::quoted;
use crate::{Error, ErrorKind, Result};

/// Names must be shorter than this for llama.cpp (`GGML_MAX_NAME`).
const MAX_NAME: usize = 64;

/// Writes a file of version 3 tensor by tensor: `fill(i, w)` is called for each in order and writes its bytes.
/// No tensor needs to be whole in memory, and the file appears under its name only when complete. Shapes are
/// outermost first. The alignment is 32 unless `metadata` has `general.alignment`.
///
/// # Errors
/// When the file cannot be written, a key or name is given twice, a shape is one the format does not have, an
/// array is still in the file it was read from, or `fill` writes another number of bytes than shape and type
/// ask for. The file under `path` is then as it was before.
pub fn write(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[(String, TensorType, Vec<usize>)],
    fill: &mut dyn FnMut(usize, &mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let alignment = metadata
        .iter()
        .find(|(key, _)| key == ALIGNMENT_KEY)
        .map_or(Some(DEFAULT_ALIGNMENT), |(_, v)| v.as_u64().and_then(|n| usize::try_from(n).ok()))
        .filter(|n| n.is_power_of_two())
        .ok_or_else(|| {
            Error::invalid(path, ErrorKind::OutOfRange)
                .what(format!("key \"{ALIGNMENT_KEY}\": expected a power of two"))
        })?;
    let (header, sizes) = header(path, metadata, tensors, alignment)?;
    write_atomic_with(path, |w| {
        let io = |e| Error::io("write", path, e);
        w.write_all(&header).map_err(io)?;
        pad(w, header.len(), alignment).map_err(io)?;
        for (i, ((name, ty, shape), &size)) in tensors.iter().zip(&sizes).enumerate() {
            let mut counting = Counting { inner: w, count: 0 };
            fill(i, &mut counting).map_err(io)?;
            if counting.count != size as u64 {
                return Err(Error::invalid(path, ErrorKind::Mismatch)
                    .tensor(name)
                    .expected(format!("{size} bytes for shape {shape:?} of {}", ty.name()))
                    .found(format!("{} bytes written", counting.count)));
            }
            pad(w, size, alignment).map_err(io)?;
        }
        Ok(())
    })
}

/// Zeros up to a multiple of the alignment.
fn pad(w: &mut dyn Write, written: usize, alignment: usize) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), (written.next_multiple_of(alignment) - written) as u64), w)?;
    Ok(())
}

/// Everything before the tensors' bytes, without the padding, and every tensor's bytes.
fn header(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[(String, TensorType, Vec<usize>)],
    alignment: usize,
) -> Result<(Vec<u8>, Vec<usize>)> {
    let mut out = b"GGUF".to_vec();
    put_u32(&mut out, 3);
    put_u64(&mut out, tensors.len());
    put_u64(&mut out, metadata.len());
    let mut seen = BTreeSet::new();
    for (key, value) in metadata {
        let invalid = |kind| Error::invalid(path, kind).what(format!("key {}", quoted(key))).key(key);
        if key.is_empty() || !seen.insert(key) {
            return Err(invalid(ErrorKind::Conflict)
                .expected("a name of its own")
                .found("none or one in use"));
        }
        put_str(&mut out, key);
        if !put_value(&mut out, value) {
            return Err(invalid(ErrorKind::WrongType)
                .expected("an array with bytes of its own")
                .found("one in another file"));
        }
    }
    let mut seen = BTreeSet::new();
    let mut sizes = Vec::with_capacity(tensors.len());
    let mut offset = 0usize;
    for (name, ty, shape) in tensors {
        let invalid = |kind| Error::invalid(path, kind).tensor(name);
        if !seen.insert(name) {
            return Err(invalid(ErrorKind::Conflict).expected("a name of its own").found("one in use"));
        }
        if name.is_empty() || name.len() >= MAX_NAME {
            return Err(invalid(ErrorKind::OutOfRange)
                .expected(format!("a name of 1 to {} bytes", MAX_NAME - 1))
                .found(name.len()));
        }
        if !(1..=4).contains(&shape.len()) || shape.contains(&0) {
            return Err(invalid(ErrorKind::OutOfRange)
                .expected("1 to 4 sizes of 1 or more")
                .found(format!("shape {shape:?}")));
        }
        let size = ty.tensor_bytes(shape);
        let end = size
            .and_then(|size| offset.checked_add(size))
            .and_then(|e| e.checked_next_multiple_of(alignment));
        let (Some(size), Some(end)) = (size, end) else {
            return Err(invalid(ErrorKind::Mismatch)
                .expected(format!("rows of whole blocks of {} numbers and a size that fits", ty.block_len()))
                .found(format!("shape {shape:?} of {}", ty.name())));
        };
        put_str(&mut out, name);
        put_u32(&mut out, shape.len() as u32);
        for &dim in shape.iter().rev() {
            put_u64(&mut out, dim);
        }
        put_u32(&mut out, ty.id());
        put_u64(&mut out, offset);
        sizes.push(size);
        offset = end;
    }
    Ok((out, sizes))
}

fn put_u32(out: &mut Vec<u8>, n: u32) {
    out.extend(n.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, n: usize) {
    out.extend((n as u64).to_le_bytes());
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    put_u64(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Whether the value's bytes are at hand.
fn put_value(out: &mut Vec<u8>, value: &Value) -> bool {
    macro_rules! number {
        ($kind:ident, $n:expr) => {{
            put_u32(out, ElementType::$kind.id());
            out.extend($n.to_le_bytes());
        }};
    }
    match value {
        Value::U8(n) => number!(U8, n),
        Value::I8(n) => number!(I8, n),
        Value::U16(n) => number!(U16, n),
        Value::I16(n) => number!(I16, n),
        Value::U32(n) => number!(U32, n),
        Value::I32(n) => number!(I32, n),
        Value::F32(n) => number!(F32, n),
        Value::U64(n) => number!(U64, n),
        Value::I64(n) => number!(I64, n),
        Value::F64(n) => number!(F64, n),
        Value::Bool(b) => number!(Bool, u8::from(*b)),
        Value::String(text) => {
            put_u32(out, ElementType::String.id());
            put_str(out, text);
        }
        Value::Array(array) => {
            let Data::Owned(bytes) = &array.data else { return false };
            put_u32(out, ARRAY_ID);
            put_u32(out, array.ty.id());
            put_u64(out, array.len);
            out.extend_from_slice(bytes);
        }
    }
    true
}

/// Counts what goes through.
struct Counting<'a> {
    inner: &'a mut dyn Write,
    count: u64,
}

impl Write for Counting<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.count += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
