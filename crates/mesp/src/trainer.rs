//! The front door: a [`Model`], its rows ([`Dataset`]), and a [`Trainer`] that knows what it needs before it runs.
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

mod builder;
mod dataset;
mod generator;
mod model;

use std::path::{Path, PathBuf};

use mesp_device::Cpu;

pub use builder::TrainerBuilder;
pub use dataset::Dataset;
pub use generator::Generator;
pub use model::Model;

use crate::Result;
use crate::arch::Param;
use crate::memory::MemoryPlan;
use crate::train::{Cancel, Event, Progress, Run, Score, Step, Summary};

/// A run: a model, its rows, and where training stands. Made by [`Trainer::builder`].
#[derive(Debug)]
pub struct Trainer {
    run: Run<Cpu<f32>>,
    plan: MemoryPlan,
}

impl Trainer {
    /// A run of a model on rows: its settings are chosen next.
    pub fn builder<'a>(model: &'a Model, data: &'a Dataset) -> TrainerBuilder<'a> {
        TrainerBuilder::new(model, data)
    }

    /// A run that was set up by hand.
    pub fn from_run(run: Run<Cpu<f32>>, plan: MemoryPlan) -> Self {
        Self { run, plan }
    }

    /// The end of it: what it held is freed.
    pub fn into_plan(self) -> MemoryPlan {
        self.plan
    }

    /// What it needs in memory, by what for. Shown, it is one line.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// One optimizer step, with the evaluations and checkpoints that are due; `None` when the run is over.
    ///
    /// # Errors
    /// As [`Run::run`].
    pub fn step(&mut self) -> Result<Option<Step>> {
        self.run.advance(&mut |_| {})
    }

    /// All steps that are left. `on_event` is told what happens: steps, evaluations, checkpoints, notices.
    ///
    /// # Errors
    /// As [`Run::run`].
    pub fn run(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<Summary> {
        self.run.run(on_event)
    }

    /// Losses of the held-out rows with the adapter as it is; of none where there are no such rows.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn evaluate(&mut self) -> Result<Score> {
        self.run.evaluate()
    }

    /// Makes the gradient of the next step's rows and leaves the parameters as they are; gives the mean loss in nats.
    /// [`Trainer::gradients`] and [`Trainer::flat_gradients`] have it, to read or to change; [`Trainer::apply`] steps
    /// along it.
    ///
    /// # Errors
    /// As [`Run::backward`].
    pub fn backward(&mut self) -> Result<f64> {
        self.run.backward()
    }

    /// Steps along the gradient that is there, and counts the step; gives the gradient's norm.
    ///
    /// # Errors
    /// As [`Run::apply`].
    pub fn apply(&mut self) -> Result<f64> {
        self.run.apply()
    }

    /// Each trained parameter with its gradient, row by row; [`Param::name`] is PEFT's name of it. None where a step keeps
    /// no gradient.
    pub fn gradients(&self) -> impl Iterator<Item = (&Param, &[f32])> {
        let session = self.run.session();
        session.grads().iter().filter_map(|(param, view)| Some((param, session.backend().slice(view)?)))
    }

    /// All gradients as one column: each parameter's in the order of [`Trainer::gradients`], from a multiple of 16 values
    /// on, and zeros between.
    pub fn flat_gradients(&self) -> Option<&[f32]> {
        let session = self.run.session();
        session.backend().slice(session.grads().flat()?)
    }

    /// The same, to change: by those of other machines, say. What is between the parameters stays zero.
    pub fn flat_gradients_mut(&mut self) -> Option<&mut [f32]> {
        let (be, column) = self.run.session_mut().flat_grads_mut();
        be.slice_mut(column?)
    }

    /// The trained parameters as one column, each where its gradient lies in [`Trainer::flat_gradients`]; none where they
    /// are stored in bf16, or are all weights of the model.
    pub fn flat_parameters(&self) -> Option<&[f32]> {
        let session = self.run.session();
        session.backend().slice(session.flat()?)
    }

    /// The same, to change.
    pub fn flat_parameters_mut(&mut self) -> Option<&mut [f32]> {
        let (be, column) = self.run.session_mut().flat_mut();
        be.slice_mut(column?)
    }

    /// Where the run stands.
    pub fn progress(&self) -> &Progress {
        self.run.progress()
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self) -> usize {
        self.run.total_steps()
    }

    /// What the run has come to.
    pub fn summary(&self) -> Summary {
        self.run.summary()
    }

    /// Asks the run to stop after its step, from another thread.
    pub fn cancel(&self) -> Cancel {
        self.run.cancel()
    }

    /// Writes the adapter in PEFT's layout: `adapter_config.json`, `adapter_model.safetensors`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        self.run.save(dir.as_ref())
    }

    /// Writes adapter, optimizer state and progress below a directory; gives the checkpoint's folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_state(&self, dir: impl AsRef<Path>) -> Result<PathBuf> {
        self.run.save_state(dir.as_ref())
    }

    /// Goes on from a checkpoint that a run with the same settings and rows wrote: every later step is then the one that
    /// the run would have made, to the bit.
    ///
    /// # Errors
    /// When it is of another run, or cannot be read.
    pub fn load_state(&mut self, checkpoint: impl AsRef<Path>) -> Result<()> {
        self.run.load_state(checkpoint.as_ref())
    }
}
