//! Any bytes are either refused or give tensors that can be read.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mesp_formats::safetensors_file::{parse, read_f32};

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzz.safetensors");
    if let Ok(header) = parse(path, bytes) {
        for info in &header.tensors {
            let read = read_f32(path, bytes, info);
            if !info.dtype.is_native() {
                // Integers are refused, and so are numbers that single precision cannot hold.
                continue;
            }
            let numbers = read.expect("a range the parser checked");
            assert_eq!(numbers.len(), info.shape.iter().product::<usize>());
        }
    }
});
