//! A model's shape from the metadata and the tensor table.

use super::names::interleaved;
use super::rope::{self, rope_scaling};
use super::vocabulary::END_KEYS;
use super::{Gguf, Value};
use crate::config::{self as hf, LayerTraits, ModelConfig};
use crate::json::quoted;
use crate::{Error, ErrorKind, Result};

/// What the engine needs to know of a file beside its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufModel {
    /// The shape.
    pub config: ModelConfig,
    /// The divisors of the rotary frequencies at every length, `rotary_dim / 2` of them, as the file has them. Where
    /// they are those of Llama 3, `config.rope_scaling` says the same; those for short and long texts stand there
    /// alone.
    pub rope_factors: Option<Vec<f32>>,
    /// Whether the rows of `attn_q` and `attn_k` are interleaved: see [`to_halves`](super::to_halves).
    pub interleaved: bool,
}

/// The shape and the rotary divisors; `bytes` is the whole file.
///
/// # Errors
/// As [`config`], and when the divisors are not `rotary_dim / 2` positive numbers, or some are missing.
pub fn model(gguf: &Gguf, bytes: &[u8]) -> Result<GgufModel> {
    let mut config = config_of(gguf, bytes)?;
    let rope_factors = rope::read(gguf, bytes, &mut config)?;
    let interleaved = interleaved(&config.model_type);
    Ok(GgufModel { config, rope_factors, interleaved })
}

const ARCHITECTURES: [&str; 6] = ["llama", "qwen2", "qwen3", "gemma3", "smollm3", "phi3"];

/// The shape. Rotary divisors, which stand in tensors, are not in it: they need the file's bytes, see [`model`].
///
/// # Errors
/// When a key is missing, of another kind, or contradicts another or the tensors; when the architecture or
/// something in it is not supported; when the file is one part of several, or has a vocabulary only.
pub fn config(gguf: &Gguf) -> Result<ModelConfig> {
    config_of(gguf, &[])
}

/// What a file is, where it is no model by itself.
fn whole_model(gguf: &Gguf) -> Result<()> {
    if let Some(other) = gguf.str("general.type")?.filter(|ty| *ty != "model") {
        return Err(gguf
            .error("general.type", ErrorKind::WrongType)
            .expected("\"model\"")
            .found(quoted(other))
            .hint(match other {
                "adapter" => "It is an adapter: name it with ‘adapter’, and its base model with ‘model’.",
                "imatrix" => "It holds statistics for quantization: name the model itself.",
                "mmproj" => "It is the image part of a model: name the text model.",
                _ => "Name the model itself.",
            }));
    }
    let parts = gguf.usize("split.count")?.filter(|n| *n > 1);
    if let Some(parts) = parts {
        // The part's number is counted from 0; the first part alone says what the model is.
        let part = gguf.usize("split.no")?.unwrap_or(0).saturating_add(1);
        return Err(gguf
            .error("split.count", ErrorKind::Unsupported)
            .expected("a whole model")
            .found(format!("part {part} of {parts}"))
            .hint("Join them: llama-gguf-split --merge FIRST OUT."));
    }
    Ok(())
}

/// Refuses what changes the computation and is not computed here.
fn refuse_unsupported(gguf: &Gguf, arch: &str) -> Result<()> {
    let key = |name: &str| format!("{arch}.{name}");
    let refuse = |name: &str, kind| gguf.error(&key(name), kind);
    if let Some(experts) = gguf.usize(&key("expert_count"))?.filter(|n| *n > 0) {
        return Err(refuse("expert_count", ErrorKind::Unsupported)
            .expected("a dense model")
            .found(format!("one of {experts} experts")));
    }
    for name in ["attn_logit_softcapping", "final_logit_softcapping", "attention.clamp_kqv"] {
        if let Some(found) = gguf.finite(&key(name))?.filter(|x| *x != 0.0) {
            return Err(refuse(name, ErrorKind::Unsupported)
                .expected("none, or 0")
                .found(format!("{found}: it is not supported")));
        }
    }
    if gguf.bool(&key("attention.causal"))? == Some(false) {
        return Err(refuse("attention.causal", ErrorKind::Unsupported)
            .expected("true")
            .found("false: every token would see those after it"));
    }
    Ok(())
}

/// The key of [`ModelConfig::rotary_dim`], after the architecture.
const ROTARY: &str = "rope.dimension_count";

