//! Adapters as PEFT lays them out: `adapter_config.json`, and the names in `adapter_model.safetensors`.
//!
//! The tensors themselves are read and written by [`safetensors_file`](crate::safetensors_file), with
//! [`metadata`] in the header.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::atomic::write_atomic;
use crate::json::{Fields, parse_object, read_text};
use crate::{Error, ErrorKind, Result};

mod expression;
mod name;
pub(crate) mod pattern;
pub(crate) mod refuse;
mod targets;
#[cfg(test)]
mod tests;

pub(crate) use name::parent;
pub use name::{
    Matrix, OUTSIDE_BLOCKS, is_transposed, parse_table_name, parse_tensor_name, path, path_outside_blocks,
    tensor_name,
};
pub use pattern::Pattern;
pub use targets::Places;

/// The configuration's name in an adapter's folder.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The tensors' name in an adapter's folder.
pub const MODEL_FILE: &str = "adapter_model.safetensors";

/// The tensors' name where torch pickled them.
pub(crate) const PICKLED_FILE: &str = "adapter_model.bin";

/// What an adapter folder with pickled tensors is answered: to unpickle runs code of the file.
pub(crate) fn pickled(dir: &Path) -> Error {
    Error::invalid(dir, ErrorKind::Unsupported)
        .expected(MODEL_FILE)
        .found(format!("only {PICKLED_FILE}, a Python pickle, which is not read"))
        .hint(format!(
            "Convert it in Python: `from safetensors.torch import save_file; import torch; \
         save_file(torch.load(\"{PICKLED_FILE}\", weights_only=True), \"{MODEL_FILE}\")`."
        ))
}

/// The linear layers of a block that can have an adapter, the fused ones of Phi-3 last. They are PEFT's `all-linear`:
/// of a name that a model does not have nothing comes.
pub const MODULES: [&str; 9] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"];
/// The header metadata that PEFT writes into `adapter_model.safetensors`.
pub fn metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_string(), "pt".to_string())])
}

/// What an adapter is: `y = W·x + scale·B·(A·x)` on the target modules.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// The name or path of the model it was trained on.
    pub base_model: Option<String>,
    /// The rank.
    pub r: usize,
    /// The numerator of [`scale`](Self::scale).
    pub lora_alpha: f64,
    /// Whether the scale divides by the root of the rank.
    pub use_rslora: bool,
    /// Whether rows of the adapted weights have magnitudes of their own (DoRA).
    pub use_dora: bool,
    /// Dropout in the training that made it. The engine does none: a reader may say that it is ignored.
    /// [`write`](Self::write) puts down 0.
    pub lora_dropout: f64,
    /// The modules it is on, from [`MODULES`] and [`OUTSIDE_BLOCKS`].
    pub target_modules: Vec<String>,
    /// Which of all modules by these names have it, where their names alone do not say it.
    pub places: Option<Places>,
    /// Ranks of single modules.
    pub rank_pattern: Pattern<usize>,
    /// Alphas of single modules.
    pub alpha_pattern: Pattern<f64>,
    /// The layers it is on; none for all.
    pub layers: Option<Vec<usize>>,
}

impl AdapterConfig {
    /// The factor on the adapter's output where no pattern says otherwise: `α/r`, or `α/√r` for rsLoRA.
    pub fn scale(&self) -> f64 {
        self.scaled(self.lora_alpha, self.r)
    }

