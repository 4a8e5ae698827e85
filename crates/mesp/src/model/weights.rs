//! A model's frozen weights, asked for by their checkpoint names.

use std::collections::BTreeSet;

use mesp_device::{Dtype, Weight};

use crate::arch::{Config, EMBEDDING, HEAD, LayerAttention, Linear, Module, Norm, POST_NORMS};
use crate::{ErrorKind, Result};

/// Where weights come from: files, or nothing but shapes. The model knows names and shapes; a source knows
/// a file format.
pub trait WeightSource {
    /// A matrix, or `None` when there is none by that name.
    ///
    /// # Errors
    /// When it is there with another shape, or cannot be read.
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>>;
    /// A vector in single precision, or `None`.
    ///
    /// # Errors
    /// As [`WeightSource::matrix`].
    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>>;
    /// The error for a tensor that the configuration says there must be.
    fn missing(&self, name: &str) -> crate::Error;
    /// What it has beside the tensors of these names, by its own names.
    fn unused(&self, _asked: &BTreeSet<&str>) -> Vec<String> {
        Vec::new()
    }
}

/// The frozen weights of a block.
#[derive(Debug, Clone)]
pub struct Block {
    /// `input_layernorm` `[d]`.
    pub attn_norm: Vec<f32>,
    /// The norm before the MLP `[d]`.
    pub mlp_norm: Vec<f32>,
    /// The norms of the attention's and of the MLP's output `[d]`, where the family has them.
    pub post_norms: Option<[Vec<f32>; 2]>,
    /// `q_norm` and `k_norm` `[D]`, where the family has them.
    pub qk_norm: Option<[Vec<f32>; 2]>,
    /// By [`Module`].
    pub linears: [Linear; 7],
    /// Which keys its queries see, and how both are turned.
    pub attention: LayerAttention,
}

impl Block {
    /// A projection's layer.
    pub fn linear(&self, p: Module) -> &Linear {
        &self.linears[p as usize]
    }
}

/// A model's frozen weights and shape.
#[derive(Debug, Clone)]
pub struct ModelWeights {
    /// Shape.
    pub config: Config,
    /// Embedding `[V, d]`.
    pub embedding: Weight,
    /// Head `[V, d]`; `None` when it is the embedding.
    pub head: Option<Weight>,
    /// Final norm `[d]`.
    pub norm: Vec<f32>,
    /// Blocks, the first first.
    pub blocks: Vec<Block>,
}

impl ModelWeights {
    /// Takes all weights from a source.
    ///
    /// # Errors
    /// When one is missing or has another shape than the configuration says.
    pub fn load(config: Config, source: &dyn WeightSource) -> Result<Self> {
        let (v, d) = (config.vocab_size, config.hidden_size);
        let matrix =
            |name: &str, rows, cols| source.matrix(name, rows, cols)?.ok_or_else(|| source.missing(name));
        let vector = |name: &str, len| source.vector(name, len)?.ok_or_else(|| source.missing(name));
        // A tied table may be stored under either name.
        let embedding = match source.matrix(EMBEDDING, v, d)? {
            Some(table) => table,
            None if config.tied => source.matrix(HEAD, v, d)?.ok_or_else(|| source.missing(EMBEDDING))?,
            None => return Err(source.missing(EMBEDDING)),
        };
        let head = if config.tied { None } else { Some(matrix(HEAD, v, d)?) };
        // As it is multiplied: some families store what is added to 1.
        let norm_vector = |name: &str, len| -> Result<Vec<f32>> {
            let mut w = vector(name, len)?;
            for w in &mut w {
                *w += config.norm_offset;
            }
            Ok(w)
        };
        let norm = norm_vector(&format!("{}.weight", Norm::Final.path()), d)?;
        let block = |l: usize| -> Result<Block> {
            let at = format!("model.layers.{l}");
            let linear = |p: Module| -> Result<Linear> {
                let (out, input) = p.shape(&config);
                let name = p.path(l);
                let weight = matrix(&format!("{name}.weight"), out, input)?;
                let bias = p.has_bias(&config).then(|| vector(&format!("{name}.bias"), out)).transpose()?;
                Ok(Linear { weight, bias })
            };
            let [q, k, v, o, gate, up, down] = if config.family.fused {
                // Views of the checkpoint's matrices, each its own rows.
                let [qkv, o, gate_up, down] =
                    [Module::Qkv, Module::O, Module::GateUp, Module::Down].map(linear);
                let (qkv, gate_up) = (qkv?, gate_up?);
                let [q, k, v] = [Module::Q, Module::K, Module::V].map(|p| Ok(qkv.rows(p.rows(&config))));
                let [gate, up] = [Module::Gate, Module::Up].map(|p| Ok(gate_up.rows(p.rows(&config))));
                [q, k, v, o, gate, up, down]
            } else {
                Module::ALL.map(linear)
            };
            let head_norm = |which| norm_vector(&format!("{at}.self_attn.{which}.weight"), config.head_dim);
            let layer_norm = |which: Norm| norm_vector(&format!("{at}.{}.weight", which.path()), d);
            let [attn_norm, mlp_norm] = config.family.norms();
            Ok(Block {
                attn_norm: layer_norm(attn_norm)?,
                mlp_norm: layer_norm(mlp_norm)?,
                post_norms: if config.family.post_norms {
                    Some([layer_norm(POST_NORMS[0])?, layer_norm(POST_NORMS[1])?])
                } else {
                    None
                },
                attention: config.attention[l],
                qk_norm: if config.family.qk_norm {
                    Some([head_norm("q_norm")?, head_norm("k_norm")?])
                } else {
                    None
                },
                linears: [q?, k?, v?, o?, gate?, up?, down?],
            })
        };
        let blocks = (0..config.layers).map(block).collect::<Result<_>>()?;
        Ok(Self { config, embedding, head, norm, blocks })
    }

    /// The head's table.
    pub fn head(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Bytes of memory that the frozen weights hold: norms, biases, and matrices that are not mapped.
    pub fn resident_bytes(&self) -> usize {
        let vectors = self.blocks.iter().map(|b| {
            let biases: usize = b.linears.iter().filter_map(|l| l.bias.as_ref()).map(Vec::len).sum();
            let two = |n: &Option<[Vec<f32>; 2]>| n.as_ref().map_or(0, |n| n[0].len() + n[1].len());
            let norms = two(&b.qk_norm) + two(&b.post_norms);
            4 * (b.attn_norm.len() + b.mlp_norm.len() + biases + norms)
        });
        let matrices = self.blocks.iter().flat_map(|b| &b.linears).map(|l| l.weight.resident_bytes());
        let tables = self.embedding.resident_bytes() + self.head.as_ref().map_or(0, Weight::resident_bytes);
        4 * self.norm.len() + vectors.sum::<usize>() + matrices.sum::<usize>() + tables
    }
}

/// A source of shapes without values: enough to plan, and touches no weights.
#[derive(Debug, Clone, Copy)]
pub struct ShapeSource(pub Dtype);

impl WeightSource for ShapeSource {
    fn matrix(&self, _: &str, rows: usize, cols: usize) -> Result<Option<Weight>> {
        Ok(Some(Weight::shape_only(self.0, rows, cols)))
    }
    fn vector(&self, _: &str, len: usize) -> Result<Option<Vec<f32>>> {
        Ok(Some(vec![1.0; len]))
    }
    fn missing(&self, name: &str) -> crate::Error {
        crate::Error::usage(ErrorKind::Missing, format!("{name} is missing"))
    }
}
