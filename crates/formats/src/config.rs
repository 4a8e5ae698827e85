//! `config.json`: a model's shape, from the keys of transformers before and after version 5.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::json::{Fields, parse_object, read_text, read_text_if_present};
use crate::regular::CONFIG_LIMIT;
use crate::{Dtype, Error, ErrorKind, Result};

mod check;
mod layers;
mod rope;
#[cfg(test)]
mod tests;

pub(crate) use check::{MAX_LAYERS, MAX_WIDTH};
pub use layers::LayerTraits;
pub use rope::RopeScaling;
pub(crate) use rope::longrope_attention_factor;

/// A decoder's shape. What the file leaves out has transformers' default.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The architecture: `llama`, `qwen2`, `qwen3`, …
    pub model_type: String,
    /// Tokens in the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides [`num_attention_heads`](Self::num_attention_heads).
    pub num_key_value_heads: usize,
    /// Width of a head; even, and not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Numbers of a head that positions turn, the first ones; even. All of them but in some `phi3` models.
    pub rotary_dim: usize,
    /// What is added to the mean square before its root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// The longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// Whether the embedding is the output matrix too.
    pub tie_word_embeddings: bool,
    /// Whether the attention projections have biases; none where the architecture decides (`qwen2`: q, k, v).
    pub attention_bias: Option<bool>,
    /// Whether the MLP projections have biases.
    pub mlp_bias: bool,
    /// The MLP's nonlinearity, such as `silu`.
    pub hidden_act: String,
    /// Whether `qwen2` and `qwen3` models use their window.
    pub use_sliding_window: bool,
    /// The attention window, used or not: [`layers`](Self::layers) says where it is.
    pub sliding_window: Option<usize>,
    /// What differs from layer to layer.
    pub layers: LayerTraits,
    /// The token a text begins with.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text, in the file's order.
    pub eos_token_ids: Vec<u32>,
    /// The weights' number type; none where the file is silent or names a type the engine does not read.
    pub dtype: Option<Dtype>,
}

/// Parses the text of a `config.json`; `path` is for error messages only.
///
/// # Errors
/// When the text is not JSON, a key is missing or of another kind, or the numbers contradict each other.
pub fn parse(path: &Path, json: &str) -> Result<ModelConfig> {
    let map = parse_object(path, json)?;
    let f = Fields::new(path, &map);
    refuse_unsupported(&f)?;

    let size = |key| f.required(key, f.usize(key)?);
    let model_type = f.required("model_type", f.str("model_type")?)?.to_string();
    let hidden_size = size("hidden_size")?;
    let num_attention_heads = size("num_attention_heads")?;
    let head_dim = match f.usize("head_dim")? {
        Some(head_dim) => head_dim,
        // What the architecture has for a file without the key; a null says to compute it.
        None if !map.contains_key("head_dim") && model_type == "gemma3_text" => 256,
        None if !map.contains_key("head_dim") && model_type == "qwen3" => 128,
        None => check::head_dim(&f, hidden_size, num_attention_heads)?,
    };
    let gemma = model_type.starts_with("gemma");
    // Gemma's `hidden_act` is a relic which its `hidden_activation` overrules.
    let hidden_act = match f.str("hidden_activation")? {
        Some(act) => Some(act),
        None => f.str("hidden_act")?,
    };
    check::head(&f, head_dim)?;
    let rotary = rope::parse(&f, &model_type, head_dim)?;
    let num_hidden_layers = size("num_hidden_layers")?;
    check::layers(&f, num_hidden_layers)?;
    let sliding_window = layers::window(&f, &model_type)?;
    let layers = layers::parse(&f, &model_type, num_hidden_layers, sliding_window, rotary.local_theta)?;
    let dtype = match f.str("dtype")? {
        Some(name) => Some(name),
        None => f.str("torch_dtype")?,
    };
    let config = ModelConfig {
        vocab_size: size("vocab_size")?,
        hidden_size,
        intermediate_size: size("intermediate_size")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: kv_heads(&f, &model_type, num_attention_heads)?,
        head_dim,
        rotary_dim: rotary.dim,
        rms_norm_eps: f.f64("rms_norm_eps")?.unwrap_or(if model_type == "phi3" { 1e-5 } else { 1e-6 }),
        rope_theta: rotary.theta,
        rope_scaling: rotary.scaling,
        max_position_embeddings: size("max_position_embeddings")?,
        // Files leave out what equals the architecture's default, and Gemma's differs.
        tie_word_embeddings: f.bool("tie_word_embeddings")?.unwrap_or(gemma || model_type == "smollm3"),
        attention_bias: f.bool("attention_bias")?,
        mlp_bias: f.bool("mlp_bias")?.unwrap_or(false),
        hidden_act: hidden_act.unwrap_or(if gemma { "gelu_pytorch_tanh" } else { "silu" }).to_string(),
        use_sliding_window: f.bool("use_sliding_window")?.unwrap_or(false),
        sliding_window,
        layers,
        bos_token_id: f.token_id("bos_token_id")?,
        eos_token_ids: f.token_ids("eos_token_id")?,
        dtype: dtype.and_then(Dtype::from_torch_name),
        model_type,
    };
    check::sizes(&f, &config)?;
    Ok(config)
}

