//! Models of a given shape with random weights: for planning, measuring and testing without downloads.

use std::io::Write;
use std::path::Path;

use mesp_formats::atomic::{create_dir_all, write_atomic};
use mesp_formats::{Dtype, LayerTraits, ModelConfig, RopeScaling, safetensors_file};
use rayon::prelude::*;

use crate::adapter::Projection;
use crate::model::{Config, POST_NORMS};
use crate::{Error, Result, rng};

mod gguf;

pub use gguf::write_gguf;

/// Names of the shapes that [`preset`] knows.
pub const PRESETS: [&str; 7] =
    ["qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen3-0.6b", "llama-3.2-1b", "smollm2-135m", "tiny"];

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
    Ok(match name {
        "qwen2.5-0.5b" => qwen(896, 4864, 24, 14, 32_768),
        "qwen2.5-1.5b" => qwen(1536, 8960, 28, 12, 131_072),
        "qwen2.5-3b" => qwen(2048, 11_008, 36, 16, 32_768),
        "qwen3-0.6b" => ModelConfig {
            rope_theta: 1e6,
            max_position_embeddings: 40_960,
            attention_bias: Some(false),
            bos_token_id: Some(151_643),
            eos_token_ids: vec![151_645],
            ..shape("qwen3", 151_936, 1024, 3072, 28, 16, 8, 128)
        },
        "llama-3.2-1b" => ModelConfig {
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
            ..shape("llama", 128_256, 2048, 8192, 16, 32, 8, 64)
        },
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
        _ => {
            let known = PRESETS.join(", ");
            return Err(Error::usage(format!("preset {name:?} is unknown, expected {known}")));
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

/// How a tensor starts.
#[derive(Clone, Copy)]
enum Start {
    /// Uniform with this standard deviation.
    Random(f64),
    /// Norms, which start as 1, stored less what is added to them.
    Norm(f32),
}

/// The standard deviation of matrices, as the published models are initialized; biases have the same, so
/// that a mistake with them shows.
const DEVIATION: f64 = 0.02;
/// Values that are drawn at once.
const CHUNK: usize = 1 << 22;

/// Every tensor of a model, by its checkpoint name.
fn tensors(c: &Config) -> Vec<(String, Vec<usize>, Start)> {
    let (v, d) = (c.vocab_size, c.hidden_size);
    let (random, norm) = (Start::Random(DEVIATION), Start::Norm(1.0 - c.norm_offset));
    let [attn_norm, mlp_norm] = c.family.norms();
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![v, d], random)];
    for l in 0..c.layers {
        let at = format!("model.layers.{l}");
        all.push((format!("{at}.{attn_norm}.weight"), vec![d], norm));
        for p in Projection::ALL {
            let (out, input) = p.shape(c);
            let name = format!("{at}.{}.{}", p.parent(), p.name());
            all.push((format!("{name}.weight"), vec![out, input], random));
            if p.has_bias(c) {
                all.push((format!("{name}.bias"), vec![out], random));
            }
        }
        if c.family.qk_norm {
            all.extend(
                ["q_norm", "k_norm"].map(|n| (format!("{at}.self_attn.{n}.weight"), vec![c.head_dim], norm)),
            );
        }
        all.push((format!("{at}.{mlp_norm}.weight"), vec![d], norm));
        if c.family.post_norms {
            all.extend(POST_NORMS.map(|n| (format!("{at}.{n}.weight"), vec![d], norm)));
        }
    }
    all.push(("model.norm.weight".to_owned(), vec![d], norm));
    if !c.tied {
        all.push(("lm_head.weight".to_owned(), vec![v, d], random));
    }
    all
}

/// Writes a model directory: `config.json`, `model.safetensors`, and `random_rows.jsonl`, eight rows of 1025
/// random tokens, so that the model can be trained at once. The values follow from the seed alone. Memory
/// stays below 64 MiB whatever the model; `progress(done, total)` hears of parameters.
///
/// # Errors
/// When the configuration is of no model that the engine knows, or a file cannot be written.
pub fn write(
    dir: &Path,
    config: &ModelConfig,
    dtype: Dtype,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let shape = Config::new(config)?;
    create_dir_all(dir)?;
    let all = tensors(&shape);
    let list: Vec<_> = all.iter().map(|(name, shape, _)| (name.clone(), dtype, shape.clone())).collect();
    let (mut done, total) = (0, shape.parameters());
    let mut bytes = Vec::new();
    safetensors_file::write(
        &dir.join("model.safetensors"),
        &list,
        &mesp_formats::peft::metadata(),
        &mut |i, out| {
            let (_, shape, start) = &all[i];
            let len: usize = shape.iter().product();
            for first in (0..len).step_by(CHUNK) {
                let values = CHUNK.min(len - first);
                bytes.resize(values * dtype.size(), 0);
                fill(&mut bytes, dtype, *start, seed, i as u64, first as u64);
                out.write_all(&bytes)?;
                done += values as u64;
                progress(done, total);
            }
            Ok(())
        },
    )?;
    let json = ModelConfig { dtype: Some(dtype), ..config.clone() }.to_json();
    write_atomic(&dir.join("config.json"), |out| writeln!(out, "{json:#}"))?;
    write_rows(&dir.join("random_rows.jsonl"), shape.vocab_size, seed)
}

fn fill(bytes: &mut [u8], dtype: Dtype, start: Start, seed: u64, stream: u64, first: u64) {
    /// Values of one task.
    const PART: usize = 1 << 14;
    let size = dtype.size();
    bytes.par_chunks_mut(PART * size).enumerate().for_each(|(part, bytes)| {
        for (i, value) in bytes.chunks_exact_mut(size).enumerate() {
            let index = first + (part * PART + i) as u64;
            let x = match start {
                Start::Norm(x) => x,
                // A uniform variable in ±b has the standard deviation b/√3.
                Start::Random(s) => {
                    (s * 3f64.sqrt() * (2.0 * rng::uniform(seed, stream, index) - 1.0)) as f32
                }
            };
            match dtype {
                Dtype::F32 => value.copy_from_slice(&x.to_le_bytes()),
                Dtype::F16 => value.copy_from_slice(&half::f16::from_f32(x).to_le_bytes()),
                Dtype::BF16 => value.copy_from_slice(&half::bf16::from_f32(x).to_le_bytes()),
            }
        }
    });
}

fn write_rows(path: &Path, vocab: usize, seed: u64) -> Result<()> {
    const ROWS: u64 = 8;
    const TOKENS: u64 = 1025;
    // A stream that no tensor has.
    let token = |row, t| (rng::uniform(seed, u64::MAX - row, t) * vocab as f64) as u32;
    write_atomic(path, |out| {
        for row in 0..ROWS {
            let tokens: Vec<u32> = (0..TOKENS).map(|t| token(row, t)).collect();
            writeln!(out, "{}", serde_json::json!({ "input_ids": tokens, "labels": tokens }))?;
        }
        Ok(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, ReadOptions};
    use crate::model::{Model, WeightSource};
    use crate::source::{Base, HfSource};

    #[test]
    fn presets_have_the_published_sizes() {
        // Parameters as the models' pages give them.
        let known = [494_032_768, 1_543_714_304, 3_085_938_688, 596_049_920, 1_235_814_400, 134_515_008];
        for (name, parameters) in PRESETS.iter().zip(known) {
            let config = Config::new(&preset(name).expect(name)).expect(name);
            assert_eq!(config.parameters(), parameters, "{name}");
            let sum: usize = tensors(&config).iter().map(|(_, s, _)| s.iter().product::<usize>()).sum();
            assert_eq!(sum as u64, parameters, "{name}");
        }
        assert!(preset("gpt2").is_err());
    }

    #[test]
    fn a_written_model_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut last = (0, 0);
        write(dir.path(), &preset("tiny").expect("tiny"), Dtype::BF16, 3, &mut |a, b| last = (a, b))
            .expect("written");
        let config = Config::new(&ModelConfig::read(dir.path()).expect("config")).expect("known");
        assert_eq!(last, (config.parameters(), config.parameters()));
        let source = HfSource::open(dir.path(), Base::Mapped).expect("weights");
        let values =
            source.vector("model.layers.1.self_attn.q_proj.bias", 64).expect("read").expect("a bias");
        let square: f32 = values.iter().map(|x| x * x).sum::<f32>() / 64.0;
        // Uniform: the mean square strays by 0.11 of itself in 64 values; four of that.
        assert!((square.sqrt() / 0.02 - 1.0).abs() < 0.25, "{square}");
        Model::load(config, &source).expect("a model");
        let rows =
            Dataset::read(&dir.path().join("random_rows.jsonl"), None, &ReadOptions::new(512)).expect("rows");
        assert_eq!((rows.examples.len(), rows.tokens()), (8, 8 * 1025));
    }
}
