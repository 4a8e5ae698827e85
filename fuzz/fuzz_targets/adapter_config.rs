//! Any text is either refused or gives an adapter whose written form is read as the same one; so is any expression for
//! modules, and what it is for.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mesp_formats::AdapterConfig;
use mesp_formats::peft::{MODULES, OUTSIDE, Pattern, parse_table_name, parse_tensor_name, path};
use serde_json::json;

fuzz_target!(|text: &str| {
    let _ = (parse_tensor_name(text), parse_table_name(text));
    check(text);
    // The parts as expressions: what has an adapter, what is taken out, which ranks and factors there are.
    let mut parts = text.split('\n');
    let [on, except, key] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let mut config = json!({ "peft_type": "LORA", "target_modules": on });
    check(&config.to_string());
    config["exclude_modules"] = except.into();
    config["rank_pattern"] = json!({ key: 3 });
    check(&config.to_string());
    let list: Vec<&str> = on.split(',').collect();
    config["target_modules"] = json!(list);
    config["exclude_modules"] = json!([except]);
    config["layers_to_transform"] = json!([key.len()]);
    check(&config.to_string());
    if let Ok(pattern) = Pattern::new(vec![(key.to_owned(), 1)]) {
        let _ = (pattern.of(text), pattern.of(&path(11, MODULES[0])));
    }
});

fn check(text: &str) {
    let file = Path::new("adapter_config.json");
    let Ok(config) = AdapterConfig::parse(file, text) else { return };
    let again = AdapterConfig::parse(file, &config.to_json()).expect("what was written");
    assert_eq!(again, config);
    let outside = OUTSIDE.map(|(module, _)| module);
    for module in MODULES.into_iter().chain(outside) {
        for layer in [0, 1, 7, 10, 63] {
            assert_eq!(config.has(layer, module), again.has(layer, module));
            assert_eq!(config.of(&path(layer, module)), again.of(&path(layer, module)));
        }
    }
}
