//! The bodies of the fuzz targets: for every parser of a file that a stranger may have written, and for what a user types.
//!
//! A target is a function of bytes ([`Target`]) that states a property of every input, such as "what was written is read
//! back as the same" or "an error names the file", and panics where it does not hold. [`TARGETS`] lists all of them by
//! name. They are compiled into two programs: `fuzz` runs them under libFuzzer and needs a nightly compiler;
//! `tests/replay.rs` runs the seeds in `fuzz/seeds`, and changed copies of them, with any compiler.
//!
//! Start reading at `files.rs` ([`config`], [`safetensors`], [`gguf`]); CONTRIBUTING.md says how a target is added.
//!
//! ```
//! // Bytes that are no GGUF file must be refused with an error, not a panic.
//! mesp_fuzz_targets::gguf(b"GGUF, but not really");
//! ```

#![expect(clippy::missing_panics_doc, reason = "that is how a target tells what it found")]

mod adapters;
mod data;
mod files;
mod parquet;
mod runs;
mod scratch;
mod typed;

pub use adapters::{adapter_config, adapter_gguf, adapter_mlx, adapter_peft};
pub use data::{chat_template, preferences, rows, tables, token_file, tokenizer_json};
pub use files::{config, gguf, safetensors};
pub use parquet::{mutate as mutate_parquet, parquet};
pub use runs::{checkpoint, checkpoint_seeds, run_json, slopes};
pub use typed::{command_line, config_toml};

/// What a target does with an input.
pub type Target = fn(&[u8]);

/// Every target by its name: a file in `fuzz/fuzz_targets`, a folder in `fuzz/seeds`.
pub const TARGETS: [(&str, Target); 19] = [
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
    ("preferences", preferences),
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
