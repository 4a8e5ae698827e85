//! Memory-efficient structured backpropagation: exact LoRA fine-tuning in a planned amount of memory.

mod error;

pub use error::{Error, Result};
