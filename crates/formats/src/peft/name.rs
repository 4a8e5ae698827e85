//! Tensor names in `adapter_model.safetensors`.

const PREFIX: &str = "base_model.model.model.layers.";

/// Which of an adapter's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Matrix {
    /// `[r, in]`, first applied.
    A,
    /// `[out, r]`, zero at the start of training.
    B,
    /// `[out]`, the magnitudes of DoRA.
    M,
}

impl Matrix {
    fn name(self) -> &'static str {
        match self {
            Self::A => "lora_A",
            Self::B => "lora_B",
            Self::M => "lora_magnitude_vector",
        }
    }

    /// What follows its name: magnitudes are a parameter, not a layer.
    fn ending(self) -> &'static str {
        if self == Self::M { "" } else { ".weight" }
    }
}

/// The part of a block that a module is in.
fn known_parent(module: &str) -> Option<&'static str> {
    match module {
        "q_proj" | "k_proj" | "v_proj" | "o_proj" | "qkv_proj" => Some("self_attn"),
        "gate_proj" | "up_proj" | "down_proj" | "gate_up_proj" => Some("mlp"),
        _ => None,
    }
}

/// The part of a block that one of [`MODULES`](super::MODULES) is in.
///
/// # Panics
/// When `module` is none of them: names come from a configuration that was checked.
#[track_caller]
pub(crate) fn parent(module: &str) -> &'static str {
    let Some(parent) = known_parent(module) else {
        panic!("no such module: {module}");
    };
    parent
}

/// The name of a matrix of `module`, one of [`MODULES`](super::MODULES), in block `layer`.
///
/// # Panics
/// When `module` is none of them: names come from a configuration that was checked.
#[track_caller]
pub fn tensor_name(layer: usize, module: &str, matrix: Matrix) -> String {
    format!("{PREFIX}{layer}.{}.{module}.{}{}", parent(module), matrix.name(), matrix.ending())
}

/// Block, module and matrix of a name; none for any other name.
///
/// An adapter's own name before `.weight`, as PEFT has it in memory, is accepted where it is `default`.
pub fn parse_tensor_name(name: &str) -> Option<(usize, String, Matrix)> {
    let mut parts = name.strip_prefix(PREFIX)?.split('.');
    let layer = parts.next()?;
    // One spelling for one number, so that two names never mean one tensor.
    if layer.len() > 1 && layer.starts_with('0') || !layer.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let layer = layer.parse().ok()?;
    let (found_parent, module) = (parts.next()?, parts.next()?);
    if known_parent(module)? != found_parent {
        return None;
    }
    let matrix = match parts.next()? {
        "lora_A" => Matrix::A,
        "lora_B" => Matrix::B,
        "lora_magnitude_vector" => Matrix::M,
        _ => return None,
    };
    match (parts.next(), parts.next(), parts.next()) {
        (None | Some("weight" | "default"), None, None) if matrix == Matrix::M => {
            Some((layer, module.to_string(), matrix))
        }
        (Some("weight"), None, None) | (Some("default"), Some("weight"), None) => {
            Some((layer, module.to_string(), matrix))
        }
        _ => None,
    }
}
