//! Training of all weights: how they are held, and what cannot go with it.

use std::path::Path;

use mesp_device::{Dtype, Elem};
use mesp_formats::room;

use super::{Settings, Setup, Train, Trains};
use crate::arch::Selection;
use crate::memory::{ByteSize, MemoryPlan, Workload};
use crate::method::Estimator;
use crate::source::{Base, Kind};
use crate::{Error, ErrorKind, Result};

/// Refuses what is an adapter's.
pub(super) fn refuse(settings: &Settings) -> Result<()> {
    let (a, z) = (&settings.adapter, &settings.directions);
    let of_adapters = [
        (a.adapter.is_some(), "‘adapter’"),
        (a.rank.is_some(), "‘rank’"),
        (a.alpha.is_some(), "‘alpha’"),
        (a.rslora, "‘rslora’"),
        (a.dora, "‘dora’"),
        (a.lora_dropout.is_some(), "‘lora_dropout’"),
        (a.rank_pattern.is_some(), "‘rank_pattern’"),
        (a.alpha_pattern.is_some(), "‘alpha_pattern’"),
        (a.layers.is_some(), "‘layers’"),
        (a.target_modules.is_some(), "‘target_modules’"),
        (a.freeze_a, "‘freeze_a’"),
        (a.lora_plus_ratio.is_some(), "‘lora_plus_ratio’"),
        (a.adapter_type.is_some(), "‘adapter_type’"),
        (z.blocks.is_some(), "‘blocks’"),
        (z.sparsity.is_some(), "‘sparsity’"),
    ];
    if let Some((_, name)) = of_adapters.into_iter().find(|(given, _)| *given) {
        return Err(Error::usage(
            ErrorKind::Conflict,
            format!("{name} is of adapters, and ‘train’ full is of all weights of the model"),
        )
        .hint("leave one of them out"));
    }
    if a.train == Some(Train::Lora) {
        return Err(Error::usage(
            ErrorKind::Conflict,
            "‘train’ lora and ‘full’ were given: an adapter is trained, or all weights of the model",
        )
        .hint("leave one of them out"));
    }
    Ok(())
}

impl Setup {
    /// The setup for computing gradients, of an adapter or of all weights, without training.
    ///
    /// # Errors
    /// [`Error::Usage`] when an estimate of the gradient of all weights is requested.
    pub fn of_gradients(mut self) -> Result<Self> {
        if self.trains != Trains::Model {
            return Ok(self);
        }
        if self.options.estimator != Estimator::Exact {
            return Err(Error::usage(
                ErrorKind::Conflict,
                format!(
                    "‘method’ {} estimates the gradient of an adapter, and ‘train’ full is of all weights",
                    self.options.method_name
                ),
            )
            .hint("leave ‘method’ out for the exact gradients of all weights"));
        }
        self.options.base = Selection::full();
        Ok(self)
    }

    /// Rejects gradients of quantized weights, whose values cannot be updated.
    ///
    /// # Errors
    /// [`Error::Usage`] when the weights are quantized.
    pub fn differentiable(&self, stored: Dtype) -> Result<()> {
        let held = matches!(self.base, Base::Resident(_)) || !stored.is_quantized();
        if self.options.base.is_empty() || held {
            return Ok(());
        }
        Err(Error::usage(
            ErrorKind::Unsupported,
            format!("‘train’ full is of all weights, and those of this model are {stored:?}"),
        )
        .hint("give ‘base’ bf16 to hold them in memory in bf16, or the model they were quantized from"))
    }

    /// Refuses a run for whose checkpoints and model there is no room on the disk of its folder.
    ///
    /// # Errors
    /// [`Error::File`] with both figures.
    pub fn room(&self, plan: &MemoryPlan, work: &Workload, folder: &Path) -> Result<()> {
        let bytes = plan.on_disk(&self.options, &self.run, work.steps);
        let what = "the checkpoints and the model that this run writes";
        if bytes > 0 { Ok(room::require(folder, bytes, what)?) } else { Ok(()) }
    }

    /// The setup for commands that support adapters only.
    ///
    /// # Errors
    /// [`Error::Usage`] with full fine-tuning.
    pub fn of_adapters(self) -> Result<Self> {
        if self.trains == Trains::Model {
            return Err(Error::usage(
                ErrorKind::Unsupported,
                "‘train’ full is of train, plan, grads and replay",
            )
            .hint("leave it out: this command is about adapters"));
        }
        Ok(self)
    }

    /// For full fine-tuning, chooses the type in which the weights are held; `stored` is their type in the model's
    /// files, `parameters` their number.
    ///
    /// # Errors
    /// [`Error::Usage`] when the weights are quantized, in a GGUF file, or held in a type in which
    /// small updates are lost.
    pub fn hold(&mut self, model: Option<&Path>, stored: Dtype, parameters: u64) -> Result<()> {
        if self.trains != Trains::Model {
            return Ok(());
        }
        let held = ByteSize(2 * parameters);
        if let Some(path) = model.filter(|path| Kind::of(path) == Kind::Gguf) {
            let problem = format!(
                "{}: ‘train’ full writes a model directory, and needs one to start from",
                path.display()
            );
            return Err(Error::usage(ErrorKind::Unsupported, problem)
                .has(format!("a GGUF file of {stored:?}"))
                .expected("a Hugging Face directory in f32, bf16 or f16")
                .hint(format!(
                    "give the directory that the file was made from; with ‘base’ bf16 its weights take {held} of memory"
                )));
        }
        let elem = match (self.base, stored) {
            (Base::Mapped, Dtype::Bf16) | (Base::Resident(Dtype::Bf16), _) => Elem::Bf16,
            (Base::Mapped, Dtype::F32 | Dtype::F16) | (Base::Resident(Dtype::F32), _) => Elem::Full,
            (Base::Mapped, _) => {
                return Err(Error::usage(
                    ErrorKind::Unsupported,
                    "‘train’ full is of all weights, and a step of quantized ones is lost",
                )
                .has(format!("weights stored as {stored:?}"))
                .expected("f32, bf16 or f16")
                .hint(format!(
                    "give ‘base’ bf16 to hold them in bf16 in {held} of memory, or the model they were quantized from"
                )));
            }
            (Base::Resident(_), _) => {
                return Err(Error::usage(
                    ErrorKind::Conflict,
                    "‘base’ f16 cannot be combined with ‘train’ full: a step would be lost in f16",
                )
                .hint("use ‘base’ bf16, whose steps are rounded at random, or f32"));
            }
        };
        (self.options.held, self.options.base) = (Some(elem), Selection::full());
        // They are read from their file once.
        self.base = Base::Mapped;
        Ok(())
    }
}
