//! Divisors of rotary frequencies: tensors in the file, a scaling in the configuration.
//!
//! Llama 3's scaling is one tensor, for every length. Longrope's are two, up to the original length and beyond it,
//! beside `{arch}.rope.scaling.original_context_length` and `{arch}.rope.scaling.attn_factor`, by which sines and
//! cosines are multiplied.

use super::{Gguf, ROPE_FACTORS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT, TensorInfo, TensorType};
use super::{Value, dequantize_row};
use crate::config::{ModelConfig, RopeScaling, longrope_attention_factor};
use crate::json::quoted;
use crate::{Error, ErrorKind, Result};

/// The tensors of a configuration's rotary divisors: names and numbers, single precision.
pub fn rope_tensors(config: &ModelConfig) -> Vec<(&'static str, Vec<f32>)> {
    let narrow = |divisors: &[f64]| divisors.iter().map(|d| *d as f32).collect();
    match &config.rope_scaling {
        RopeScaling::LongRope { short_factor, long_factor, .. } => {
            vec![(ROPE_FACTORS_LONG, narrow(long_factor)), (ROPE_FACTORS_SHORT, narrow(short_factor))]
        }
        scaling => llama3_factors(scaling, config.rotary_dim, config.rope_theta)
            .map(|factors| (ROPE_FACTORS, factors))
            .into_iter()
            .collect(),
    }
}

/// What each rotary frequency is divided by: 1 for high ones, the factor for low ones, blended between.
fn llama3_factors(scaling: &RopeScaling, head_dim: usize, theta: f64) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
        *scaling
    else {
        return None;
    };
    let divisor = |i: usize| {
        let frequency = theta.powf(-((2 * i) as f64) / head_dim as f64);
        let turns = original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
        if turns > high_freq_factor {
            1.0
        } else if turns < low_freq_factor {
            factor
        } else {
            let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - kept) / factor + kept)
        }
    };
    Some((0..head_dim / 2).map(|i| divisor(i) as f32).collect())
}

/// What the metadata say of scaling, without the tensors.
pub(super) fn rope_scaling(gguf: &Gguf, arch: &str) -> Result<RopeScaling> {
    let key = |name: &str| format!("{arch}.rope.{name}");
    // The newer key first, if it is there at all; 0 stands for none. As llama.cpp's `load_hparams`.
    let mut factor_key = key("scaling.factor");
    if gguf.value(&factor_key).is_none() {
        factor_key = key("scale_linear");
    }
    let factor = gguf.finite(&factor_key)?.filter(|f| *f != 0.0 && *f != 1.0);
    if let Some(found) = factor.filter(|f| *f < 0.0) {
        return Err(gguf.error(&factor_key, ErrorKind::OutOfRange).expected("more than zero").found(found));
    }
    let kind = key("scaling.type");
    match (gguf.str(&kind)?, factor) {
        // Without a type it is linear.
        (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear { factor }),
        (Some("longrope"), Some(found)) => Err(gguf
            .error(&factor_key, ErrorKind::Conflict)
            .expected("1, or none, beside the divisors of longrope")
            .found(found)),
        (None | Some("linear" | "longrope"), None) | (Some("none"), _) => Ok(RopeScaling::Default),
        (Some(other), _) => Err(gguf
            .error(&kind, ErrorKind::Unsupported)
            .expected("\"none\", \"linear\" or \"longrope\"")
            .found(quoted(other))
            .hint("Use a model without it: it is for long texts only.")),
    }
}

