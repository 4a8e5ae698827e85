//! A run on disk: the adapter, and checkpoints from which a run goes on to the bit.
//!
//! ```text
//! OUTPUT/adapter_config.json, adapter_model.safetensors      the adapter, in PEFT's layout
//! OUTPUT/checkpoints/step-N/                                 the same, and
//!     first_moment.safetensors, second_moment.safetensors    the optimizer's state, shaped and named alike
//!     state.json                                             progress, what must not change, what it was made with
//! ```
//! Where the model's own tensors are trained, a checkpoint has these in `weights.safetensors`, beside the adapter or in
//! its place. Full fine-tuning from losses has `slopes.replay` instead: together with the initial model it determines the
//! weights bit for bit, at a millionth of their size. At the end of a run that trains all weights the model is written to
//! `OUTPUT/model`.
//!
//! A checkpoint is written under a temporary name, synced and renamed, so it is either complete or absent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mesp_device::{Backend, View};
use mesp_formats::atomic::{StagedDir, remove_dir, write_atomic};
use mesp_formats::{Error as FileError, peft as names};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::full::History;
use super::{MadeWith, Progress, RunConfig, Session, replay};
use crate::adapter::peft;
use crate::arch::Param;
use crate::optim::Optimizer;
use crate::{Error, ErrorKind, Result};

mod compare;

use compare::differences;
pub use compare::remarks;

/// What a resumed run must have in common with the one that wrote the checkpoint, or it would not be the
/// same run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Fixed {
    /// [`RunConfig::settings`].
    settings: Map<String, Value>,
    /// [`RunConfig::identity`].
    identity: BTreeMap<String, String>,
}

