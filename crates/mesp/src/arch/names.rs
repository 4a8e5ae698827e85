//! Names of tensors in checkpoints.

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";
/// Norms of queries and keys.
pub(crate) const QK_NORMS: [Norm; 2] = [Norm::Query, Norm::Key];
/// Norms of the attention's and of the MLP's output.
pub(crate) const POST_NORMS: [Norm; 2] = [Norm::PostAttention, Norm::PostFeedforward];

/// A norm, by its name in checkpoints: what it stands before differs from family to family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// `input_layernorm`
    Input,
    /// `post_attention_layernorm`
    PostAttention,
    /// `pre_feedforward_layernorm`
    PreFeedforward,
    /// `post_feedforward_layernorm`
    PostFeedforward,
    /// `self_attn.q_norm`
    Query,
    /// `self_attn.k_norm`
    Key,
    /// `model.norm`, before the head.
    Final,
}

impl Norm {
    /// Its path in a block; of the last the whole path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Input => "input_layernorm",
            Self::PostAttention => "post_attention_layernorm",
            Self::PreFeedforward => "pre_feedforward_layernorm",
            Self::PostFeedforward => "post_feedforward_layernorm",
            Self::Query => "self_attn.q_norm",
            Self::Key => "self_attn.k_norm",
            Self::Final => "model.norm",
        }
    }
}
