//! Rotary embeddings: `rope_theta` with `rope_scaling`, or `rope_parameters` from transformers 5 on.

use serde_json::{Value, json};

use super::{Error, Fields, Result};
use crate::ErrorKind;

/// How rotary frequencies are stretched beyond the length a model was first trained for.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All frequencies divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, those between blended, as in Llama 3.1 and later.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Turns in the original length at or below which a frequency counts as low.
        low_freq_factor: f64,
        /// Turns in the original length from which a frequency counts as high.
        high_freq_factor: f64,
        /// The length the model was first trained for.
        original_max_position_embeddings: usize,
    },
    /// Each frequency divided by a number of its own, other ones for long texts than for short, and scores
    /// raised, as in Phi-3.
    LongRope {
        /// Divisors up to the original length, `rotary_dim / 2` of them.
        short_factor: Vec<f64>,
        /// Divisors beyond it.
        long_factor: Vec<f64>,
        /// The length the model was first trained for.
        original_max_position_embeddings: usize,
        /// By which sines and cosines are multiplied, at every length.
        attention_factor: f64,
    },
}

impl RopeScaling {
    /// The value of the key `rope_scaling` of a model for `longest` positions.
    pub(super) fn to_json(&self, longest: usize) -> Value {
        match self {
            Self::Default => Value::Null,
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                })
            }
            Self::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
                attention_factor,
            } => {
                // Older transformers take these three keys and no others, and the original length beside them.
                let mut map =
                    json!({"type": "longrope", "short_factor": short_factor, "long_factor": long_factor});
                if *attention_factor != longrope_attention_factor(longest, *original_max_position_embeddings)
                {
                    map["attention_factor"] = json!(attention_factor);
                }
                map
            }
        }
    }
}

/// How a model's queries and keys are turned.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rotary {
    pub(super) theta: f64,
    pub(super) scaling: RopeScaling,
    /// The base in windowed layers where it is another.
    pub(super) local_theta: Option<f64>,
    /// Numbers of a head that are turned.
    pub(super) dim: usize,
}

/// The model that is asked about.
#[derive(Clone, Copy)]
struct Shape<'a> {
    model_type: &'a str,
    head_dim: usize,
}

impl Shape<'_> {
    fn is_gemma(self) -> bool {
        self.model_type == "gemma3_text"
    }

    fn is_phi(self) -> bool {
        self.model_type == "phi3"
    }
}

/// Reads both layouts. Where a file has both they must say the same: transformers takes one and drops the other.
pub(super) fn parse(f: &Fields<'_>, model_type: &str, head_dim: usize) -> Result<Rotary> {
    let shape = Shape { model_type, head_dim };
    let nested = |key, prefix| -> Result<Option<Fields<'_>>> {
        let map = f.object(key)?.filter(|map| !map.is_empty());
        Ok(map.map(|map| Fields { path: f.path, prefix, map }))
    };
    let new = nested("rope_parameters", "rope_parameters.")?;
    let old = nested("rope_scaling", "rope_scaling.")?;
    let read = one(f, new.as_ref().or(old.as_ref()), shape)?;
    if let (Some(_), Some(old)) = (&new, &old)
        && one(f, Some(old), shape)? != read
    {
        return Err(f
            .error("rope_scaling", ErrorKind::Mismatch)
            .expected("what `rope_parameters` says, or none")
            .found("another scaling or base of positions")
            .hint("Remove the one that is not meant."));
    }
    Ok(read)
}

const GEMMA_THETA: f64 = 1_000_000.0;
const GEMMA_LOCAL_THETA: f64 = 10_000.0;

/// From one of the two layouts, or neither.
fn one(f: &Fields<'_>, nested: Option<&Fields<'_>>, shape: Shape<'_>) -> Result<Rotary> {
    let usual = match shape.model_type {
        "gemma3_text" => GEMMA_THETA,
        "smollm3" => 2_000_000.0,
        _ => 10_000.0,
    };
    let theta = base(f, "rope_theta", usual)?;
    let local_theta =
        if shape.is_gemma() { Some(base(f, "rope_local_base_freq", GEMMA_LOCAL_THETA)?) } else { None };
    let plain = Rotary { theta, scaling: RopeScaling::Default, local_theta, dim: shape.head_dim };
    let Some(nested) = nested else { return Ok(Rotary { dim: turned(f, None, shape)?, ..plain }) };
    let key = nested.prefix.trim_end_matches('.');
    let by_kind = nested.map.values().any(Value::is_object);
    if by_kind && shape.is_gemma() {
        return of_kinds(f, nested, plain, shape);
    }
    if by_kind {
        return Err(f
            .error(key, ErrorKind::Unsupported)
            .expected("one set of values")
            .found("one for each kind of layer")
            .hint("Use a model of another family, such as llama, qwen2 or qwen3."));
    }
    if shape.is_gemma() && key == "rope_parameters" {
        return Err(f
            .error(key, ErrorKind::WrongType)
            .expected("`full_attention` and `sliding_attention` with a set of values each")
            .found("one set")
            .hint("transformers reads no other for this family: put the values where they are meant."));
    }
    let dim = turned(f, Some(nested), shape)?;
    let theta = base(nested, "rope_theta", theta)?;
    Ok(Rotary { theta, scaling: parse_scaling(nested, f, shape, dim)?, dim, ..plain })
}

