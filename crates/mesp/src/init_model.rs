//! Models of a given shape with random weights: for planning, measuring and testing without downloads.

use std::io::Write;
use std::path::Path;

use mesp_formats::atomic::{create_dir_all, write_atomic};
use mesp_formats::{Dtype, ModelConfig, safetensors_file};
use rayon::prelude::*;

use crate::arch::{Config, Module, POST_NORMS};
use crate::{Result, rng};

mod gguf;
mod presets;

pub use gguf::{rows_beside, write_gguf};
pub use presets::{PRESETS, preset};

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
        all.push((format!("{at}.{}.weight", attn_norm.path()), vec![d], norm));
        for p in Module::INSIDE.into_iter().filter(|p| p.exists(c)) {
            let (out, input) = p.shape(c);
            let name = p.path(l);
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
        all.push((format!("{at}.{}.weight", mlp_norm.path()), vec![d], norm));
        if c.family.post_norms {
            all.extend(POST_NORMS.map(|n| (format!("{at}.{}.weight", n.path()), vec![d], norm)));
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
/// When the configuration is of no model that the engine knows, the type is none that products take, or a file cannot
/// be written.
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
                Dtype::F16 => value.copy_from_slice(&half::f16::from_f32(x).to_le_bytes()),
                Dtype::BF16 => value.copy_from_slice(&half::bf16::from_f32(x).to_le_bytes()),
                _ => value.copy_from_slice(&x.to_le_bytes()),
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
    use crate::data::{FileRows, ReadOptions};
    use crate::model::{ModelWeights, WeightSource};
    use crate::source::{Base, HfSource};

    #[test]
    fn presets_have_the_published_sizes() {
        // Parameters as the models' pages give them.
        let known = [
            494_032_768,
            1_543_714_304,
            3_085_938_688,
            596_049_920,
            1_235_814_400,
            134_515_008,
            7_615_616_512,
            1_720_574_976,
            4_022_468_096,
            3_212_749_824,
            999_885_952,
            3_075_098_624,
            7_241_732_096,
            3_821_079_552,
        ];
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
        ModelWeights::load(config, &source).expect("a model");
        let rows = FileRows::read(&dir.path().join("random_rows.jsonl"), None, &ReadOptions::new(512))
            .expect("rows");
        assert_eq!((rows.examples.len(), rows.tokens()), (8, 8 * 1025));
    }
}
