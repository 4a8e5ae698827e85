//! Files: safetensors, Hugging Face directories, PEFT adapters, atomic writes.
//!
//! Nothing here knows a model architecture, and nothing here maps memory: parsers take byte slices and
//! give back names, shapes and byte ranges.

mod error;

pub use error::{Error, Result};