fn base(f: &Fields<'_>, key: &str, otherwise: f64) -> Result<f64> {
    let theta = f.f64(key)?.unwrap_or(otherwise);
    positive(f, key, theta)?;
    Ok(theta)
}

/// `rope_parameters` with one set for full and one for windowed layers.
fn of_kinds(top: &Fields<'_>, f: &Fields<'_>, plain: Rotary, shape: Shape<'_>) -> Result<Rotary> {
    let kind = |key, prefix, theta| -> Result<(f64, RopeScaling)> {
        let Some(map) = f.object(key)? else { return Ok((theta, RopeScaling::Default)) };
        let f = Fields { path: f.path, prefix, map };
        turned(top, Some(&f), shape)?;
        Ok((base(&f, "rope_theta", theta)?, parse_scaling(&f, top, shape, shape.head_dim)?))
    };
    let (theta, scaling) = kind("full_attention", "rope_parameters.full_attention.", plain.theta)?;
    let local = plain.local_theta.unwrap_or(GEMMA_LOCAL_THETA);
    let (local, none) = kind("sliding_attention", "rope_parameters.sliding_attention.", local)?;
    if none != RopeScaling::Default {
        return Err(f
            .error("sliding_attention", ErrorKind::Unsupported)
            .expected("no scaling of positions in windowed layers")
            .found("one"));
    }
    Ok(Rotary { theta, scaling, local_theta: Some(local), dim: shape.head_dim })
}

const PARTIAL: &str = "partial_rotary_factor";

/// Numbers of a head that are turned. The share of them stands beside the other values of the rotation from
/// transformers 5 on, at the top before.
fn turned(top: &Fields<'_>, nested: Option<&Fields<'_>>, shape: Shape<'_>) -> Result<usize> {
    let f = nested.filter(|f| f.value(PARTIAL).is_some()).unwrap_or(top);
    let Some(share) = f.f64(PARTIAL)? else { return Ok(shape.head_dim) };
    if !(share > 0.0 && share <= 1.0) {
        return Err(f
            .error(PARTIAL, ErrorKind::OutOfRange)
            .expected("more than 0, and 1 at most")
            .found(share));
    }
    if share < 1.0 && !shape.is_phi() {
        return Err(f
            .error(PARTIAL, ErrorKind::Unsupported)
            .expected("1")
            .found(format!("{share}: of {} models heads are rotated whole", shape.model_type))
            .hint("Use a model of another family, such as phi3."));
    }
    // Cut to a whole number, as transformers does it.
    let dim = (shape.head_dim as f64 * share) as usize;
    if dim == 0 || !dim.is_multiple_of(2) {
        return Err(f
            .error(PARTIAL, ErrorKind::OutOfRange)
            .expected("an even number of rotated values, since rotary embeddings turn pairs")
            .found(format!("{dim} of {}", shape.head_dim)));
    }
    Ok(dim)
}

/// The share that [`turned`] reads as so many numbers of a head; none where it is all of them.
pub(super) fn share(dim: usize, head_dim: usize) -> Option<f64> {
    let share = dim as f64 / head_dim as f64;
    let short = ((head_dim as f64 * share) as usize) < dim;
    (dim < head_dim).then_some(if short { share.next_up() } else { share })
}

