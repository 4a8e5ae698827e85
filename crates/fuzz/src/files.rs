//! Models: configurations and weights.

use std::path::Path;

use mesp_formats::config::parse;
use mesp_formats::gguf::{self, TensorInfo, Value, dequantize_row, model};
use mesp_formats::safetensors_file;

use crate::text;

/// Any text is either refused or gives a configuration that comes back from its own JSON.
pub fn config(bytes: &[u8]) {
    let path = Path::new("config.json");
    match parse(path, text(bytes)) {
        Ok(config) => {
            assert_eq!(parse(path, &config.to_json().to_string()).expect("what was written"), config);
        }
        Err(error) => assert!(error.to_string().starts_with("config.json"), "{error}"),
    }
}

/// Any bytes are either refused or give tensors that can be read.
pub fn safetensors(bytes: &[u8]) {
    let path = Path::new("fuzz.safetensors");
    let header = match safetensors_file::parse(path, bytes) {
        Ok(header) => header,
        Err(error) => return assert!(error.to_string().starts_with("fuzz.safetensors"), "{error}"),
    };
    for info in &header.tensors {
        let read = safetensors_file::read_f32(path, bytes, info);
        if !info.dtype.is_native() {
            // Integers are refused, and so are numbers that single precision cannot hold.
            continue;
        }
        let numbers = read.expect("a range the parser checked");
        assert_eq!(numbers.len(), info.shape.iter().product::<usize>());
    }
}

/// Any bytes are either refused or give metadata and tensors that can be read, in bounded memory.
pub fn gguf(bytes: &[u8]) {
    let gguf = match gguf::parse(Path::new("fuzz.gguf"), bytes) {
        Ok(gguf) => gguf,
        Err(error) => return assert!(error.to_string().starts_with("fuzz.gguf"), "{error}"),
    };
    // Entries of a few dozen bytes for entries of 13 or more: a few times the file itself.
    let held = gguf.metadata.capacity() * size_of::<(String, Value)>()
        + gguf.tensors.capacity() * size_of::<TensorInfo>();
    assert!(held <= 32 * bytes.len() + 4096);
    for (_, value) in &gguf.metadata {
        if let Some(array) = value.as_array() {
            let read = array
                .iter_str(bytes)
                .map(Iterator::count)
                .or_else(|| array.iter_scalars(bytes).map(Iterator::count));
            assert_eq!(read, Some(array.len));
        }
    }
    for tensor in &gguf.tensors {
        let mut numbers = vec![0.0; tensor.shape.iter().product()];
        dequantize_row(tensor.ty, &bytes[tensor.range.clone()], &mut numbers);
    }
    let _ = model(&gguf, bytes);
}
