//! Published shapes by name.

use mesp_formats::{LayerTraits, ModelConfig, RopeScaling};

use crate::{Error, ErrorKind, Result};

/// Names of the shapes that [`preset`] knows.
pub const PRESETS: [&str; 15] = [
    "qwen2.5-0.5b",
    "qwen2.5-1.5b",
    "qwen2.5-3b",
    "qwen3-0.6b",
    "llama-3.2-1b",
    "smollm2-135m",
    "qwen2.5-7b",
    "qwen3-1.7b",
    "qwen3-4b",
    "llama-3.2-3b",
    "gemma-3-1b",
    "smollm3-3b",
    "mistral-7b",
    "phi-3-mini",
    "tiny",
];

/// The published shape of a model, or `tiny`, a model for tests.
///
/// # Errors
/// When there is none by that name.
pub fn preset(name: &str) -> Result<ModelConfig> {
    let qwen = |hidden, intermediate, layers, heads, positions| ModelConfig {
        rope_theta: 1e6,
        max_position_embeddings: positions,
        bos_token_id: Some(151_643),
        eos_token_ids: vec![151_643],
        ..shape("qwen2", 151_936, hidden, intermediate, layers, heads, 2, hidden / heads)
    };
    let qwen3 = |hidden, intermediate, layers, heads| ModelConfig {
        rope_theta: 1e6,
        max_position_embeddings: 40_960,
        attention_bias: Some(false),
        bos_token_id: Some(151_643),
        eos_token_ids: vec![151_645],
        ..shape("qwen3", 151_936, hidden, intermediate, layers, heads, 8, 128)
    };
    let llama = |hidden, layers, heads, head_dim| ModelConfig {
        rms_norm_eps: 1e-5,
        rope_theta: 500_000.0,
        rope_scaling: RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        },
        max_position_embeddings: 131_072,
        attention_bias: Some(false),
        bos_token_id: Some(128_000),
        eos_token_ids: vec![128_001],
        ..shape("llama", 128_256, hidden, 8192, layers, heads, 8, head_dim)
    };
    Ok(match name {
        "qwen2.5-7b" => ModelConfig {
            tie_word_embeddings: false,
            num_key_value_heads: 4,
            vocab_size: 152_064,
            ..qwen(3584, 18_944, 28, 28, 32_768)
        },
        "qwen3-1.7b" => qwen3(2048, 6144, 28, 16),
        "qwen3-4b" => qwen3(2560, 9728, 36, 32),
        "llama-3.2-3b" => llama(3072, 28, 24, 128),
        "qwen2.5-0.5b" => qwen(896, 4864, 24, 14, 32_768),
        "qwen2.5-1.5b" => qwen(1536, 8960, 28, 12, 131_072),
        "qwen2.5-3b" => qwen(2048, 11_008, 36, 16, 32_768),
        "qwen3-0.6b" => qwen3(1024, 3072, 28, 16),
        "llama-3.2-1b" => llama(2048, 16, 32, 64),
        "smollm2-135m" => ModelConfig {
            rms_norm_eps: 1e-5,
            rope_theta: 100_000.0,
            max_position_embeddings: 8192,
            attention_bias: Some(false),
            bos_token_id: Some(0),
            eos_token_ids: vec![0],
            ..shape("llama", 49_152, 576, 1536, 30, 9, 3, 64)
        },
        "tiny" => ModelConfig { max_position_embeddings: 2048, ..shape("qwen2", 512, 64, 192, 4, 4, 2, 16) },
        _ => return with_layers(name),
    })
}

/// Shapes whose layers differ from those of Llama and Qwen.
fn with_layers(name: &str) -> Result<ModelConfig> {
    let every = |n: usize, layers: usize| (1..=layers).map(move |l| l.is_multiple_of(n));
    Ok(match name {
        "gemma-3-1b" => ModelConfig {
            rope_theta: 1e6,
            max_position_embeddings: 32_768,
            attention_bias: Some(false),
            hidden_act: "gelu_pytorch_tanh".to_owned(),
            sliding_window: Some(512),
            layers: LayerTraits {
                windowed: every(6, 26).map(|full| !full).collect(),
                local_rope_theta: Some(10_000.0),
                query_pre_attn_scalar: Some(256.0),
                ..LayerTraits::default()
            },
            bos_token_id: Some(2),
            eos_token_ids: vec![1, 106],
            ..shape("gemma3_text", 262_144, 1152, 6912, 26, 4, 1, 256)
        },
        "smollm3-3b" => ModelConfig {
            rope_theta: 5e6,
            max_position_embeddings: 65_536,
            attention_bias: Some(false),
            layers: LayerTraits { unrotated: every(4, 36).collect(), ..LayerTraits::default() },
            bos_token_id: Some(128_000),
            eos_token_ids: vec![128_001],
            ..shape("smollm3", 128_256, 2048, 11_008, 36, 16, 4, 128)
        },
        "mistral-7b" => ModelConfig {
            rms_norm_eps: 1e-5,
            max_position_embeddings: 32_768,
            tie_word_embeddings: false,
            sliding_window: Some(4096),
            layers: LayerTraits { windowed: vec![true; 32], ..LayerTraits::default() },
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            ..shape("mistral", 32_000, 4096, 14_336, 32, 32, 8, 128)
        },
        "phi-3-mini" => ModelConfig {
            rms_norm_eps: 1e-5,
            max_position_embeddings: 4096,
            tie_word_embeddings: false,
            sliding_window: Some(2047),
            layers: LayerTraits { windowed: vec![true; 32], ..LayerTraits::default() },
            bos_token_id: Some(1),
            eos_token_ids: vec![32_000],
            ..shape("phi3", 32_064, 3072, 8192, 32, 32, 32, 96)
        },
        _ => {
            let known = PRESETS.join(", ");
            return Err(
                Error::usage(ErrorKind::Unknown, format!("preset {name:?} is unknown")).expected(known)
            );
        }
    })
}

fn shape(
    arch: &str,
    vocab: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
) -> ModelConfig {
    ModelConfig {
        model_type: arch.to_owned(),
        vocab_size: vocab,
        hidden_size: hidden,
        intermediate_size: intermediate,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim,
        rotary_dim: head_dim,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        max_position_embeddings: 2048,
        tie_word_embeddings: true,
        attention_bias: None,
        mlp_bias: false,
        hidden_act: "silu".to_owned(),
        use_sliding_window: false,
        sliding_window: None,
        layers: LayerTraits::default(),
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        dtype: None,
    }
}
