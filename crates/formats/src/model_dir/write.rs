//! Weight files of a folder, in shards where they are large.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::{INDEX, SINGLE};
use crate::{Dtype, Result, safetensors_file};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Weight files.
    pub files: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
}

/// Writes tensors as `model.safetensors`, or as shards of at most so many bytes with their index; a tensor larger
/// than that has a shard of its own. `fill(i, w)` writes the bytes of tensor `i`, called in order.
///
/// # Errors
/// As [`safetensors_file::write`].
pub fn write_weights(
    dir: &Path,
    tensors: &[(String, Dtype, Vec<usize>)],
    max_shard: u64,
    fill: &mut dyn FnMut(usize, &mut dyn Write) -> io::Result<()>,
) -> Result<Written> {
    let size = |(_, dtype, shape): &(String, Dtype, Vec<usize>)| {
        shape.iter().fold(dtype.bits() as u64, |n, d| n.saturating_mul(*d as u64)) / 8
    };
    let (mut starts, mut filled) = (vec![0], 0u64);
    for (i, tensor) in tensors.iter().enumerate() {
        if filled > 0 && filled.saturating_add(size(tensor)) > max_shard {
            starts.push(i);
            filled = 0;
        }
        filled = filled.saturating_add(size(tensor));
    }
    let bytes = tensors.iter().map(size).sum();
    let (files, metadata) = (starts.len(), crate::peft::metadata());
    let mut map = BTreeMap::new();
    for (n, &start) in starts.iter().enumerate() {
        let part = &tensors[start..starts.get(n + 1).copied().unwrap_or(tensors.len())];
        let name = match files {
            1 => SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{files:05}.safetensors", n + 1),
        };
        safetensors_file::write(&dir.join(&name), part, &metadata, &mut |i, w| fill(start + i, w))?;
        map.extend(part.iter().map(|(tensor, ..)| (tensor, name.clone())));
    }
    if files > 1 {
        let index = json!({ "metadata": { "total_size": bytes }, "weight_map": map });
        crate::atomic::write_atomic(&dir.join(INDEX), |w| writeln!(w, "{index:#}"))?;
    }
    Ok(Written { files, bytes })
}
