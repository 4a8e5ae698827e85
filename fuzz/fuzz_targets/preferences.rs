#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesp_fuzz_targets::preferences(bytes));
