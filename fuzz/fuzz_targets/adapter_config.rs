//! Any text is either refused or gives an adapter whose written form is read as the same one.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mesp_formats::AdapterConfig;
use mesp_formats::peft::parse_tensor_name;

fuzz_target!(|text: &str| {
    let _ = parse_tensor_name(text);
    let path = Path::new("adapter_config.json");
    if let Ok(mut config) = AdapterConfig::parse(path, text) {
        // Written as 0 whatever it was, since the engine does no dropout.
        config.lora_dropout = 0.0;
        assert_eq!(AdapterConfig::parse(path, &config.to_json()).expect("what was written"), config);
    }
});
