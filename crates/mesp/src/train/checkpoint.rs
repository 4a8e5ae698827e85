//! A run on disk: the adapter, and checkpoints from which a run goes on to the bit.
//!
//! ```text
//! OUTPUT/adapter_config.json, adapter_model.safetensors      the adapter, in PEFT's layout
//! OUTPUT/checkpoints/step-N/                                 the same, and
//!     first_moment.safetensors, second_moment.safetensors    the optimizer's state, shaped and named alike
//!     state.json                                             progress, and what must not change
//! ```
//! A checkpoint is written under a temporary name, synced, and renamed: it is there whole or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mesp_device::Backend;
use mesp_formats::atomic::{StagedDir, write_atomic};
use mesp_formats::{Error as FileError, peft as names};
use serde::{Deserialize, Serialize};

use super::{Length, RunConfig, Session};
use crate::adapter::peft;
use crate::{Error, Result};

/// How far a run is. The order of rows follows from the seed and the step, the learning rate from the step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: usize,
    /// Tokens so far.
    pub tokens: u64,
}

/// What a resumed run must have in common with the one that wrote the checkpoint, or it would not be the
/// same run.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Fixed {
    rank: usize,
    alpha: f64,
    rslora: bool,
    target_modules: Vec<String>,
    optimizer: String,
    learning_rate: f64,
    weight_decay: f64,
    schedule: String,
    warmup_ratio: f64,
    batch_size: usize,
    grad_accum: usize,
    length: String,
    max_grad_norm: Option<f64>,
    seed: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    schema: u32,
    progress: Progress,
    fixed: Fixed,
}

const STATE: &str = "state.json";
const MOMENTS: [&str; 2] = ["first_moment.safetensors", "second_moment.safetensors"];

fn fixed<B: Backend>(session: &Session<B>, config: &RunConfig) -> Fixed {
    let options = session.options();
    Fixed {
        rank: options.adapter.rank,
        alpha: options.adapter.alpha,
        rslora: options.adapter.rslora,
        target_modules: options.adapter.targets.iter().map(|p| p.name().to_owned()).collect(),
        optimizer: format!("{:?}", options.optimizer),
        learning_rate: config.learning_rate,
        weight_decay: options.weight_decay,
        schedule: config.schedule.name().to_owned(),
        warmup_ratio: config.warmup_ratio,
        batch_size: config.batch_size,
        grad_accum: config.grad_accum,
        length: match config.length {
            Length::Steps(n) => format!("{n} steps"),
            Length::Epochs(e) => format!("{e} epochs"),
        },
        max_grad_norm: config.max_grad_norm,
        seed: config.seed,
    }
}

/// Writes the adapter to a directory.
///
/// # Errors
/// When a file cannot be written; what stood there before stays.
pub fn save_adapter<B: Backend>(session: &Session<B>, dir: &Path, base_model: Option<&str>) -> Result<()> {
    peft::save(session.backend(), dir, &session.options().adapter, base_model, session.params())
}

/// Writes a checkpoint into a run directory and gives its path.
///
/// # Errors
/// When a file cannot be written; then there is no checkpoint of this step.
pub fn save<B: Backend>(
    session: &Session<B>,
    output: &Path,
    progress: Progress,
    config: &RunConfig,
) -> Result<PathBuf> {
    let all = output.join("checkpoints");
    mesp_formats::atomic::create_dir_all(&all)?;
    let path = all.join(format!("step-{}", progress.step));
    let staged = StagedDir::new(&path)?;
    save_adapter(session, staged.path(), config.base_model.as_deref())?;
    for (name, moments) in MOMENTS.iter().zip(session.optimizer_states()) {
        peft::write_tensors(session.backend(), &staged.path().join(name), moments, &BTreeMap::new())?;
    }
    let state = State { schema: 1, progress, fixed: fixed(session, config) };
    let file = staged.path().join(STATE);
    let json = serde_json::to_vec_pretty(&state).map_err(|e| FileError::invalid(&file, e.to_string()))?;
    write_atomic(&file, |out| std::io::Write::write_all(out, &json))?;
    staged.commit()?;
    Ok(path)
}

/// The latest checkpoint of a run directory.
///
/// # Errors
/// When there is none.
pub fn latest(output: &Path) -> Result<PathBuf> {
    let all = output.join("checkpoints");
    let mut best: Option<(usize, PathBuf)> = None;
    if let Ok(entries) = std::fs::read_dir(&all) {
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // A replaced checkpoint that a crash left under its second name counts under its first.
            let number = name.strip_prefix("step-").map(|n| n.trim_end_matches(".previous"));
            let Some(step) = number.and_then(|n| n.parse::<usize>().ok()) else { continue };
            let path = all.join(format!("step-{step}"));
            StagedDir::recover(&path)?;
            if path.join(STATE).is_file() && best.as_ref().is_none_or(|(s, _)| step > *s) {
                best = Some((step, path));
            }
        }
    }
    best.map(|(_, path)| path).ok_or_else(|| {
        Error::usage(format!(
            "{}: no checkpoint to resume from, expected step-N/ with {STATE}",
            all.display()
        ))
        .hint("give the --output of a run that was interrupted or saved with --save-every")
    })
}

/// Restores adapters and optimizer state, and gives the progress to go on from.
///
/// # Errors
/// When a file is missing or damaged, or the run's settings differ from the checkpoint's: the message names
/// the setting.
pub fn load<B: Backend>(session: &mut Session<B>, checkpoint: &Path, config: &RunConfig) -> Result<Progress> {
    let file = checkpoint.join(STATE);
    let text = std::fs::read_to_string(&file).map_err(|e| FileError::io("read", &file, e))?;
    let damaged = |e: serde_json::Error| FileError::invalid(&file, format!("not a checkpoint's state: {e}"));
    let state: State = serde_json::from_str(&text).map_err(damaged)?;
    if let Some((key, was, is)) = difference(&state.fixed, &fixed(session, config)) {
        return Err(Error::usage(format!(
            "{}: the checkpoint was written with {key} {was}, this run has {is}",
            checkpoint.display()
        ))
        .hint("resume with the settings the run began with, or start a new run with --adapter"));
    }
    let model = session.model().config.clone();
    let (be, params, moments) = session.state_mut();
    peft::read_tensors(be, &checkpoint.join(names::MODEL_FILE), params, &model)?;
    for (name, moments) in MOMENTS.iter().zip(moments) {
        peft::read_tensors(be, &checkpoint.join(name), moments, &model)?;
    }
    session.set_steps(state.progress.step as u64);
    Ok(state.progress)
}

/// The first setting that differs, with both values.
fn difference(was: &Fixed, is: &Fixed) -> Option<(String, String, String)> {
    let values = |f: &Fixed| serde_json::to_value(f).unwrap_or_default();
    let (was, is) = (values(was), values(is));
    let map = was.as_object()?;
    map.iter().find(|(k, v)| is.get(k) != Some(v)).map(|(k, v)| (k.clone(), v.to_string(), is[k].to_string()))
}
