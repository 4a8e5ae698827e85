//! Models, adapters and datasets by their names on the Hugging Face hub: found in its cache, and by `mesp pull`
//! brought there.

mod lookup;
#[cfg(feature = "pull")]
pub(crate) mod pull;

use std::path::{Path, PathBuf};

use anyhow::Result;
use mesp_formats::hub::{RepoKind, repo_of};
use mesp_formats::regular;

use lookup::adapter_named;
pub(crate) use lookup::{find, weights_are_there};
#[cfg(feature = "pull")]
use mesp_formats::hub::Environment;
use mesp_formats::hub::cache;

use crate::args::{BenchCommand, Command, CommonArgs, DataArgs, DataCommand, ModelArgs};

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
            args.adapter.iter_mut().try_for_each(adapter)
        }
        Command::Generate(args) => {
            model(&mut args.model)?;
            args.speak.adapter.iter_mut().try_for_each(adapter)
        }
        Command::Chat(args) => {
            model(&mut args.model)?;
            args.speak.adapter.iter_mut().try_for_each(adapter)
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
        Command::Bench(args) => bench(&mut args.what),
        Command::InitModel(_)
        | Command::Pull(_)
        | Command::Dash(_)
        | Command::Report(_)
        | Command::InitConfig(_)
        | Command::Say(_) => Ok(()),
    }
}

fn bench(what: &mut BenchCommand) -> Result<()> {
    match what {
        BenchCommand::Step(args) => {
            model(&mut args.model)?;
            args.adapter.adapter.iter_mut().try_for_each(adapter)
        }
        BenchCommand::Generate(args) => {
            named(args.model.as_mut(), None)?;
            args.adapter.iter_mut().try_for_each(adapter)
        }
        BenchCommand::Gradients(args) => {
            named(args.model.as_mut(), None)?;
            args.data.iter_mut().try_for_each(rows)?;
            args.adapter.iter_mut().try_for_each(adapter)
        }
        BenchCommand::Convergence(args) => {
            named(args.model.as_mut(), None)?;
            args.data.iter_mut().chain(args.eval_data.iter_mut()).try_for_each(rows)
        }
        BenchCommand::Memory(_) | BenchCommand::Paper(_) => Ok(()),
    }
}

fn common(args: &mut CommonArgs) -> Result<()> {
    model(&mut args.model)?;
    data(&mut args.data)?;
    args.schedule.eval_data.iter_mut().try_for_each(rows)?;
    args.adapter.adapter.iter_mut().try_for_each(adapter)
}

/// `--model` of most commands; documents keep the name.
fn model(args: &mut ModelArgs) -> Result<()> {
    let before = args.model.clone();
    named(args.model.as_mut(), args.revision.as_deref())?;
    args.named = before.filter(|typed| args.model.as_ref() != Some(typed)).map(|typed| id(&typed));
    Ok(())
}

/// `--model` of the others.
fn named(model: Option<&mut PathBuf>, revision: Option<&str>) -> Result<()> {
    match (model, revision) {
        (Some(path), _) => found(RepoKind::Model, path, revision),
        (None, Some(revision)) => Err(crate::failure::usage(
            format!("--revision {revision} is of a model in the Hugging Face cache, and no model was given"),
            "give --model ORG/NAME, or leave --revision out",
        )),
        (None, None) => Ok(()),
    }
}

fn data(args: &mut DataArgs) -> Result<()> {
    let before = args.data.clone();
    args.data.iter_mut().try_for_each(rows)?;
    args.named = before
        .filter(|typed| args.data.as_ref() != Some(typed))
        .map(|typed| typed.to_string_lossy().into_owned());
    Ok(())
}

fn rows(path: &mut PathBuf) -> Result<()> {
    found(RepoKind::Dataset, path, None)
}

fn adapter(path: &mut PathBuf) -> Result<()> {
    if let Some(found) = adapter_named(path)? {
        *path = found;
    }
    Ok(())
}

fn found(kind: RepoKind, path: &mut PathBuf, revision: Option<&str>) -> Result<()> {
    if let Some(found) = find(kind, path, revision)? {
        *path = found;
    }
    Ok(())
}

/// The repository that a typed name is of, without revision and file.
fn id(typed: &Path) -> String {
    let text = typed.to_string_lossy().into_owned();
    mesp_formats::hub::RepoName::parse(&text).map_or(text, |name| name.id)
}

/// What fetches a file that a snapshot lacks; none where the path lies in no cache.
pub(crate) fn fetching(path: &Path) -> Option<String> {
    let (kind, id) = repo_of(path)?;
    let dataset = if kind == RepoKind::Dataset { " --dataset" } else { "" };
    let commit = commit_of(path)?;
    let snapshot = path.ancestors().find(|part| part.ends_with(commit))?;
    let main = regular::read_text(&snapshot.parent()?.with_file_name("refs").join("main"), 1 << 16);
    let of = if main.is_ok_and(|main| main.trim() == commit) {
        String::new()
    } else {
        format!(" --revision {commit}")
    };
    Some(format!("`mesp pull {id}{dataset}{of}` fetches what is missing"))
}

/// The commit of the snapshot that a path is, or lies in.
pub(crate) fn commit_of(path: &Path) -> Option<&str> {
    let names = path.ancestors().filter_map(|part| part.file_name()?.to_str());
    repo_of(path).and_then(|_| names.into_iter().find(|name| mesp_formats::hub::is_commit(name)))
}

/// What a path is called where its last part has to say it: of a snapshot, which is a commit, the repository's name.
pub(crate) fn short_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let snapshot = mesp_formats::hub::is_commit(&name);
    Some(repo_of(path).filter(|_| snapshot).map_or(name, |(_, id)| id))
}
