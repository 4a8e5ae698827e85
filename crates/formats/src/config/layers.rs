//! What differs from layer to layer, and what only some families have.

use serde_json::{Map, Value, json};

use super::{Fields, Result};
use crate::ErrorKind;

/// Windows, rotations and scales beyond the shape that all families share.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LayerTraits {
    /// By layer, whether it sees [`sliding_window`](super::ModelConfig::sliding_window) tokens only; empty
    /// where none does.
    pub windowed: Vec<bool>,
    /// By layer, whether its queries and keys are not rotated; empty where all are.
    pub unrotated: Vec<bool>,
    /// Base of the rotary frequencies in windowed layers, where it is not that of the others.
    pub local_rope_theta: Option<f64>,
    /// Scores are divided by the root of this in place of the head's width.
    pub query_pre_attn_scalar: Option<f64>,
}

/// The window's length where the file is silent; `qwen2`'s first windowed layer.
const MISTRAL_WINDOW: usize = 4096;
const QWEN_FULL_LAYERS: usize = 28;

fn is_qwen(model_type: &str) -> bool {
    matches!(model_type, "qwen2" | "qwen3")
}

/// The window's length: what the file says, or the architecture's default where the key is not there at all.
pub(super) fn window(f: &Fields<'_>, model_type: &str) -> Result<Option<usize>> {
    if matches!(model_type, "mistral" | "gemma3_text") && !f.map.contains_key("sliding_window") {
        return Ok(Some(MISTRAL_WINDOW));
    }
    f.usize("sliding_window")
}

/// Which layers have what.
pub(super) fn parse(
    f: &Fields<'_>,
    model_type: &str,
    layers: usize,
    window: Option<usize>,
    local_rope_theta: Option<f64>,
) -> Result<LayerTraits> {
    let unrotated = match model_type {
        "smollm3" => unrotated(f, layers)?,
        _ => Vec::new(),
    };
    let used = window.is_some() && (!is_qwen(model_type) || f.bool("use_sliding_window")?.unwrap_or(false));
    let listed = listed(f, layers)?.filter(|_| model_type != "llama");
    let windows = listed.as_ref().is_some_and(|l| l.contains(&true));
    let mut windowed: Vec<bool> = match (model_type, listed) {
        // transformers takes the window for all layers of these families and drops what the list says.
        ("mistral" | "phi3", Some(listed)) if window.is_some() && listed.contains(&false) => {
            return Err(f
                .error("layer_types", ErrorKind::Mismatch)
                .expected("\"sliding_attention\" for each layer, as `sliding_window` is set")
                .found("others")
                .hint(format!(
                    "{model_type} models have one window for all layers: remove one of the two."
                )));
        }
        _ if windows && !used => {
            let key = if window.is_some() { "use_sliding_window" } else { "sliding_window" };
            return Err(f
                .error("layer_types", ErrorKind::Mismatch)
                .expected(format!("\"full_attention\" for each layer, as `{key}` sets no window"))
                .found("others")
                .hint("Set the window, or remove the list."));
        }
        ("gemma3_text", None) if !used => {
            return Err(f
                .error("sliding_window", ErrorKind::Missing)
                .expected("1 or more")
                .found("none")
                .hint("Of these models layers have a window unless layer_types says otherwise."));
        }
        _ if !used => Vec::new(),
        ("mistral" | "phi3", _) => vec![true; layers],
        ("qwen2" | "qwen3" | "gemma3_text" | "smollm3", Some(listed)) => listed,
        ("qwen2" | "qwen3" | "gemma3_text" | "smollm3", None) => {
            by_default(f, model_type, layers, &unrotated)?
        }
        _ => Vec::new(),
    };
    if !windowed.contains(&true) {
        windowed.clear();
    }
    if let (true, Some(0)) = (windowed.contains(&true), window) {
        return Err(f
            .error("sliding_window", ErrorKind::OutOfRange)
            .expected("1 or more, or null")
            .found("0"));
    }
    let gemma = model_type == "gemma3_text";
    let query_pre_attn_scalar = f.f64("query_pre_attn_scalar")?.or_else(|| gemma.then_some(256.0));
    if let Some(scalar) = query_pre_attn_scalar.filter(|s| !(s.is_finite() && *s > 0.0)) {
        return Err(f
            .error("query_pre_attn_scalar", ErrorKind::OutOfRange)
            .expected("more than zero")
            .found(scalar));
    }
    let local_rope_theta = local_rope_theta.filter(|_| !windowed.is_empty());
    Ok(LayerTraits { windowed, unrotated, local_rope_theta, query_pre_attn_scalar })
}

