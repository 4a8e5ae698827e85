//! What the engine needs to know of a model's shape.

use mesp_device::{Gate, Layout, MAX_ROTARY_DIM, Rope, inverse_frequencies};
use mesp_formats::{ModelConfig, RopeScaling};

use super::family;
use crate::{Error, ErrorKind, Result};

/// Which rotary embedding (RoPE) a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeKind {
    /// By [`Config::rope`].
    Global,
    /// By [`Config::local_rope`].
    Local,
    /// Not at all: positions show in the causal order alone (Kazemnejad et al. 2023).
    None,
}

/// The attention window and the rotary embedding of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerAttention {
    /// Keys that a query sees, its own among them; `usize::MAX` for all before it.
    pub window: usize,
    /// Which rotary embedding its queries and keys have.
    pub rope: RopeKind,
}

impl LayerAttention {
    fn new(c: &ModelConfig, layer: usize) -> Self {
        let is = |of: &[bool]| of.get(layer).copied().unwrap_or(false);
        let windowed = is(&c.layers.windowed);
        let rope = match (is(&c.layers.unrotated), windowed && c.layers.local_rope_theta.is_some()) {
            (true, _) => RopeKind::None,
            (false, true) => RopeKind::Local,
            (false, false) => RopeKind::Global,
        };
        Self { window: c.sliding_window.filter(|_| windowed).unwrap_or(usize::MAX), rope }
    }
}

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
    /// Angles of positions in layers with [`RopeKind::Local`].
    pub local_rope: Option<Rope>,
    /// Each layer's attention window and rotary embedding.
    pub attention: Vec<LayerAttention>,
    /// c, by which scores are multiplied.
    pub score_scale: f64,
    /// What is added to the stored weights of norms.
    pub norm_offset: f32,
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
        let act = match family.gate {
            Gate::Silu => "silu",
            Gate::GeluTanh => "gelu_pytorch_tanh",
        };
        if c.hidden_act != act {
            return Err(Error::usage(
                ErrorKind::Unsupported,
                format!("config.json: hidden_act is {:?}", c.hidden_act),
            )
            .expected(format!("{act:?} for model_type {:?}", c.model_type)));
        }
        if c.rotary_dim > MAX_ROTARY_DIM {
            return Err(Error::usage(
                ErrorKind::Unsupported,
                format!("heads with {} values turned by positions are not supported", c.rotary_dim),
            )
            .expected(format!("{MAX_ROTARY_DIM} at most")));
        }
        let mut frequencies = inverse_frequencies(c.rotary_dim, c.rope_theta);
        scale_frequencies(&mut frequencies, &c.rope_scaling)?;
        let plain = |theta| Rope {
            frequencies: inverse_frequencies(c.head_dim, theta),
            layout: Layout::Half,
            head_dim: c.head_dim,
            factor: 1.0,
        };
        let (mut max_positions, mut factor) = (c.max_position_embeddings, 1.0);
        if let RopeScaling::LongRope { original_max_position_embeddings, attention_factor, .. } =
            &c.rope_scaling
        {
            factor = *attention_factor as f32;
            max_positions = max_positions.min(*original_max_position_embeddings);
        }
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
            rope: Rope { frequencies, layout: Layout::Half, head_dim: c.head_dim, factor },
            local_rope: c.layers.local_rope_theta.map(plain),
            attention: (0..c.num_hidden_layers).map(|l| LayerAttention::new(c, l)).collect(),
            score_scale: 1.0 / c.layers.query_pre_attn_scalar.unwrap_or(c.head_dim as f64).sqrt(),
            norm_offset: if family.norm_around_one { 1.0 } else { 0.0 },
            tied: c.tie_word_embeddings,
            max_positions,
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

    /// The rotary embedding of a layer, if it has one.
    pub fn rope_of(&self, attention: LayerAttention) -> Option<&Rope> {
        match attention.rope {
            RopeKind::Global => Some(&self.rope),
            RopeKind::Local => self.local_rope.as_ref(),
            RopeKind::None => None,
        }
    }

    /// By what embeddings are multiplied, if not by 1.
    pub fn embedding_scale(&self) -> Option<f64> {
        // In single precision, as checkpoints are trained with it.
        self.family.scaled_embedding.then(|| f64::from((self.hidden_size as f32).sqrt()))
    }

    /// Parameters of the base model.
    pub fn parameters(&self) -> u64 {
        let (d, q, k, i) = (self.hidden_size, self.q_cols(), self.kv_cols(), self.intermediate_size);
        let f = &self.family;
        let mut block = d * (2 * q + 2 * k) + 3 * d * i + 2 * d;
        block += if f.qkv_bias { q + 2 * k } else { 0 } + if f.o_bias { d } else { 0 };
        block += if f.mlp_bias { 2 * i + d } else { 0 } + if f.qk_norm { 2 * self.head_dim } else { 0 };
        block += if f.post_norms { 2 * d } else { 0 };
        let tables = if self.tied { 1 } else { 2 };
        (self.layers * block + d) as u64 + (tables * self.vocab_size) as u64 * d as u64
    }
}

/// Scaling of positions to longer contexts, in single precision as the reference implementation does it.
///
/// Linear: all frequencies by 1/factor. Llama 3: frequencies whose wavelength is longer than
/// `original/low` by 1/factor, those shorter than `original/high` not at all, between them a blend by
/// `(original/wavelength − low) / (high − low)`.
fn scale_frequencies(frequencies: &mut [f32], scaling: &RopeScaling) -> Result<()> {
    match scaling {
        RopeScaling::Default => {}
        RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= *factor as f32),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let (factor, low, high) = (*factor as f32, *low_freq_factor as f32, *high_freq_factor as f32);
            let original = *original_max_position_embeddings as f32;
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
        RopeScaling::LongRope { short_factor, .. } => {
            if short_factor.len() != frequencies.len() {
                return Err(Error::usage(
                    ErrorKind::Mismatch,
                    format!("config.json: short_factor has {} numbers", short_factor.len()),
                )
                .expected(format!("{}, half of what is turned of a head", frequencies.len())));
            }
            frequencies.iter_mut().zip(short_factor).for_each(|(f, divisor)| *f /= *divisor as f32);
        }
    }
    Ok(())
}
