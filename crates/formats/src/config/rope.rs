//! Rotary embeddings: `rope_theta` with `rope_scaling`, or `rope_parameters` from transformers 5 on.

use serde_json::{Value, json};

use super::{Error, Fields, Result};

/// How rotary frequencies are stretched beyond the length a model was first trained for.
#[derive(Debug, Clone, Copy, PartialEq)]
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
}

impl RopeScaling {
    /// The value of the key `rope_scaling`.
    pub(super) fn to_json(self) -> Value {
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
        }
    }
}

/// The base and the scaling.
pub(super) fn parse(f: &Fields<'_>) -> Result<(f64, RopeScaling)> {
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
        if nested.map.values().any(Value::is_object) {
            return Err(f
                .error(key, "expected one set of values, found one for each kind of layer")
                .hint("Use a model of another family, such as llama, qwen2 or qwen3."));
        }
        if let Some(inner) = nested.f64("rope_theta")? {
            theta = Some(inner);
        }
        scaling = parse_scaling(&nested)?;
    }
    let theta = theta.unwrap_or(10_000.0);
    positive(f, "rope_theta", theta)?;
    Ok((theta, scaling))
}

fn parse_scaling(f: &Fields<'_>) -> Result<RopeScaling> {
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
        Some(other) => return Err(unknown(f, key, other)),
    })
}

fn unknown(f: &Fields<'_>, key: &str, found: &str) -> Error {
    let found = crate::json::quoted(found);
    f.error(key, &format!("expected \"default\", \"linear\" or \"llama3\", found {found}")).hint(
        "Where the model's maker added it for long texts only, remove it from the file to train on shorter ones.",
    )
}

fn positive(f: &Fields<'_>, key: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(f.error(key, &format!("expected more than zero, found {value}")))
}
