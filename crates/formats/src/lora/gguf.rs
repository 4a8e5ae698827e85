//! llama.cpp's adapters: GGUF files with `NAME.lora_a` and `NAME.lora_b` for a base's tensor NAME.

use std::path::Path;

use super::{Half, Layout, Lora, Matrix, Pair, Place, Values, bytes_of, joined, scales, transposed, unknown};
use crate::gguf::{self, TensorType, Value};
use crate::json::quoted;
use crate::peft::is_transposed;
use crate::{Error, ErrorKind, Result};

const ALPHA: &str = "adapter.lora.alpha";

pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Lora> {
    let file = gguf::parse(path, bytes)?;
    for (key, expected) in [("general.type", "adapter"), ("adapter.type", "lora")] {
        let found = file.required(key, file.str(key)?)?;
        if found != expected {
            let hint =
                if found == "model" { "This is a model: give it as ‘model’." } else { "Use a LoRA." };
            return Err(file
                .error(key, ErrorKind::WrongType)
                .expected(format!("\"{expected}\""))
                .found(quoted(found))
                .hint(hint));
        }
    }
    if file.value("adapter.alora.invocation_tokens").is_some() {
        return Err(file
            .error("adapter.alora.invocation_tokens", ErrorKind::Unsupported)
            .expected("a plain LoRA")
            .found("one that begins at certain tokens")
            .hint("Use another adapter."));
    }
    let arch = file.required("general.architecture", file.str("general.architecture")?)?;
    let alpha = file.f64(ALPHA)?.unwrap_or(0.0);
    let expected = "NAME.weight.lora_a or .lora_b of a linear layer or the embeddings";
    let halves = file
        .tensors
        .iter()
        .map(|t| {
            let (layer, module, matrix) =
                parse_name(arch, &t.name).ok_or_else(|| unknown(path, &t.name, expected))?;
            let [rows, cols] = t.shape[..] else {
                return Err(Error::invalid(path, ErrorKind::WrongType)
                    .tensor(&t.name)
                    .expected("a matrix")
                    .found(format!("shape {:?}", t.shape)));
            };
            // llama.cpp looks words up in the first factor of an embedding, and multiplies by the second as it lies.
            let (matrix, transposed) = match (is_transposed(&module), matrix) {
                (true, Matrix::A) => (Matrix::B, false),
                (true, _) => (Matrix::A, true),
                (false, matrix) => (matrix, false),
            };
            let shape = if transposed { [cols, rows] } else { [rows, cols] };
            let place = Place { name: t.name.clone(), ty: t.ty.into(), range: t.range.clone(), transposed };
            Ok(Half { layer, module, matrix, shape, place })
        })
        .collect::<Result<_>>()?;
    // llama.cpp divides by the rank, and takes 0 for no scale of its own.
    let scale = |pair: &Pair| if alpha == 0.0 { 1.0 } else { alpha / pair.rank as f64 };
    let mut lora = joined(path, Layout::Gguf, halves, |pair| Ok(scale(pair)))?;
    lora.architecture = Some(arch.to_string());
    Ok(lora)
}

fn parse_name(arch: &str, name: &str) -> Option<(usize, String, Matrix)> {
    let (name, half) = name.rsplit_once('.')?;
    let matrix = match half {
        "lora_a" => Matrix::A,
        "lora_b" => Matrix::B,
        _ => return None,
    };
    let (layer, module) = gguf::block_module(arch, name)?;
    Some((layer, module.to_string(), matrix))
}

/// Writes an adapter for a base of a model type. Rows of B are in the order of the base's GGUF file: see
/// [`gguf::to_interleaved`].
///
/// # Errors
/// When the file cannot be written, or a module has no name in GGUF.
///
/// # Panics
/// When there are no pairs.
pub fn write(path: &Path, pairs: &[Pair], model_type: &str, name: &str, values: Values<'_>) -> Result<()> {
    // One alpha; what it does not say is folded. Zero would say nothing at all.
    let alpha_of = |p: &Pair| scales::alpha(p.scale, p.rank);
    let alpha = Some(scales::most(pairs, alpha_of)).filter(|a| *a != 0.0).unwrap_or(1.0);
    let metadata: Vec<(String, Value)> = vec![
        ("general.type".to_owned(), "adapter".into()),
        ("adapter.type".to_owned(), "lora".into()),
        ("general.architecture".to_owned(), gguf::architecture(model_type).into()),
        ("general.name".to_owned(), name.into()),
        (ALPHA.to_owned(), Value::F32(alpha as f32)),
    ];
    let tensors = pairs
        .iter()
        .flat_map(|p| [Matrix::A, Matrix::B].map(|m| (p, m)))
        .map(|(p, m)| {
            let hf = format!("{}.weight", p.path());
            let base = gguf::tensor_name(model_type, &hf).ok_or_else(|| {
                Error::invalid(path, ErrorKind::Unsupported)
                    .what(format!("tensor {hf} has no counterpart in GGUF"))
            })?;
            let turned = is_transposed(&p.module);
            let half = if (m == Matrix::A) == turned { "lora_b" } else { "lora_a" };
            let mut shape = p.shape(m).to_vec();
            if turned && m == Matrix::A {
                shape.reverse();
            }
            Ok((format!("{base}.{half}"), TensorType::F32, shape))
        })
        .collect::<Result<Vec<_>>>()?;
    gguf::write(path, &metadata, &tensors, &mut |i, w| {
        let matrix = if i % 2 == 0 { Matrix::A } else { Matrix::B };
        let factor = if alpha_of(&pairs[i / 2]) == alpha { 1.0 } else { alpha_of(&pairs[i / 2]) / alpha };
        let mut x = scales::folded(values, i / 2, matrix, factor)?;
        if is_transposed(&pairs[i / 2].module) && matrix == Matrix::A {
            x = transposed(&x, pairs[i / 2].rank);
        }
        w.write_all(&bytes_of(&x))
    })
}
