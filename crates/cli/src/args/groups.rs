//! Options that train, plan and grads share. They hold what was typed: a choice that was not made is `None`, since what
//! it then means may depend on others.

use std::path::{Path, PathBuf};

use clap::Args;
use mesp::arch::Config;
use mesp::data::ReadOptions;
use mesp::settings::{
    AdapterSettings, DirectionSettings, MethodSettings, ObjectiveSettings, Reference, TrainingSettings,
};
use mesp_console::outputs::Inputs;

use super::{DataArgs, ModelArgs, RunArgs, SharedArgs};

/// The options of train, plan and grads.
#[derive(Debug, Clone, Args)]
pub(crate) struct CommonArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) objective: ObjectiveSettings,
    #[command(flatten)]
    pub(crate) adapter: AdapterSettings,
    #[command(flatten)]
    pub(crate) method: MethodSettings,
    #[command(flatten)]
    pub(crate) zeroth: DirectionSettings,
    #[command(flatten)]
    pub(crate) schedule: TrainingSettings,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

impl CommonArgs {
    /// Whether all weights of the model are trained, and no adapter.
    pub(crate) fn full(&self) -> bool {
        self.settings().full()
    }

    /// How rows are read.
    pub(crate) fn read_options(&self, config: &Config, training: bool) -> ReadOptions {
        self.objective.reading(self.data.read_options(config, training))
    }

    /// What train and grads read; `eval` is the file of held-out rows.
    pub(crate) fn reads(&self, data: Option<&Path>, eval: Option<&Path>) -> Inputs {
        let resumed = self.output.resume.as_ref().and_then(|resume| resume.as_deref());
        Inputs::default()
            .model(self.model.model.as_deref())
            .file("--data", data)
            .file("--eval-data", eval)
            .adapter("--adapter", self.adapter.adapter.as_deref())
            .adapter("--reference", reference(&self.objective).as_deref())
            .adapter("--resume", resumed)
            .file("--config", self.run.config.as_deref())
    }
}

/// The adapter that `--reference` names, if it names one.
pub(crate) fn reference(objective: &ObjectiveSettings) -> Option<PathBuf> {
    match Reference::parse(objective.reference.as_deref()?) {
        Reference::Adapter(path) => Some(path),
        _ => None,
    }
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Where results go: the run directory [default: mesp-out]; for grads the safetensors file
    #[arg(long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// Continue from a checkpoint directory; without a value from the latest one in --output
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "not given, given alone, given with a path")]
    pub(crate) resume: Option<Option<PathBuf>>,
    /// Replace the run that is in --output, which goes when the new one has its first checkpoint or ends well; never
    /// what the command reads
    #[arg(long, conflicts_with = "resume")]
    pub(crate) overwrite: bool,
}