impl Fixed {
    fn of(config: &RunConfig) -> Self {
        Self { settings: config.fixed(), identity: config.identity.clone() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    schema: u32,
    progress: Progress,
    fixed: Fixed,
    /// None where a program that embeds the library did not say.
    #[serde(default)]
    made_with: Option<MadeWith>,
}

/// What every version's state has.
#[derive(Deserialize)]
struct Schema {
    schema: u32,
}

/// The key in [`RunConfig::identity`] of the rows' fingerprint.
pub const DATA: &str = "data";
/// The same of those that are held out.
pub const EVAL_DATA: &str = "eval_data";

const STATE: &str = "state.json";
/// Before 3, what is fixed was named otherwise than its settings.
const SCHEMA: u32 = 3;
const FOLDER: &str = "checkpoints";
/// The model's own tensors that are trained.
const WEIGHTS: &str = "weights.safetensors";
/// What rounding to bf16 cut off of them.
const RESTS: &str = "compensation.safetensors";
/// Where a run that trains all weights puts the model.
pub const MODEL: &str = "model";

/// Writes the adapter to a directory.
///
/// # Errors
/// When a file cannot be written; what stood there before stays.
pub fn save_adapter<B: Backend>(session: &Session<B>, dir: &Path, base_model: Option<&str>) -> Result<()> {
    peft::save(session.backend(), dir, &session.options().adapter, base_model, session.params())
}

/// Whether a checkpoint has an adapter: in place of the model's own tensors, or beside them.
fn has_adapter<B: Backend>(session: &Session<B>) -> bool {
    session.weights().is_none() || session.params().iter().flatten().any(Option::is_some)
}

/// Writes what is trained into a checkpoint: the adapter, and the model's own tensors with what rounding cut off of them.
fn save_trained<B: Backend>(session: &Session<B>, dir: &Path, base_model: Option<&str>) -> Result<()> {
    if has_adapter(session) {
        save_adapter(session, dir, base_model)?;
    }
    let Some(weights) = session.weights() else { return Ok(()) };
    let write = |file: &str, tensors: &[(&Param, View<'_>)]| {
        peft::write_params(session.backend(), &dir.join(file), tensors, &BTreeMap::new())
    };
    write(WEIGHTS, &weights.iter().map(|(param, act)| (param, act.view())).collect::<Vec<_>>())?;
    let rests: Vec<_> = weights.rests().map(|(param, act)| (param, act.view())).collect();
    if rests.is_empty() { Ok(()) } else { write(RESTS, &rests) }
}

/// Reads the model's own tensors of a checkpoint, where they are trained.
fn load_weights<B: Backend>(session: &mut Session<B>, checkpoint: &Path) -> Result<()> {
    let config = session.model().config.clone();
    let (be, Some(weights)) = session.weights_mut() else { return Ok(()) };
    let mut tensors: Vec<_> = weights.iter_mut().map(|(param, act)| (*param, act)).collect();
    peft::read_params(be, &checkpoint.join(WEIGHTS), &mut tensors, &config)?;
    let mut rests: Vec<_> = weights.rests_mut().map(|(param, act)| (*param, act)).collect();
    if !rests.is_empty() {
        peft::read_params(be, &checkpoint.join(RESTS), &mut rests, &config)?;
    }
    session.refresh_weights();
    Ok(())
}

/// Writes a checkpoint into a run directory and returns its path.
///
/// # Errors
/// When a file cannot be written; then there is no checkpoint of this step.
pub fn save<B: Backend>(
    session: &Session<B>,
    output: &Path,
    progress: &Progress,
    config: &RunConfig,
) -> Result<PathBuf> {
    mesp_formats::atomic::create_dir_all(&output.join(FOLDER))?;
    let path = output.join(name(progress.step));
    let staged = StagedDir::new(&path)?;
    match session.moved().map(|moved| &moved.log) {
        None => save_trained(session, staged.path(), config.base_model.as_deref())?,
        Some(Some(log)) => replay::write(&staged.path().join(replay::FILE), &log.header, &log.derivatives)?,
        Some(None) => {
            return Err(Error::usage(
                ErrorKind::State,
                "a run that trains all weights is saved once it has begun",
            ));
        }
    }
    for (name, state) in session.optimizer().map(Optimizer::states).unwrap_or_default() {
        peft::write_params(
            session.backend(),
            &staged.path().join(state_file(name)),
            &state,
            &BTreeMap::new(),
        )?;
    }
    let (progress, made_with) = (progress.clone(), Some(config.made_with.clone()));
    let state = State { schema: SCHEMA, progress, fixed: Fixed::of(config), made_with };
    let file = staged.path().join(STATE);
    let json = serde_json::to_vec_pretty(&state)
        .map_err(|e| FileError::invalid(&file, ErrorKind::Malformed).what(e))?;
    write_atomic(&file, |out| std::io::Write::write_all(out, &json))?;
    staged.commit()?;
    Ok(path)
}

/// The file of an optimizer's state.
fn state_file(name: &str) -> String {
    format!("{name}.safetensors")
}

/// The path of a checkpoint below its run directory: `checkpoints/step-N`.
pub fn name(step: usize) -> String {
    format!("{FOLDER}/step-{step}")
}

/// The steps of a run's complete checkpoints, in no order.
fn steps(output: &Path) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    if let Ok(entries) = std::fs::read_dir(output.join(FOLDER)) {
        for entry in entries.flatten() {
            let entry = entry.file_name();
            let entry = entry.to_string_lossy();
            // A replaced checkpoint that a crash left under its second name counts under its first.
            let first = entry.strip_prefix('.').and_then(|name| name.strip_suffix(".previous"));
            let number = first.unwrap_or(&entry).strip_prefix("step-");
            let Some(step) = number.and_then(|n| n.parse::<usize>().ok()) else { continue };
            let path = output.join(name(step));
            StagedDir::recover(&path)?;
            mesp_formats::regular::refuse_other(&path.join(STATE))?;
            if path.join(STATE).is_file() && !found.contains(&step) {
                found.push(step);
            }
        }
    }
    Ok(found)
}

/// The latest checkpoint of a run directory.
///
/// # Errors
/// When there is none.
pub fn latest(output: &Path) -> Result<PathBuf> {
    let newest = steps(output)?.into_iter().max().map(|step| output.join(name(step)));
    newest.ok_or_else(|| {
        FileError::invalid(output.join(FOLDER), ErrorKind::Missing)
            .what("no checkpoint to resume from")
            .expected(format!("step-N/ with {STATE}"))
            .hint("give the ‘output’ of a run that was interrupted or saved with ‘save_every’")
            .into()
    })
}

/// Removes the oldest checkpoints until `limit` are left; the newest and the best are never removed. Returns the steps
/// of the removed ones.
///
/// # Errors
/// When a folder cannot be removed.
pub fn prune(output: &Path, limit: usize, best: Option<usize>) -> Result<Vec<usize>> {
    let mut steps = steps(output)?;
    steps.sort_unstable_by(|a, b| b.cmp(a));
    let best_stays = usize::from(best.is_some_and(|b| steps.iter().skip(1).any(|s| *s == b)));
    // Of the newest so many stay, and the best beside them.
    let newest = limit.saturating_sub(best_stays).max(1);
    let mut gone = Vec::new();
    for step in steps.into_iter().filter(|s| best_stays == 0 || Some(*s) != best).skip(newest) {
        remove_dir(&output.join(name(step)))?;
        gone.push(step);
    }
    gone.reverse();
    Ok(gone)
}

/// Reads a checkpoint's adapter and nothing else.
///
/// # Errors
/// When its file is missing or damaged.
pub fn load_adapter<B: Backend>(session: &mut Session<B>, checkpoint: &Path) -> Result<()> {
    let model = session.model().config.clone();
    let (be, params, _) = session.state_mut();
    peft::read_tensors(be, &checkpoint.join(names::MODEL_FILE), params, &model)
}

/// Reads only the trained parameters of a checkpoint: the adapter, or in full fine-tuning the log that leads from the
/// initial weights to those of the checkpoint.
///
/// # Errors
/// When its file is missing or damaged, or the run started from other weights.
pub fn load_trained<B: Backend>(session: &mut Session<B>, checkpoint: &Path) -> Result<()> {
    if session.moved().is_none() {
        if has_adapter(session) {
            load_adapter(session, checkpoint)?;
        }
        return load_weights(session, checkpoint);
    }
    let replay::Contents { header, derivatives, .. } = replay::read(&checkpoint.join(replay::FILE))?;
    session.reset();
    header.apply(session, &derivatives)?;
    if let Some(moved) = session.moved_mut() {
        moved.log = Some(History { header, derivatives: derivatives.into_iter().flatten().collect() });
    }
    Ok(())
}

/// Restores adapters and optimizer state, and returns the progress to resume from.
///
/// # Errors
/// When a file is missing or damaged, or the run's settings, model or rows differ from the checkpoint's: the message
/// names all that differ.
pub fn load<B: Backend>(session: &mut Session<B>, checkpoint: &Path, config: &RunConfig) -> Result<Progress> {
    let state = read_state(checkpoint)?;
    let found = differences(&state, config);
    if found.iter().any(|d| d.matters) {
        let list: Vec<&str> = found.iter().map(|d| d.text.as_str()).collect();
        let advice =
            "resume with the settings, the model and the rows that the run began with, or start a new run";
        let adapter = if session.weights().is_none() { " with ‘adapter’" } else { "" };
        return Err(FileError::invalid(checkpoint, ErrorKind::Mismatch)
            .what(format!("the checkpoint was written with {}", list.join("\n  with ")))
            .hint(format!("{advice}{adapter}"))
            .into());
    }
    load_trained(session, checkpoint)?;
    let model = session.model().config.clone();
    let (be, _, optimizer) = session.state_mut();
    if let Some(optimizer) = optimizer {
        for name in optimizer.names() {
            let mut state = optimizer.state_mut(name);
            peft::read_params(be, &checkpoint.join(state_file(name)), &mut state, &model)?;
        }
    }
    session.set_steps(state.progress.updates);
    Ok(state.progress)
}

/// The fingerprints that a checkpoint was made with; `None` if an earlier version wrote it.
///
/// # Errors
/// When its state cannot be read.
pub fn made_with(checkpoint: &Path) -> Result<Option<MadeWith>> {
    Ok(read_state(checkpoint)?.made_with)
}

/// The [`RunConfig::identity`] of the run that wrote a checkpoint.
///
/// # Errors
/// When its state cannot be read.
pub fn identity(checkpoint: &Path) -> Result<BTreeMap<String, String>> {
    Ok(read_state(checkpoint)?.fixed.identity)
}

fn read_state(checkpoint: &Path) -> Result<State> {
    let file = checkpoint.join(STATE);
    let text = mesp_formats::regular::read_text(&file, mesp_formats::regular::CONFIG_LIMIT)?;
    let damaged = |e: serde_json::Error| {
        FileError::invalid(&file, ErrorKind::Malformed).what(format!("not a checkpoint's state: {e}"))
    };
    let Schema { schema } = serde_json::from_str(&text).map_err(damaged)?;
    if schema != SCHEMA {
        let age = if schema > SCHEMA { "a newer" } else { "an earlier" };
        let hint = format!(
            "it was written by {age} version of mesp, which can go on from it; its adapter can be started from with \
             ‘adapter’"
        );
        return Err(FileError::invalid(&file, ErrorKind::Unsupported)
            .expected(format!("a checkpoint of schema {SCHEMA}"))
            .found(schema)
            .hint(hint)
            .into());
    }
    Ok(serde_json::from_str(&text).map_err(damaged)?)
}
