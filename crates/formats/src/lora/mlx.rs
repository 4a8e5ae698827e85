//! mlx-lm's directories: `adapters.safetensors` and an `adapter_config.json` of its own.
//!
//! One rank and one scale for all: lower ranks are filled up with zeros and other scales folded into B, which
//! means the same. mlx-lm wraps every linear layer of the blocks unless `keys` names those with an adapter.

use std::path::Path;

use serde_json::json;

use super::{Half, Layout, Lora, Matrix, Pair, Values, bytes_of, joined, scales, transposed, unknown};
use crate::json::{Fields, parse_object, quoted, read_text};
use crate::peft::{CONFIG_FILE, OUTSIDE_BLOCKS, is_transposed, parent, path_outside_blocks};
use crate::safetensors_file;
use crate::{Dtype, Error, ErrorKind, Result};

/// The tensors' name in an adapter's folder.
pub const MODEL_FILE: &str = "adapters.safetensors";

pub(super) fn read(dir: &Path, bytes: &[u8]) -> Result<Lora> {
    let path = dir.join(CONFIG_FILE);
    let map = parse_object(&path, &read_text(&path)?)?;
    let f = Fields::new(&path, &map);
    if let Some(other) = f.str("fine_tune_type")?.filter(|t| *t != "lora") {
        return Err(f
            .error("fine_tune_type", ErrorKind::Unsupported)
            .expected("\"lora\"")
            .found(format!("{}: it is not supported", quoted(other)))
            .hint("Fuse it into the model with mlx_lm.fuse."));
    }
    let parameters = f.required("lora_parameters", f.object("lora_parameters")?)?;
    let inner = Fields { path: &path, prefix: "lora_parameters.", map: parameters };
    let scale = inner.required("scale", inner.f64("scale")?)?;
    let rank = inner.usize("rank")?;

    let file = dir.join(MODEL_FILE);
    let header = safetensors_file::parse(&file, bytes)?;
    let expected = "MODULE.lora_a or .lora_b of a linear layer or the embeddings";
    let halves = header
        .tensors
        .iter()
        .map(|t| {
            let (layer, module, matrix) =
                parse_name(&t.name).ok_or_else(|| unknown(&file, &t.name, expected))?;
            // An embedding's first factor is looked up in, [words, r], its second [r, out].
            let (matrix, transposed) = match (is_transposed(&module), matrix) {
                (true, Matrix::A) => (Matrix::B, false),
                (true, _) => (Matrix::A, false),
                (false, matrix) => (matrix, true),
            };
            Half::of(&file, t, (layer, module, matrix), transposed)
        })
        .collect::<Result<_>>()?;
    let mut lora = joined(&file, Layout::Mlx, halves, |pair| match rank {
        Some(rank) if rank != pair.rank => {
            let (name, found) = (pair.path(), pair.rank);
            Err(Error::invalid(&file, ErrorKind::Mismatch)
                .what(name)
                .expected(format!("rank {rank}, as {CONFIG_FILE} says"))
                .found(found)
                .hint("The two files are of different adapters."))
        }
        _ => Ok(scale),
    })?;
    lora.config.base_model = f.str("model")?.map(str::to_string);
    Ok(lora)
}

fn parse_name(name: &str) -> Option<(usize, String, Matrix)> {
    let (path, name) = name.rsplit_once('.')?;
    let (matrix, peft) = match name {
        "lora_a" => (Matrix::A, "lora_A"),
        "lora_b" => (Matrix::B, "lora_B"),
        _ => return None,
    };
    if let Some((module, _)) = OUTSIDE_BLOCKS.into_iter().find(|(_, outside)| *outside == path) {
        return Some((0, module.to_owned(), matrix));
    }
    crate::peft::parse_tensor_name(&format!("base_model.model.{path}.{peft}.weight"))
}

/// Writes the files of a directory.
///
/// # Errors
/// When a file cannot be written.
///
/// # Panics
/// When there are no pairs.
pub fn write(dir: &Path, pairs: &[Pair], base_model: Option<&str>, values: Values<'_>) -> Result<()> {
    let rank = pairs.iter().map(|p| p.rank).max().unwrap_or(1);
    let scale = scales::most(pairs, |p| p.scale);
    // Zero leaves nothing to fold into.
    let scale = if scale == 0.0 { 1.0 } else { scale };
    // Within a layer, or whole outside the layers.
    let key = |p: &Pair| match path_outside_blocks(&p.module) {
        Some(path) => path.to_owned(),
        None => format!("{}.{}", parent(&p.module), p.module),
    };
    let mut keys: Vec<String> = Vec::new();
    for pair in pairs {
        if !keys.contains(&key(pair)) {
            keys.push(key(pair));
        }
    }
    let json = json!({
        "fine_tune_type": "lora",
        "lora_parameters": { "dropout": 0.0, "keys": keys, "rank": rank, "scale": scale },
        "model": base_model,
        // All of them: one that has no tensors here keeps its B of zeros.
        "num_layers": -1,
    });
    crate::atomic::write_atomic(&dir.join(CONFIG_FILE), |w| {
        std::io::Write::write_all(w, format!("{json:#}").as_bytes())
    })?;
    let tensors: Vec<_> = pairs
        .iter()
        .flat_map(|p| {
            let name = |half: &str| format!("{}.{half}", p.path());
            let a = (name("lora_a"), Dtype::F32, vec![p.input, rank]);
            let b = (name("lora_b"), Dtype::F32, vec![rank, p.output]);
            if is_transposed(&p.module) {
                let (a, b) = ((b.0, a.1, vec![rank, p.input]), (a.0, b.1, vec![p.output, rank]));
                return [a, b];
            }
            [a, b]
        })
        .collect();
    let metadata = crate::peft::metadata();
    safetensors_file::write(&dir.join(MODEL_FILE), &tensors, &metadata, &mut |i, w| {
        let (pair, matrix) = (&pairs[i / 2], if i % 2 == 0 { Matrix::A } else { Matrix::B });
        let turned = is_transposed(&pair.module);
        let mut x = scales::folded(values, i / 2, matrix, pair.scale / scale)?;
        if !turned {
            x = transposed_of(&x, pair.shape(matrix));
        }
        if (matrix == Matrix::A) == turned {
            // [r, out]: more rows.
            x.resize(rank * x.len() / pair.rank, 0.0);
        } else {
            // [in, r]: every row gets longer.
            x = widened(&x, pair.rank, rank);
        }
        w.write_all(&bytes_of(&x))
    })
}

fn transposed_of(x: &[f32], [rows, _]: [usize; 2]) -> Vec<f32> {
    transposed(x, rows)
}

fn widened(x: &[f32], from: usize, to: usize) -> Vec<f32> {
    x.chunks_exact(from).flat_map(|row| row.iter().copied().chain((from..to).map(|_| 0.0))).collect()
}
