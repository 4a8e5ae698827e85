//! Rotary embeddings: `rope_theta` with `rope_scaling`, or `rope_parameters` from transformers 5 on.

use serde_json::{Value, json};

use super::{Error, Fields, Result};

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
        /// Divisors up to the original length, `head_dim / 2` of them.
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

/// The base, the scaling, and the base of windowed layers where it is another.
pub(super) fn parse(f: &Fields<'_>, model_type: &str) -> Result<(f64, RopeScaling, Option<f64>)> {
    let gemma = model_type == "gemma3_text";
    // The newer key first: a file that has both was written by a version that reads it so.
    let mut nested = None;
    for (key, prefix) in [("rope_parameters", "rope_parameters."), ("rope_scaling", "rope_scaling.")] {
        if let Some(map) = f.object(key)? {
            nested = Some((key, Fields { path: f.path, prefix, map }));
            break;
        }
    }
    let mut theta = f.f64("rope_theta")?;
    let mut scaling = RopeScaling::Default;
    if let Some((key, nested)) = nested {
        if gemma && nested.map.values().any(Value::is_object) {
            return by_kind(&nested);
        }
        if nested.map.values().any(Value::is_object) {
            return Err(f
                .error(key, "expected one set of values, found one for each kind of layer")
                .hint("Use a model of another family, such as llama, qwen2 or qwen3."));
        }
        if let Some(inner) = nested.f64("rope_theta")? {
            theta = Some(inner);
        }
        scaling = parse_scaling(&nested, f)?;
    }
    let theta = theta.unwrap_or(match model_type {
        "gemma3_text" => GEMMA_THETA,
        "smollm3" => 2_000_000.0,
        _ => 10_000.0,
    });
    positive(f, "rope_theta", theta)?;
    let mut local = None;
    if gemma {
        let theta = f.f64("rope_local_base_freq")?.unwrap_or(GEMMA_LOCAL_THETA);
        positive(f, "rope_local_base_freq", theta)?;
        local = Some(theta);
    }
    Ok((theta, scaling, local))
}

const GEMMA_THETA: f64 = 1_000_000.0;
const GEMMA_LOCAL_THETA: f64 = 10_000.0;

/// `rope_parameters` with one set for full and one for windowed layers.
fn by_kind(f: &Fields<'_>) -> Result<(f64, RopeScaling, Option<f64>)> {
    let kind = |key, prefix, theta| -> Result<(f64, RopeScaling)> {
        let Some(map) = f.object(key)? else { return Ok((theta, RopeScaling::Default)) };
        let f = Fields { path: f.path, prefix, map };
        let theta = f.f64("rope_theta")?.unwrap_or(theta);
        positive(&f, "rope_theta", theta)?;
        Ok((theta, parse_scaling(&f, &f)?))
    };
    let (theta, scaling) = kind("full_attention", "rope_parameters.full_attention.", GEMMA_THETA)?;
    let (local, plain) = kind("sliding_attention", "rope_parameters.sliding_attention.", GEMMA_LOCAL_THETA)?;
    if plain != RopeScaling::Default {
        return Err(
            f.error("sliding_attention", "expected no scaling of positions in windowed layers, found one")
        );
    }
    Ok((theta, scaling, Some(local)))
}

/// `top` is the whole configuration.
fn parse_scaling(f: &Fields<'_>, top: &Fields<'_>) -> Result<RopeScaling> {
    let key = if f.value("rope_type").is_some() { "rope_type" } else { "type" };
    let number = |key| {
        let value = f.required(key, f.f64(key)?)?;
        positive(f, key, value).map(|()| value)
    };
    Ok(match f.str(key)? {
        None | Some("default") => RopeScaling::Default,
        Some("linear") => RopeScaling::Linear { factor: number("factor")? },
        Some("llama3") => {
            let (low_freq_factor, high_freq_factor) =
                (number("low_freq_factor")?, number("high_freq_factor")?);
            if high_freq_factor <= low_freq_factor {
                return Err(f.error(
                    "high_freq_factor",
                    &format!(
                        "expected more than low_freq_factor, {low_freq_factor}, found {high_freq_factor}"
                    ),
                ));
            }
            let key = "original_max_position_embeddings";
            let original_max_position_embeddings = f.required(key, f.usize(key)?)?;
            if original_max_position_embeddings == 0 {
                return Err(f.error(key, "expected 1 or more, found 0"));
            }
            RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            }
        }
        Some("longrope" | "su") => long_rope(f, top)?,
        Some(other) => return Err(unknown(f, key, other)),
    })
}

fn long_rope(f: &Fields<'_>, top: &Fields<'_>) -> Result<RopeScaling> {
    let divisors = |key: &str| -> Result<Vec<f64>> {
        let value = f.required(key, f.value(key))?;
        let numbers: Option<Vec<f64>> = value.as_array().and_then(|a| a.iter().map(Value::as_f64).collect());
        match numbers {
            Some(n) if !n.is_empty() && n.iter().all(|x| x.is_finite() && *x > 0.0) => Ok(n),
            _ => Err(f.error(
                key,
                &format!("expected a list of numbers above zero, found {}", crate::json::shown(value)),
            )),
        }
    };
    let key = "original_max_position_embeddings";
    let original = match f.usize(key)? {
        Some(original) => original,
        None => top.required(key, top.usize(key)?)?,
    };
    if original < 2 {
        return Err(top.error(key, &format!("expected 2 or more, found {original}")));
    }
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
    f.error(key, &format!("expected \"default\", \"linear\", \"llama3\" or \"longrope\", found {found}")).hint(
        "Where the model's maker added it for long texts only, remove it from the file to train on shorter ones.",
    )
}

fn positive(f: &Fields<'_>, key: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(f.error(key, &format!("expected more than zero, found {value}")))
}
