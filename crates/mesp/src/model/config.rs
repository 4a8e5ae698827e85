//! What the engine needs to know of a model's shape.

use mesp_device::{Layout, Rope, inverse_frequencies};
use mesp_formats::{ModelConfig, RopeScaling};

use super::family;
use crate::{Error, Result};

/// A decoder's shape, whatever its family.
#[derive(Debug, Clone)]
pub struct Config {
    /// `model_type` of the checkpoint.
    pub arch: String,
    /// V.
    pub vocab_size: usize,
    /// d.
    pub hidden_size: usize,
    /// i.
    pub intermediate_size: usize,
    /// L.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// ε of every norm.
    pub eps: f64,
    /// Angles of positions.
    pub rope: Rope,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Longest sequence the model was made for.
    pub max_positions: usize,
    /// What its family adds to the common block.
    pub family: family::Family,
}

impl Config {
    /// From a checkpoint's configuration.
    ///
    /// # Errors
    /// When the architecture is not supported, or asks for something that is not.
    pub fn new(c: &ModelConfig) -> Result<Self> {
        let family = family::of(c)?;
        if c.hidden_act != "silu" {
            return Err(Error::usage(format!(
                "config.json: hidden_act is {:?}, expected \"silu\" for model_type {:?}",
                c.hidden_act, c.model_type
            )));
        }
        let mut frequencies = inverse_frequencies(c.head_dim, c.rope_theta);
        scale_frequencies(&mut frequencies, &c.rope_scaling);
        Ok(Self {
            arch: c.model_type.clone(),
            vocab_size: c.vocab_size,
            hidden_size: c.hidden_size,
            intermediate_size: c.intermediate_size,
            layers: c.num_hidden_layers,
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            eps: c.rms_norm_eps,
            rope: Rope { frequencies, layout: Layout::Half },
            tied: c.tie_word_embeddings,
            max_positions: c.max_position_embeddings,
            family,
        })
    }

    /// Width of queries.
    pub fn q_cols(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of keys and of values.
    pub fn kv_cols(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Parameters of the base model.
    pub fn parameters(&self) -> u64 {
        let (d, q, k, i) = (self.hidden_size, self.q_cols(), self.kv_cols(), self.intermediate_size);
        let f = &self.family;
        let mut block = d * (2 * q + 2 * k) + 3 * d * i + 2 * d;
        block += if f.qkv_bias { q + 2 * k } else { 0 } + if f.o_bias { d } else { 0 };
        block += if f.mlp_bias { 2 * i + d } else { 0 } + if f.qk_norm { 2 * self.head_dim } else { 0 };
        let tables = if self.tied { 1 } else { 2 };
        (self.layers * block + d) as u64 + (tables * self.vocab_size) as u64 * d as u64
    }
}

/// Scaling of positions to longer contexts, in single precision as the reference implementation does it.
///
/// Linear: all frequencies by 1/factor. Llama 3: frequencies whose wavelength is longer than
/// `original/low` by 1/factor, those shorter than `original/high` not at all, between them a blend by
/// `(original/wavelength − low) / (high − low)`.
fn scale_frequencies(frequencies: &mut [f32], scaling: &RopeScaling) {
    match *scaling {
        RopeScaling::Default => {}
        RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor as f32),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let (factor, low, high) = (factor as f32, low_freq_factor as f32, high_freq_factor as f32);
            let original = original_max_position_embeddings as f32;
            for f in frequencies {
                let wavelength = 2.0 * std::f32::consts::PI / *f;
                if wavelength > original / low {
                    *f /= factor;
                } else if wavelength >= original / high {
                    let smooth = (original / wavelength - low) / (high - low);
                    *f = (1.0 - smooth) * *f / factor + smooth * *f;
                }
            }
        }
    }
}
