//! Adapters whose result the engine would not reproduce: refused, never half understood.

use serde_json::Value;

use crate::json::{Fields, shown};
use crate::{Error, ErrorKind, Result};

/// Keys that may stand in the file only with a value that changes nothing, and what they would do otherwise. PEFT itself
/// takes no notice of `fan_in_fan_out` for linear layers, of settings of an `init_lora_weights` that is not used, and of
/// keys that it does not know.
const INERT: [(&str, &str); 13] = [
    ("lora_bias", "a bias in the adapter's matrices"),
    ("modules_to_save", "whole modules trained beside the adapter"),
    ("layer_replication", "repeated layers"),
    ("target_parameters", "an adapter on single parameters"),
    ("trainable_token_indices", "trained token embeddings"),
    ("alora_invocation_tokens", "activated LoRA"),
    ("use_qalora", "QALoRA"),
    ("use_bdlora", "BD-LoRA"),
    ("arrow_config", "routing between adapters"),
    ("velora_config", "VeLoRA"),
    ("monteclora_config", "MonteCLoRA"),
    ("kasa_config", "KaSA"),
    ("megatron_config", "Megatron layers"),
];

/// Ways to begin that leave the base weights as they are.
const HARMLESS_INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

const ADVICE: &str = "Train a plain LoRA adapter, or merge this one into its base model with PEFT \
                      and use the result as the model.";

pub(crate) fn unsupported(f: &Fields<'_>) -> Result<()> {
    let refusal = |key: &str, expected: &str, found: &Value, what: &str| -> Error {
        f.error(key, ErrorKind::Unsupported)
            .expected(expected)
            .found(format!("{}{what}", shown(found)))
            .hint(ADVICE)
    };
    let kind = f.required("peft_type", f.value("peft_type"))?;
    if kind != "LORA" {
        let what = ": of PEFT's adapters, LoRA, rsLoRA and DoRA can be read";
        return Err(refusal("peft_type", "\"LORA\"", kind, what));
    }
    if let Some(bias) = f.value("bias").filter(|b| *b != "none") {
        return Err(refusal("bias", "\"none\"", bias, ": trained biases are not supported"));
    }
    for (key, what) in INERT {
        if let Some(value) = f.value(key).filter(|v| !is_inert(v)) {
            let what = format!(": {what} is not supported");
            return Err(refusal(key, "null, false or nothing in it", value, &what));
        }
    }
    if let Some(init) = f.value("init_lora_weights") {
        let harmless = init.is_boolean() || init.as_str().is_some_and(|s| HARMLESS_INITS.contains(&s));
        if !harmless {
            let what = ": the base weights may have been changed by it";
            return Err(refusal("init_lora_weights", "true, false or \"gaussian\"", init, what));
        }
    }
    Ok(())
}

fn is_inert(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