    fn scaled(&self, alpha: f64, rank: usize) -> f64 {
        let rank = rank as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Rank and factor of a module by its path, such as `model.layers.0.self_attn.q_proj`.
    pub fn of(&self, path: &str) -> (usize, f64) {
        let rank = self.rank_pattern.of(path).unwrap_or(self.r);
        (rank, self.scaled(self.alpha_pattern.of(path).unwrap_or(self.lora_alpha), rank))
    }

    /// Whether it is on a module, one of [`MODULES`] in block `layer` or one of [`OUTSIDE_BLOCKS`].
    pub fn has(&self, layer: usize, module: &str) -> bool {
        let inside = path_outside_blocks(module).is_none();
        let in_layer = !inside || self.layers.as_ref().is_none_or(|layers| layers.contains(&layer));
        self.target_modules.iter().any(|m| m == module)
            && in_layer
            && self.places.as_ref().is_none_or(|places| places.has(&path(layer, module)))
    }

    /// Reads the configuration in an adapter's folder.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and when the file cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        if !path.is_file() {
            return Err(Error::invalid(dir, ErrorKind::Missing)
                .expected("an adapter folder")
                .found(format!("no {CONFIG_FILE} in it"))
            .hint(
                "Check the path; an adapter folder holds adapter_config.json and adapter_model.safetensors.",
            ));
        }
        Self::parse(&path, &read_text(&path)?)
    }

    /// Parses the text of an `adapter_config.json`; `path` is for error messages only.
    ///
    /// # Errors
    /// When the text is not JSON, a key is missing or of another kind, or the adapter is one whose result
    /// the engine would not reproduce.
    pub fn parse(path: &Path, json: &str) -> Result<Self> {
        let map = parse_object(path, json)?;
        let f = Fields::new(path, &map);
        refuse::unsupported(&f)?;
        // The default ones are PEFT's.
        let r = f.usize("r")?.unwrap_or(8);
        let lora_alpha = f.f64("lora_alpha")?.unwrap_or(8.0);
        if r == 0 {
            return Err(f.error("r", ErrorKind::OutOfRange).expected("a rank of 1 or more").found("0"));
        }
        if !lora_alpha.is_finite() {
            return Err(f
                .error("lora_alpha", ErrorKind::NotFinite)
                .expected("a finite number")
                .found(lora_alpha));
        }
        let targets::Targets { modules: mut target_modules, places, layers } =
            targets::read(&f, pattern::layers(&f)?)?;
        let has = |module: &str| target_modules.iter().any(|m| m == module);
        // PEFT then names the embeddings alone, and writes what the head has of them beside.
        if f.bool("ensure_weight_tying")? == Some(true) && has("embed_tokens") && !has("lm_head") {
            target_modules.push("lm_head".to_owned());
        }
        Ok(Self {
            base_model: f.str("base_model_name_or_path")?.map(str::to_string),
            r,
            lora_alpha,
            use_rslora: f.bool("use_rslora")?.unwrap_or(false),
            use_dora: f.bool("use_dora")?.unwrap_or(false),
            lora_dropout: f.f64("lora_dropout")?.unwrap_or(0.0),
            target_modules,
            places,
            rank_pattern: pattern::ranks(&f, "rank_pattern")?,
            alpha_pattern: pattern::read(&f, "alpha_pattern")?,
            layers,
        })
    }

    /// Writes the configuration into an adapter's folder.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let text = self.to_json();
        write_atomic(&dir.join(CONFIG_FILE), |w| std::io::Write::write_all(w, text.as_bytes()))
    }

    /// The text of an `adapter_config.json`: sorted keys, and only those that every version of PEFT knows,
    /// since versions before late 2024 refuse a file with others.
    pub fn to_json(&self) -> String {
        // The alternate form is indented by two, and objects of strings and numbers cannot fail to print.
        format!("{:#}", self.to_value())
    }

    fn to_value(&self) -> Value {
        let map = BTreeMap::from([
            ("alpha_pattern", self.alpha_pattern.json(number)),
            ("auto_mapping", Value::Null),
            ("base_model_name_or_path", json!(self.base_model)),
            ("bias", json!("none")),
            ("fan_in_fan_out", json!(false)),
            ("inference_mode", json!(true)),
            ("init_lora_weights", json!(true)),
            ("layer_replication", Value::Null),
            ("layers_pattern", Value::Null),
            ("layers_to_transform", json!(self.layers)),
            ("loftq_config", json!({})),
            ("lora_alpha", number(self.lora_alpha)),
            ("lora_dropout", json!(self.lora_dropout)),
            ("megatron_config", Value::Null),
            ("megatron_core", json!("megatron.core")),
            ("modules_to_save", Value::Null),
            ("peft_type", json!("LORA")),
            ("r", json!(self.r)),
            ("rank_pattern", self.rank_pattern.json(|r| json!(r))),
            ("revision", Value::Null),
            ("task_type", json!("CAUSAL_LM")),
            ("use_dora", json!(self.use_dora)),
            ("use_rslora", json!(self.use_rslora)),
        ]);
        let mut map = map.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        targets::write(self, &mut map);
        map.sort_keys();
        Value::Object(map)
    }
}

/// A whole number without a point, as PEFT declares alpha to be one.
fn number(value: f64) -> Value {
    // Below 2^53 every whole number is exact in both forms.
    if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) }
}
