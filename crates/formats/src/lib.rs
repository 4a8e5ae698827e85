//! Files: safetensors, Hugging Face directories, PEFT adapters, atomic writes.
//!
//! Nothing here knows a model architecture, and nothing here maps memory: parsers take byte slices and
//! give back names, shapes and byte ranges.
//!
//! | module | file |
//! |---|---|
//! | [`gguf`] | `*.gguf`: parser, streaming writer, block formats |
//! | [`safetensors_file`] | `*.safetensors`: header parser, streaming writer |
//! | [`model_dir`] | a model folder: which weight files it has |
//! | [`hub`] | the cache of files of the Hugging Face hub |
//! | [`config`] | `config.json`, `generation_config.json` |
//! | [`tokenizer_config`] | `tokenizer_config.json`, `chat_template.jinja` |
//! | [`peft`] | `adapter_config.json`, names in `adapter_model.safetensors` |
//! | [`lora`] | adapters of PEFT, llama.cpp and mlx-lm as one list |
//! | [`regular`] | files that are read: regular ones, small ones within a limit |
//! | [`atomic`] | files and folders that are either complete or absent |

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
pub mod regular;
pub mod safetensors_file;
mod stored;
pub mod tokenizer_config;

pub use config::{LayerTraits, ModelConfig, RopeScaling};
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use model_dir::ModelDir;
pub use peft::AdapterConfig;
pub use stored::Stored;
pub use tokenizer_config::TokenizerConfig;
