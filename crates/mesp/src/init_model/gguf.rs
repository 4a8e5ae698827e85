//! The same models as GGUF files.

use std::path::{Path, PathBuf};

use mesp_formats::gguf::{self, SpecialTokens, TensorType, Value, can_quantize, quantize_row};
use mesp_formats::{Dtype, ModelConfig};
use rayon::prelude::*;

use super::{Start, fill, tensors, write_rows};
use crate::arch::Config;
use crate::{Error, ErrorKind, Result};

/// Values that are drawn at once, or one row.
const CHUNK: usize = 1 << 20;

/// Where the rows for a GGUF file go.
pub fn rows_beside(path: &Path) -> PathBuf {
    path.with_extension("random_rows.jsonl")
}

/// Writes a GGUF file without a tokenizer, and beside it `STEM.random_rows.jsonl`, whose path is given back.
/// Matrices have type `ty`, or F16 where their rows are not whole blocks; the rest is F32. The values before
/// rounding are those that [`write`](super::write()) draws from the same seed, in the file's order of rows.
///
/// # Errors
/// When the configuration is of no model that the engine knows, the type cannot be written, or a file cannot.
pub fn write_gguf(
    path: &Path,
    config: &ModelConfig,
    ty: TensorType,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<PathBuf> {
    if !can_quantize(ty) {
        return Err(Error::usage(
            ErrorKind::Unsupported,
            format!("type {} is read and trained on, not written", ty.name().to_lowercase()),
        ));
    }
    if let Some(problem) = gguf::inexpressible(config) {
        return Err(
            Error::usage(ErrorKind::Unsupported, problem).hint("write a directory: of type f32 or bf16")
        );
    }
    let mut shape = Config::new(config)?;
    shape.norm_offset = 0.0;
    let mut list = Vec::new();
    let mut starts = Vec::new();
    for (name, sizes, start) in tensors(&shape) {
        let counterpart = gguf::tensor_name(&config.model_type, &name).ok_or_else(|| {
            Error::usage(ErrorKind::Unsupported, format!("tensor {name} has no counterpart in GGUF"))
        })?;
        let ty = match sizes[..] {
            [_, cols] if cols.is_multiple_of(ty.block_len()) => ty,
            [_, _] => TensorType::F16,
            _ => TensorType::F32,
        };
        starts.push(start);
        list.push((counterpart, ty, sizes));
    }
    let divisors = gguf::rope_tensors(config);
    list.extend(divisors.iter().map(|(name, of)| ((*name).to_owned(), TensorType::F32, vec![of.len()])));
    let (mut done, total) = (0, shape.parameters());
    gguf::write(path, &metadata(config, ty), &list, &mut |i, out| {
        let (_, ty, sizes) = &list[i];
        let Some(start) = starts.get(i) else {
            let mut bytes = Vec::new();
            quantize_row(TensorType::F32, &divisors[i - starts.len()].1, &mut bytes);
            return out.write_all(&bytes);
        };
        let cols = sizes.last().copied().unwrap_or(1);
        let len: usize = sizes.iter().product();
        let step = (CHUNK / cols).max(1) * cols;
        for first in (0..len).step_by(step) {
            let count = step.min(len - first);
            for bytes in quantized(*ty, *start, cols, seed, i as u64, first..first + count) {
                out.write_all(&bytes)?;
            }
            done += count as u64;
            progress(done, total);
        }
        Ok(())
    })?;
    let rows = rows_beside(path);
    write_rows(&rows, shape.vocab_size, seed)?;
    Ok(rows)
}

/// Rows of a tensor as they are stored.
fn quantized(
    ty: TensorType,
    start: Start,
    cols: usize,
    seed: u64,
    stream: u64,
    values: std::ops::Range<usize>,
) -> Vec<Vec<u8>> {
    let mut drawn = vec![0; 4 * values.len()];
    fill(&mut drawn, Dtype::F32, start, seed, stream, values.start as u64);
    let row = |bytes: &[u8]| {
        let x: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let mut out = Vec::new();
        quantize_row(ty, &x, &mut out);
        out
    };
    drawn.par_chunks(4 * cols).map(row).collect()
}

fn metadata(config: &ModelConfig, ty: TensorType) -> Vec<(String, Value)> {
    let mut metadata = gguf::metadata_for(config, "random");
    metadata.push(("general.file_type".to_owned(), Value::U32(gguf::file_type(ty))));
    let (bos, ends) = (config.bos_token_id, config.eos_token_ids.clone());
    let special = SpecialTokens { bos, ends, ..SpecialTokens::default() };
    metadata.extend(special.ids().into_iter().map(|(key, id)| (key, Value::U32(id))));
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init_model::preset;
    use crate::source::{Base, open_model};
    use mesp_device::Dtype as Held;

    #[test]
    fn a_written_file_is_a_model() {
        let dir = tempfile::tempdir().expect("a directory");
        for (ty, held) in
            [(TensorType::Q4_0, Held::Q4_0), (TensorType::Q8_0, Held::Q8_0), (TensorType::F16, Held::F16)]
        {
            let path = dir.path().join("tiny.gguf");
            let mut last = (0, 0);
            let config = preset("tiny").expect("tiny");
            let rows = write_gguf(&path, &config, ty, 3, &mut |a, b| last = (a, b)).expect("written");
            assert!(rows.ends_with("tiny.random_rows.jsonl") && rows.is_file());
            let opened = open_model(&path, Base::Mapped).expect("a model");
            assert_eq!(opened.dtype, held);
            assert_eq!(opened.config.parameters(), last.0);
            assert_eq!(last.0, last.1);
            opened.load().expect("its weights");
        }
        assert!(
            write_gguf(
                &dir.path().join("k.gguf"),
                &preset("tiny").expect("tiny"),
                TensorType::Q4_K,
                0,
                &mut |_, _| {}
            )
            .is_err()
        );
    }
}
