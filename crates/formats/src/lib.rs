//! Files of language models: safetensors, GGUF, Hugging Face directories and cache, PEFT adapters, atomic writes.
//!
//! For whoever reads or writes such files without a training engine. Nothing here knows a model architecture, and nothing
//! maps memory: parsers take byte slices and give back names, shapes and byte ranges, so a caller decides what is read.
//! Sizes that a file claims are checked against the file before memory is allocated for them, and every error names the
//! file, what was expected and what was found ([`Error`]).
//!
//! Start reading at [`safetensors_file`] (a parser and a streaming writer in two files), then [`gguf`] and [`peft`]. Main
//! types: [`ModelDir`], [`ModelConfig`], [`TokenizerConfig`], [`AdapterConfig`], [`Dtype`].
//!
//! | module | file |
//! |---|---|
//! | [`gguf`] | `*.gguf`: parser, streaming writer, block formats |
//! | [`safetensors_file`] | `*.safetensors`: header parser, streaming writer |
//! | [`model_dir`] | a model directory: which weight files it has |
//! | [`hub`] | the Hugging Face hub's local cache |
//! | [`config`] | `config.json`, `generation_config.json` |
//! | [`tokenizer_config`] | `tokenizer_config.json`, `chat_template.jinja` |
//! | [`peft`] | `adapter_config.json`, tensor names in `adapter_model.safetensors` |
//! | [`lora`] | adapters of PEFT, llama.cpp and mlx-lm as one list |
//! | [`regular`] | opens regular files only, and small ones within a size limit |
//! | [`atomic`] | writes files and directories that are either complete or absent |
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use mesp_formats::{Dtype, safetensors_file};
//!
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("model.safetensors");
//! let tensors = [("weight".to_owned(), Dtype::F32, vec![2, 3])]; // name, type, shape
//! safetensors_file::write(&path, &tensors, &BTreeMap::new(), &mut |_tensor, file| {
//!     (0..6u8).try_for_each(|value| file.write_all(&f32::from(value).to_le_bytes()))
//! })?;
//!
//! let bytes = std::fs::read(&path)?;
//! let header = safetensors_file::parse(&path, &bytes)?;
//! assert_eq!(header.tensors[0].shape, [2, 3]);
//! let values = safetensors_file::read_f32(&path, &bytes, &header.tensors[0])?;
//! assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// A test that meets an error has failed; unwrapping says so in the fewest words.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod atomic;
pub mod config;
mod dtype;
mod error;
pub mod gguf;
pub mod home;
pub mod hub;
mod json;
pub mod lora;
pub mod model_dir;
pub mod peft;
mod problem;
pub mod regular;
pub mod room;
pub mod safetensors_file;
mod stored;
pub mod tokenizer_config;

pub use config::{LayerTraits, ModelConfig, RopeScaling};
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use model_dir::ModelDir;
pub use peft::AdapterConfig;
pub use problem::{ErrorKind, Problem};
pub use stored::Stored;
pub use tokenizer_config::TokenizerConfig;
