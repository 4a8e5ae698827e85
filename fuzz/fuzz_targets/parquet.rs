#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| mesp_fuzz_targets::parquet(bytes));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mesp_fuzz_targets::mutate_parquet(&mut data[..max_size], size, seed, &mut |data, size| {
        fuzzer_mutate(data, size, data.len())
    })
});
