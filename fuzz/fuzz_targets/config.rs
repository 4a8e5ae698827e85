//! Any text is either refused or gives a configuration that comes back from its own JSON.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mesp_formats::config::parse;

fuzz_target!(|text: &str| {
    let path = Path::new("config.json");
    if let Ok(config) = parse(path, text) {
        assert_eq!(parse(path, &config.to_json().to_string()).expect("what was written"), config);
    }
});
