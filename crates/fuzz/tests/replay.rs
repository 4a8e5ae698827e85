//! Runs every seed through its target, and seeds that are cut and changed: what libFuzzer would begin with, on any
//! compiler. `just fuzz` looks further.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use mesp_fuzz_targets::{TARGETS, Target, checkpoint_seeds, mutate_parquet};

/// Cuts of a seed, and changes.
const CUTS: usize = 64;
const CHANGES: u32 = 64;

fn fuzz(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz")).join(path)
}

/// Names and contents, in order.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = fuzz("seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}

/// Numbers that are the same everywhere (xorshift32).
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    fn below(&mut self, most: usize) -> usize {
        self.next() as usize % most.max(1)
    }
}

/// One change of the first `size` bytes, in place: a byte, a bit, a piece taken out, a piece copied, a number that is
/// often wrong.
fn change(data: &mut [u8], size: usize, numbers: &mut Numbers) -> usize {
    if size == 0 {
        return 0;
    }
    let (at, other) = (numbers.below(size), numbers.below(size));
    match numbers.below(6) {
        0 => data[at] = numbers.next() as u8,
        1 => data[at] ^= 1 << numbers.below(8),
        2 => {
            let end = size.min(at + 1 + numbers.below(8));
            data.copy_within(end..size, at);
            return size - (end - at);
        }
        3 => {
            let length = (1 + numbers.below(16)).min(size - at.max(other));
            data.copy_within(at..at + length, other);
        }
        4 => {
            let wrong = [0, 1, u64::MAX, 1 << 31, 1 << 40, i64::MAX as u64][numbers.below(6)].to_le_bytes();
            let length = [1, 2, 4, 8][numbers.below(4)].min(size - at);
            data[at..at + length].copy_from_slice(&wrong[..length]);
        }
        // What texts are made of.
        _ => data[at] = br#"{}[]"\,:0-e. |()*?%"#[numbers.below(19)],
    }
    size
}

fn replay(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    let mut runs = 0_u32;
    let mut run = |target: Target, bytes: &[u8], what: &dyn Fn() -> String| {
        runs += 1;
        let held = catch_unwind(|| target(bytes)).is_ok();
        assert!(held, "target {name}, {}: {}", what(), bytes.escape_ascii());
    };
    // A checkpoint of this version, whatever the folder holds.
    let now = if name == "checkpoint" { checkpoint_seeds() } else { Vec::new() };
    for (seed, bytes) in seeds(name).into_iter().chain(now) {
        run(target, &bytes, &|| format!("seed {seed}"));
        for cut in 0..CUTS.min(bytes.len()) {
            let length = cut * bytes.len() / CUTS.min(bytes.len());
            run(target, &bytes[..length], &|| format!("seed {seed} cut to {length} bytes"));
        }
        for number in 1..=CHANGES {
            let mut numbers = Numbers(number.wrapping_mul(0x9e37_79b9));
            let mut changed = bytes.clone();
            for _ in 0..=numbers.below(3) {
                let size = changed.len();
                let length = if name == "parquet" {
                    changed.resize(size + 16, 0);
                    let seed = numbers.next();
                    mutate_parquet(&mut changed, size, seed, &mut |data, size| {
                        change(data, size, &mut numbers)
                    })
                } else {
                    change(&mut changed, size, &mut numbers)
                };
                changed.truncate(length);
            }
            run(target, &changed, &|| format!("change {number} of seed {seed}"));
        }
    }
    assert!(runs > 100, "{name} has {runs} inputs: fuzz/seeds/{name} should hold seeds");
}

/// A test for each target, so that they run beside each other and a failure has a name.
macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { replay(stringify!($name)); })*

        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets!(
    adapter_config,
    adapter_gguf,
    adapter_mlx,
    adapter_peft,
    chat_template,
    checkpoint,
    command_line,
    config,
    config_toml,
    gguf,
    parquet,
    preferences,
    rows,
    run_json,
    safetensors,
    slopes,
    tables,
    token_file,
    tokenizer_json,
);

/// A target that is missing in one place would not be run there.
#[test]
fn every_target_is_everywhere() {
    let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let tested: BTreeSet<String> = TESTED.iter().map(|name| (*name).to_owned()).collect();
    let listed = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz(folder)).unwrap();
        entries.map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(tested, known);
    assert_eq!(listed("fuzz_targets"), known);
    assert_eq!(listed("seeds"), known);
    let manifest = fs::read_to_string(fuzz("Cargo.toml")).unwrap();
    for name in &known {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "fuzz/Cargo.toml: {name}");
    }
}

/// `cargo test -p mesp-fuzz-targets -- --ignored` after a change of what checkpoints hold.
#[test]
#[ignore = "writes to the source tree"]
fn checkpoint_seeds_are_written() {
    let folder = fuzz("seeds/checkpoint");
    fs::create_dir_all(&folder).unwrap();
    for (name, bytes) in checkpoint_seeds() {
        fs::write(folder.join(name), bytes).unwrap();
    }
}