/// `layer_types`.
fn listed(f: &Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(value) = f.value("layer_types") else { return Ok(None) };
    let kind = |v: &Value| match v.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let kinds: Option<Vec<bool>> = value.as_array().and_then(|a| a.iter().map(kind).collect());
    match kinds {
        Some(kinds) if kinds.len() == layers => Ok(Some(kinds)),
        _ => Err(f
            .error("layer_types", ErrorKind::Malformed)
            .expected(format!("\"full_attention\" or \"sliding_attention\" for each of {layers} layers"))
            .found(crate::json::shown(value))),
    }
}

/// Windows of a file that does not list them.
fn by_default(f: &Fields<'_>, model_type: &str, layers: usize, unrotated: &[bool]) -> Result<Vec<bool>> {
    Ok(match model_type {
        "gemma3_text" => {
            let every = f.usize("sliding_window_pattern")?.unwrap_or(6).max(1);
            (1..=layers).map(|l| !l.is_multiple_of(every)).collect()
        }
        "smollm3" if f.bool("use_sliding_window")?.unwrap_or(false) => unrotated.to_vec(),
        "qwen2" | "qwen3" => {
            let full = f.usize("max_window_layers")?.unwrap_or(QWEN_FULL_LAYERS);
            (0..layers).map(|l| l >= full).collect()
        }
        _ => Vec::new(),
    })
}

/// `no_rope_layers`, where 1 stands for a layer that is rotated, or every so many layers one that is not.
fn unrotated(f: &Fields<'_>, layers: usize) -> Result<Vec<bool>> {
    let mut unrotated: Vec<bool> = if let Some(value) = f.value("no_rope_layers") {
        let flag = |v: &Value| match v.as_u64() {
            Some(0) => Some(true),
            Some(1) => Some(false),
            _ => None,
        };
        let flags: Option<Vec<bool>> = value.as_array().and_then(|a| a.iter().map(flag).collect());
        flags.filter(|f| f.len() >= layers).ok_or_else(|| {
            let found = crate::json::shown(value);
            f.error("no_rope_layers", ErrorKind::Malformed)
                .expected(format!("0 or 1 for each of {layers} layers"))
                .found(found)
        })?
    } else {
        let every = f.usize("no_rope_layer_interval")?.unwrap_or(4).max(1);
        (1..=layers).map(|l| l.is_multiple_of(every)).collect()
    };
    unrotated.truncate(layers);
    if !unrotated.contains(&true) {
        unrotated.clear();
    }
    Ok(unrotated)
}

impl LayerTraits {
    /// Adds the keys of `config.json` that say this.
    pub(super) fn put(&self, map: &mut Map<String, Value>, model_type: &str, layers: usize) {
        let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
        if is_qwen(model_type) || matches!(model_type, "gemma3_text" | "smollm3") {
            let kind = |l: usize| {
                let windowed = self.windowed.get(l).copied().unwrap_or(false);
                if windowed { "sliding_attention" } else { "full_attention" }
            };
            put("layer_types", (0..layers).map(kind).collect::<Vec<_>>().into());
        }
        if model_type == "smollm3" {
            let flag = |l: usize| i32::from(!self.unrotated.get(l).copied().unwrap_or(false));
            put("no_rope_layers", (0..layers).map(flag).collect::<Vec<_>>().into());
        }
        if let Some(theta) = self.local_rope_theta {
            put("rope_local_base_freq", json!(theta));
        }
        if let Some(scalar) = self.query_pre_attn_scalar {
            // Whole numbers are whole in files: other readers insist.
            let whole = scalar.fract() == 0.0 && scalar < 1e15;
            put("query_pre_attn_scalar", if whole { json!(scalar as u64) } else { json!(scalar) });
        }
    }
}
