//! The library's main types: a [`Model`], training rows ([`Dataset`]), and a [`Trainer`], whose memory is planned
//! before it runs.
//!
//! ```no_run
//! use mesp::{ByteSize, Dataset, Model, Trainer};
//!
//! # fn main() -> mesp::Result<()> {
//! let model = Model::open("Qwen2.5-0.5B-Instruct")?; // a directory, a GGUF file, or a name in the Hugging Face cache
//! let data = Dataset::read("notes.jsonl", &model)?;
//! let mut trainer = Trainer::builder(&model, &data).rank(16).memory_budget(ByteSize::mb(100)).build()?;
//! println!("{}", trainer.plan());
//! while let Some(step) = trainer.step()? {
//!     println!("{} {:.3}", step.number, step.loss);
//! }
//! trainer.save("adapter")?;
//! # Ok(())
//! # }
//! ```

mod batch_gradient;
mod builder;
mod dataset;
mod evaluator;
mod generator;
mod model;
mod reference;
#[cfg(feature = "text")]
mod text;

use std::path::{Path, PathBuf};

use mesp_device::Cpu;

pub use batch_gradient::BatchGradient;
pub use builder::TrainerBuilder;
pub use dataset::Dataset;
pub use evaluator::Evaluator;
pub use generator::Generator;
pub use model::Model;
pub use reference::ReferenceModel;

use crate::Result;
use crate::arch::Param;
use crate::memory::MemoryPlan;
use crate::train::{Cancel, Event, Progress, Run, Score, Step, Summary};

/// A training run: a model, its rows, optimizer state and progress, like the `Trainer` of transformers or TRL. Made by
/// [`Trainer::builder`].
#[derive(Debug)]
pub struct Trainer {
    run: Run<Cpu<f32>>,
    plan: MemoryPlan,
}

impl Trainer {
    /// Starts a builder for a run of `model` on `data`. What is not set has the default of `mesp train`.
    pub fn builder<'a>(model: &'a Model, data: &'a Dataset) -> TrainerBuilder<'a> {
        TrainerBuilder::new(model, data)
    }

    /// Wraps a run that was set up by hand, with the plan of its memory.
    pub fn from_run(run: Run<Cpu<f32>>, plan: MemoryPlan) -> Self {
        Self { run, plan }
    }

    /// Ends the run, frees its memory and returns its plan.
    pub fn into_plan(self) -> MemoryPlan {
        self.plan
    }

    /// The planned memory in bytes, by purpose. Its `Display` is one line.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// Makes one optimizer step, and the evaluations and checkpoints that are due before and after it. Returns `None`
    /// when the run is over: all steps are done, early stopping applies, or [`Trainer::cancel`] was called. Events go to
    /// [`Trainer::run`] only.
    ///
    /// # Errors
    /// As [`Run::run`].
    pub fn step(&mut self) -> Result<Option<Step>> {
        self.run.advance(&mut |_| {})
    }

    /// Makes all remaining steps, and writes checkpoints and the adapter to the output directory, if one was set.
    /// `on_event` is called for each step, evaluation, checkpoint and notice.
    ///
    /// # Errors
    /// As [`Run::run`].
    pub fn run(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<Summary> {
        self.run.run(on_event)
    }

    /// Evaluates the held-out rows with the current adapter. Without held-out rows the score has no tokens.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn evaluate(&mut self) -> Result<Score> {
        self.run.evaluate()
    }

    /// Computes the gradient for the next step's rows, as `loss.backward()` does in PyTorch, but replaces the previous
    /// gradient instead of adding to it. Parameters do not change. Returns the mean loss per target token in nats.
    /// [`Trainer::gradients`] and [`Trainer::flat_gradients_mut`] read or change the gradient; [`Trainer::apply`] makes
    /// the step.
    ///
    /// # Errors
    /// As [`Run::backward`].
    pub fn backward(&mut self) -> Result<f64> {
        self.run.backward()
    }

    /// Makes an optimizer step with the current gradient, as `optimizer.step()` does, after clipping to `max_grad_norm`
    /// and at the schedule's learning rate. Returns the gradient's L2 norm before clipping.
    ///
    /// # Errors
    /// As [`Run::apply`].
    pub fn apply(&mut self) -> Result<f64> {
        self.run.apply()
    }

    /// Each trained parameter and its gradient, row-major, with the shape [`Param::shape`]; [`Param::name`] is the name
    /// in PEFT's files. Empty where a step keeps no gradient, as with per-block updates.
    pub fn gradients(&self) -> impl Iterator<Item = (&Param, &[f32])> {
        let session = self.run.session();
        session.grads().iter().filter_map(|(param, view)| Some((param, session.backend().slice(view)?)))
    }

    /// All gradients as one flat slice: each parameter's values in the order of [`Trainer::gradients`], each starting
    /// at a multiple of 16 values, with zeros in the gaps. `None` where a step keeps no gradient.
    pub fn flat_gradients(&self) -> Option<&[f32]> {
        let session = self.run.session();
        session.backend().slice(session.grads().flat()?)
    }

    /// [`Trainer::flat_gradients`], mutable: for an all-reduce with other machines, say. The gaps must stay zero.
    pub fn flat_gradients_mut(&mut self) -> Option<&mut [f32]> {
        let (be, column) = self.run.session_mut().flat_grads_mut();
        be.slice_mut(column?)
    }

    /// The trained parameters as one flat slice in the layout of [`Trainer::flat_gradients`]. `None` where they are
    /// stored in bf16, or where all weights of the model are trained.
    pub fn flat_parameters(&self) -> Option<&[f32]> {
        let session = self.run.session();
        session.backend().slice(session.flat()?)
    }

    /// [`Trainer::flat_parameters`], mutable.
    pub fn flat_parameters_mut(&mut self) -> Option<&mut [f32]> {
        let (be, column) = self.run.session_mut().flat_mut();
        be.slice_mut(column?)
    }

    /// Steps, tokens and losses so far.
    pub fn progress(&self) -> &Progress {
        self.run.progress()
    }

    /// The number of optimizer steps of the run, from the first to the last.
    pub fn total_steps(&self) -> usize {
        self.run.total_steps()
    }

    /// Totals of the run up to now.
    pub fn summary(&self) -> Summary {
        self.run.summary()
    }

    /// A handle with which another thread or a signal handler stops the run after the current step.
    pub fn cancel(&self) -> Cancel {
        self.run.cancel()
    }

    /// Writes the adapter in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        self.run.save(dir.as_ref())
    }

    /// Writes a checkpoint (adapter, optimizer state, progress) to `dir/checkpoints/step-N` and returns that path.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_state(&self, dir: impl AsRef<Path>) -> Result<PathBuf> {
        self.run.save_state(dir.as_ref())
    }

    /// Resumes from a checkpoint of a run with the same settings and rows. Every later step is bit-identical to the one
    /// that the uninterrupted run would have made.
    ///
    /// # Errors
    /// When the checkpoint is of a run with other settings, model or rows, or cannot be read.
    pub fn load_state(&mut self, checkpoint: impl AsRef<Path>) -> Result<()> {
        self.run.load_state(checkpoint.as_ref())
    }
}
