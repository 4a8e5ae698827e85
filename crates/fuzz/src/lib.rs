//! What the fuzz targets do with their bytes: parsers of strangers' files and of what a user types.
//!
//! Each target is a function of bytes that panics when something untrue is found. `fuzz` runs them under libFuzzer, with
//! a nightly compiler; `tests/replay.rs` here runs the seeds through them, and changes of the seeds, with any compiler.

#![expect(clippy::missing_panics_doc, reason = "that is how a target tells what it found")]

mod adapters;
mod data;
mod files;
mod parquet;
mod runs;
mod scratch;
mod typed;

pub use adapters::{adapter_config, adapter_gguf, adapter_mlx, adapter_peft};
pub use data::{chat_template, rows, tables, token_file, tokenizer_json};
pub use files::{config, gguf, safetensors};
pub use parquet::{mutate as mutate_parquet, parquet};
pub use runs::{checkpoint, checkpoint_seeds, run_json, slopes};
pub use typed::{command_line, config_toml};

/// What a target does with an input.
pub type Target = fn(&[u8]);

/// Every target by its name: a file in `fuzz/fuzz_targets`, a folder in `fuzz/seeds`.
pub const TARGETS: [(&str, Target); 18] = [
    ("adapter_config", adapter_config),
    ("adapter_gguf", adapter_gguf),
    ("adapter_mlx", adapter_mlx),
    ("adapter_peft", adapter_peft),
    ("chat_template", chat_template),
    ("checkpoint", checkpoint),
    ("command_line", command_line),
    ("config", config),
    ("config_toml", config_toml),
    ("gguf", gguf),
    ("parquet", parquet),
    ("rows", rows),
    ("run_json", run_json),
    ("safetensors", safetensors),
    ("slopes", slopes),
    ("tables", tables),
    ("token_file", token_file),
    ("tokenizer_json", tokenizer_json),
];

/// The text that bytes begin with.
fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default(),
    }
}
