//! Any bytes are either refused or give metadata and tensors that can be read, in bounded memory.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mesp_formats::gguf::{TensorInfo, Value, dequantize_row, model, parse};

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzz.gguf");
    let Ok(gguf) = parse(path, bytes) else { return };
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
});
