//! Names of repositories in what was typed: each becomes the path of what the Hugging Face cache has, which is told.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mesp::hub::{self, Found};
use mesp_formats::hub::{RepoKind, RepoName};

use crate::args::{DataArgs, ModelArgs};
use crate::failure::usage;
use crate::ui;

/// Says where something was found.
pub fn told((name, path): Found) -> PathBuf {
    ui::note(format!("{name}: {}", path.display()));
    path
}

/// `--model` of most commands; documents keep the name.
///
/// # Errors
/// As [`mesp::hub::find`].
pub fn model(args: &mut ModelArgs) -> Result<()> {
    let before = args.model.clone();
    named(args.model.as_mut(), args.revision.as_deref())?;
    args.named = before.filter(|typed| args.model.as_ref() != Some(typed)).map(|typed| id(&typed));
    Ok(())
}

/// `--model` of the others.
///
/// # Errors
/// As [`mesp::hub::find`].
pub fn named(model: Option<&mut PathBuf>, revision: Option<&str>) -> Result<()> {
    match (model, revision) {
        (Some(path), _) => found(RepoKind::Model, path, revision),
        (None, Some(revision)) => Err(usage(
            format!("--revision {revision} is of a model in the Hugging Face cache, and no model was given"),
            "give --model ORG/NAME, or leave --revision out",
        )),
        (None, None) => Ok(()),
    }
}

/// `--data`; documents keep the name.
///
/// # Errors
/// As [`mesp::hub::find`].
pub fn data(args: &mut DataArgs) -> Result<()> {
    let before = args.data.clone();
    args.data.iter_mut().try_for_each(rows)?;
    args.named = before
        .filter(|typed| args.data.as_ref() != Some(typed))
        .map(|typed| typed.to_string_lossy().into_owned());
    Ok(())
}

/// Rows that no document names.
///
/// # Errors
/// As [`mesp::hub::find`].
pub fn rows(path: &mut PathBuf) -> Result<()> {
    found(RepoKind::Dataset, path, None)
}

/// An adapter.
///
/// # Errors
/// As [`mesp::hub::find`].
pub fn adapter(path: &mut PathBuf) -> Result<()> {
    if let Some(found) = hub::find_adapter(path)? {
        *path = told(found);
    }
    Ok(())
}

/// A repository of a kind.
///
/// # Errors
/// As [`mesp::hub::find`].
pub fn found(kind: RepoKind, path: &mut PathBuf, revision: Option<&str>) -> Result<()> {
    if let Some(found) = hub::find(kind, path, revision)? {
        *path = told(found);
    }
    Ok(())
}

/// The repository that a typed name is of, without revision and file.
fn id(typed: &Path) -> String {
    let text = typed.to_string_lossy().into_owned();
    RepoName::parse(&text).map_or(text, |name| name.id)
}
