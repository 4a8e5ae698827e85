//! Metadata of a model to be written.

use super::names::architecture;
use super::{TensorType, Value};
use crate::config::{ModelConfig, RopeScaling};

/// The keys of a model's shape, for [`write`](super::write()). Rotary divisors go into
/// tensors: see [`rope_tensors`](super::rope_tensors). The vocabulary is [`tokenizer_metadata`](super::tokenizer_metadata)'s.
pub fn metadata_for(config: &ModelConfig, name: &str) -> Vec<(String, Value)> {
    let arch = architecture(&config.model_type);
    let mut out: Vec<(String, Value)> = Vec::new();
    let mut general = |key: &str, value: Value| out.push((format!("general.{key}"), value));
    general("architecture", arch.into());
    general("type", "model".into());
    general("name", name.into());
    // The version of the block layouts, which has been 2 since they last changed.
    general("quantization_version", Value::U32(2));
    let mut put = |key: &str, value: Value| out.push((format!("{arch}.{key}"), value));
    let number = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    put("context_length", number(config.max_position_embeddings));
    put("embedding_length", number(config.hidden_size));
    put("block_count", number(config.num_hidden_layers));
    put("feed_forward_length", number(config.intermediate_size));
    put("attention.head_count", number(config.num_attention_heads));
    put("attention.head_count_kv", number(config.num_key_value_heads));
    put("attention.key_length", number(config.head_dim));
    put("attention.value_length", number(config.head_dim));
    put("attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps as f32));
    put("rope.dimension_count", number(config.rotary_dim));
    put("rope.freq_base", Value::F32(config.rope_theta as f32));
    put("vocab_size", number(config.vocab_size));
    let traits = &config.layers;
    if let (Some(window), true) = (config.sliding_window, traits.windowed.contains(&true)) {
        put("attention.sliding_window", number(window));
        if let (Some(every), "gemma3") = (period(&traits.windowed, false), arch) {
            put("attention.sliding_window_pattern", number(every));
        }
    }
    if let Some(theta) = traits.local_rope_theta {
        put("rope.freq_base_swa", Value::F32(theta as f32));
    }
    if let Some(scalar) = traits.query_pre_attn_scalar {
        put("attention.scale", Value::F32(scalar.sqrt().recip() as f32));
    }
    if let Some(every) = period(&traits.unrotated, true) {
        put("rope.no_rope_layer_interval", number(every));
    }
    match &config.rope_scaling {
        RopeScaling::Default => {}
        RopeScaling::Linear { factor } => {
            put("rope.scaling.type", "linear".into());
            put("rope.scaling.factor", Value::F32(*factor as f32));
        }
        RopeScaling::Llama3 { original_max_position_embeddings, .. } => {
            put("rope.scaling.original_context_length", number(*original_max_position_embeddings));
        }
        RopeScaling::LongRope { original_max_position_embeddings, attention_factor, .. } => {
            // Readers of phi3 files look for the tensors, those of llama files for the type.
            put("rope.scaling.type", "longrope".into());
            put("rope.scaling.original_context_length", number(*original_max_position_embeddings));
            put("rope.scaling.attn_factor", Value::F32(*attention_factor as f32));
        }
    }
    out
}

/// Every how many layers one is marked, the last of each so many; none for another pattern or an empty one.
fn period(layers: &[bool], mark: bool) -> Option<usize> {
    let every = layers.iter().position(|l| *l == mark).map_or(layers.len() + 1, |first| first + 1);
    let regular = layers.iter().zip(1..).all(|(l, n): (_, usize)| (*l == mark) == n.is_multiple_of(every));
    (regular && !layers.is_empty()).then_some(every)
}

/// Why a model cannot be a GGUF file, where it cannot.
pub fn inexpressible(config: &ModelConfig) -> Option<String> {
    let traits = &config.layers;
    let arch = architecture(&config.model_type);
    let windowed = traits.windowed.contains(&true);
    if windowed && !matches!(arch, "llama" | "gemma3" | "phi3") {
        return Some(format!("GGUF has no attention window for architecture {arch}"));
    }
    let irregular = |layers: &[bool], mark| !layers.is_empty() && period(layers, mark).is_none();
    if (arch == "gemma3" && irregular(&traits.windowed, false)) || irregular(&traits.unrotated, true) {
        return Some("GGUF says by a period which layers differ, and this model's have none".to_owned());
    }
    if matches!(config.rope_scaling, RopeScaling::LongRope { .. }) && !matches!(arch, "llama" | "phi3") {
        return Some(format!(
            "GGUF has no divisors for short and long texts (longrope) for architecture {arch}"
        ));
    }
    None
}

/// The value of `general.file_type` for a file whose matrices are of a type (llama.cpp's `llama_ftype`; of the K
/// types the medium mix).
pub fn file_type(ty: TensorType) -> u32 {
    match ty {
        TensorType::F32 => 0,
        TensorType::F16 => 1,
        TensorType::BF16 => 32,
        TensorType::Q8_0 => 7,
        TensorType::Q4_0 => 2,
        TensorType::Q4_1 => 3,
        TensorType::Q5_0 => 8,
        TensorType::Q5_1 => 9,
        TensorType::Q4_K => 15,
        TensorType::Q5_K => 17,
        TensorType::Q6_K => 18,
    }
}
