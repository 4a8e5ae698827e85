//! Tensor names and row orders, Hugging Face's against GGUF's.
//!
//! Names are those of llama.cpp's `llama-arch.cpp`. Orders differ in one place: Hugging Face rotates number
//! `i` of a head together with number `i + head_dim/2` (halves), while GGUF files of architecture `llama`
//! have the rows of `attn_q` and `attn_k` reordered so that number `2i` is rotated with `2i + 1`
//! (interleaved), and so do `smollm3` files. Others keep the halves, and so does everything that is not q or k.
//! Norms of `gemma3` files are what is multiplied by, where checkpoints have what is added to 1.

/// The tensor with a divisor for every rotary frequency, in files of models with Llama 3's scaling.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The divisors up to the original length, in files of models with longrope's scaling.
pub const ROPE_FACTORS_SHORT: &str = "rope_factors_short.weight";

/// The divisors beyond the original length.
pub const ROPE_FACTORS_LONG: &str = "rope_factors_long.weight";

/// GGUF's name of an architecture. Mistral's files are `llama` files.
pub fn architecture(model_type: &str) -> &str {
    match model_type {
        "mistral" => "llama",
        "gemma3_text" => "gemma3",
        other => other,
    }
}

/// Whether files of an architecture have the rows of `attn_q` and `attn_k` interleaved.
pub fn interleaved(model_type: &str) -> bool {
    matches!(architecture(model_type), "llama" | "smollm3")
}

/// The GGUF name of a tensor in a Hugging Face checkpoint of a model type; none for a name that has no
/// counterpart.
pub fn tensor_name(model_type: &str, hf_name: &str) -> Option<String> {
    let sandwich = architecture(model_type) == "gemma3";
    let fixed = match hf_name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(name) = fixed {
        return Some(name.to_string());
    }
    let (layer, rest) = hf_name.strip_prefix("model.layers.")?.split_once('.')?;
    // Parsed and printed again, so that `01` and `+1` are no layers.
    let index: usize = layer.parse().ok().filter(|n: &usize| n.to_string() == layer)?;
    let (module, kind) = rest.rsplit_once('.')?;
    let (name, has_bias) = match module {
        "input_layernorm" => ("attn_norm", false),
        "post_attention_layernorm" if sandwich => ("post_attention_norm", false),
        "pre_feedforward_layernorm" if sandwich => ("ffn_norm", false),
        "post_feedforward_layernorm" if sandwich => ("post_ffw_norm", false),
        "post_attention_layernorm" => ("ffn_norm", false),
        "self_attn.qkv_proj" => ("attn_qkv", false),
        "mlp.gate_up_proj" => ("ffn_up", false),
        "self_attn.q_proj" => ("attn_q", true),
        "self_attn.k_proj" => ("attn_k", true),
        "self_attn.v_proj" => ("attn_v", true),
        "self_attn.o_proj" => ("attn_output", true),
        "self_attn.q_norm" => ("attn_q_norm", false),
        "self_attn.k_norm" => ("attn_k_norm", false),
        "mlp.gate_proj" => ("ffn_gate", true),
        "mlp.up_proj" => ("ffn_up", true),
        "mlp.down_proj" => ("ffn_down", true),
        _ => return None,
    };
    (kind == "weight" || (has_bias && kind == "bias")).then(|| format!("blk.{index}.{name}.{kind}"))
}

/// Block and Hugging Face module of a linear layer's weight, or the embeddings', in a file of an architecture: the
/// inverse of [`tensor_name`] for these. Outside the blocks the block is 0.
pub fn block_module(arch: &str, name: &str) -> Option<(usize, &'static str)> {
    for (module, path) in crate::peft::OUTSIDE_BLOCKS {
        if tensor_name(arch, &format!("{path}.weight")).as_deref() == Some(name) {
            return Some((0, module));
        }
    }
    let (layer, _) = name.strip_prefix("blk.")?.split_once('.')?;
    // Phi-3 has its matrices fused, under names that others have for a part.
    let fused = |m: &str| matches!(m, "qkv_proj" | "gate_up_proj");
    let parts = |m: &str| matches!(m, "q_proj" | "k_proj" | "v_proj" | "gate_proj" | "up_proj");
    crate::peft::MODULES.into_iter().filter(|m| if arch == "phi3" { !parts(m) } else { !fused(m) }).find_map(
        |module| {
            let hf = format!("model.layers.{layer}.{}.{module}.weight", crate::peft::parent(module));
            (tensor_name(arch, &hf)? == name).then(|| Some((layer.parse().ok()?, module)))?
        },
    )
}

/// Hugging Face to GGUF, for weights and biases of q (`heads` = query heads) and k (`heads` = key heads) of
/// architecture `llama`: row `r` of the GGUF tensor is row `map[r]` of the Hugging Face one.
pub fn to_interleaved(heads: usize, head_dim: usize) -> Vec<usize> {
    let half = head_dim / 2;
    rows(heads, head_dim, |i| i % 2 * half + i / 2)
}

/// GGUF to Hugging Face: row `r` of the Hugging Face tensor is row `map[r]` of the GGUF one. The inverse of
/// [`to_interleaved`].
pub fn to_halves(heads: usize, head_dim: usize) -> Vec<usize> {
    let half = (head_dim / 2).max(1);
    rows(heads, head_dim, |i| 2 * (i % half) + i / half)
}

fn rows(heads: usize, head_dim: usize, within: impl Fn(usize) -> usize) -> Vec<usize> {
    (0..heads)
        .flat_map(|h| (0..head_dim).map(move |i| (h, i)))
        .map(|(h, i)| h * head_dim + within(i))
        .collect()
}