/// Reads the tensors: those that a configuration can say are put into it. Gives those for every length.
pub(super) fn read(gguf: &Gguf, bytes: &[u8], config: &mut ModelConfig) -> Result<Option<Vec<f32>>> {
    let pairs = config.rotary_dim / 2;
    let tensor = |name| gguf.tensor(name).map(|t| numbers(gguf, t, bytes, pairs)).transpose();
    // The configuration's name of an architecture may be another than the file's.
    let arch = gguf.required("general.architecture", gguf.str("general.architecture")?)?;
    let key = |name: &str| format!("{arch}.rope.scaling.{name}");
    let original = gguf.usize(&key("original_context_length"))?;
    let (always, short, long) =
        (tensor(ROPE_FACTORS)?, tensor(ROPE_FACTORS_SHORT)?, tensor(ROPE_FACTORS_LONG)?);
    let said = gguf.str(&key("type"))? == Some("longrope");
    let factor = gguf.finite(&key("attn_factor"))?;
    let missing = |name: &str| {
        Err(Error::invalid(&gguf.path, ErrorKind::Missing)
            .expected(format!("a tensor \"{name}\""))
            .found("none")
            .hint("The file is incomplete: get it again, or convert the model again."))
    };
    match (always, short, long) {
        (None, Some(short), Some(long)) => {
            let original = original.unwrap_or(config.max_position_embeddings);
            if original < 2 {
                return Err(gguf
                    .error(&key("original_context_length"), ErrorKind::OutOfRange)
                    .expected("2 or more")
                    .found(original));
            }
            let attention_factor = factor.unwrap_or(1.0);
            if attention_factor <= 0.0 {
                return Err(gguf
                    .error(&key("attn_factor"), ErrorKind::OutOfRange)
                    .expected("more than zero")
                    .found(attention_factor));
            }
            // The file has it in single precision; where it is the usual one, all of its digits are known.
            let usual = longrope_attention_factor(config.max_position_embeddings, original);
            let exact = usual as f32 == attention_factor as f32;
            config.rope_scaling = RopeScaling::LongRope {
                short_factor: wide(&short),
                long_factor: wide(&long),
                original_max_position_embeddings: original,
                attention_factor: if exact { usual } else { attention_factor },
            };
            Ok(None)
        }
        (None, Some(_), None) => missing(ROPE_FACTORS_LONG),
        (None, None, Some(_)) => missing(ROPE_FACTORS_SHORT),
        (None, None, None) if said => missing(ROPE_FACTORS_SHORT),
        (_, None, None) if factor.is_some_and(|f| f != 1.0) => Err(gguf
            .error(&key("attn_factor"), ErrorKind::Unsupported)
            .expected("1, or the divisors of longrope beside it")
            .found("another number")
            .hint("Use a model without it.")),
        (None, None, None) => Ok(None),
        (Some(always), None, None) if !said => {
            if let Some(scaling) = recognized(&always, config, original) {
                config.rope_scaling = scaling;
            }
            Ok(Some(always))
        }
        (Some(_), ..) => Err(Error::invalid(&gguf.path, ErrorKind::Conflict)
            .expected(format!(
                "divisors for every length (tensor \"{ROPE_FACTORS}\") or for short and long texts"
            ))
            .found("both")
            .hint("The file contradicts itself: get it again, or convert the model again.")),
    }
}

/// Numbers in single precision with the digits that are written of them, as a configuration would have them.
fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().filter_map(|n| Value::F32(*n).as_f64()).collect()
}

fn numbers(gguf: &Gguf, tensor: &TensorInfo, bytes: &[u8], expected: usize) -> Result<Vec<f32>> {
    let invalid = |kind| {
        Error::invalid(&gguf.path, kind)
            .tensor(&tensor.name)
            .hint("The file is damaged: get it or make it again.")
    };
    if tensor.ty != TensorType::F32 || tensor.shape[..] != [expected] {
        let (ty, shape) = (tensor.ty.name(), &tensor.shape);
        return Err(invalid(ErrorKind::Mismatch)
            .expected(format!("{expected} numbers of F32"))
            .found(format!("shape {shape:?} of {ty}")));
    }
    let Some(data) = bytes.get(tensor.range.clone()) else {
        return Err(invalid(ErrorKind::Malformed)
            .expected(format!("bytes {:?}", tensor.range))
            .found(format!("a file of {}", bytes.len())));
    };
    let mut factors = vec![0.0; expected];
    dequantize_row(tensor.ty, data, &mut factors);
    match factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
        Some(found) => Err(invalid(ErrorKind::OutOfRange).expected("numbers above zero").found(found)),
        None => Ok(factors),
    }
}

/// Llama 3's scaling, where the divisors are those it gives. Files do not say by which numbers they were made;
/// every model so far has 1, 4 and an original length of 8192, or the length under its own key.
fn recognized(factors: &[f32], config: &ModelConfig, original: Option<usize>) -> Option<RopeScaling> {
    let factor = f64::from(factors.iter().copied().fold(0.0, f32::max));
    original.into_iter().chain([8192]).filter(|n| *n > 0).find_map(|original| {
        let scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: original,
        };
        let made = llama3_factors(&scaling, config.rotary_dim, config.rope_theta)?;
        let near = made.iter().zip(factors).all(|(m, f)| (m - f).abs() <= 1e-4 * f.abs());
        near.then_some(scaling)
    })
}
