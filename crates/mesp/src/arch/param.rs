//! What can be trained: one description and one order, by which gradients, optimizer states and files are addressed.

use mesp_device::Layout;
use mesp_formats::peft::{self, Matrix};

use super::config::Config;
use super::module::Module;
use super::names::{EMBEDDING, HEAD, Norm, POST_NORMS, QK_NORMS};

/// A tensor of a place ([`Module::list_index`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tensor {
    /// A matrix of an adapter; a fused matrix has one adapter.
    Adapter(Module, Matrix),
    /// A matrix of the checkpoint. A tied head is the embedding's.
    Weight(Module),
    /// A bias of the checkpoint.
    Bias(Module),
    /// The weight of a norm.
    Norm(Norm),
}

impl Tensor {
    /// Its name at a place: PEFT's for an adapter's, else the checkpoint's.
    pub fn name(self, layer: usize) -> String {
        match self {
            Self::Adapter(module, matrix) => peft::tensor_name(layer, module.name(), matrix),
            Self::Weight(Module::Embed) => EMBEDDING.to_owned(),
            Self::Weight(Module::Head) => HEAD.to_owned(),
            Self::Weight(module) => format!("{}.weight", module.path(layer)),
            Self::Bias(module) => format!("{}.bias", module.path(layer)),
            Self::Norm(norm @ Norm::Final) => format!("{}.weight", norm.path()),
            Self::Norm(norm) => format!("model.layers.{layer}.{}.weight", norm.path()),
        }
    }
}

/// A tensor that is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Param {
    /// The layer, or the place of a module outside the blocks.
    pub place: usize,
    /// Which of the place's.
    pub tensor: Tensor,
    /// Its number among the tensors of its place.
    pub index: u8,
    /// Rows and columns; a vector has one column.
    pub shape: [usize; 2],
    /// Values of a head, where its rows are interleaved within each; files have them in halves.
    pub interleaved: Option<u16>,
    /// Names its random numbers among those of a step: of matrices that may be in bf16, which vectors never are.
    pub stream: u64,
}

impl Param {
    /// Its name: PEFT's for an adapter's, else the checkpoint's.
    pub fn name(&self) -> String {
        self.tensor.name(self.place)
    }

    /// Its shape in files: a vector has one dimension, and some adapters' matrices are transposed there.
    pub fn file_shape(&self) -> Vec<usize> {
        let [rows, cols] = self.shape;
        match self.tensor {
            Tensor::Adapter(_, Matrix::M) | Tensor::Bias(_) | Tensor::Norm(_) => vec![rows],
            Tensor::Adapter(..) if self.turned() => vec![cols, rows],
            _ => vec![rows, cols],
        }
    }

    /// Whether rows are columns in files.
    pub fn turned(&self) -> bool {
        matches!(self.tensor, Tensor::Adapter(module, _) if peft::is_transposed(module.name()))
    }
}

/// Streams of the model's own tensors are apart from those of adapters, which are trained beside them.
const BASE_STREAMS: u64 = 1 << 32;

/// All weights of a model, place by place, each in the order of the forward: the blocks, then the final norm and the
/// head's own table, then the embeddings.
///
/// ```text
/// a fused matrix is one tensor      a tied table is the embedding's, and has the gradients of both its uses
/// ```
pub fn base_params(c: &Config) -> Vec<Param> {
    let mut list: Vec<Param> = Vec::new();
    let mut add = |place: usize, tensor: Tensor, shape: [usize; 2]| {
        let index = list.iter().rev().take_while(|param| param.place == place).count() as u8;
        let turned = c.rope.layout == Layout::Interleaved
            && matches!(tensor, Tensor::Weight(Module::Q | Module::K) | Tensor::Bias(Module::Q | Module::K));
        let interleaved = turned.then_some(c.head_dim as u16);
        let stream = BASE_STREAMS | list.len() as u64;
        list.push(Param { place, tensor, index, shape, interleaved, stream });
    };
    let (d, head) = (c.hidden_size, c.head_dim);
    let [before_attention, before_mlp] = c.family.norms();
    for l in 0..c.layers {
        let linear = |add: &mut dyn FnMut(usize, Tensor, [usize; 2]), modules: &[Module]| {
            for module in modules.iter().copied().filter(|module| module.exists(c)) {
                let (out, input) = module.shape(c);
                add(l, Tensor::Weight(module), [out, input]);
                if module.has_bias(c) {
                    add(l, Tensor::Bias(module), [out, 1]);
                }
            }
        };
        add(l, Tensor::Norm(before_attention), [d, 1]);
        linear(&mut add, &[Module::Q, Module::K, Module::V, Module::Qkv]);
        if c.family.qk_norm {
            for norm in QK_NORMS {
                add(l, Tensor::Norm(norm), [head, 1]);
            }
        }
        linear(&mut add, &[Module::O]);
        if c.family.post_norms {
            add(l, Tensor::Norm(POST_NORMS[0]), [d, 1]);
        }
        add(l, Tensor::Norm(before_mlp), [d, 1]);
        linear(&mut add, &[Module::Gate, Module::Up, Module::GateUp, Module::Down]);
        if c.family.post_norms {
            add(l, Tensor::Norm(POST_NORMS[1]), [d, 1]);
        }
    }
    let outside = Module::OUTSIDE_BLOCKS.map(|module| module.list_index(0, c));
    add(outside[0], Tensor::Norm(Norm::Final), [d, 1]);
    if !c.tied {
        add(outside[0], Tensor::Weight(Module::Head), [c.vocab_size, d]);
    }
    add(outside[1], Tensor::Weight(Module::Embed), [c.vocab_size, d]);
    list
}
