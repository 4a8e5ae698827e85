//! Adapters as PEFT lays them out: `adapter_config.json`, and the names in `adapter_model.safetensors`.
//!
//! The tensors themselves are read and written by [`safetensors_file`](crate::safetensors_file), with
//! [`metadata`] in the header.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::atomic::write_atomic;
use crate::json::{Fields, parse_object, read_text};
use crate::{Error, Result};

mod name;
pub(crate) mod pattern;
pub(crate) mod refuse;
mod targets;
#[cfg(test)]
mod tests;

pub(crate) use name::parent;
pub use name::{Matrix, OUTSIDE, beside, outside, parse_tensor_name, path, tensor_name, turned};
pub use pattern::Pattern;
pub use targets::Places;

/// The configuration's name in an adapter's folder.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The tensors' name in an adapter's folder.
pub const MODEL_FILE: &str = "adapter_model.safetensors";

/// The linear layers of a block that can have an adapter, the fused ones of Phi-3 last.
pub const MODULES: [&str; 9] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"];
/// PEFT's `all-linear`, by the names of layers that are not fused; a head is none of them.
const ALL_LINEAR: usize = 7;

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
    /// The modules it is on, from [`MODULES`] and [`OUTSIDE`].
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
        let rank = self.r as f64;
        self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Reads the configuration in an adapter's folder.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and when the file cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        if !path.is_file() {
            return Err(Error::invalid(
                dir,
                format!("expected an adapter folder, found no {CONFIG_FILE} in it"),
            )
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
            return Err(f.error("r", "expected a rank of 1 or more, found 0"));
        }
        if !lora_alpha.is_finite() {
            return Err(f.error("lora_alpha", &format!("expected a finite number, found {lora_alpha}")));
        }
        let layers = pattern::layers(&f)?;
        let (mut target_modules, places) = targets::read(&f, layers.is_some())?;
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
        let map: BTreeMap<&str, Value> = BTreeMap::from([
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
            ("lora_dropout", json!(0.0)),
            ("megatron_config", Value::Null),
            ("megatron_core", json!("megatron.core")),
            ("modules_to_save", Value::Null),
            ("peft_type", json!("LORA")),
            ("r", json!(self.r)),
            ("rank_pattern", self.rank_pattern.json(|r| json!(r))),
            ("revision", Value::Null),
            ("target_modules", targets::json(self)),
            ("task_type", json!("CAUSAL_LM")),
            ("use_dora", json!(self.use_dora)),
            ("use_rslora", json!(self.use_rslora)),
        ]);
        map.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
    }
}

/// A whole number without a point, as PEFT declares alpha to be one.
fn number(value: f64) -> Value {
    // Below 2^53 every whole number is exact in both forms.
    if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) }
}
