//! Memory-efficient structured backpropagation: exact LoRA fine-tuning in a planned amount of memory.

pub mod adapter;
pub mod arch;
pub mod data;
mod error;
pub mod export;
pub mod generate;
pub mod gradient;
pub mod init_model;
mod limits;
pub mod memory;
pub mod merge;
pub mod method;
pub mod model;
pub mod optim;
pub mod quantize;
pub mod rng;
pub mod settings;
pub mod source;
pub mod tape;
pub mod task;
pub mod train;
mod trainer;

pub use error::{Error, Result};
pub use limits::ByteSize;
pub use trainer::{Dataset, Generator, Model, Trainer, TrainerBuilder};