/// How many values of a head positions rotate: `found`, or all of them.
fn rotary_dim(gguf: &Gguf, arch: &str, found: Option<usize>, head_dim: usize) -> Result<usize> {
    let rotary_dim = found.unwrap_or(head_dim);
    let refuse = |kind| gguf.error(&format!("{arch}.{ROTARY}"), kind).found(rotary_dim);
    if rotary_dim != head_dim && arch != "phi3" {
        return Err(refuse(ErrorKind::Unsupported).expected(format!("the head's width, {head_dim}")));
    }
    if rotary_dim == 0 || rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) {
        return Err(refuse(ErrorKind::OutOfRange).expected(format!("an even number up to {head_dim}")));
    }
    Ok(rotary_dim)
}

/// [`config`]; values that are arrays are read from `bytes`, the whole file.
fn config_of(gguf: &Gguf, bytes: &[u8]) -> Result<ModelConfig> {
    whole_model(gguf)?;
    let arch = gguf.required("general.architecture", gguf.str("general.architecture")?)?;
    if !ARCHITECTURES.contains(&arch) {
        let known = ARCHITECTURES.map(|a| format!("\"{a}\"")).join(", ");
        return Err(gguf
            .error("general.architecture", ErrorKind::Unknown)
            .expected(format!("one of {known}"))
            .found(quoted(arch))
            .hint("Use a model of one of these families."));
    }
    let key = |name: &str| format!("{arch}.{name}");
    let optional = |name: &str| uniform(gguf, bytes, &key(name));
    let size = |name: &str| gguf.required(&key(name), optional(name)?);
    let refuse = |name: &str, kind| gguf.error(&key(name), kind);

    refuse_unsupported(gguf, arch)?;
    // Before anything is made for each layer or computed from the sizes.
    let within = |name: &str, found: usize, most: usize| {
        if found == 0 || found > most {
            return Err(gguf
                .error(&key(name), ErrorKind::OutOfRange)
                .expected(format!("1 to {most}"))
                .found(found));
        }
        Ok(found)
    };
    let layers = within("block_count", size("block_count")?, hf::MAX_LAYERS)?;
    let hidden_size = within("embedding_length", size("embedding_length")?, hf::MAX_WIDTH)?;
    let heads = within("attention.head_count", size("attention.head_count")?, hf::MAX_WIDTH)?;
    let head_dim = match optional("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            return Err(refuse("attention.key_length", ErrorKind::Missing)
                .expected(format!("a value, or heads that divide {hidden_size}"))
                .found(format!("none and {heads}")));
        }
    };
    within("attention.key_length", head_dim, hf::MAX_WIDTH)?;
    if let Some(found) = optional("attention.value_length")?.filter(|n| *n != head_dim) {
        return Err(refuse("attention.value_length", ErrorKind::Unsupported)
            .expected(format!("the width of keys, {head_dim}"))
            .found(found));
    }
    let rotary_dim = rotary_dim(gguf, arch, optional(ROTARY)?, head_dim)?;
    let (attention_bias, mlp_bias) = biases(gguf, arch)?;
    let number = |name: &str| gguf.finite(&key(name));
    let eps = "attention.layer_norm_rms_epsilon";
    let window = optional("attention.sliding_window")?.filter(|w| *w > 0);
    let gemma = arch == "gemma3";
    let model_type = match arch {
        "gemma3" => "gemma3_text",
        "llama" if window.is_some() => "mistral",
        other => other,
    };
    let every = |name: &str, default| Ok(optional(name)?.filter(|n| *n > 0).unwrap_or(default));
    let mut traits = LayerTraits::default();
    if gemma {
        let every: usize = every("attention.sliding_window_pattern", 6)?;
        traits.windowed = (1..=layers).map(|l| window.is_some() && !l.is_multiple_of(every)).collect();
        traits.local_rope_theta = Some(number("rope.freq_base_swa")?.unwrap_or(10_000.0));
        traits.query_pre_attn_scalar = Some(match number("attention.scale")?.filter(|c| *c > 0.0) {
            Some(c) => rounded(1.0 / (c * c)),
            // The largest divides by the width that heads would have if they filled the residual stream.
            None if layers == 62 => hidden_size as f64 / heads as f64,
            None => head_dim as f64,
        });
    } else if arch == "smollm3" {
        let every: usize = every("rope.no_rope_layer_interval", 4)?;
        traits.unrotated = (1..=layers).map(|l| l.is_multiple_of(every)).collect();
    }
    let config = ModelConfig {
        model_type: model_type.to_string(),
        vocab_size: vocab_size(gguf, hidden_size)?,
        hidden_size,
        intermediate_size: size("feed_forward_length")?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: optional("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        rotary_dim,
        rms_norm_eps: gguf.required(&key(eps), number(eps)?)?,
        rope_theta: number("rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: rope_scaling(gguf, arch)?,
        max_position_embeddings: size("context_length")?,
        tie_word_embeddings: gguf.tensor("output.weight").is_none(),
        attention_bias,
        mlp_bias,
        hidden_act: if gemma { "gelu_pytorch_tanh" } else { "silu" }.to_string(),
        use_sliding_window: false,
        sliding_window: window,
        layers: traits,
        bos_token_id: token_id(gguf, "tokenizer.ggml.bos_token_id")?,
        eos_token_ids: end_ids(gguf)?,
        dtype: None,
    };
    // One place knows which sizes go together: the reader of config.json.
    hf::parse(&gguf.path, &config.to_json().to_string())
}

/// Tokens that end a text, a turn, or a message to a tool.
///
/// # Errors
/// When a key is of another kind than a number.
pub fn end_ids(gguf: &Gguf) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for key in END_KEYS {
        let id = token_id(gguf, key)?;
        ids.extend(id.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}

/// Attention and MLP biases. What `qwen2` has is the architecture's to say, but it must be there.
fn biases(gguf: &Gguf, arch: &str) -> Result<(Option<bool>, bool)> {
    let has = |name: &str| gguf.tensor(&format!("blk.0.{name}.bias")).is_some();
    let missing = |name: &str| {
        Err(Error::invalid(&gguf.path, ErrorKind::Missing)
            .expected(format!("a tensor \"blk.0.{name}.bias\""))
            .found("none")
            .hint("The file is incomplete: get it again, or convert the model again."))
    };
    let qkv = has("attn_q");
    if arch == "qwen2" {
        return if qkv { Ok((None, false)) } else { missing("attn_q") };
    }
    for name in ["attn_k", "attn_v", "attn_output"] {
        if qkv && !has(name) {
            return missing(name);
        }
        if !qkv && has(name) {
            return missing("attn_q");
        }
    }
    let mlp = has("ffn_gate");
    for name in ["ffn_up", "ffn_down"] {
        if mlp != has(name) {
            return missing(if mlp { name } else { "ffn_gate" });
        }
    }
    Ok((Some(qkv), mlp))
}

/// A whole number, or as many as there are layers, which must be one and the same.
fn uniform(gguf: &Gguf, bytes: &[u8], key: &str) -> Result<Option<usize>> {
    let Some(array) = gguf.value(key).and_then(Value::as_array) else { return gguf.usize(key) };
    let mut numbers = array.iter_scalars(bytes).into_iter().flatten().map(|v| v.as_u64());
    let first = numbers.next().flatten().and_then(|n| usize::try_from(n).ok());
    let same = |n: Option<u64>| n.and_then(|n| usize::try_from(n).ok()) == first;
    match first {
        Some(first) if numbers.all(same) => Ok(Some(first)),
        _ => Err(gguf
            .error(key, ErrorKind::Unsupported)
            .expected("one number for all layers")
            .found("others for some")
            .hint("Models whose layers differ in size are not supported.")),
    }
}

/// The whole number that a value in single precision stands for, where it is near one.
fn rounded(x: f64) -> f64 {
    if (x - x.round()).abs() <= 1e-5 * x { x.round() } else { x }
}

fn vocab_size(gguf: &Gguf, hidden_size: usize) -> Result<usize> {
    let name = "token_embd.weight";
    let Some(tensor) = gguf.tensor(name) else {
        return Err(Error::invalid(&gguf.path, ErrorKind::Missing)
            .expected(format!("a tensor \"{name}\""))
            .found("none")
            .hint("The file has a vocabulary only, or is no language model: use another."));
    };
    let tokens = "tokenizer.ggml.tokens";
    match tensor.shape[..] {
        [rows, cols] if cols == hidden_size => match gguf.array(tokens)? {
            Some(array) if array.len > rows => Err(gguf
                .error(tokens, ErrorKind::Mismatch)
                .expected(format!("at most {rows} tokens, the embedding's rows"))
                .found(array.len)
                .hint("The file is damaged: get it or make it again.")),
            _ => Ok(rows),
        },
        _ => Err(Error::invalid(&gguf.path, ErrorKind::Mismatch)
            .tensor(name)
            .expected(format!("shape [vocabulary, {hidden_size}]"))
            .found(format!("{:?}", tensor.shape))
            .hint("The file is damaged: get it or make it again.")),
    }
}

fn token_id(gguf: &Gguf, key: &str) -> Result<Option<u32>> {
    let id = gguf.usize(key)?;
    // Some converters put down -1, in 32 bits, for none.
    Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX))
}