/// Key and value heads: a null stands for as many as there are query heads, and a file without the key for what the
/// architecture has.
fn kv_heads(f: &Fields<'_>, model_type: &str, heads: usize) -> Result<usize> {
    let key = "num_key_value_heads";
    if let Some(found) = f.usize(key)? {
        return Ok(found);
    }
    let usual = match model_type {
        _ if f.map.contains_key(key) => heads,
        "qwen2" | "qwen3" => 32,
        "mistral" => 8,
        "gemma3_text" | "smollm3" => 4,
        _ => heads,
    };
    if !heads.is_multiple_of(usual) {
        return Err(f.error(key, ErrorKind::Missing).expected("a value").found(format!(
            "none: without it {model_type} models have {usual}, which does not divide {heads}"
        )));
    }
    Ok(usual)
}

/// Shapes this struct cannot say, so that they are not taken for others.
fn refuse_unsupported(f: &Fields<'_>) -> Result<()> {
    if f.value("text_config").is_some() {
        return Err(f
            .error("text_config", ErrorKind::Unsupported)
            .expected("a text model")
            .found("a multimodal one, whose text part is nested here")
            .hint("Use a text-only checkpoint of the same family."));
    }
    for key in ["quantization_config", "quantization"] {
        if f.value(key).is_some() {
            return Err(f
                .error(key, ErrorKind::Unsupported)
                .expected("weights in float32, float16 or bfloat16")
                .found("quantized ones")
                .hint("Use the original model; mesp quantizes it by itself, and reads GGUF files."));
        }
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(cap) = f.f64(key)? {
            return Err(f
                .error(key, ErrorKind::Unsupported)
                .expected("none")
                .found(format!("{cap}: capped scores and logits are not supported"))
                .hint("Use a model of another family, such as gemma3_text, llama, qwen2 or qwen3."));
        }
    }
    if f.bool("use_bidirectional_attention")? == Some(true) {
        return Err(f
            .error("use_bidirectional_attention", ErrorKind::Unsupported)
            .expected("false")
            .found("true: every token would see those after it"));
    }
    Ok(())
}

impl ModelConfig {
    /// Reads `config.json` of a model folder, and adds the end tokens of its `generation_config.json`.
    ///
    /// # Errors
    /// As [`parse`], and when the file cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let mut config = parse(&path, &read_text(&path)?)?;
        let path = dir.join("generation_config.json");
        if let Some(text) = read_text_if_present(&path, CONFIG_LIMIT)? {
            let map = parse_object(&path, &text)?;
            for id in Fields::new(&path, &map).token_ids("eos_token_id")? {
                if !config.eos_token_ids.contains(&id) {
                    config.eos_token_ids.push(id);
                }
            }
        }
        Ok(config)
    }

    /// The content of a `config.json`, with the keys that every version of transformers reads.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| map.insert(key.to_string(), value);
        if let Some(name) = architecture(&self.model_type) {
            put("architectures", json!([name]));
        }
        put("model_type", json!(self.model_type));
        put("vocab_size", json!(self.vocab_size));
        put("hidden_size", json!(self.hidden_size));
        put("intermediate_size", json!(self.intermediate_size));
        put("num_hidden_layers", json!(self.num_hidden_layers));
        put("num_attention_heads", json!(self.num_attention_heads));
        put("num_key_value_heads", json!(self.num_key_value_heads));
        put("head_dim", json!(self.head_dim));
        put("rms_norm_eps", json!(self.rms_norm_eps));
        put("rope_theta", json!(self.rope_theta));
        if let Some(share) = rope::share(self.rotary_dim, self.head_dim) {
            put("partial_rotary_factor", json!(share));
        }
        put("rope_scaling", self.rope_scaling.to_json(self.max_position_embeddings));
        if let RopeScaling::LongRope { original_max_position_embeddings, .. } = self.rope_scaling {
            put("original_max_position_embeddings", json!(original_max_position_embeddings));
        }
        put("max_position_embeddings", json!(self.max_position_embeddings));
        put("tie_word_embeddings", json!(self.tie_word_embeddings));
        if let Some(bias) = self.attention_bias {
            put("attention_bias", json!(bias));
        }
        put("mlp_bias", json!(self.mlp_bias));
        put("hidden_act", json!(self.hidden_act));
        if self.model_type.starts_with("gemma") {
            put("hidden_activation", json!(self.hidden_act));
        }
        put("use_sliding_window", json!(self.use_sliding_window));
        put("sliding_window", json!(self.sliding_window));
        put("bos_token_id", json!(self.bos_token_id));
        put(
            "eos_token_id",
            match self.eos_token_ids.as_slice() {
                [] => Value::Null,
                [one] => json!(one),
                many => json!(many),
            },
        );
        if let Some(dtype) = self.dtype {
            put("torch_dtype", json!(dtype.torch_name()));
        }
        put("use_cache", json!(true));
        self.layers.put(&mut map, &self.model_type, self.num_hidden_layers);
        Value::Object(map)
    }
}

/// The class of transformers that runs a model type.
fn architecture(model_type: &str) -> Option<&'static str> {
    Some(match model_type {
        "llama" => "LlamaForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        "mistral" => "MistralForCausalLM",
        "gemma" => "GemmaForCausalLM",
        "gemma2" => "Gemma2ForCausalLM",
        "gemma3_text" => "Gemma3ForCausalLM",
        "smollm3" => "SmolLM3ForCausalLM",
        "phi3" => "Phi3ForCausalLM",
        _ => return None,
    })
}
