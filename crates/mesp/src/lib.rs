//! Fine-tunes language models with exact gradients, computed by hand-derived backward passes, in an amount of memory
//! that is planned before the run starts.
//!
//! For programs that fine-tune: [`Model`] opens a Hugging Face directory or a GGUF file, [`Dataset`] reads rows,
//! [`Trainer`] plans, trains and saves a LoRA adapter that PEFT loads, [`Generator`] writes text. Every setting has the
//! default of the `mesp` program; [`settings::Settings`] lists them. All failures are an [`Error`].
//!
//! Start reading at [`Trainer`] to use the library. To see how it works, read `model/block.rs` (the forward),
//! `model/backward.rs`, [`tape`] (which activations are kept, which are recomputed) and `method/backprop.rs`; then
//! [`gradient`], [`optim`] and [`memory`]. ARCHITECTURE.md is the map, `docs/math` has the derivations, and `examples` has
//! six programs.
//!
//! This example trains a tiny model with random weights, so it runs without a download:
//!
//! ```
//! use mesp::{ByteSize, Dataset, Model, Trainer, init_model};
//! use mesp_formats::Dtype;
//!
//! let dir = tempfile::tempdir()?;
//! init_model::write(dir.path(), &init_model::preset("tiny")?, Dtype::F32, 0, &mut |_done, _total| {})?;
//!
//! let model = Model::open(dir.path())?;
//! let data = Dataset::read(dir.path().join("random_rows.jsonl"), &model)?;
//! let budget = ByteSize::mb(40); // of anonymous memory, for the whole process
//! let mut trainer =
//!     Trainer::builder(&model, &data).rank(4).steps(2).learning_rate(1e-3).threads(1).memory_budget(budget).build()?;
//! assert!(trainer.plan().planned() < budget.0); // known before the first step
//! while let Some(step) = trainer.step()? {
//!     println!("step {}: loss {:.3}", step.number, step.loss);
//! }
//! trainer.save(dir.path().join("adapter"))?; // adapter_config.json, adapter_model.safetensors
//! # assert!(dir.path().join("adapter/adapter_model.safetensors").is_file());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(
    not(feature = "text"),
    allow(
        dead_code,
        unused_imports,
        reason = "what only texts and merged models use stays beside what rows of tokens use; the build with the feature \
                  finds what nothing uses"
    )
)]

pub mod adapter;
pub mod arch;
pub mod data;
mod error;
pub mod export;
pub mod generate;
pub mod gradient;
pub mod hub;
pub mod init_model;
mod limits;
pub mod memory;
#[cfg(feature = "text")]
pub mod merge;
pub mod method;
pub mod model;
pub mod optim;
pub mod preference;
#[cfg(feature = "text")]
pub mod quantize;
pub mod rng;
pub mod settings;
pub mod source;
pub mod tape;
#[cfg(feature = "text")]
pub mod task;
pub mod train;
mod trainer;

pub use error::{Error, Result};
pub use limits::ByteSize;
pub use mesp_formats::{ErrorKind, Problem};
pub use trainer::{
    BatchGradient, Dataset, Evaluator, Generator, Model, ReferenceModel, Trainer, TrainerBuilder,
};
