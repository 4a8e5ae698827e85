//! Models, adapters and datasets by their names on the Hugging Face hub: found in its cache, and by `mesp pull`
//! brought there.

#[cfg(feature = "pull")]
pub(crate) mod pull;

use anyhow::Result;
use mesp::settings::ObjectiveSettings;
use mesp_console::names::{adapter, data, found, model, named, rows};
use mesp_formats::hub::RepoKind;

use crate::args::{self, Command, CommonArgs, DataCommand};

/// Puts paths in the place of names of repositories, in what was typed.
pub(crate) fn resolve(command: &mut Command) -> Result<()> {
    match command {
        Command::Train(args) => common(&mut args.common),
        Command::Plan(args) => common(&mut args.common),
        Command::Grads(args) => common(&mut args.common),
        Command::Eval(args) => {
            model(&mut args.model)?;
            data(&mut args.data)?;
            args.task.task.iter_mut().try_for_each(rows)?;
            reference(&mut args.objective)?;
            args.adapter.iter_mut().try_for_each(adapter)
        }
        Command::Generate(args) => {
            model(&mut args.model)?;
            args.options.adapter.iter_mut().try_for_each(adapter)
        }
        Command::Chat(args) => {
            model(&mut args.model)?;
            args.options.adapter.iter_mut().try_for_each(adapter)
        }
        Command::Quantize(args) => named(args.model.as_mut(), args.revision.as_deref()),
        Command::Merge(args) => {
            named(args.model.as_mut(), args.revision.as_deref())?;
            adapter(&mut args.adapter)
        }
        Command::Export(args) => {
            named(args.model.as_mut(), args.revision.as_deref())?;
            adapter(&mut args.adapter)
        }
        Command::Data(DataCommand::Check(args)) => {
            named(args.model.as_mut(), args.revision.as_deref())?;
            data(&mut args.data)
        }
        Command::Data(DataCommand::Show(args)) => {
            named(args.model.as_mut(), args.revision.as_deref())?;
            data(&mut args.data)
        }
        Command::Data(DataCommand::Tokenize(args)) => {
            named(args.model.as_mut(), args.revision.as_deref())?;
            data(&mut args.data)
        }
        Command::Replay(args) => {
            model(&mut args.model)?;
            args.adapter.iter_mut().try_for_each(adapter)
        }
        Command::Inspect(args) => found(RepoKind::Model, &mut args.path, None),
        #[cfg(feature = "bench")]
        Command::Bench(args) => args.resolve(),
        Command::InitModel(_)
        | Command::Pull(_)
        | Command::Dash(_)
        | Command::Report(_)
        | Command::InitConfig(_)
        | Command::Sample(_) => Ok(()),
    }
}

fn common(args: &mut CommonArgs) -> Result<()> {
    model(&mut args.model)?;
    data(&mut args.data)?;
    args.schedule.eval_data.iter_mut().try_for_each(rows)?;
    reference(&mut args.objective)?;
    args.adapter.adapter.iter_mut().try_for_each(adapter)
}

/// The adapter of `--reference`, where it names one.
fn reference(objective: &mut ObjectiveSettings) -> Result<()> {
    if let Some(mut path) = args::reference(objective) {
        adapter(&mut path)?;
        objective.reference = Some(path.display().to_string());
    }
    Ok(())
}
