//! Any bytes are rows of a Parquet file or are refused with the file's name; a panic of the crate `parquet` is such a
//! refusal, and what headers claim fills no memory.
#![no_main]

use std::path::Path;
use std::sync::{Once, OnceLock};

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use mesp::data::{Dataset, ReadOptions, TextEncoder, TokenizerInfo};

fn encoder() -> &'static TextEncoder {
    static ENCODER: OnceLock<TextEncoder> = OnceLock::new();
    ENCODER.get_or_init(|| {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/demo/model/tokenizer.json"));
        TextEncoder::from_file(path, TokenizerInfo::default()).expect("the demo's tokenizer")
    })
}

// The library's wall has to see a panic before the process ends; libFuzzer's hook ends it at once. A panic that
// nothing catches still ends it.
fn quiet() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))));
}

fuzz_target!(|content: &[u8]| {
    quiet();
    let options = ReadOptions { max_seq_len: Some(64), ..ReadOptions::new(1 << 16) };
    match Dataset::parse(Path::new("r.parquet"), content, Some(encoder()), &options) {
        Ok(data) => assert!(data.targets() > 0),
        Err(error) => assert!(error.to_string().starts_with("r.parquet"), "{error}"),
    }
});

// The end of the file, which says where everything is, stays true: most changes would otherwise stop there.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if size < 12 || size + 16 > max_size {
        return fuzzer_mutate(data, size, max_size);
    }
    let length = |data: &[u8], size: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&data[size - 8..size - 4]);
        u32::from_le_bytes(bytes) as usize
    };
    let footer = length(data, size);
    if seed % 4 == 0 || footer > size - 12 {
        return fuzzer_mutate(data, size, max_size);
    }
    let (tail, start) = (data[size - 8..size].to_vec(), size - 8 - footer);
    // Pages keep their length, so that the footer's places are right; a footer may change its own.
    if seed % 2 == 0 {
        let mut pages = data[..start].to_vec();
        let changed = fuzzer_mutate(&mut pages, start, start);
        data[..changed].copy_from_slice(&pages[..changed]);
        return size;
    }
    let mut about = data[start..size - 8].to_vec();
    about.resize(footer + 16, 0);
    let changed = fuzzer_mutate(&mut about, footer, footer + 16);
    data[start..start + changed].copy_from_slice(&about[..changed]);
    let end = start + changed;
    data[end..end + 4].copy_from_slice(&(changed as u32).to_le_bytes());
    data[end + 4..end + 8].copy_from_slice(&tail[4..]);
    end + 8
});
