//! Tensor names in `adapter_model.safetensors`.

const PREFIX: &str = "base_model.model.model.layers.";

/// Modules outside the blocks that can have an adapter, with their paths.
pub const OUTSIDE_BLOCKS: [(&str, &str); 2] =
    [("lm_head", "lm_head"), ("embed_tokens", "model.embed_tokens")];

/// The path of a module outside the blocks.
pub fn path_outside_blocks(module: &str) -> Option<&'static str> {
    OUTSIDE_BLOCKS.into_iter().find(|(name, _)| *name == module).map(|(_, path)| path)
}

/// Whether files have a module's matrices transposed and in each other's place. What an embedding adds to the row of
/// word w is column w of `s·embedding_B·embedding_A`; as an adapter of the table, `W + s·B·A`, that is
/// `B = embedding_Aᵀ` and `A = embedding_Bᵀ`, which is how it is held here.
pub fn is_transposed(module: &str) -> bool {
    module == "embed_tokens"
}

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

/// The path of a module, one of [`MODULES`](super::MODULES) in block `layer` or one of [`OUTSIDE_BLOCKS`].
///
/// # Panics
/// When `module` is none of them: names come from a configuration that was checked.
#[track_caller]
pub fn path(layer: usize, module: &str) -> String {
    match path_outside_blocks(module) {
        Some(path) => path.to_owned(),
        None => format!("model.layers.{layer}.{}.{module}", parent(module)),
    }
}

/// The name of a matrix of `module`, one of [`MODULES`](super::MODULES) in block `layer` or one of [`OUTSIDE_BLOCKS`].
///
/// # Panics
/// When `module` is none of them: names come from a configuration that was checked.
#[track_caller]
pub fn tensor_name(layer: usize, module: &str, matrix: Matrix) -> String {
    let matrix = match matrix {
        Matrix::A if is_transposed(module) => "lora_embedding_B".to_owned(),
        Matrix::B if is_transposed(module) => "lora_embedding_A".to_owned(),
        _ => format!("{}{}", matrix.name(), matrix.ending()),
    };
    format!("base_model.model.{}.{matrix}", path(layer, module))
}

/// Module and matrix of what follows `base_model.model.` in a name outside the blocks.
fn parse_outside(name: &str) -> Option<(usize, String, Matrix)> {
    let (module, rest) =
        OUTSIDE_BLOCKS.into_iter().find_map(|(module, path)| Some((module, name.strip_prefix(path)?)))?;
    let rest = rest.strip_prefix('.')?;
    let matrix = if is_transposed(module) {
        // Parameters, not layers: nothing follows but the adapter's own name.
        match rest.strip_suffix(".default").unwrap_or(rest) {
            "lora_embedding_A" => Matrix::B,
            "lora_embedding_B" => Matrix::A,
            _ => return None,
        }
    } else {
        match rest {
            "lora_A.weight" | "lora_A.default.weight" => Matrix::A,
            "lora_B.weight" | "lora_B.default.weight" => Matrix::B,
            "lora_magnitude_vector" | "lora_magnitude_vector.weight" | "lora_magnitude_vector.default" => {
                Matrix::M
            }
            _ => return None,
        }
    };
    Some((0, module.to_owned(), matrix))
}

/// The module of a name of a whole table of the base, and whether an adapter is on it, too: PEFT's `save_embedding_layers`.
pub fn parse_table_name(name: &str) -> Option<(&'static str, bool)> {
    let path = name.strip_prefix("base_model.model.")?.strip_suffix(".weight")?;
    let (path, adapted) = path.strip_suffix(".base_layer").map_or((path, false), |path| (path, true));
    OUTSIDE_BLOCKS.into_iter().find(|(_, known)| *known == path).map(|(module, _)| (module, adapted))
}

/// Block, module and matrix of a name, outside the blocks with block 0; none for any other name.
///
/// An adapter's own name before `.weight`, as PEFT has it in memory, is accepted where it is `default`.
pub fn parse_tensor_name(name: &str) -> Option<(usize, String, Matrix)> {
    let Some(inside) = name.strip_prefix(PREFIX) else {
        return parse_outside(name.strip_prefix("base_model.model.")?);
    };
    let mut parts = inside.split('.');
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
