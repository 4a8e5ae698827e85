//! The streaming writer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{LENGTH_BYTES, MAX_HEADER, METADATA_KEY, byte_size};
use crate::atomic::write_atomic_with;
use crate::{Dtype, Error, ErrorKind, Result};

/// Writes a file tensor by tensor: `fill(i, w)` is called for each in order and writes its bytes, little
/// endian. No tensor needs to be whole in memory, and the file appears under its name only when complete.
///
/// # Errors
/// When the file cannot be written, a name is given twice, or `fill` writes another number of bytes than
/// shape and type ask for. The file under `path` is then as it was before.
pub fn write(
    path: &Path,
    tensors: &[(String, Dtype, Vec<usize>)],
    metadata: &BTreeMap<String, String>,
    fill: &mut dyn FnMut(usize, &mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let (header, sizes) = header(path, tensors, metadata)?;
    write_atomic_with(path, |w| {
        let io = |e| Error::io("write", path, e);
        w.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
        w.write_all(header.as_bytes()).map_err(io)?;
        for (i, ((name, dtype, shape), &size)) in tensors.iter().zip(&sizes).enumerate() {
            let mut counting = Counting { inner: w, count: 0 };
            fill(i, &mut counting).map_err(io)?;
            if counting.count != size as u64 {
                return Err(Error::invalid(path, ErrorKind::Mismatch)
                    .tensor(name)
                    .expected(format!("{size} bytes for shape {shape:?} of {}", dtype.name()))
                    .found(format!("{} bytes written", counting.count)));
            }
        }
        Ok(())
    })
}

/// The header's text, padded so that the data begins at a multiple of eight, and every tensor's bytes.
fn header(
    path: &Path,
    tensors: &[(String, Dtype, Vec<usize>)],
    metadata: &BTreeMap<String, String>,
) -> Result<(String, Vec<usize>)> {
    let mut map = Map::new();
    if !metadata.is_empty() {
        map.insert(METADATA_KEY.to_string(), json!(metadata));
    }
    let mut seen = BTreeSet::from([METADATA_KEY]);
    let mut sizes = Vec::with_capacity(tensors.len());
    let mut start = 0usize;
    for (name, dtype, shape) in tensors {
        let invalid = |kind| Error::invalid(path, kind).tensor(name);
        if !seen.insert(name) {
            return Err(invalid(ErrorKind::Conflict).expected("a name of its own").found("one in use"));
        }
        let size = byte_size(shape, dtype.bits());
        let Some((size, end)) = size.and_then(|s| Some((s, start.checked_add(s)?))) else {
            return Err(invalid(ErrorKind::OutOfRange)
                .expected("a size that fits")
                .found(format!("shape {shape:?}")));
        };
        map.insert(
            name.clone(),
            json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [start, end]}),
        );
        sizes.push(size);
        start = end;
    }
    let mut text = Value::Object(map).to_string();
    // Readers map the file and take numbers in place: the data must be aligned for them.
    let padded = (LENGTH_BYTES + text.len()).next_multiple_of(8) - LENGTH_BYTES;
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    if text.len() > MAX_HEADER {
        return Err(Error::invalid(path, ErrorKind::OutOfRange)
            .expected(format!("a header of at most {MAX_HEADER} bytes"))
            .found(text.len())
            .hint("Write fewer tensors to one file."));
    }
    Ok((text, sizes))
}

/// Counts the bytes that pass.
struct Counting<'a, W: Write> {
    inner: &'a mut W,
    count: u64,
}

impl<W: Write> Write for Counting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