/// `top` is the whole configuration, `dim` what is turned of a head.
fn parse_scaling(f: &Fields<'_>, top: &Fields<'_>, shape: Shape<'_>, dim: usize) -> Result<RopeScaling> {
    let key = if f.value("rope_type").is_some() { "rope_type" } else { "type" };
    let number = |key| {
        let value = f.required(key, f.f64(key)?)?;
        positive(f, key, value).map(|()| value)
    };
    Ok(match f.str(key)? {
        None | Some("default") => RopeScaling::Default,
        Some("longrope" | "su") => long_rope(f, top, dim)?,
        // Early files of the family have this name for it.
        Some("yarn") if shape.is_phi() && f.value("short_factor").is_some() => long_rope(f, top, dim)?,
        Some(other) if shape.is_phi() => {
            let found = crate::json::quoted(other);
            return Err(f
                .error(key, ErrorKind::Unsupported)
                .expected("\"default\" or \"longrope\"")
                .found(found));
        }
        Some("linear") => RopeScaling::Linear { factor: number("factor")? },
        Some("llama3") => {
            let (low_freq_factor, high_freq_factor) =
                (number("low_freq_factor")?, number("high_freq_factor")?);
            if high_freq_factor <= low_freq_factor {
                return Err(f
                    .error("high_freq_factor", ErrorKind::Mismatch)
                    .expected(format!("more than low_freq_factor, {low_freq_factor}"))
                    .found(high_freq_factor));
            }
            RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original(f, top, 1)?,
            }
        }
        Some(other) => return Err(unknown(f, key, other)),
    })
}

/// The length that a model was first trained for: at the top before it is looked for elsewhere, and where it is
/// nowhere the length that it is for, as in transformers.
fn original(f: &Fields<'_>, top: &Fields<'_>, least: usize) -> Result<usize> {
    let key = "original_max_position_embeddings";
    let longest = "max_position_embeddings";
    for (f, key) in [(top, key), (f, key), (top, longest)] {
        if let Some(original) = f.usize(key)? {
            if original < least {
                return Err(f
                    .error(key, ErrorKind::OutOfRange)
                    .expected(format!("{least} or more"))
                    .found(original));
            }
            return Ok(original);
        }
    }
    Err(top.error(key, ErrorKind::Missing).expected("a value").found("none"))
}

fn long_rope(f: &Fields<'_>, top: &Fields<'_>, dim: usize) -> Result<RopeScaling> {
    let divisors = |key: &str| -> Result<Vec<f64>> {
        let value = f.required(key, f.value(key))?;
        let numbers: Option<Vec<f64>> = value.as_array().and_then(|a| a.iter().map(Value::as_f64).collect());
        match numbers {
            Some(n) if n.iter().all(|x| x.is_finite() && *x > 0.0) && n.len() == dim / 2 => Ok(n),
            Some(n) if n.iter().all(|x| x.is_finite() && *x > 0.0) => Err(f
                .error(key, ErrorKind::Mismatch)
                .expected(format!(
                    "{} numbers, one for each pair of the {dim} rotated values of a head",
                    dim / 2
                ))
                .found(n.len())),
            _ => Err(f
                .error(key, ErrorKind::WrongType)
                .expected("a list of numbers above zero")
                .found(crate::json::shown(value))),
        }
    };
    let original = original(f, top, 2)?;
    let attention_factor = if let Some(factor) = f.f64("attention_factor")? {
        positive(f, "attention_factor", factor)?;
        factor
    } else if let Some(factor) = f.f64("factor")? {
        raised(factor, original)
    } else {
        let longest = top.usize("max_position_embeddings")?.unwrap_or(original);
        longrope_attention_factor(longest, original)
    };
    Ok(RopeScaling::LongRope {
        short_factor: divisors("short_factor")?,
        long_factor: divisors("long_factor")?,
        original_max_position_embeddings: original,
        attention_factor,
    })
}

/// The usual attention factor of a model that was first trained for `original` positions and is for `longest`.
pub(crate) fn longrope_attention_factor(longest: usize, original: usize) -> f64 {
    raised(longest as f64 / original as f64, original)
}

/// The longer the new length against the old, the sharper: √(1 + ln(new/old) / ln(old)).
fn raised(ratio: f64, original: usize) -> f64 {
    if ratio > 1.0 { (1.0 + ratio.ln() / (original as f64).ln()).sqrt() } else { 1.0 }
}

fn unknown(f: &Fields<'_>, key: &str, found: &str) -> Error {
    let found = crate::json::quoted(found);
    // To remove an object that has the base loses the base.
    let keep = if f.value("rope_theta").is_some() { " and keep `rope_theta` as it is" } else { "" };
    f.error(key, ErrorKind::Unsupported)
        .expected("\"default\", \"linear\", \"llama3\" or \"longrope\"")
        .found(found)
        .hint(format!(
        "Where the model's maker added it for long texts only, set `{}{key}` to \"default\"{keep} to train on shorter \
         ones.",
        f.prefix
    ))
}

fn positive(f: &Fields<'_>, key: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(f.error(key, ErrorKind::OutOfRange).expected("more than zero").found(value))
}
